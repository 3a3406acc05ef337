/** A client that sends everything before it reads loses nothing; one that never reads is closed as a slow consumer. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { TestClock } from "../support/clock.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import { startServer, STORES } from "../support/server.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";

setDefaultTimeout(300_000);

const DEADLINE_MS = 120_000;
/** 10 MB each, which is more than the kernel and the server buffer for a connection. */
const SHORT_LINES = linesOf(100_000, 100);
const LINES = linesOf(20_000, 500);
const stores = STORES.filter(({ name }) => name === "memory" || name === "SQLite");
const SLOW = { code: 1013, reason: "Reading too slowly. Reconnect and resume." };

function linesOf(count: number, length: number): string[] {
  return Array.from({ length: count }, (_, i) => `${i} `.padEnd(length, "x"));
}

/** Sends all frames at once, then reads until `pick` has returned a value for `count` of the frames received. */
async function exchange<T>(
  url: string,
  frames: readonly string[],
  count: number,
  pick: (frame: string) => T | undefined,
): Promise<T[]> {
  const socket = new WebSocket(url, url.includes("session=") ? [SUBPROTOCOL] : []);
  const picked: T[] = [];
  const all = Promise.withResolvers<void>();
  socket.onopen = () => {
    for (const frame of frames) socket.send(frame);
  };
  socket.onmessage = ({ data }) => {
    const one = pick(String(data));
    if (one !== undefined) picked.push(one);
    if (picked.length === count) all.resolve();
  };
  socket.onclose = ({ code, reason }) => all.reject(new Error(`closed with ${code} ${reason}`));
  await withDeadline(all.promise, () => `${picked.length} of ${count} came`, DEADLINE_MS);
  socket.terminate();
  return picked;
}

test("the echo answers 100,000 lines sent at once", async () => {
  await using server = await startServer();
  const url = `${server.origin.replace("http", "ws")}/websocket`;
  const received = await exchange(url, SHORT_LINES, SHORT_LINES.length, (line) => line);
  expect(received).toEqual(SHORT_LINES.map((line) => `Message text was: ${line}`));
});

for (const store of stores) {
  const lines = store.name === "memory" ? SHORT_LINES : LINES;
  test(`${lines.length} lines sent at once are stored and received in order on the text wire: ${store.name}`, async () => {
    await using server = await startServer({ store, args: ["--flush-ms", "10"] });
    const url = `${server.origin.replace("http", "ws")}/ws/ann`;
    const received = await exchange(url, lines, 2 * lines.length, (line) => line);
    const own = received.filter((line) => line.startsWith("You wrote: "));
    expect(own).toEqual(lines.map((line) => `You wrote: ${line}`));
    const all = received.filter((line) => line.startsWith("Client #ann says: "));
    expect(all).toEqual(lines.map((line) => `Client #ann says: ${line}`));
  });

  test(`${LINES.length} numbered messages sent at once are stored, received and replayed in order on the JSON wire: ${store.name}`, async () => {
    const history = `${LINES.length}`;
    await using server = await startServer({ store, args: ["--flush-ms", "10", "--history", history] });
    const url = `${server.origin.replace("http", "ws")}/ws/ann?session=s`;
    let start = "";
    const errors: string[] = [];
    const frames = LINES.map((text, i) => JSON.stringify({ type: "message", text, seq: i + 1 }));
    let acks = 0;
    const received = await exchange(url, frames, LINES.length, (frame) => {
      const event = JSON.parse(frame);
      if (event.type === "welcome") start = event.last;
      if (event.type === "error") errors.push(frame);
      if (event.type === "ack") expect(event.seq).toBe(++acks);
      return event.type === "message" ? String(event.text) : undefined;
    });
    expect(errors).toEqual([]);
    expect(acks).toBe(LINES.length);
    expect(received).toEqual(LINES);
    const replayed = await exchange(`${url}&after=${start}`, [], LINES.length, (frame) => {
      const event = JSON.parse(frame);
      if (event.type === "welcome") expect(event.recovered).toBe(true);
      return event.type === "message" ? String(event.text) : undefined;
    });
    expect(replayed).toEqual(LINES);
  });
}

for (const store of STORES)
  test(`messages sent right before a close are all stored: ${store.name}`, async () => {
    const count = 2_000;
    await using server = await startServer({ store });
    const socket = new WebSocket(`${server.origin.replace("http", "ws")}/ws/ann`);
    socket.onopen = () => {
      for (const line of LINES.slice(0, count)) socket.send(line);
      socket.close();
    };
    const isThere = async () => {
      const { body } = await server.answer("/rooms/lobby/messages?limit=1");
      return JSON.parse(body).messages[0]?.text === LINES[count - 1];
    };
    await eventually(isThere, "the last line is stored", DEADLINE_MS);
  });

test.concurrent.each(["/websocket", "/ws/ann", "/ws/ann?session=s"])(
  "a sender to %s that never reads is closed with 1013; others are not affected",
  async (path) => {
    using clock = new TestClock();
    await using server = await startServer({ ...clock.setup, args: ["--ping-seconds", "600"] });
    await using bob = await server.join("bob", { room: "other" });
    const headers: Record<string, string> = path.includes("session")
      ? { "Sec-WebSocket-Protocol": SUBPROTOCOL }
      : {};
    await using ann = await server.open(path, headers);
    ann.pauses();
    const text = "x".repeat(60_000);
    const frame = path.includes("session") ? JSON.stringify({ type: "message", text }) : text;
    for (let i = 0; i < 300; i++) ann.says(frame);
    bob.says("hi");
    await bob.hears("You wrote: hi", "Client #bob says: hi");
    // It has 12 s to read its close frame (see serve.ts), so reading starts as soon as that is sent.
    const isClosed = async () => {
      clock.advance(1000);
      return (await server.metrics()).get('hubbub_disconnects_total{code="1013"}') === 1;
    };
    await eventually(isClosed, "the server closes it", DEADLINE_MS);
    ann.resumes();
    expect(await ann.closes()).toEqual(SLOW);
  },
);
