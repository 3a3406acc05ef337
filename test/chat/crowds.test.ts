/** Thousands of clients at once, silent or joining and leaving together, do not disturb the others. */

import { connect, type Socket } from "node:net";
import { expect, setDefaultTimeout, test } from "bun:test";
import { withDeadline } from "../support/deadline.ts";
import type { JsonPeer, Peer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { request } from "../support/raw-websocket.ts";

setDefaultTimeout(240_000);

const CROWD = 1000;

/** Opens a TCP connection and writes `start`. */
async function dial(server: TestServer, start: string): Promise<Socket> {
  const socket = connect(server.port, "127.0.0.1");
  const opened = Promise.withResolvers<void>();
  socket.once("connect", opened.resolve).once("error", opened.reject);
  await withDeadline(opened.promise, () => "a connection did not open");
  socket.on("error", () => {});
  if (start) socket.write(start);
  return socket;
}

/** The room works as usual. */
async function talk(ann: JsonPeer, bob: JsonPeer, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    ann.says(`${i}`);
    await bob.hears({ type: "message", from: "ann", text: `${i}` });
    await ann.hears({ type: "message", from: "ann", text: `${i}` });
  }
}

test("a thousand connections that send nothing, half a request, or nothing after the handshake", async () => {
  await using server = await startServer();
  await using ann = await server.joinJson("ann");
  await using bob = await server.joinJson("bob");
  const handshake = request("/ws/silent").toString();
  const starts = ["", handshake.slice(0, -2), handshake, "\x16\x03\x01"];
  const silent = await Promise.all(
    Array.from({ length: CROWD }, (_, i) => dial(server, starts[i % starts.length] ?? "")),
  );
  await talk(ann, bob, 50);
  expect((await server.get("/client")).status).toBe(200);
  for (const socket of silent) socket.destroy();
  await talk(ann, bob, 50);
});

test("a storm of joins and leaves: every client is counted, and announced once", async () => {
  await using server = await startServer();
  await using ann = await server.joinJson("ann");
  await using bob = await server.joinJson("bob");
  await using text = await server.join("text");
  const crowd = await Promise.all(Array.from({ length: CROWD }, (_, i) => server.join(`c${i}`)));
  // Enough that leaves are announced in several steps.
  const STAY = 100;
  await Promise.all(Array.from({ length: STAY }, (_, i) => server.join(`stay${i}`)));
  await talk(ann, bob, 20);
  await using late = await server.joinJson("late");
  expect(late.welcome).toMatchObject({ count: CROWD + STAY + 4 });
  late.says("hi"); // with this many leaves pending, only a sender's is certain to be announced
  for (const each of [ann, bob]) await each.hears({ type: "message", from: "late", text: "hi" });
  for (const peer of crowd) peer.vanishes();
  await talk(ann, bob, 20);
  await late.leaves();
  const left = new Set<string>();
  while (left.size < CROWD + 1) {
    const line = String(await text.next(() => `${left.size} of ${CROWD + 1} have left`));
    const name = /^Client #(\S+) left the chat$/.exec(line)?.[1];
    if (name === undefined) continue;
    if (left.has(name)) throw new Error(`${name} left twice`);
    left.add(name);
  }
  await text.hearsNothing();
  await using after = await server.joinJson("after");
  expect(after.welcome).toMatchObject({ count: STAY + 4 });
});

test("a large room, written to in several turns: all receive everything once and in order, also clients that join or ping meanwhile", async () => {
  await using server = await startServer({ args: ["--history", "1000", "--flush-ms", "50"] });
  const join = (id: string, at: number) => {
    const query = { room: "crowd", history: 1000 };
    return at % 3 === 0 ? server.joinJson(id, query).then(({ peer }) => peer) : server.join(id, query);
  };
  const crowd = await Promise.all(Array.from({ length: CROWD + 200 }, (_, i) => join(`c${i}`, i)));
  await using speaker = await server.join("speaker", { room: "crowd" });
  const latecomers: Promise<Peer>[] = [];
  const asking = new Set<Peer>();
  const MESSAGES = 200;
  for (let i = 0; i < MESSAGES; i++) {
    speaker.says(`${i}`);
    latecomers.push(join(`late${i}`, i));
    const asks = crowd[i * 3]; // every third one is on the JSON wire
    asks?.says('{"type":"ping"}');
    if (asks) asking.add(asks);
    await Bun.sleep(1);
  }
  speaker.says("the end");
  const expected = [...Array.from({ length: MESSAGES }, (_, i) => `${i}`), "the end"];
  for (const peer of [...crowd, ...(await Promise.all(latecomers))]) {
    const received: string[] = [];
    while (received.at(-1) !== "the end" || asking.has(peer)) {
      const message = String(await peer.next());
      const { type, text } = message.startsWith("{")
        ? JSON.parse(message)
        : { type: "text", text: message.split("Client #speaker says: ")[1] };
      if (type === "pong") asking.delete(peer);
      else if (text !== undefined) received.push(text);
    }
    expect(received).toEqual(expected);
  }
});

test("many senders of a large room pipeline: all receive one order, and each sender the tutorial's order of lines", async () => {
  await using server = await startServer({ args: ["--flush-ms", "10"] });
  const ids = Array.from({ length: 520 }, (_, i) => `c${i}`);
  const crowd = await Promise.all(ids.map(async (id) => ({ id, peer: await server.join(id) })));
  const senders = crowd.filter((_, i) => i % 20 === 0);
  const LINES = 10;
  for (const { id, peer } of senders) for (let i = 0; i < LINES; i++) peer.says(`${id} ${i}`);
  let order: string[] | undefined;
  for (const { id, peer } of crowd) {
    const received: string[] = [];
    const own: string[] = [];
    const isSender = senders.some((each) => each.id === id);
    while (received.length < senders.length * LINES || own.length < (isSender ? 2 * LINES : 0)) {
      const line = String(await peer.next());
      if (!line.startsWith("You wrote: ")) received.push(line);
      if (line.includes(`: ${id} `)) own.push(line);
    }
    expect(received).toEqual((order ??= received));
    const lines = Array.from({ length: LINES }, (_, i) => `${id} ${i}`);
    expect(own).toEqual(
      isSender ? lines.flatMap((text) => [`You wrote: ${text}`, `Client #${id} says: ${text}`]) : [],
    );
  }
});
