/** No input and no exception in a handler ends the process. */

import { describe, expect, test } from "bun:test";
import type { JsonPeer } from "../support/peer.ts";
import { COVERING_STORES, startServer, STORES, type TestServer } from "../support/server.ts";
import { frame, RawClient, request, describeFrame } from "../support/raw-websocket.ts";

const OUR_FAULT = { code: 1011, reason: "Internal error. Reconnect." };
const UNDELIVERED = { code: 1012, reason: "A message could not be delivered. Reconnect and resume." };

test("a handler that throws closes its own connection, and no other", async () => {
  const server = await startServer({ preload: "fault-injection.ts", args: ["--ping-seconds", "3"] });
  await using bob = await server.join("bob", { room: "bob" });

  await using opens = await server.join("boom-open");
  expect(await opens.closes()).toEqual(OUR_FAULT);

  await using says = await server.join("ann", { room: "bob" });
  says.says("boom-answer");
  expect(await says.closes()).toEqual(OUR_FAULT);
  await bob.hears("Client #ann says: boom-answer", "Client #ann left the chat");

  await using closes = await server.join("boom-close");
  await closes.leaves();

  await using promises = await server.join("eve", { room: "bob" });
  promises.says("boom-later");
  await bob.hears("Client #eve says: boom-later");

  await using remains = await server.join("joe", { room: "timer" });
  await using timer = await server.join("boom-timer", { room: "timer" });
  await timer.leaves();
  expect(await remains.closes()).toEqual(UNDELIVERED);
  await promises.leaves();
  await bob.hears("Client #eve left the chat");

  for (const opcode of [9, 10]) {
    await using raw = new RawClient(server.port);
    raw.sends(request("/ws/raw?room=raw"));
    await raw.head();
    raw.sends(frame(1, opcode === 9 ? "boom-ping" : "boom-pong"));
    for (let i = 0; i < 2; i++) await raw.next();
    raw.sends(frame(opcode, "x"));
    const received = (await raw.rest()).map(describeFrame);
    expect(received.filter((line) => !line.startsWith("pong"))).toEqual([
      `close ${OUR_FAULT.code} ${OUR_FAULT.reason}`,
    ]);
  }

  const text = "x".repeat(60_000);
  await using teller = await server.join("teller", { room: "drain" });
  for (let i = 0; i < 100; i++) {
    teller.says(text);
    await teller.hearsUpTo(`You wrote: ${text}`);
  }
  const drains = await server.joinJson("boom-drain", { room: "drain", history: 100 });
  drains.peer.pauses();
  await server.answer("/healthz"); // by now the server has sent what the network takes
  drains.peer.resumes();
  expect(await drains.peer.closes()).toEqual(OUR_FAULT);

  bob.says("still here");
  await bob.hearsUpTo("Client #bob says: still here");
  await server[Symbol.asyncDispose]();
  const injected = (await server.errors).match(/injected into .*/g);
  expect(injected?.toSorted()).toEqual(
    ["open", "the answer", "close", "a promise", "the timer", "ping", "pong", "drain", "the sweep"]
      .map((where) => `injected into ${where}`)
      .toSorted(),
  );
});

