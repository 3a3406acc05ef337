/** Moderators remove messages: one entry in the order, on every store, wire and route; what is removed is gone. */

import { describe, expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Right } from "../../src/protocol/events.ts";
import { eventually } from "../support/deadline.ts";
import { subscribe } from "../support/event-stream.ts";
import type { Event, JsonPeer, Peer } from "../support/peer.ts";
import { randomFrom } from "../support/random.ts";
import { DURABLE, Redis, skipped } from "../support/redis.ts";
import { COVERING_STORES, startServer, type TestServer } from "../support/server.ts";
import { SECRET } from "../support/keys.ts";
import { TempFolder } from "../support/temp-folder.ts";

const MODERATE: readonly Right[] = ["read", "write", "moderate"];
const message = (from: string, text: string): Event => ({ type: "message", from, text });
const removed = (from: string): Event => ({ type: "message", from, removed: true });

const remove = async (server: TestServer, path: string, headers = server.authorization("mod", MODERATE)) => {
  const { status, body } = await server.answer(path, { method: "DELETE", headers });
  return [status, JSON.parse(body).removed ?? JSON.parse(body).code];
};
const removeOne = (server: TestServer, id: string, room = "lobby") =>
  remove(server, `/rooms/${room}/messages/${id}`);
const removeAll = (server: TestServer, from: string, room = "lobby") =>
  remove(server, `/rooms/${room}/messages?from=${from}`);
/** @returns the id of its message, which it has received */
async function says(peer: JsonPeer, text: string): Promise<string> {
  await peer.saysAndHears(text);
  return peer.after;
}
/** What ann says on the text wire, up to this text. */
async function saidUpTo(peer: Peer, last: string): Promise<string[]> {
  const texts: string[] = [];
  while (texts.at(-1) !== last) {
    const [, text] = /^Client #ann says: (.*)$/.exec(String(await peer.next())) ?? [];
    if (text !== undefined) texts.push(text);
  }
  return texts;
}
/** A client that keeps a list of the messages, as the page does. */
class Reader implements AsyncDisposable {
  /** By id: the client and the text. */
  readonly #list = new Map<string, { readonly from: string; text: string }>();
  #after: string;

  private constructor(
    private readonly id: string,
    private peer: JsonPeer | undefined,
  ) {
    this.#after = String(peer?.welcome.last);
  }

  static async join(server: TestServer, id: string): Promise<Reader> {
    return new Reader(id, await server.joinJson(id));
  }

  /** Drops the connection with what it has not read of it, or resumes. @param share how much it reads before */
  async disturb(server: TestServer, share: number): Promise<void> {
    if (!this.peer) return this.#resume(server);
    const unread = this.peer.peer.unread();
    for (const frame of unread.slice(0, Math.floor(share * unread.length)))
      this.#apply(JSON.parse(String(frame)));
    this.peer.peer.vanishes();
    this.peer = undefined;
  }

