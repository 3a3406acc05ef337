/** After a lost connection a client resumes without a gap, and its own messages are stored exactly once. */

import { describe, expect, test } from "bun:test";
import { ERROR_MESSAGES, type ErrorCode } from "../../src/protocol/codes.ts";
import { JsonPeer, type Event } from "../support/peer.ts";
import { describeFrame, ping, pong, RawClient, request, text } from "../support/raw-websocket.ts";
import { COVERING_STORES, startServer, STORES } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

const message = (from: string, text: string): Event => ({ type: "message", from, text });

describe.each(STORES)("with the store $name", (store) => {
  const server = sharedServer({ store });

  test("a client that resumes receives what it missed, then live messages", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using _tab = await server().joinJson("bob", { room }); // bob is present all the time, so no leave is announced
    await using first = await server().joinJson("bob", { room });
    ann.says("1");
    await first.hears(message("ann", "1"));
    await first.leaves();
    ann.says("2");
    ann.says("3");
    await ann.hears(
      "You wrote: 1",
      "Client #ann says: 1",
      "You wrote: 2",
      "Client #ann says: 2",
      "You wrote: 3",
    );

    await using bob = await server().joinJson("bob", { room, after: first.after });
    expect([bob.welcome.recovered, bob.welcome.last]).toEqual([true, first.after]);
    await bob.hears(message("ann", "2"), message("ann", "3"));
    ann.says("4");
    await bob.hears(message("ann", "4"));
    await bob.hearsNothing();
  });

  test("`recovered` is true exactly if nothing is missing: up to the predecessor of the oldest stored message", async () => {
    await using server = await startServer({ store, args: ["--history", "3"] });
    await using ann = await server.joinJson("ann");
    const ids = [ann.after];
    for (const text of ["1", "2", "3", "4", "5"]) {
      ann.says(text);
      await ann.hears(message("ann", text));
      ids.push(ann.after);
    }
    const resume = async (after: string) => {
      await using bob = await server.joinJson("bob", { after });
      const texts = [];
      bob.sends({ type: "ping" });
      for (let event = await bob.next(); event.type !== "pong"; event = await bob.next())
        texts.push(event.text);
      return [bob.welcome.recovered, bob.welcome.last, texts];
    };
    expect(await resume(ids[5] ?? "")).toEqual([true, ids[5], []]);
    expect(await resume(ids[3] ?? "")).toEqual([true, ids[3], ["4", "5"]]);
    expect(await resume(ids[2] ?? "")).toEqual([true, ids[2], ["3", "4", "5"]]);
    const older = store.keepsEverything
      ? ([
          [true, ids[1], ["2", "3", "4", "5"]],
          [true, ids[0], ["1", "2", "3", "4", "5"]],
        ] as const)
      : [];
    for (const [i, lost] of [
      ids[1],
      ids[0],
      "1-0",
      "9999999999999-0",
      "nonsense",
      "",
      "-",
      "1795552789506",
    ].entries())
      expect<unknown>(await resume(lost ?? "")).toEqual(older[i] ?? [false, ids[2], ["3", "4", "5"]]);
  });

  test("an empty room and --history 0 can be resumed, too", async () => {
    await using server = await startServer({ store, args: ["--history", "0"] });
    await using ann = await server.joinJson("ann");
    await using same = await server.joinJson("bob", { after: ann.after });
    expect([same.welcome.recovered, same.welcome.last]).toEqual([true, ann.after]);
    ann.says("gone at once");
    await ann.hears(message("ann", "gone at once"));
    await using late = await server.joinJson("eve", { after: String(ann.welcome.last) });
    if (store.keepsEverything) {
      expect([late.welcome.recovered, late.welcome.last]).toEqual([true, ann.welcome.last]);
      await late.hears(message("ann", "gone at once"));
    } else expect([late.welcome.recovered, late.welcome.last]).toEqual([false, ann.after]);
    await late.hearsNothing();
  });

  test("an id from another room, or from an earlier server, recovers nothing", async () => {
    await using old = await startServer({ store });
    await using ann = await old.joinJson("ann");
    ann.says("1");
    await ann.hears(message("ann", "1"));
    await using elsewhere = await old.joinJson("ann", { room: "tea", after: ann.after });
    expect(elsewhere.welcome.recovered).toBe(false);
    await using server = await startServer({ store });
    for (const after of [ann.after, String(ann.welcome.last)]) {
      await using bob = await server.joinJson("bob", { after });
      expect(bob.welcome.recovered).toBe(false);
    }
  });

  test("a seq sent twice is acknowledged twice and broadcast once, also over a new connection", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    await using _tab = await server().joinJson("ann", { room }); // ann is present all the time, so no leave is announced
    await using first = await server().joinJson("ann", { room, session: room, history: 0 });
    first.says("one", { seq: 1 });
    first.says("one", { seq: 1 });
    first.says("two", { seq: 2 });
    await first.hears({ type: "ack", seq: 1 }, message("ann", "one"), { type: "ack", seq: 1 });
    await first.hears({ type: "ack", seq: 2 }, message("ann", "two"));
    await first.leaves();

    await using again = await server().joinJson("ann", { room, session: room, history: 0 });
    expect(again.welcome.sent).toBe(2);
    again.says("two", { seq: 2 });
    again.says("one", { seq: 1 });
    again.says("three", { seq: 3 });
    await again.hears(
      { type: "ack", seq: 2, id: first.after },
      { type: "ack", seq: 1 },
      { type: "ack", seq: 3 },
    );
    await bob.hears("Client #ann says: one", "Client #ann says: two", "Client #ann says: three");

    await using other = await server().joinJson("eve", { room, session: room, history: 0 });
    expect(other.welcome.sent).toBe(null);
    await other.leaves();
    await bob.hears("Client #eve left the chat");
  });

  test("a binary message with a seq is acknowledged, deduplicated and replayed like a text", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    await using _tab = await server().joinJson("ann", { room }); // ann is present all the time, so no leave is announced
    await using first = await server().joinJson("ann", { room, session: room, history: 0 });
    const start = first.after;
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const data = bytes.toBase64();
    first.sends({ type: "message", data, seq: 1 });
    first.sends({ type: "message", data, seq: 1 });
    first.says("caption", { seq: 2 });
    await first.hears(
      { type: "ack", seq: 1 },
      { type: "message", from: "ann", data },
      { type: "ack", seq: 1 },
      { type: "ack", seq: 2 },
      message("ann", "caption"),
    );
    await first.leaves();

    await using again = await server().joinJson("ann", { room, session: room, after: start });
    expect([again.welcome.recovered, again.welcome.sent]).toEqual([true, 2]);
    again.sends({ type: "message", data, seq: 1 });
    again.sends({ type: "message", data: "", seq: 3 });
    await again.hears({ type: "message", from: "ann", data }, message("ann", "caption"));
    await again.hears(
      { type: "ack", seq: 1 },
      { type: "ack", seq: 3 },
      { type: "message", from: "ann", data: "" },
    );
    await bob.hears(bytes, "Client #ann says: caption", new Uint8Array());
    await bob.hearsNothing();
  });

  test("a rejected seq blocks higher ones until it is sent again or skipped", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    await using ann = await server().joinJson("ann", { room, session: room, history: 0 });
    const refused = (code: ErrorCode, seq: number) => ({
      type: "error",
      code,
      message: ERROR_MESSAGES[code],
      seq,
    });
    ann.says("x".repeat(65_537), { seq: 1 });
    ann.says("two", { seq: 2 });
    await ann.hears(refused("message-too-big", 1), refused("out-of-order", 2));
    ann.says("one, shorter", { seq: 1 });
    ann.says("two", { seq: 2 });
    await ann.hears(
      { type: "ack", seq: 1 },
      message("ann", "one, shorter"),
      { type: "ack", seq: 2 },
      message("ann", "two"),
    );
    ann.says("x".repeat(65_537), { seq: 3 });
    ann.says("four", { seq: 4 });
    await ann.hears(refused("message-too-big", 3), refused("out-of-order", 4));
    ann.says("four", { seq: 4, skip: true });
    ann.says("five", { seq: 5 });
    await ann.hears(
      { type: "ack", seq: 4 },
      message("ann", "four"),
      { type: "ack", seq: 5 },
      message("ann", "five"),
    );
    for (const text of ["one, shorter", "two", "four", "five"]) await bob.hears(`Client #ann says: ${text}`);
    await bob.hearsNothing();
  });

  test("a newer connection of a session replaces the older one, and no leave is announced", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    await using older = await server().joinJson("ann", { room, session: room });
    await using other = await server().joinJson("ann", { room, session: `${room}-t` });
    await using newer = await server().joinJson("ann", { room, session: room });
    expect(await older.peer.closes()).toEqual({
      code: 4001,
      reason: "Replaced by a newer connection of this session.",
    });
    // A node learns a moment later of connections to the other one.
    if (!store.nodes) expect(newer.welcome.connections).toBe(2);
    newer.says("hi");
    await other.hears(message("ann", "hi"));
    await bob.hears("Client #ann says: hi");
    await newer.leaves();
    await other.leaves();
    await bob.hears("Client #ann left the chat");
    await bob.hearsNothing();
  });

  test("a message without a seq is not acknowledged; lone surrogates become U+FFFD", async () => {
    const room = newRoom();
    await using ann = await server().joinJson("ann", { room, session: room });
    ann.sends('{"type":"message","text":"\\ud83d\\ude00 \\ud83d","unknown":{"type":"ping"}}');
    await ann.hears(message("ann", "😀 \ufffd"));
    await ann.hearsNothing();
  });
});

