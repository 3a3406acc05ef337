/** A Redis that fills up: what is evicted, what stays, and that messages are still stored. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { eventually, withDeadline } from "../support/deadline.ts";
import { SECRET } from "../support/keys.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { Redis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

const TEXT = "x".repeat(65_000);
const MAX_MEMORY = ["--save", "", "--appendonly", "no", "--maxmemory", "32mb"];

const start = (redis: Redis, ...args: string[]) =>
  startServer({ store: { name: "Redis", url: redis.url("full") }, args });

/** Retries until the message is stored. @returns its id */
async function post(server: TestServer, room: string, text = TEXT): Promise<string> {
  let id = "";
  await eventually(
    async () => {
      const response = await server.post(room, { text, from: "ci" });
      const result: unknown = response.status === 201 ? await response.json() : undefined;
      id = String(Object(result).id ?? "");
      return id !== "";
    },
    `a message is stored in ${room}`,
    20_000,
  );
  return id;
}

async function read(server: TestServer, room: string, query = "") {
  const { status, body } = await server.answer(`/rooms/${room}/messages${query}`);
  expect(status).toBe(200);
  const { messages, recovered } = JSON.parse(body);
  return { count: messages.length, newest: messages.at(-1)?.id, recovered };
}

describe.skipIf(skipped !== "")(`a Redis that fills up${skipped}`, () => {
  test.concurrent(
    "evicts empty rooms, those without new messages for longest first; other rooms are unaffected",
    async () => {
      await using redis = await Redis.start(MAX_MEMORY);
      await using server = await start(redis, "--log", "text");
      await using ann = await server.joinJson("ann", { room: "occupied" });
      const first = await post(server, "occupied", "the first");
      await ann.hears({ type: "message", from: "ci", text: "the first" });
      const early = await server.joinJson("early", { room: "room-1" });
      await early.leaves();
      const PER_ROOM = 20;
      const newest: string[] = [];
      for (let room = 1; room <= 33; room++) {
        const posts = Array.from({ length: PER_ROOM }, () => post(server, `room-${room}`));
        newest.push((await Promise.all(posts)).toSorted().at(-1) ?? "");
      }
      expect(await read(server, "room-1", `?after=${newest[0]}`)).toMatchObject({
        count: 0,
        recovered: false,
      });
      expect(await read(server, "occupied", `?after=${first}`)).toMatchObject({ count: 0, recovered: true });
      const counts: number[] = [];
      for (let room = 1; room <= 33; room++)
        counts.push(Number(await redis.send("XLEN", `full:room:room-${room}`)));
      expect([counts.at(0), counts.at(-1)]).toEqual([0, PER_ROOM]);
      // Up to some room all are evicted, and from there all are complete.
      expect(counts.filter((count) => count !== 0 && count !== PER_ROOM)).toEqual([]);
      expect(counts).toEqual(counts.toSorted((a, b) => a - b));
      // An evicted room has a new origin.
      await post(server, "room-1", "again");
      await using late = await server.joinJson("early", { room: "room-1", after: early.after });
      expect(late.welcome.recovered).toBe(false);
      await late.hears({ type: "message", from: "ci", text: "again" });
      await post(server, "occupied", "the last");
      await ann.hears({ type: "message", from: "ci", text: "the last" });
      expect(await server.isReady()).toBe(true);
      await server.stop("SIGTERM");
      expect(await server.output).toMatch(/ Redis nearly full evicted=\d+ trimmed=0 sessions=0$/m);
    },
  );

  /** A writer that does not wait for a heartbeat: its messages and how many are in flight at once. */
  const WRITERS = [
    {
      title: "large messages in 40 rooms",
      maxMemory: "24mb",
      inFlight: 1,
      messages: Array.from({ length: 800 }, (_, i) => ({ room: `room-${i % 40}`, text: "x".repeat(60_000) })),
    },
    {
      title: "a message in each of 4,000 rooms",
      maxMemory: "12mb",
      inFlight: 20,
      messages: Array.from({ length: 4000 }, (_, i) => ({ room: `room-${i}`, text: "hi" })),
    },
    {
      title: "a message of each of 12,000 sessions",
      maxMemory: "6mb",
      inFlight: 20,
      messages: Array.from({ length: 12_000 }, (_, i) => ({
        room: "one",
        text: "hi",
        session: `${i}`.padEnd(64, "s"),
        seq: 1,
      })),
    },
  ] as const;

  test.concurrent.each(WRITERS)(
    "evicts before a fast writer fills it: $title",
    async ({ maxMemory, inFlight, messages }) => {
      await using redis = await Redis.start([...MAX_MEMORY, "--maxmemory", maxMemory]);
      await using server = await start(redis, "--log", "text");
      const statuses = new Map<number, number>();
      const pending = messages.values();
      const write = async () => {
        for (const { room, ...message } of pending) {
          const { status } = await server.post(room, { ...message, from: "ci" });
          statuses.set(status, (statuses.get(status) ?? 0) + 1);
        }
      };
      await Promise.all(Array.from({ length: inFlight }, write));
      expect(statuses).toEqual(new Map([[201, messages.length]]));
      await server.stop("SIGTERM");
      expect(await server.output).toMatch(/ Redis nearly full evicted=\d+ trimmed=\d+ sessions=\d+$/m);
      expect(await server.output).not.toContain("store unavailable");
    },
  );

  test.concurrent("recovers by itself when sessions fill it, those unused for longest first", async () => {
    await using redis = await Redis.start();
    await using server = await start(redis, "--log", "text");
    await post(server, "lobby", "before");
    const fill = `
      local time = redis.call('TIME')
      for i = 1, 30000 do
        redis.call('HSET', 'full:sessions', 'ann session-' .. i, '1 1-1')
        redis.call('ZADD', 'full:sessions:used', time[1] * 1000 - 30000 + i, 'ann session-' .. i)
      end`;
    await redis.send("EVAL", fill, "0");
    const used = /\nused_memory:(\d+)/.exec(String(await redis.send("INFO", "memory")))?.[1];
    await redis.send("CONFIG", "SET", "maxmemory", `${Number(used) - 500_000}`);
    await post(server, "lobby", "after");
    expect(await read(server, "lobby")).toMatchObject({ count: 2 });
    const sent = (session: number) => redis.send("HGET", "full:sessions", `ann session-${session}`);
    expect([await sent(1), await sent(30_000)]).toEqual([null, "1 1-1"]);
    await server.becomesReady();
  });

  test.concurrent("trims the oldest messages of an occupied room that fills it alone", async () => {
    await using redis = await Redis.start(MAX_MEMORY);
    await using server = await start(redis, "--history", "1000");
    await using ann = await server.join("ann");
    const first = await post(server, "lobby", "the first");
    await ann.hears("Client #ci says: the first");
    const COUNT = 600;
    for (let i = 0; i < COUNT; i += 20) {
      await Promise.all(Array.from({ length: 20 }, () => post(server, "lobby")));
      for (let j = 0; j < 20; j++) await ann.hears(`Client #ci says: ${TEXT}`);
    }
    const last = await post(server, "lobby", "the last");
    await ann.hears("Client #ci says: the last");
    const { newest } = await read(server, "lobby");
    expect(newest).toBe(last);
    const length = Number(await redis.send("XLEN", "full:room:lobby"));
    expect(length).toBeGreaterThan(50);
    expect(length).toBeLessThan(450);
    // Nothing is missing just before the oldest stored message; before that, messages are. A heartbeat trims no more.
    await redis.send("CONFIG", "SET", "maxmemory", "0");
    const [oldest] = Object(await redis.send("XRANGE", "full:room:lobby", "-", "+", "COUNT", "1"));
    const prev = String(oldest[1][1]);
    await ann.leaves();
    await using other = await start(redis, "--history", "1000"); // with an empty cache
    const recovered = async (after: string) => {
      await using peer = await other.joinJson("bob", { after });
      return peer.welcome.recovered;
    };
    expect([await recovered(first), await recovered(prev), await recovered(last)]).toEqual([
      false,
      true,
      true,
    ]);
  });

  test.concurrent(
    "with foreign data, moderators can still remove messages and disconnect clients",
    async () => {
      await using redis = await Redis.start(MAX_MEMORY);
      await using server = await startServer({
        store: { name: "Redis", url: redis.url("full") },
        secret: SECRET,
      });
      await using ann = await server.joinJson("ann", { history: 0 });
      for (const text of ["first secret", "second secret", "third"]) await ann.saysAndHears(text);
      const { body } = await server.answer("/rooms/lobby/messages", { headers: server.authorization("ann") });
      const [first] = JSON.parse(body).messages;
      await redis.send("SET", "other", "x".repeat(40 * 1024 * 1024)).catch(() => {});
      await redis.send("CONFIG", "SET", "maxmemory", "1mb");
      await server.becomesUnready();
      const moderator = { headers: server.authorization("mod", ["read", "write", "moderate"]) };
      const remove = (path: string) =>
        server.answer(`/rooms/lobby/messages${path}`, { ...moderator, method: "DELETE" });
      expect(await remove(`/${first.id}`)).toMatchObject({ status: 200, body: '{"removed":1}' });
      expect(await ann.next()).toMatchObject({ type: "removed", message: first.id });
      expect(await remove("?from=ann")).toMatchObject({ status: 200, body: '{"removed":2}' });
      expect(await ann.next()).toMatchObject({ type: "removed", from: "ann" });
      const room = JSON.stringify(await redis.send("XRANGE", "full:room:lobby", "-", "+"));
      expect(room).not.toContain("secret");
      const ban = { ...moderator, method: "POST", body: '{"forSeconds":60}' };
      expect((await server.answer("/clients/ann/disconnect", ban)).status).toBe(200);
      await expect(ann.peer.closes()).resolves.toMatchObject({ code: 4003 });
      expect(JSON.stringify(await redis.send("HGETALL", "full:bans"))).toContain("ann");
    },
  );

  test.concurrent("with foreign data keeps what is stored, and a node can start and read it", async () => {
    await using redis = await Redis.start(MAX_MEMORY);
    const first = await start(redis);
    let newest = "";
    for (let i = 0; i < 20; i++) newest = await post(first, "lobby");
    await redis.send("CONFIG", "SET", "maxmemory", "0");
    await redis.send("SET", "other", "x".repeat(40 * 1024 * 1024));
    await redis.send("CONFIG", "SET", "maxmemory", "20mb");
    await first[Symbol.asyncDispose]();
    await using server = await start(redis);
    await using ann = await server.joinJson("ann", { history: 0 });
    await eventually(async () => {
      ann.says("is it full?");
      return (await ann.next()).code === "unavailable";
    }, "it is rejected");
    await server.becomesUnready();
    expect(await read(server, "lobby")).toMatchObject({ newest });
    expect(await redis.send("XLEN", "full:room:lobby")).toBe(20);
    await redis.send("DEL", "other");
    await server.becomesReady();
    const id = await post(server, "lobby", "after that");
    await withDeadline(
      (async () => {
        for (;;) if ((await ann.next()).id === id) return;
      })(),
      () => "the message is not received",
    );
  });
});
