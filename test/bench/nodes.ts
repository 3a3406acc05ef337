/**
 * Two nodes on one Redis or Postgres: messages acknowledged per second in total, and latency from node to node. `bun
 * test/bench/nodes.ts --store redis` takes under two minutes; clients, nodes and database share the machine.
 */

import { parseArgs } from "node:util";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { DURABLE, Postgres } from "../support/postgres.ts";
import { Redis } from "../support/redis.ts";

const RUNS = 3;
const WARM_MS = 1000;
const MEASURE_MS = 3000;
/** Each room has a client on each node, with a window of unacknowledged messages. */
const ROOMS = 20;
const WINDOW = 50;
const TEXT = "x".repeat(60);
/** For the latency: messages a second in total, from clients of one node to one of the other. */
const RATE = 1000;
const SENDERS = 20;
const SEND_EVERY_MS = (1000 * SENDERS) / RATE;

const startRedis = (...args: string[]) => Redis.start(["--save", "", ...args]);
const startPostgres = (settings: Record<string, string>) =>
  Postgres.start({ settings: { ...DURABLE, ...settings } });
type Start = () => Promise<Redis | Postgres>;
const SETTINGS: Record<string, Record<string, Start>> = {
  redis: {
    "appendonly no": () => startRedis("--appendonly", "no"),
    "appendfsync everysec": () => startRedis("--appendonly", "yes", "--appendfsync", "everysec"),
    "appendfsync always": () => startRedis("--appendonly", "yes", "--appendfsync", "always"),
  },
  postgres: {
    "synchronous_commit off": () => startPostgres({ synchronous_commit: "off" }),
    "synchronous_commit on": () => startPostgres({ synchronous_commit: "on" }),
  },
};
const { values } = parseArgs({ options: { store: { type: "string", default: "redis" } } });

for (const [name, startDatabase] of Object.entries(SETTINGS[values.store] ?? {})) {
  const rates: number[] = [];
  const p50s: number[] = [];
  const p99s: number[] = [];
  for (let run = 0; run < RUNS; run++) {
    await using database = await startDatabase();
    const start = () =>
      startServer({ store: { name, url: database.url("bench") }, args: ["--flush-ms", "10"] });
    await using one = await start();
    await using two = await start();
    rates.push(await acknowledgedPerSecond([one, two]));
    const delays = await delaysBetween(one, two);
    p50s.push(delays[Math.floor(0.5 * delays.length)] ?? NaN);
    p99s.push(delays[Math.floor(0.99 * delays.length)] ?? NaN);
  }
  console.log(
    `${name}: ${spread(rates, 0)} acknowledged a second; at ${RATE} a second from node to node p50 ${spread(p50s, 1)} ms, p99 ${spread(p99s, 1)} ms`,
  );
}
process.exit();

/** The median and the range. */
function spread(values: readonly number[], digits: number): string {
  const sorted = values.toSorted((a, b) => a - b);
  const [lowest = NaN, median = NaN, highest = NaN] = [0, 0.5, 1].map(
    (part) => sorted[Math.floor(part * (sorted.length - 1))],
  );
  return `${median.toFixed(digits)} (${lowest.toFixed(digits)}–${highest.toFixed(digits)})`;
}

async function acknowledgedPerSecond(nodes: readonly TestServer[]): Promise<number> {
  let acknowledged = 0;
  const sockets = Array.from({ length: ROOMS }, (_, room) =>
    nodes.map((node, i) => {
      const socket = connect(node, `c${i}`, `room${room}`);
      let seq = 0;
      const say = () => socket.send(JSON.stringify({ type: "message", text: TEXT, seq: ++seq }));
      socket.onopen = () => {
        for (let k = 0; k < WINDOW; k++) say();
      };
      socket.onmessage = ({ data }: MessageEvent<string>) => {
        if (data.startsWith('{"type":"ack"')) {
          acknowledged++;
          say();
        } else if (data.startsWith('{"type":"error"')) throw new Error(data);
      };
      return socket;
    }),
  ).flat();
  await Bun.sleep(WARM_MS);
  const [before, startMs] = [acknowledged, performance.now()];
  await Bun.sleep(MEASURE_MS);
  const perSecond = ((acknowledged - before) * 1000) / (performance.now() - startMs);
  for (const socket of sockets) socket.close();
  await Bun.sleep(WARM_MS);
  return perSecond;
}

/** Milliseconds from sending to delivery, ascending. */
async function delaysBetween(one: TestServer, other: TestServer): Promise<readonly number[]> {
  const delays: number[] = [];
  const listener = connect(other, "listener", "rate");
  listener.onmessage = ({ data }: MessageEvent<string>) => {
    const sentMs = Number(/"text":"([\d.]+)"/.exec(data)?.[1]);
    if (sentMs > 0) delays.push(performance.now() - sentMs);
  };
  const senders = Array.from({ length: SENDERS }, (_, i) => connect(one, `c${i}`, "rate"));
  await Promise.all(senders.map((socket) => new Promise((resolve) => (socket.onopen = resolve))));
  await Bun.sleep(WARM_MS);
  delays.length = 0;
  const timers: Timer[] = [];
  for (const [i, sender] of senders.entries()) {
    await Bun.sleep(SEND_EVERY_MS / SENDERS);
    let seq = 0;
    const say = () =>
      sender.send(JSON.stringify({ type: "message", text: `${performance.now()}`, seq: ++seq }));
    timers[i] = setInterval(say, SEND_EVERY_MS);
  }
  await Bun.sleep(MEASURE_MS);
  for (const timer of timers) clearInterval(timer);
  await Bun.sleep(WARM_MS);
  for (const socket of [listener, ...senders]) socket.close();
  return delays.toSorted((a, b) => a - b);
}

function connect(node: TestServer, client: string, room: string): WebSocket {
  const session = Math.random().toString(36).slice(2);
  const url = `${node.origin.replace("http", "ws")}/ws/${client}?room=${room}&session=${session}&history=0`;
  return new WebSocket(url, { headers: { "Sec-WebSocket-Protocol": SUBPROTOCOL } });
}
