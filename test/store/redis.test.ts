/** The Redis store: checks at startup, and what is stored for how long. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { eventually, withDeadline } from "../support/deadline.ts";
import { startServer } from "../support/server.ts";
import { readDoc } from "../support/docs.ts";
import { DURABLE, Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

const SOURCE = `${import.meta.dir}/../../src/server.ts`;
const CERT = `${import.meta.dir}/../support/tls/localhost.crt`;
const KEY = `${import.meta.dir}/../support/tls/localhost.key`;
const DAY_MS = 24 * 60 * 60 * 1000;
const LONG_AGO_MS = 1_000_000_000_000;

const start = (url: string, args: readonly string[] = [], env: Record<string, string> = {}) =>
  startServer({ store: { name: "Redis", url }, args, env, preload: "fast-shared-log.ts" });

/** What a failing start prints. */
async function startError(url: string): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  await using server = Bun.spawn([process.execPath, SOURCE, "--port", "0", "--store", url], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const end = Promise.all([server.exited, server.stdout.text(), server.stderr.text()]);
  const [exitCode, stdout, stderr] = await withDeadline(end, () => `it started, with ${url}`);
  return { exitCode, stdout, stderr };
}

/** Waits for a heartbeat of every node. */
async function heartbeats(redis: Redis, prefix: string): Promise<void> {
  const renewals = [await redis.send("KEYS", `${prefix}:lease:*`)].flat().map(async (key) => {
    let leftMs = Infinity;
    const isLonger = async () => leftMs < (leftMs = Number(await redis.send("PTTL", String(key))));
    await eventually(isLonger, `${key} is renewed`);
  });
  await Promise.all(renewals);
}

const failsWith = (sentence: string) => ({ exitCode: 1, stdout: "", stderr: `${sentence}\n` });

