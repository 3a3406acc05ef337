/**
 * Thousands of clients join within a second, receive some messages, and leave within a second: how long another client
 * waits for an echo meanwhile. `bun test/bench/storm.ts` takes two minutes; it and the server need a file descriptor for
 * each client (`ulimit -n`), and share the machine.
 */

import { isMainThread } from "node:worker_threads";
import { Connection, Draft } from "./connection.ts";
import { Server, SIDES } from "./servers.ts";

const CROWD = 10_000;
const AT_ONCE = 100;
const STEP_MS = (1000 * AT_ONCE) / CROWD;
const MESSAGES = 10;
const MESSAGE_EVERY_MS = 300;
const SETTLE_MS = 3000;
/** One round of plain Bun.serve takes a minute. */
const ROUNDS = { ours: 3, plain: 1 };
const ASK_EVERY_MS = 3;
const PHASES = ["joining", "receiving", "leaving"] as const;
type Phase = (typeof PHASES)[number];

declare const self: Worker;

if (isMainThread) {
  for (const side of SIDES) await measure(side);
  process.exit();
} else self.onmessage = ({ data }) => askOnAndOn(data);

async function measure(side: (typeof SIDES)[number]): Promise<void> {
  using server = await Server.start(side);
  const asker = new Worker(import.meta.url);
  const waits: Record<Phase, number[]> = { joining: [], receiving: [], leaving: [] };
  let phase: Phase = "joining";
  let answered = Promise.withResolvers<void>();
  asker.onmessage = ({ data }) => {
    waits[phase].push(data);
    answered.resolve();
    answered = Promise.withResolvers();
  };
  asker.onerror = ({ message }) => fail(message);
  asker.postMessage(server.port);

  const pending = new Draft("text");
  const watcher = {
    acknowledged() {},
    received() {},
    failed: (why: string) => void (phase === "leaving" || fail(why)),
  };
  for (let round = 0; round < ROUNDS[side]; round++) {
    phase = "joining";
    const crowd: Connection[] = [];
    await inSteps(async (first) => {
      const ids = Array.from({ length: AT_ONCE }, (_, i) => `c${first + i}`);
      crowd.push(...(await Promise.all(ids.map((id) => Connection.open(server.port, id, "text", watcher)))));
    });
    await Bun.sleep(SETTLE_MS);
    phase = "receiving";
    for (let number = 0; number < MESSAGES; number++) {
      crowd[number]?.send(pending, number);
      await Bun.sleep(MESSAGE_EVERY_MS);
    }
    const missing = crowd.reduce((sum, { count }) => sum + MESSAGES - count, 0);
    if (missing > 0) fail(`${missing} deliveries are missing`);
    phase = "leaving";
    await inSteps(async (first) => {
      for (const each of crowd.slice(first, first + AT_ONCE)) each.close();
    });
    await Bun.sleep(SETTLE_MS);
    await answered.promise;
  }
  asker.terminate();
  for (const [name, all] of Object.entries(waits)) {
    const sorted = all.toSorted((a, b) => a - b);
    const at = (part: number) => (sorted[Math.floor(part * (sorted.length - 1))] ?? NaN).toFixed(1);
    console.log(
      `${side}: while ${CROWD} are ${name}, an echo takes p50 ${at(0.5)}, p99 ${at(0.99)}, at most ${at(1)} ms`,
    );
  }
}

/** All of them within a second, if the server keeps up. */
async function inSteps(step: (first: number) => Promise<void>): Promise<void> {
  const startMs = performance.now();
  for (let first = 0; first < CROWD; first += AT_ONCE) {
    await step(first);
    await Bun.sleep(startMs + STEP_MS * (first / AT_ONCE + 1) - performance.now());
  }
}

/** A separate connection, on which the time of every echo is measured. */
function askOnAndOn(port: number): void {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/websocket`);
  let askedMs = 0;
  const ask = () => {
    askedMs = performance.now();
    socket.send("?");
  };
  socket.onopen = ask;
  socket.onclose = ({ code }) => {
    throw new Error(`the echo was closed: ${code}`);
  };
  socket.onmessage = () => {
    self.postMessage(performance.now() - askedMs);
    setTimeout(ask, ASK_EVERY_MS);
  };
}

function fail(why: string): never {
  console.error(why);
  process.exit(1);
}