  async #resume(server: TestServer): Promise<void> {
    this.peer = await server.joinJson(this.id, { after: this.#after });
    expect(this.peer.welcome.recovered).toBe(true);
  }

  #apply(event: Event): void {
    if (event.type !== "message" && event.type !== "removed") return;
    const id = String(event.id);
    this.#after = id;
    if (event.type === "message")
      this.#list.set(id, { from: String(event.from), text: String(event.text ?? "removed") });
    else
      for (const [messageId, entry] of this.#list)
        if (messageId === event.message || entry.from === event.from) entry.text = "removed";
  }

  async readUpTo(server: TestServer, last: string): Promise<readonly string[]> {
    if (!this.peer) await this.#resume(server);
    const show = () => [...this.#list.values()].map(({ from, text }) => `${from}: ${text}`);
    while (this.peer && show().at(-1) !== last) this.#apply(await this.peer.next());
    return show();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer?.[Symbol.asyncDispose]();
  }
}

async function page(server: TestServer, query = "", room = "lobby") {
  const { body } = await server.answer(`/rooms/${room}/messages${query}`, {
    headers: server.authorization("reader"),
  });
  return JSON.parse(body);
}

describe.each(COVERING_STORES)("with the store $name", (store) => {
  const start = (...args: string[]) => startServer({ store, args, secret: SECRET });

  test("a removal is an entry in the order; clients that resume, newcomers and pages see the same", async () => {
    await using server = await start();
    await using ann = await server.joinJson("ann");
    await using text = await server.join("text");
    const start0 = String(ann.welcome.last);
    const ids = [await says(ann, "1"), await says(ann, "2"), await says(ann, "3")];
    await using away = await server.joinJson("away", { after: ids[2] });
    await away.leaves();
    expect(await removeOne(server, ids[1] ?? "")).toEqual([200, 1]);
    const removal = await ann.next();
    expect(removal).toEqual({ type: "removed", id: expect.any(String), message: ids[1] });
    const id4 = await says(ann, "4");
    expect(await saidUpTo(text, "4")).toEqual(["1", "2", "3", "4"]);

    // At the last message, in the middle, at the removal, and from the start.
    for (const [after, expected] of [
      [away.after, [removal, message("ann", "4")]],
      [ids[0], [removed("ann"), message("ann", "3"), removal, message("ann", "4")]],
      [ids[1], [message("ann", "3"), removal, message("ann", "4")]],
      [String(removal.id), [message("ann", "4")]],
      [start0, [message("ann", "1"), removed("ann"), message("ann", "3"), removal, message("ann", "4")]],
    ] as const) {
      await using bob = await server.joinJson("bob", { after });
      expect([bob.welcome.recovered, bob.welcome.last]).toEqual([true, after]);
      await bob.hears(...expected);
    }
    await using late = await server.join("late", { history: 3 });
    expect(await saidUpTo(late, "4")).toEqual(["3", "4"]);
    await using newcomer = await server.joinJson("new", { history: 3 });
    await newcomer.hears(removed("ann"), message("ann", "3"), removal, message("ann", "4"));

    const { type: _, ...removalOfPage } = removal;
    const stripped = ({ messages, ...rest }: { messages: Record<string, unknown>[] }): object => ({
      ...rest,
      messages: messages.map(({ time: _, ...rest }) => rest),
    });
    const latest = [
      { id: ids[1], from: "ann", removed: true },
      { id: ids[2], from: "ann", text: "3" },
      { id: id4, from: "ann", text: "4" },
    ];
    expect(stripped(await page(server, "?limit=3"))).toEqual({ messages: latest, more: true });
    expect(stripped(await page(server, `?after=${ids[0]}&limit=2`))).toEqual({
      messages: latest.slice(0, 2),
      removals: [removalOfPage],
      more: true,
      recovered: true,
    });
    expect(stripped(await page(server, `?before=${ids[2]}&limit=1`))).toEqual({
      messages: latest.slice(0, 1),
      more: true,
    });
  });

  test("all messages of a client are removed, in this room, and not its later ones", async () => {
    await using server = await start();
    await using ann = await server.joinJson("ann");
    await using bob = await server.joinJson("bob");
    await using other = await server.joinJson("ann", { room: "tea" });
    await says(other, "elsewhere");
    for (const text of ["1", "2"]) await says(ann, text);
    await says(bob, "between");
    const last = await says(ann, "3");
    await bob.hears(message("ann", "3"));
    await ann.peer.unread();
    expect(await removeAll(server, "ann")).toEqual([200, 3]);
    const removal = await bob.next();
    expect(removal).toEqual({ type: "removed", id: expect.any(String), from: "ann", upTo: last });
    expect(await removeAll(server, "ann")).toEqual([200, 0]);
    expect(await removeOne(server, last)).toEqual([200, 0]);
    expect(await removeAll(server, "nobody")).toEqual([200, 0]);
    await says(ann, "4");
    await using late = await server.joinJson("late", { history: 10 });
    await late.hears(removed("ann"), removed("ann"), message("bob", "between"), removed("ann"));
    await late.hears(removal, message("ann", "4"));
    expect(await server.texts("tea", `?token=${server.authorization("x").Authorization?.slice(7)}`)).toEqual([
      "elsewhere",
    ]);
    expect(await removeOne(server, "1-0")).toEqual([404, "no-such-message"]);
    expect(await removeOne(server, last, "tea")).toEqual([404, "no-such-message"]);
    expect(await removeOne(server, String(removal.id))).toEqual([404, "no-such-message"]);
  });

  test("removals do not count towards --history, and recovered is as without them", async () => {
    await using server = await start("--history", "3");
    await using ann = await server.joinJson("ann");
    await using eve = await server.joinJson("eve"); // over the other node, if there are two
    const ids: string[] = [];
    for (let i = 1; i <= 12; i++) {
      ids.push(await says(ann, `${i}`));
      // Every message is removed twice after it; the second has no effect.
      if (i % 2 === 0)
        for (const count of [1, 0]) expect(await removeOne(server, ids[i - 2] ?? "")).toEqual([200, count]);
    }
    // A node may receive the last removal after its response.
    for (const peer of [ann, eve]) while ((await peer.next()).message !== ids[10]);
    await using late = await server.joinJson("late");
    const texts = [];
    for (let count = 0; count < 3;) {
      const { type, text = type } = await late.next();
      texts.push(text);
      if (type === "message") count++;
    }
    expect(texts.filter((text) => text !== "removed")).toEqual(["10", "message", "12"]);
    const { messages } = await page(server, "?limit=3");
    expect(messages.map(({ text }: { text?: string }) => text)).toEqual(["10", undefined, "12"]);
    await using resumed = await server.joinJson("resumed", { after: ids[9] });
    expect(resumed.welcome.recovered).toBe(true);
    await using lost = await server.joinJson("lost", { after: ids[1] });
    expect(lost.welcome.recovered).toBe(store.keepsEverything === true);
  });

  test("clients that resume across removals, at random, end with the same list as one that stayed", async () => {
    const SEED = 7;
    const random = randomFrom(SEED);
    const pick = (count: number) => Math.floor(random() * count);
    await using server = await start("--history", "1000");
    await using stayed = await Reader.join(server, "stayed");
    const readers = [await Reader.join(server, "one"), await Reader.join(server, "two")];
    const writers = [await server.joinJson("ann"), await server.joinJson("bob")];
    const ids: string[] = [];
    for (let step = 0; step < 150; step++) {
      const what = random();
      const writer = writers[pick(2)];
      if (writer && (what < 0.5 || ids.length === 0)) ids.push(await says(writer, `${step}`));
      else if (what < 0.7) expect((await removeOne(server, ids[pick(ids.length)] ?? ""))[0]).toBe(200);
      else if (what < 0.75) expect((await removeAll(server, pick(2) ? "ann" : "bob"))[0]).toBe(200);
      else await readers[pick(2)]?.disturb(server, random());
    }
    for (const writer of writers) await says(writer, "end");
    const expected = await stayed.readUpTo(server, "bob: end");
    expect(expected.filter((each) => each.endsWith(": removed")).length).toBeGreaterThan(20);
    for (const reader of readers) {
      expect(await reader.readUpTo(server, "bob: end")).toEqual(expected);
      await reader[Symbol.asyncDispose]();
    }
    for (const writer of writers) await writer[Symbol.asyncDispose]();
  });

  test("an event stream has removals as events of that name", async () => {
    await using server = await start();
    await using ann = await server.joinJson("ann");
    const id = await says(ann, "1");
    const headers = server.authorization("reader");
    await using sse = await subscribe(server, "lobby", { query: "?history=1", headers });
    await using lines = await subscribe(server, "lobby", { query: "?history=1", headers, format: "ndjson" });
    for (const stream of [sse, lines]) expect(await stream.next()).toMatchObject(message("ann", "1"));
    expect(await removeOne(server, id)).toEqual([200, 1]);
    const removal = await ann.next();
    for (const stream of [sse, lines]) {
      expect(await stream.next()).toEqual(removal);
      expect(stream.after).toBe(String(removal.id));
    }
    await using late = await subscribe(server, "lobby", { query: `?after=${id}`, headers });
    expect([late.welcome.recovered, await late.next()]).toEqual([true, removal]);
    await using newcomer = await subscribe(server, "lobby", { query: "?history=1", headers });
    expect(await newcomer.next()).toMatchObject(removed("ann"));
  });

  test("the list of rooms has the latest message, not the latest removal", async () => {
    await using server = await start("--list-rooms");
    await using ann = await server.joinJson("ann", { room: "tea" });
    const first = await says(ann, "1");
    const second = await says(ann, "2");
    await removeOne(server, first, "tea");
    await ann.next();
    for (const query of ["", "?room=tea"]) {
      const { body } = await server.answer(`/rooms${query}`, { headers: server.authorization("reader") });
      expect(JSON.parse(body).rooms).toMatchObject([{ room: "tea", lastId: second }]);
    }
  });
});

test("only a token with the right to moderate removes, in its rooms; without tokens nobody does", async () => {
  await using server = await startServer({ secret: SECRET });
  const path = "/rooms/tea/messages?from=ann";
  const as = (can?: Right[], rooms?: string[]) =>
    remove(server, path, server.authorization("mod", can, rooms));
  expect(await as()).toEqual([403, "not-moderator"]);
  expect(await as(["read", "write", "metrics"])).toEqual([403, "not-moderator"]);
  expect(await as(["moderate"], ["coffee"])).toEqual([403, "not-for-room"]);
  expect(await as(["moderate"], ["te*"])).toEqual([200, 0]);
  expect(await remove(server, path, {})).toEqual([401, "no-token"]);
  expect(await remove(server, "/rooms/tea/messages")).toEqual([400, "bad-name"]);
  expect(await remove(server, "/rooms/tea/messages/x")).toEqual([400, "bad-id"]);
  await using open = await startServer();
  expect(await remove(open, path)).toEqual([403, "not-moderator"]);
});

test("each removal is logged and counted: who and by whom, never the text", async () => {
  const server = await startServer({ secret: SECRET, args: ["--log", "json"] });
  const ann = await server.joinJson("ann");
  const id = await says(ann, "a word that must go");
  await removeOne(server, id);
  await says(ann, "another one");
  await removeAll(server, "ann");
  await removeOne(server, id);
  await removeAll(server, "ann");
  const metrics = await server.metrics();
  for (const action of ["remove-message", "remove-client"])
    expect(metrics.get(`hubbub_moderations_total{action="${action}"}`)).toBe(2);
  await server.stop("SIGTERM");
  const output = await server.output;
  const lines = output.split("\n").filter((line) => line.includes("messages removed"));
  expect(lines.map((line) => JSON.parse(line))).toMatchObject([
    { room: "lobby", by: "mod", message: id, count: 1 },
    { room: "lobby", by: "mod", from: "ann", count: 1 },
    { room: "lobby", by: "mod", message: id, count: 0 }, // repeated
    { room: "lobby", by: "mod", from: "ann", count: 0 },
  ]);
  expect(output).not.toContain("word");
});

/** Long enough not to be anywhere by chance. */
const secretText = (i: number) => `unmistakable ${i} `.padEnd(40 + ((i * 397) % 6000), `${i} `);

async function contents(folder: string): Promise<string> {
  const files = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((file) =>
    file.isFile(),
  );
  const texts = await Promise.all(
    files.map(({ parentPath, name }) => Bun.file(join(parentPath, name)).bytes()),
  );
  return texts.map((bytes) => Buffer.from(bytes).toString("latin1")).join("\n");
}

test("what is removed is in no file of SQLite, nor after a restart", async () => {
  using folder = new TempFolder();
  const store = { name: "SQLite", url: "sqlite:chat.db" };
  const server = await startServer({ store, secret: SECRET, cwd: folder.path });
  const ann = await server.joinJson("ann");
  const ids = [];
  for (let i = 0; i < 60; i++) ids.push(await says(ann, secretText(i)));
  expect(await contents(folder.path)).toContain("unmistakable 7 ");
  // In an order that moves rows between pages.
  const order = ids
    .keys()
    .toArray()
    .toSorted((a, b) => ((a * 37) % 60) - ((b * 37) % 60));
  for (const [done, i] of order.entries()) {
    expect(await removeOne(server, ids[i] ?? "")).toEqual([200, 1]);
    const text = await contents(folder.path);
    const left = order.slice(0, done + 1).filter((j) => text.includes(`unmistakable ${j} `));
    expect([done, left]).toEqual([done, []]);
  }
  await server.stop("SIGKILL");
  await using again = await startServer({ store, secret: SECRET, cwd: folder.path });
  const { messages } = await page(again, "?limit=1000");
  expect(messages.every((each: object) => "removed" in each)).toBe(true);
  expect(messages.length).toBe(60);
});

test.skipIf(skipped !== "")("what is removed is in no key of Redis", async () => {
  await using redis = await Redis.start(DURABLE);
  const store = { name: "Redis", url: redis.url("gone") };
  await using server = await startServer({ store, secret: SECRET, preload: "fast-shared-log.ts" });
  await using ann = await server.joinJson("ann");
  const ids = [];
  for (let i = 0; i < 20; i++) ids.push(await says(ann, `unmistakable ${i}.`));
  for (const id of ids.slice(0, 10)) expect(await removeOne(server, id)).toEqual([200, 1]);
  const read = async (key: string) => JSON.stringify(await redis.send("XRANGE", `gone:${key}`, "-", "+"));
  const room = await read("room:lobby");
  expect([...room.matchAll(/unmistakable (\d+)\./g)].map(([, i]) => Number(i))).toEqual([
    10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
  ]);
  // The log, which nodes follow, loses its beginning a little later.
  await eventually(async () => !/unmistakable \d\./.test(await read("log")), "the log is cut");
  await using bob = await server.joinJson("bob", { history: 20 });
  for (let i = 0; i < 10; i++) await bob.hears(removed("ann"));
  for (let i = 10; i < 20; i++) await bob.hears(message("ann", `unmistakable ${i}.`));
});
