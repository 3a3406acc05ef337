#!/usr/bin/env bun
/** Runs simulations: `bun test/simulator/run.ts --seeds 1000`, or one of them with `--seed 7`. */

import { parseArgs } from "node:util";
import { drawPlan, STANDARD_LOAD } from "./faults.ts";
import { simulate } from "./simulation.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "1000" },
    first: { type: "string", default: "1" },
    seed: { type: "string" },
    store: { type: "string", default: "memory" },
    standard: { type: "boolean", default: false },
    trace: { type: "boolean", default: false },
  },
});

const store = values.store === "sqlite" ? "sqlite" : "memory";
const first = Number(values.seed ?? values.first);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const load = values.standard ? STANDARD_LOAD : undefined;
let failures = 0;
let simulatedMs = 0;
let events = 0;
let messages = 0;
const startMs = performance.now();
for (let seed = first; seed < first + count; seed++) {
  const hasher = new Bun.CryptoHasher("sha256");
  const trace = (line: string) => {
    hasher.update(line);
    if (values.trace) console.log(line);
  };
  const plan = drawPlan(seed, store, load);
  const outcome = simulate(plan, seed, values.seed === undefined ? undefined : trace);
  if (values.seed !== undefined) console.log(`seed ${seed}: trace ${hasher.digest("hex").slice(0, 16)}`);
  simulatedMs += outcome.simulatedMs;
  events += outcome.events;
  messages += outcome.messages;
  if (outcome.failure === undefined) continue;
  failures++;
  console.log(`seed ${seed}: ${outcome.failure}`);
}
const tookMs = performance.now() - startMs;
console.log(
  `${count} seeds, ${failures} failures; ${(simulatedMs / 3_600_000).toFixed(2)} simulated hours, ${messages} messages, ${events} events in ${(tookMs / 1000).toFixed(1)} s: ${Math.round(simulatedMs / tookMs)} times real time`,
);
process.exit(failures > 0 ? 1 : 0);