describe.each(COVERING_STORES)("a broadcast that fails, with the store $name", (store) => {
  const start = (args: readonly string[] = []) => startServer({ store, preload: "fault-injection.ts", args });

  /** A closed client resumes, and receives that message once, then those that follow. */
  async function resumes(server: TestServer, before: JsonPeer, id: string, text: string): Promise<JsonPeer> {
    expect(await before.peer.closes()).toEqual(UNDELIVERED);
    const back = await server.joinJson(id, { after: before.after, session: id });
    expect(back.welcome.recovered).toBe(true);
    await back.hears({ type: "message", from: "ann", text });
    return back;
  }

  test.each(["boom-message", "boom-encoding"])(
    "closes with 1012 those it did not reach; they resume and receive it once (%s)",
    async (text) => {
      await using server = await start();
      await using ann = await server.joinJson("ann", { session: "ann" });
      await using bob = await server.joinJson("bob", { session: "bob" });
      ann.says("1", { seq: 1 });
      await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "1" });
      await bob.hears({ type: "message", from: "ann", text: "1" });
      ann.says(text, { seq: 2 });
      await ann.hears({ type: "ack", seq: 2 });
      await using annBack = await resumes(server, ann, "ann", text);
      expect(annBack.welcome.sent).toBe(2);
      await using bobBack = await resumes(server, bob, "bob", text);
      annBack.says("3", { seq: 3 });
      await annBack.hears({ type: "ack", seq: 3 }, { type: "message", from: "ann", text: "3" });
      await bobBack.hears({ type: "message", from: "ann", text: "3" });
    },
  );

  test("on one wire does not affect the other", async () => {
    await using server = await start();
    await using ann = await server.join("ann");
    await using bob = await server.joinJson("bob");
    await using eve = await server.joinJson("eve");
    // Second tabs: no leave is announced, however long resuming takes.
    await using _bobsTab = await server.join("bob");
    await using _evesTab = await server.join("eve");
    ann.says("boom-json");
    await ann.hears("You wrote: boom-json", "Client #ann says: boom-json");
    await using back = await resumes(server, bob, "bob", "boom-json");
    await using eveBack = await resumes(server, eve, "eve", "boom-json");
    ann.says("boom-text");
    await ann.hears("You wrote: boom-text");
    expect(await ann.closes()).toEqual(UNDELIVERED);
    for (const each of [back, eveBack]) await each.hears({ type: "message", from: "ann", text: "boom-text" });
    await using again = await server.join("ann", { history: 1 });
    await again.hears("Client #ann says: boom-text");
    again.says("3");
    await again.hears("You wrote: 3", "Client #ann says: 3");
  });

  test("in a busy room skips nothing: earlier messages arrive before the close, later ones after resuming", async () => {
    await using server = await start(["--flush-ms", "1000"]);
    await using ann = await server.joinJson("ann", { session: "ann" });
    await using bob = await server.joinJson("bob");
    const texts = ["1", "2", "boom-message", "3"];
    for (const [i, text] of texts.entries()) ann.says(text, { seq: i + 1 });
    for (const text of ["1", "2"]) await bob.hears({ type: "message", from: "ann", text });
    await using back = await resumes(server, bob, "bob", "boom-message");
    await back.hears({ type: "message", from: "ann", text: "3" });
    await back.hearsNothing();
  });
});

test("a replay that fails midway closes its connection with 1012, and is repeated on resuming", async () => {
  const store = STORES.find(({ name }) => name === "SQLite");
  await using server = await startServer({
    ...(store ? { store } : {}),
    preload: "fault-injection.ts",
    args: ["--history", "1"],
  });
  await using ann = await server.join("ann");
  const before = await server.joinJson("bob");
  await before.leaves();
  const texts = ["1", "boom-encoding", "3"];
  for (const text of texts) ann.says(text);
  await ann.hearsUpTo("Client #ann says: 3");
  // It begins before the cached history, and so is read from the file after the handler has returned.
  await using bob = await server.joinJson("bob", { after: before.after });
  await bob.hears({ type: "message", from: "ann", text: "1" });
  expect(await bob.peer.closes()).toEqual(UNDELIVERED);
  await using back = await server.joinJson("bob", { after: bob.after });
  for (const text of texts.slice(1)) await back.hears({ type: "message", from: "ann", text });
  await back.hearsNothing();
});

test("a broadcast over HTTP that fails is answered as stored, and those it did not reach resume", async () => {
  await using server = await startServer({ preload: "fault-injection.ts" });
  await using bob = await server.joinJson("bob");
  const posted = await server.post("lobby", { from: "ann", text: "boom-message" });
  expect(posted.status).toBe(201);
  expect(await bob.peer.closes()).toEqual(UNDELIVERED);
  await using back = await server.joinJson("bob", { after: bob.after });
  await back.hears({ type: "message", from: "ann", text: "boom-message" });
});

test("malformed frames close their own connection only", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const frames = {
    "an unmasked frame": [0x81, 0x02, 0x68, 0x69],
    "reserved bits": [0xf1, 0x82, 0, 0, 0, 0, 0x68, 0x69],
    "a reserved opcode": [0x83, 0x80, 0, 0, 0, 0],
    "text that is not UTF-8": [0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28],
    "a ping of 126 bytes": [0x89, 0xfe, 0, 126, 0, 0, 0, 0],
    "a length of 2^63": [0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "a continuation of nothing": [0x80, 0x80, 0, 0, 0, 0],
  };
  for (const [what, bytes] of Object.entries(frames)) {
    const ended = Promise.withResolvers<void>();
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port: server.port,
      socket: {
        data(socket, data) {
          if (data.includes("101 Switching")) socket.write(Uint8Array.from(bytes));
        },
        close: () => ended.resolve(),
        error: () => ended.resolve(),
      },
    });
    socket.write(request("/ws/ann"));
    await ended.promise;
    await bob.hears("Client #ann left the chat").catch((error: Error) => {
      throw new Error(`${what}: ${error.message}`);
    });
  }
});
