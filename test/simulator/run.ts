#!/usr/bin/env bun
/**
 * Runs simulations: `bun test/simulator/run.ts --seeds 1000`, or one of them with `--seed 7`. Of the first seed that
 * fails, it searches for the shortest history that fails in the same way.
 */

import { parseArgs } from "node:util";
import { drawPlan, STANDARD_LOAD, STORE_KINDS, type Plan } from "./faults.ts";
import { shrink } from "./shrink.ts";
import { simulate } from "./simulation.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "1000" },
    /** The first seed. */
    first: { type: "string", default: "1" },
    /** Only this one. */
    seed: { type: "string" },
    store: { type: "string", default: "memory" },
    /** The load that the speed is measured with. */
    standard: { type: "boolean", default: false },
    /** Prints everything that happens. */
    trace: { type: "boolean", default: false },
    "no-shrink": { type: "boolean", default: false },
  },
});

const PROGRESS_MS = 2000;
const YEAR_MS = 365.25 * 24 * 3_600_000;
/** Of a failing seed, that much of the end of its trace is printed. */
const LAST_LINES = 40;
/** Of a history that is longer, the last ones are printed. */
const MAX_ACTIONS = 100;

const store = STORE_KINDS.find((kind) => kind === values.store);
if (!store) throw new Error(`--store must be one of ${STORE_KINDS.join(", ")}`);
const first = Number(values.seed ?? values.first);
const count = values.seed === undefined ? Number(values.seeds) : 1;
const load = values.standard ? STANDARD_LOAD : undefined;

let unhandled: unknown;
process.on("unhandledRejection", (error) => (unhandled = error));

/** Ctrl-C ends the run after the current seed. */
let isStopped = false;
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => (isStopped = true));

const startMs = performance.now();
let seeds = 0;
let failures = 0;
let simulatedMs = 0;
let events = 0;
let messages = 0;
let progressMs = startMs;
for (let seed = first; seed < first + count && !isStopped; seed++) {
  const plan = drawPlan(seed, store, load);
  const outcome = values.seed === undefined ? simulate(plan, seed) : runTraced(plan, seed);
  await new Promise((resolve) => setImmediate(resolve)); // an unhandled rejection is reported now
  seeds++;
  simulatedMs += outcome.simulatedMs;
  events += outcome.events;
  messages += outcome.messages;
  const failure =
    outcome.failure ?? (unhandled === undefined ? undefined : `unhandled rejection: ${unhandled}`);
  unhandled = undefined;
  if (failure !== undefined) {
    console.log(`seed ${seed}: ${failure}`);
    if (++failures === 1 && !values["no-shrink"]) explain(plan, seed, failure);
  }
  if (process.stderr.isTTY && performance.now() - progressMs > PROGRESS_MS) {
    progressMs = performance.now();
    process.stderr.write(`\r${summary()}\x1b[K`);
  }
}
if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
console.log(summary());
process.exit(failures > 0 ? 1 : 0);

function runTraced(plan: Plan, seed: number) {
  const hasher = new Bun.CryptoHasher("sha256");
  const outcome = simulate(plan, seed, (line) => {
    hasher.update(`${line}\n`);
    if (values.trace) console.log(line);
  });
  console.log(`seed ${seed}: trace ${hasher.digest("hex")}`);
  return outcome;
}

/** Prints the shortest history of a failure, and how it ends. */
function explain(plan: Plan, seed: number, failure: string): void {
  const shrunk = shrink(plan, seed, failure);
  const lines: string[] = [];
  simulate(shrunk.plan, seed, (line) => lines.push(line.slice(0, 300)));
  const { settings, actions } = shrunk.plan;
  console.log(`\nThe shortest history found in ${shrunk.runs} runs: ${shrunk.failure}`);
  console.log(JSON.stringify(settings));
  if (actions.length > MAX_ACTIONS) console.log(`  … ${actions.length - MAX_ACTIONS} more`);
  for (const { atMs, kind, user, amount } of actions.slice(-MAX_ACTIONS))
    console.log(`  ${(atMs / 1000).toFixed(3)} s  ${kind} of ${settings.users[user]?.name}, ${amount}`);
  console.log(
    `It ends with\n${lines
      .slice(-LAST_LINES)
      .map((line) => `  ${line}`)
      .join("\n")}\n`,
  );
}

function summary(): string {
  const tookMs = performance.now() - startMs;
  const simulated =
    simulatedMs > YEAR_MS / 10
      ? `${(simulatedMs / YEAR_MS).toFixed(2)} simulated years`
      : `${(simulatedMs / 3_600_000).toFixed(1)} simulated hours`;
  return `${seeds} seeds, ${failures} failures: ${simulated}, ${messages} messages, ${events} events in ${(tookMs / 1000).toFixed(1)} s, ${Math.round(simulatedMs / tookMs)} times real time`;
}
