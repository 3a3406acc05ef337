/**
 * `bun run bench`: Hubbub and plain Bun.serve under the same load. Every delivery is counted; the exit code is 1 if one is
 * missing or duplicated. Writes results.json and chart.svg next to this file.
 */

import { chart } from "./chart.ts";
import type { Wire } from "./connection.ts";
import { Crowd, type Plan, type Run } from "./load.ts";
import { machine, summarize, table, warnings, type Result, type Results } from "./results.ts";
import { isCpuMeasured, Server, SIDES, type Side } from "./servers.ts";

const RUNS = 5;

interface Scenario extends Plan {
  readonly name: string;
  readonly clients: number;
  readonly wires: readonly Wire[];
  /** Measures both servers at once, this far apart: for loads so small that they hardly ever meet. */
  readonly apartMs?: number;
  /** Clients whose latency is measured. Each server writes to its clients in a fixed order; a part of them may be early or late in it. */
  readonly watched?: number;
}

/** The smaller the load, the longer the run: CPU time is known to 10 ms. */
const SCENARIOS: readonly Scenario[] = [
  { name: "busy room", wires: ["text", "json", "sse"], clients: 200, senders: 20, rate: 1_000, seconds: 2.2 },
  { name: "crowd", wires: ["text", "json"], clients: 1_000, senders: 20, rate: 500, seconds: 1.2 },
  { name: "closed loop", wires: ["text", "json"], clients: 200, senders: 20, seconds: 0.8 },
  {
    name: "quiet room",
    wires: ["text", "json"],
    clients: 200,
    senders: 20,
    rate: 10,
    seconds: 4,
    apartMs: 50,
    watched: 200,
  },
  { name: "echo", wires: ["echo"], clients: 32, senders: 32, seconds: 0.8 },
];
/** Enough for the engine to compile the hot code; at the rate of a quiet room that would take hours. */
const WARM_UP = { seconds: 1, quietSeconds: 3, leastDeliveries: 200_000 };

const plans = SCENARIOS.flatMap((scenario) => scenario.wires.map((wire) => ({ scenario, wire })));
const results: Result[] = [];
try {
  for (const [i, { scenario, wire }] of plans.entries()) {
    const name = wire === "echo" ? scenario.name : `${scenario.name}, ${wire}`;
    results.push(await compare(scenario, wire, (now) => tell(`${i + 1}/${plans.length} ${name}${now}`)));
    if (!process.stdout.isTTY) console.log(`${i + 1}/${plans.length} ${name}`);
  }
} catch (error) {
  tell("");
  console.error(error instanceof Error ? error.message : error);
  process.exit(1);
}
tell("");

const all: Results = { machine: machine(), results };
await Bun.write(`${import.meta.dir}/results.json`, `${JSON.stringify(all, null, 2)}\n`);
await Bun.write(`${import.meta.dir}/chart.svg`, chart(all));

console.log(table(all).join("\n"));
console.log(
  `\nDeliveries per CPU-second of the server: median of ${RUNS} runs (lowest–highest). p50 / p99: from sending to`,
);
console.log("delivery. Every delivery arrived, once.");
if (!isCpuMeasured) console.log("Only Linux says what a process worked: here the seconds are the clock's.");
const perCpuSecond = (wire: Wire) =>
  results.find((result) => result.scenario === "busy room" && result.wire === wire)?.ours.perCpuSecond ?? NaN;
const ofSockets = perCpuSecond("sse") / perCpuSecond("json");
console.log(
  `Event streams: ${ofSockets.toFixed(2)} of the deliveries that JSON connections get. At least 0.5 is promised.`,
);
for (const warning of warnings(all)) console.log(warning);

/** Both servers run all the time, but only one of them is under load at a time, except in the quiet room. */
async function compare(scenario: Scenario, wire: Wire, progress: (now: string) => void): Promise<Result> {
  const { name, clients, apartMs, watched } = scenario;
  progress("");
  using ours = await Server.start("ours");
  using plain = await Server.start("plain");
  using oursCrowd = await Crowd.gather(ours.port, wire, clients, watched);
  using plainCrowd = await Crowd.gather(plain.port, wire, clients, watched);
  const sides = { ours: { server: ours, crowd: oursCrowd }, plain: { server: plain, crowd: plainCrowd } };
  const runs: Record<Side, Run[]> = { ours: [], plain: [] };
  for (let run = 0; run <= RUNS; run++) {
    progress(run === 0 ? ": warming up" : `: run ${run} of ${RUNS}`);
    const plan = run === 0 ? warmUp(scenario) : scenario;
    const measure = async (side: Side) => {
      const { server, crowd } = sides[side];
      const result = await crowd.run(plan, server.cpuSeconds).catch((error: Error) => {
        throw new Error(`${name}, ${wire}, ${side}: ${error.message}`);
      });
      if (run > 0) runs[side].push(result);
    };
    // Being first can be an advantage or not, so the servers take turns at that, too.
    const order = run % 2 === 0 ? SIDES : SIDES.toReversed();
    // The first message must not follow the previous run closely, as in a busy room.
    if (run > 0 && apartMs !== undefined)
      await Promise.all(order.map((side, i) => Bun.sleep((i + 1) * apartMs).then(() => measure(side))));
    else for (const side of order) await measure(side);
  }
  return summarize(name, wire, runs);
}

function warmUp({ clients, senders, rate, apartMs }: Scenario): Plan {
  const { seconds, quietSeconds, leastDeliveries } = WARM_UP;
  if (apartMs !== undefined) return { seconds: quietSeconds, senders };
  return {
    seconds,
    senders,
    ...(rate === undefined ? {} : { rate: Math.max(rate, leastDeliveries / clients) }),
  };
}

/** Shows a line until the next one replaces it. */
function tell(line: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${line}`);
}
