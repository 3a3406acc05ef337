/** The mutants still fit the source. `bun test/simulator/mutants.ts` runs them, which takes minutes. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mutate, MUTANTS, SOURCE } from "./mutants.ts";

test.each(MUTANTS)("$name changes one place", (mutant) => {
  const source = readFileSync(join(SOURCE, mutant.file), "utf8");
  expect(mutate(source, mutant)).not.toBe(source);
});
