/** Malformed input of every kind does not affect other clients: a few seeds. `bun test/chaos/fuzz.ts` runs longer. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { describeCounts, runFuzz, type Counts } from "../chaos/fuzz.ts";

setDefaultTimeout(240_000);

const MAX_RSS_MIB = 300;

function check(what: string, counts: Counts): void {
  console.log(`${what}: ${describeCounts(counts)}`);
  if (process.platform === "linux") expect(counts.rssMiB).toBeLessThan(MAX_RSS_MIB);
  // Some of the input must get as far as each of these.
  for (const status of ["101", "400", "403", "404"]) expect(counts.answers[status]).toBeGreaterThan(0);
  for (const code of ["1002", "1007"]) expect(counts.closes[code]).toBeGreaterThan(0);
}

test("seed 1", async () => check("seed 1", await runFuzz({ seed: 1, rounds: 350 })));

test("seed 2, with a rate limit", async () => {
  const args = ["--message-rate", "20", "--message-burst", "40"];
  const counts = await runFuzz({ seed: 2, rounds: 700, args, pauseMs: 60 });
  check("seed 2", counts);
  expect(counts.abuses).toBeGreaterThan(0);
});

test("seed 3, with tokens and --trust-proxy", async () => {
  const args = ["--trust-proxy", "--max-connections-per-address", "100"];
  const counts = await runFuzz({ seed: 3, rounds: 350, withTokens: true, args });
  check("seed 3", counts);
  expect(counts.answers["401"]).toBeGreaterThan(0);
});