describe.skipIf(skipped !== "")(`a start with Redis${skipped}`, () => {
  test("fails where nothing listens, or something else does", async () => {
    const redis = await Redis.start();
    await redis.stop();
    const name = `127.0.0.1:${redis.port}`;
    expect(await startError(`redis://${name}`)).toEqual(
      failsWith(`Redis at ${name} cannot be reached: start it, or choose another with --store.`),
    );
    using other = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: (socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n") },
    });
    const { exitCode, stderr } = await startError(`redis://127.0.0.1:${other.port}`);
    expect([exitCode, stderr]).toEqual([
      1,
      `Redis at 127.0.0.1:${other.port} rejected the connection: check the password, the database, and whether it needs rediss: (TLS).\n`,
    ]);
    await redis[Symbol.asyncDispose]();
  });

  test("fails with a wrong or no password; passwords are never printed", async () => {
    await using redis = await Redis.start();
    await redis.send("CONFIG", "SET", "requirepass", "open-sesame");
    const name = `127.0.0.1:${redis.port}`;
    const sentence = `Redis at ${name} rejected the connection: check the password, the database, and whether it needs rediss: (TLS).`;
    expect(await startError(`redis://${name}`)).toEqual(failsWith(sentence));
    expect(await startError(`redis://:hush-hush@${name}`)).toEqual(failsWith(sentence));
    await using server = await start(`redis://:open-sesame@${name}`, ["--log", "text"]);
    await using ann = await server.join("ann");
    ann.says("in");
    await ann.hears("You wrote: in", "Client #ann says: in");
    await redis.stop();
    await server.becomesUnready();
    await server.stop("SIGTERM");
    expect(server.greeting + (await server.output) + (await server.errors)).not.toContain("sesame");
  });

  test("fails with a database that does not exist, a Redis that evicts keys, or a replica", async () => {
    await using redis = await Redis.start();
    const name = `127.0.0.1:${redis.port}`;
    expect(await startError(`redis://${name}/99`)).toEqual(
      failsWith(
        `Redis at ${name} rejected the connection: check the password, the database, and whether it needs rediss: (TLS).`,
      ),
    );
    await redis.send("CONFIG", "SET", "maxmemory-policy", "allkeys-lru");
    expect(await startError(`redis://${name}`)).toEqual(
      failsWith(
        `Redis at ${name} evicts keys when it is full (maxmemory-policy allkeys-lru): set noeviction.`,
      ),
    );
    await redis.send("CONFIG", "SET", "maxmemory-policy", "noeviction");
    await redis.send("REPLICAOF", "127.0.0.1", "1");
    expect(await startError(`redis://${name}`)).toEqual(
      failsWith(`Redis at ${name} is a replica: choose its primary with --store.`),
    );
  });

  test.each(["/?timeout=5", "/?prefix=", "/?prefix=a%20b", "/?prefix=a*", "/chat", "/0#top"])(
    "fails with redis://…%s, and prints no password",
    async (rest) => {
      const { exitCode, stdout, stderr } = await startError(`redis://ann:open-sesame@127.0.0.1${rest}`);
      expect([exitCode, stdout]).toEqual([2, ""]);
      expect(stderr).toMatch(/^--store: .*\n$/);
      expect(stderr).not.toContain("sesame");
    },
  );

  test("fails if the keys are not Hubbub's", async () => {
    const redis = await sharedRedis();
    await redis.send("SET", "taken:meta", "something else");
    const { exitCode, stderr } = await startError(redis.url("taken"));
    expect([exitCode, stderr]).toEqual([
      1,
      expect.stringMatching(/^Redis at [\d.:]+ cannot be used: WRONGTYPE .*\n$/),
    ]);
  });

  test("works for a user with access to keys of the prefix only", async () => {
    await using redis = await Redis.start();
    await redis.send("ACL", "SETUSER", "chat", "on", ">pass", "resetkeys", "~hubbub:*", "+@all");
    await using server = await start(`redis://chat:pass@127.0.0.1:${redis.port}`);
    await using ann = await server.joinJson("ann", { session: "s" });
    ann.says("hi", { seq: 1 });
    await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "hi" });
    const keys = await redis.send("KEYS", "*");
    expect(Array.isArray(keys) && keys.every((key) => String(key).startsWith("hubbub:"))).toBe(true);
  });

  test("works over TLS", async () => {
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = probe;
    probe.stop(true);
    const tls = ["--tls-cert-file", CERT, "--tls-key-file", KEY, "--tls-ca-cert-file", CERT];
    await using redis = await Redis.start(["--tls-port", `${port}`, "--tls-auth-clients", "no", ...tls]);
    await using server = await start(`rediss://localhost:${port}`, [], { NODE_EXTRA_CA_CERTS: CERT });
    await using ann = await server.join("ann");
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    expect((await startError(`rediss://localhost:${redis.port}`)).stderr).toContain(
      "rejected the connection",
    );
    expect((await startError(`rediss://localhost:${port}`)).stderr).toContain("rejected the connection");
  });

  test("states how durable this Redis is", async () => {
    await using redis = await Redis.start(DURABLE);
    const set = (name: string, value: string) => redis.send("CONFIG", "SET", name, value);
    const durability = async () => {
      await using server = await start(redis.url("durability"));
      return server.greeting.replace(/.*messages are stored in Redis at [\d.:]+, /, "");
    };
    expect(await durability()).toBe(
      "which syncs every message to disk before it is acknowledged (appendfsync always)\n",
    );
    await set("appendfsync", "everysec");
    expect(await durability()).toBe(
      "which may lose the last second of messages in a crash (appendfsync everysec)\n",
    );
    await set("appendfsync", "no");
    expect(await durability()).toBe(
      "which may lose the last half minute of messages if its machine crashes (appendfsync no)\n",
    );
    await set("appendonly", "no");
    expect(await durability()).toBe("which loses all messages when it stops (appendonly no, no snapshots)\n");
    await set("save", "3600 1");
    expect(await durability()).toBe(
      "which loses the messages since its last snapshot in a crash (appendonly no)\n",
    );
  });
});