test.each(COVERING_STORES)(
  "?history=N may exceed --history, up to 1,000, where the store has more; a client that cannot resume gets --history: $name",
  async (store) => {
    await using server = await startServer({ store, args: ["--history", "10"] });
    await using ann = await server.joinJson("ann");
    const COUNT = 1100;
    for (let i = 1; i <= COUNT; i++) ann.says(`${i}`);
    const ids = [ann.after];
    for (let i = 1; i <= COUNT; i++) {
      await ann.hears(message("ann", `${i}`));
      ids.push(ann.after);
    }
    // They stay connected, so that no leaves are announced.
    const newcomers = [];
    for (const asked of [0, 5, 10, 11, 30, 1000, 1001, 100_000]) {
      const count = store.keepsEverything ? Math.min(asked, 1000) : Math.min(asked, 10);
      const latest = Array.from({ length: count }, (_, i) => `${COUNT - count + 1 + i}`);
      const bob = await server.joinJson("bob", { history: asked });
      expect(bob.welcome.last).toBe(ids[COUNT - count]);
      await bob.hears(...latest.map((text) => message("ann", text)));
      const eve = await server.join("eve", { history: asked });
      await eve.hears(...latest.map((text) => `Client #ann says: ${text}`));
      newcomers.push(bob, eve);
      const lost = await server.joinJson("lost", { history: asked, after: "1-0" });
      expect(lost.welcome).toMatchObject({ recovered: false, last: ids[COUNT - Math.min(asked, 10)] });
    }
    for (const newcomer of newcomers) await newcomer.hearsNothing();
  },
);

