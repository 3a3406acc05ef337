/**
 * `bun run bench`: Hubbub and plain Bun.serve under the same load. Every delivery is counted. If one is missing, duplicated
 * or later than a deadline, the scenario's row says so and the exit code is 1. Otherwise writes results.json and chart.svg
 * next to this file.
 */

import { chart } from "./chart.ts";
import type { Wire } from "./connection.ts";
import { Crowd, type Audience, type Plan, type Run } from "./load.ts";
import {
  isMeasured,
  machine,
  summarize,
  table,
  warnings,
  type Result,
  type Results,
  type Row,
} from "./results.ts";
import { isCpuMeasured, Server, SIDES, type Side } from "./servers.ts";

const RUNS = 5;

interface Scenario extends Audience, Plan {
  readonly name: string;
  readonly wires: readonly Wire[];
  /** Measures both servers at once, this far apart: for loads so small that they hardly ever meet. */
  readonly apartMs?: number;
  /** All runs of one server, then all of the other: a process with both crowds needs more file descriptors than many systems allow. */
  readonly isOneByOne?: true;
}

/** The rates leave plain Bun.serve headroom, except in the crowd. On event streams it writes once per message and stream. */
const SCENARIOS: readonly Scenario[] = [
  { name: "busy room", wires: ["text", "json"], clients: 200, senders: 20, rate: 1_000, seconds: 1 },
  { name: "feed", wires: ["json", "sse"], clients: 200, senders: 20, rate: 250, seconds: 1 },
  { name: "crowd", wires: ["text", "json"], clients: 1_000, senders: 20, rate: 500, seconds: 0.7 },
  {
    name: "10,000 listeners",
    wires: ["text", "sse"],
    clients: 10_000,
    senders: 10,
    watched: 200,
    rate: 5,
    seconds: 1,
    isOneByOne: true,
  },
  { name: "closed loop", wires: ["text", "json"], clients: 200, senders: 20, seconds: 0.5 },
  {
    name: "quiet room",
    wires: ["text", "json"],
    clients: 200,
    senders: 20,
    watched: 200,
    rate: 10,
    seconds: 1.6,
    apartMs: 50,
  },
  { name: "echo", wires: ["echo"], clients: 32, senders: 32, seconds: 0.5 },
];
/** Enough for the engine to compile the hot code; at the rate of a quiet room that would take hours. */
const WARM_UP = { seconds: 1, quietSeconds: 1.5, leastDeliveries: 100_000 };

const plans = SCENARIOS.flatMap((scenario) => scenario.wires.map((wire) => ({ scenario, wire })));
const rows: Row[] = [];
const startMs = performance.now();
const elapsed = () => `${((performance.now() - startMs) / 1000).toFixed(0)} s`;
for (const [i, { scenario, wire }] of plans.entries()) {
  const name = `${i + 1}/${plans.length} ${scenario.name}, ${wire}`;
  const row = await compare(scenario, wire, (now) => show(`${name}: ${now}`)).catch((error: Error) => ({
    scenario: scenario.name,
    wire,
    failure: error.message,
  }));
  rows.push(row);
  if (!process.stdout.isTTY) console.log(`${name}: done after ${elapsed()}`);
}
show("");

console.log(table(rows).join("\n"));
const results = rows.filter(isMeasured);
const all: Results = { machine: machine(), results };
for (const warning of warnings(all)) console.log(warning);
if (results.length < rows.length) {
  console.log("A scenario failed: results.json and chart.svg are unchanged.");
  process.exit(1);
}
await Bun.write(`${import.meta.dir}/results.json`, `${JSON.stringify(all, null, 2)}\n`);
await Bun.write(`${import.meta.dir}/chart.svg`, chart(all));
console.log(
  `\nDeliveries per CPU-second of the server: median of ${RUNS} runs (lowest–highest). p50 / p99: from sending to`,
);
console.log(`delivery. Every delivery arrived, once. Took ${elapsed()}.`);
if (!isCpuMeasured)
  console.log("CPU time is read on Linux with glibc only; here the seconds are the clock's.");
const perCpuSecond = (wire: Wire) =>
  results.find((result) => result.scenario === "feed" && result.wire === wire)?.ours.perCpuSecond ?? NaN;
const share = perCpuSecond("sse") / perCpuSecond("json");
console.log(
  `In the feed, event streams get ${share.toFixed(2)} of the deliveries that JSON connections get. At least 0.5 is promised.`,
);
process.exit();

/** @throws Error if a delivery is missing or duplicated, or something does not end in time */
async function compare(scenario: Scenario, wire: Wire, progress: (now: string) => void): Promise<Result> {
  const runs: Record<Side, Run[]> = { ours: [], plain: [] };
  const groups = scenario.isOneByOne ? SIDES.map((side) => [side]) : [SIDES];
  for (const sides of groups) await measure(scenario, wire, sides, runs, progress);
  return summarize(scenario.name, wire, runs);
}

/** The servers run all the time, but only one of them is under load at a time, except in the quiet room. */
async function measure(
  scenario: Scenario,
  wire: Wire,
  sides: readonly Side[],
  runs: Readonly<Record<Side, Run[]>>,
  progress: (now: string) => void,
): Promise<void> {
  progress("connecting");
  using stack = new DisposableStack();
  const measured: { side: Side; server: Server; crowd: Crowd }[] = [];
  for (const side of sides) {
    const server = stack.use(await Server.start(side));
    const crowd = stack.use(await blaming(side, Crowd.gather(server.port, wire, scenario)));
    measured.push({ side, server, crowd });
  }
  for (let run = 0; run <= RUNS; run++) {
    progress(run === 0 ? "warming up" : `run ${run} of ${RUNS}`);
    const plan = run === 0 ? warmUp(scenario) : scenario;
    const once = async ({ side, server, crowd }: (typeof measured)[number]) => {
      const result = await blaming(side, crowd.run(plan, server.cpuSeconds));
      if (run > 0) runs[side].push(result);
    };
    // Being first can be an advantage or not, so the servers take turns at that, too.
    const order = run % 2 === 0 ? measured : measured.toReversed();
    const { apartMs } = scenario;
    // The first message must not follow the previous run closely, as in a busy room.
    if (run > 0 && apartMs !== undefined)
      await Promise.all(order.map((each, i) => Bun.sleep((i + 1) * apartMs).then(() => once(each))));
    else for (const each of order) await once(each);
  }
}

/** Adds the server's name to the error. */
async function blaming<T>(side: Side, promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (error) {
    throw new Error(`${side}: ${error instanceof Error ? error.message : error}`);
  }
}

function warmUp({ clients, rate, apartMs }: Scenario): Plan {
  const { seconds, quietSeconds, leastDeliveries } = WARM_UP;
  if (apartMs !== undefined) return { seconds: quietSeconds };
  return {
    seconds,
    ...(rate === undefined ? {} : { rate: Math.max(rate, leastDeliveries / clients) }),
  };
}

/** Shows a line until the next one replaces it. */
function show(line: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line}`);
}