describe.skipIf(skipped !== "")(`Redis stores${skipped}`, () => {
  test("the latest --history messages of a room, the same for every node", async () => {
    const redis = await sharedRedis();
    await using server = await start(redis.url("bounded"), ["--history", "10"]);
    await using ann = await server.join("ann");
    for (let i = 1; i <= 100; i++) ann.says(`${i}`);
    await ann.hearsUpTo("Client #ann says: 100");
    await using other = await start(redis.url("bounded"), ["--history", "10"]);
    await using bob = await other.join("bob", { history: 50 });
    for (let i = 91; i <= 100; i++) await bob.hears(`Client #ann says: ${i}`);
    expect(await redis.send("XLEN", "bounded:room:lobby")).toBe(10);
  });

  test("the latest --history messages, which a newcomer gets even if the cache has fewer", async () => {
    const redis = await sharedRedis();
    await using server = await start(redis.url("large"), ["--history", "100"]);
    await using ann = await server.join("ann"); // so that the room is cached from the beginning
    const texts = Array.from({ length: 100 }, (_, i) => `${i}`.padEnd(65_000, "x"));
    for (const text of texts) {
      ann.says(text);
      await ann.hearsUpTo(`Client #ann says: ${text}`);
    }
    for (const query of [{ history: 100 }, { history: 99 }, { history: 1000 }]) {
      await using bob = await server.joinJson("bob", query);
      for (const text of texts.slice(-query.history)) await bob.hears({ type: "message", from: "ann", text });
      ann.says("and then");
      await ann.hearsUpTo("Client #ann says: and then");
      await bob.hears({ type: "message", from: "ann", text: "and then" });
      texts.push("and then");
      texts.shift();
    }
  });

  test("about 64 MiB of the log, however much is sent", async () => {
    await using redis = await Redis.start();
    const args = ["--history", "1", "--max-message-bytes", "131072"];
    await using server = await start(redis.url("hubbub"), args);
    const post = async (text: string) => {
      expect((await server.post("tea", { from: "ci", text })).status).toBe(201);
    };
    const bytes = async () => Number(await redis.send("MEMORY", "USAGE", "hubbub:log", "SAMPLES", "0"));
    const MIB = 1024 * 1024;
    const postMany = async (mibs: number) => {
      const text = "x".repeat(MIB / 8);
      for (let i = 0; i < mibs; i++) await Promise.all(Array.from({ length: 8 }, () => post(text)));
    };
    await postMany(60);
    expect(await bytes()).toBeGreaterThan(50 * MIB);
    await postMany(60);
    expect(await bytes()).toBeLessThan(80 * MIB);
    await post("the last");
    const { body } = await server.answer("/rooms/tea/messages");
    expect(JSON.parse(body)).toMatchObject({ messages: [{ text: "the last" }], more: false });
  });

  test("Redis' clock as the time, also while ids are ahead of it, which is logged", async () => {
    const redis = await sharedRedis();
    const ahead = `${Date.now() + 3000 * DAY_MS}`;
    await using server = await start(redis.url("ahead"), ["--log", "text"]);
    await using ann = await server.joinJson("ann", { session: "s" });
    await redis.send("XADD", "ahead:log", `${ahead}-0`, "note", "from the future");
    ann.says("one", { seq: 1 });
    await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "one" });
    expect(ann.after).toStartWith(`${ahead}-`);
    await using other = await start(redis.url("ahead"));
    await using bob = await other.joinJson("bob");
    await bob.hears({ type: "message", id: ann.after, from: "ann", text: "one" });
    await heartbeats(redis, "ahead");
    await server.stop("SIGTERM");
    expect((await server.output).match(/ids ahead of clock seconds=\d+$/gm)).toEqual([
      expect.stringMatching(/=259(200000|199\d{3})$/),
    ]);
    // Expiry is counted from the clock, not from the ids.
    for (const key of ["rooms", "rooms:oldest", "sessions:used"]) {
      const [, score] = [await redis.send("ZRANGE", `ahead:${key}`, "0", "-1", "WITHSCORES")].flat(2);
      expect(Number(score)).toBeLessThanOrEqual(Date.now());
    }
  });

  test("messages for --keep-days: only the oldest are pruned; a time in the future counts as the next message's", async () => {
    const redis = await sharedRedis();
    const nowMs = Date.now();
    const times = {
      old: LONG_AGO_MS,
      future: nowMs + 3000 * DAY_MS,
      new: nowMs - DAY_MS,
    };
    const rooms: Record<string, { is: (keyof typeof times)[]; stored: number }> = {
      "one-old": { is: ["old", "future", "new", "old"], stored: 3 },
      "three-old": { is: ["old", "future", "old", "new", "old"], stored: 2 },
      "none-old": { is: ["future", "new", "old"], stored: 3 },
      "future-only": { is: ["old", "future"], stored: 1 },
      long: { is: [...Array<"future">(50).fill("future"), "old", "new"], stored: 1 },
    };
    for (const [room, { is }] of Object.entries(rooms)) {
      for (const [i, when] of is.entries()) {
        const message = ["p", `${LONG_AGO_MS}-${i}`, "f", "eve", "c", "told", "t", `${times[when]}`];
        await redis.send("XADD", `front:room:${room}`, `${LONG_AGO_MS}-${i + 1}`, ...message);
      }
      await redis.send("ZADD", "front:rooms:oldest", `${LONG_AGO_MS}`, room);
    }
    await using server = await start(redis.url("front"), ["--keep-days", "30"]);
    const count = async (room: string) => Number(await redis.send("XLEN", `front:room:${room}`));
    const counts = async () =>
      Object.fromEntries(
        await Promise.all(Object.keys(rooms).map(async (room) => [room, await count(room)])),
      );
    const stored = Object.fromEntries(Object.entries(rooms).map(([room, { stored }]) => [room, stored]));
    await eventually(async () => (await count("one-old")) < 4, "the old message is pruned");
    await heartbeats(redis, "front");
    expect(await counts()).toEqual(stored);
    await using bob = await server.joinJson("bob", { room: "three-old", after: `${LONG_AGO_MS}-3` });
    await using eve = await server.joinJson("eve", { room: "three-old", after: `${LONG_AGO_MS}-2` });
    expect([bob.welcome.recovered, eve.welcome.recovered]).toEqual([true, false]);
  });

  test("no older messages than --keep-days, no rooms without messages, and sessions for a day", async () => {
    const redis = await sharedRedis();
    const old = `${LONG_AGO_MS}-1`;
    for (const room of ["lobby", "old"]) {
      const message = ["p", `${LONG_AGO_MS}-0`, "f", "eve", "c", "told", "t", `${LONG_AGO_MS}`];
      await redis.send("XADD", `days:room:${room}`, old, ...message);
      await redis.send("HSET", "days:heads", room, old);
      await redis.send("ZADD", "days:rooms", `${LONG_AGO_MS}`, room);
      await redis.send("ZADD", "days:rooms:oldest", `${LONG_AGO_MS}`, room);
    }
    for (const [key, usedMs] of [
      ["ann old", Date.now() - DAY_MS - 60_000],
      ["ann new", Date.now() - DAY_MS + 60_000],
    ] as const) {
      await redis.send("HSET", "days:sessions", key, `7 ${old}`);
      await redis.send("ZADD", "days:sessions:used", `${usedMs}`, key);
    }
    await using first = await start(redis.url("days"));
    const ann = await first.joinJson("ann", { session: "new" });
    ann.says("new");
    await ann.hears(
      { type: "message", time: LONG_AGO_MS, from: "eve", text: "old" },
      { type: "message", from: "ann", text: "new" },
    );
    await ann.leaves();
    await using server = await start(redis.url("days"), ["--keep-days", "30"]);
    await eventually(async () => (await server.texts()).length === 1, "the old message is pruned");
    expect(await server.texts()).toEqual(["new"]);
    await eventually(
      async () => (await redis.send("EXISTS", "days:room:old")) === 0,
      "the old room is deleted",
    );
    expect(await redis.send("HKEYS", "days:heads")).toEqual(["lobby"]);
    await eventually(
      async () => (await redis.send("HLEN", "days:sessions")) === 1,
      "the old session has expired",
    );
    const known = await server.joinJson("ann", { session: "new", room: "tea" });
    const unknown = await server.joinJson("ann", { session: "old", room: "tea" });
    expect([known.welcome.sent, unknown.welcome.sent]).toEqual([7, null]);
    for (const peer of [known, unknown]) await peer.leaves();
    // Nothing is missing just before the oldest stored message.
    await using bob = await server.joinJson("bob", { after: old });
    await using eve = await server.joinJson("eve", { after: `${LONG_AGO_MS}-0` });
    expect([bob.welcome.recovered, eve.welcome.recovered]).toEqual([true, false]);
  });

  test("exactly the keys and fields that its README lists", async () => {
    const redis = await sharedRedis();
    const store = { name: "Redis", url: redis.url("keys") };
    await using server = await startServer({ store, secret: "a secret of thirty-two bytes, or more" });
    await using ann = await server.joinJson("ann", { session: "s" });
    const post = async (seq: number) => {
      const message = { from: "ann", text: "x".repeat(65_000), session: "s", seq };
      expect((await server.post("lobby", message)).ok).toBe(true);
    };
    for (let seq = 1; seq <= 20; seq++) await post(seq); // more than 1 MiB, for a trim point
    await post(20);
    await heartbeats(redis, "keys");
    const { status } = await server.get("/rooms/lobby/messages?from=ann", {
      method: "DELETE",
      headers: server.authorization("mod", ["moderate"]),
    });
    expect(status).toBe(200);
    const ban = await server.get("/clients/eve/disconnect", {
      method: "POST",
      headers: server.authorization("mod", ["moderate"]),
      body: '{"forSeconds":60}',
    });
    expect(ban.status).toBe(200);
    expect(ann.welcome.members).toEqual(["ann"]);

    const tables = readDoc("src/store/redis/README.md").split(/\n\n+/);
    /** The names in the first column of the table with this title and this first name. */
    const documented = (title: string, first: string) => {
      const table = tables.find(
        (rows) => rows.startsWith(`| ${title} `) && rows.includes(`|\n| \`${first}\``),
      );
      const cells = [...(table ?? "").matchAll(/^\| (`.*?`) *\|/gm)].map(([, cell]) => cell ?? "");
      return cells.flatMap((cell) => [...cell.matchAll(/`(.*?)`/g)].map(([, name = ""]) => name)).toSorted();
    };
    const keys = [await redis.send("KEYS", "keys:*")].flat().map((key) =>
      String(key)
        .replace(/^keys:/, "")
        .replace(/[\da-f-]{36}/, "NODE")
        .replace("lobby", "ROOM"),
    );
    expect(keys.toSorted()).toEqual(documented("key", "meta"));
    const meta = [await redis.send("HKEYS", "keys:meta")].flat().map(String);
    expect(meta.toSorted()).toEqual(documented("field", "epoch"));
    const records = Object(await redis.send("XRANGE", "keys:log", "-", "+"));
    const fields = new Set<string>();
    for (const [, values] of records) for (let i = 0; i < values.length; i += 2) fields.add(values[i]);
    for (const field of fields) expect(documented("field", "h").concat("c")).toContain(field);
  });
});