test.each(COVERING_STORES)(
  "250 messages of 64 KiB reach a slow reader that resumes, each once and in order: $name",
  async (store) => {
    await using server = await startServer({ store, args: ["--history", "250"] });
    await using ann = await server.joinJson("ann", { session: "s" });
    const start = ann.after;
    // More than the 10 MiB that the kernel may hold for a reader.
    const texts = Array.from({ length: 250 }, (_, i) => `${i} `.padEnd(65_536, "x"));
    for (const [i, text] of texts.entries()) await ann.saysAndHears(text, { seq: i + 1 });
    await using bob = await server.joinJson("bob", { after: start });
    expect(bob.welcome.recovered).toBe(true);
    bob.peer.pauses();
    ann.says("after them", { seq: 251 });
    await ann.hears({ type: "ack", seq: 251 }, message("ann", "after them"));
    bob.peer.resumes();
    for (const text of texts) await bob.hears(message("ann", text));
    await bob.hears(message("ann", "after them"));
    await bob.hearsNothing();
  },
);

test("of two connections of a session the one requested first is replaced, even if its upgrade took longer", async () => {
  await using server = await startServer({
    store: { name: "late", url: "delayed:?delay=20", preload: "delayed-store.ts" },
  });
  const codes = Array.from({ length: 30 }, async (_, i) => {
    const asks = () =>
      server.open(`/ws/ann?session=${i}&room=${i}`, { "Sec-WebSocket-Protocol": "hubbub.v1" });
    const older = asks();
    await Bun.sleep(5);
    await using newer = await JsonPeer.over(await asks());
    const { code } = await (await older).closes();
    await newer.hearsNothing();
    return code;
  });
  expect(await Promise.all(codes)).toEqual(codes.map(() => 4001));
});

test.each([
  ["a pong", pong()],
  ["a ping", ping()],
  ["a message", text('{"type":"message","text":"hi","seq":2}')],
])(
  "a connection of a session is replaced once its client has sent something on the newer one: %s",
  async (_, frame) => {
    await using server = await startServer();
    await using ann = await server.joinJson("ann", { session: "s" });
    await using late = new RawClient(server.port);
    late.sends(request("/ws/ann?session=s", { "Sec-WebSocket-Protocol": "hubbub.v1" }));
    expect((await late.head())?.status).toBe(101);
    await late.hears("ping ");
    const welcome = describeFrame((await late.next()) ?? { fin: true, opcode: 8, payload: Buffer.alloc(0) });
    expect(welcome).toContain('"connections":1,');
    ann.says("still here", { seq: 1 });
    await ann.hears({ type: "ack", seq: 1 }, message("ann", "still here"));
    await ann.hearsNothing();
    late.sends(frame);
    expect((await ann.peer.closes()).code).toBe(4001);
  },
);

test.each(["open", "sent"])(
  "a client that joins while the store loses its data (%s) does not join the stale room",
  async (moment) => {
    const store = { name: "a losing store", url: `losing:?while=${moment}`, preload: "losing-store.ts" };
    await using server = await startServer({ store });
    await using ann = await server.join("ann");
    ann.says("before");
    await ann.hears("You wrote: before", "Client #ann says: before");
    const joins = async () => {
      const bob = await server.open("/ws/bob?session=s", { "Sec-WebSocket-Protocol": "hubbub.v1" });
      return (await bob.closes()).code;
    };
    // Before the upgrade it is rejected, afterwards closed so that it reconnects.
    if (moment === "open") await expect(joins()).rejects.toThrow("refused");
    else expect(await joins()).toBe(1012);
    expect((await ann.closes()).code).toBe(1012);
    await using bob = await server.joinJson("bob", { session: "s" });
    await using carl = await server.join("carl");
    carl.says("after");
    await bob.hears(message("carl", "after"));
    await using dora = await server.joinJson("dora");
    await dora.hears(message("carl", "after"));
    await dora.hearsNothing();
  },
);
