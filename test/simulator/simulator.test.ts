/** Many simulations, each with its own mix of faults. README.md says what they check. */

import { expect, test } from "bun:test";
import { drawPlan } from "./faults.ts";
import { simulate } from "./simulation.ts";

function failuresOf(seeds: number): string[] {
  const failures: string[] = [];
  for (let seed = 1; seed <= seeds; seed++) {
    const { failure } = simulate(drawPlan(seed, "memory"), seed);
    if (failure !== undefined) failures.push(`seed ${seed}: ${failure}`);
  }
  return failures;
}

test("the memory store keeps every promise under faults", () => {
  expect(failuresOf(300)).toEqual([]);
});
