/** Foreign data in Redis, and a Redis that rejects writes, cannot be read or loses data. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { RedisEngine } from "../../src/store/redis/engine.ts";
import { EngineUnreachable } from "../../src/store/shared-log/engine.ts";
import { SharedLogStore } from "../../src/store/shared-log/store.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";
import type { AppendResult } from "../../src/store/message.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import "../support/fast-shared-log.ts";
import { startServer } from "../support/server.ts";
import { Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

/** By then a node has sent at least two more heartbeats. */
const TWO_HEARTBEATS_MS = 2.5 * sharedLogTiming.heartbeatMs;

const start = (url: string, ...args: string[]) =>
  startServer({ store: { name: "Redis", url }, args, preload: "fast-shared-log.ts" });

describe.skipIf(skipped !== "")(`foreign data in Redis${skipped}`, () => {
  test("is skipped in the log, and no client is disconnected", async () => {
    const redis = await sharedRedis();
    await using server = await start(redis.url("foreign"), "--log", "text");
    await using ann = await server.join("ann");
    await using bob = await server.joinJson("bob");
    const prev = String(await redis.send("HGET", "foreign:meta", "head"));
    const heads = ["h", `somebody 1 ${prev} 100 ${Date.now()}`];
    const records = [
      ["note", "hello"],
      ["h", "somebody"],
      ["h", `somebody 1 yesterday 100 ${Date.now()}`],
      ["h", `somebody 1 ${prev} 100 yesterday`],
      [...heads, "m", "1-1 0-0 lobby eve", "c", "b!!!"],
      [...heads, "m", "1-1 0-0 lobby"],
      [...heads, "m", "one 0-0 lobby eve", "c", "thi"],
      [...heads, "m", "1-1 0-0 lobby eve", "c", "without a letter before it"],
      [...heads, "p", "lobby eve many"],
      [...heads, "p", "lobby \u200b 1"],
      [...heads, "x", "y"],
      [...heads, "r", "duplicate"],
      [...heads, "d", ""],
    ];
    const soon = `${Date.now() + 60_000}-0`; // the next message still gets a greater id
    for (const record of records) await redis.send("XADD", "foreign:log", "*", ...record);
    await redis.send("XADD", "foreign:log", soon, "note", "from the future");
    ann.says("undisturbed");
    await ann.hears("You wrote: undisturbed", "Client #ann says: undisturbed");
    await bob.hears({ type: "message", from: "ann", text: "undisturbed" });
    await bob.hearsNothing();
    expect(await server.answer("/readyz")).toEqual({ status: 200, body: "Ready.\n" });
    await server.stop("SIGTERM");
    const logged = (await server.output).match(/^\S+ foreign record key=foreign:log id=\d+-\d+$/gm) ?? [];
    expect(logged).toHaveLength(records.length + 1);
  });

  test("is skipped in a room's stream: on joining, resuming and reading", async () => {
    const redis = await sharedRedis();
    await using server = await start(redis.url("garbage"));
    const ann = await server.join("ann");
    ann.says("before");
    await ann.hears("You wrote: before", "Client #ann says: before");
    await ann.leaves();
    await server.answer("/rooms/lobby/messages"); // which applies the record to the room's stream
    const head = String(await redis.send("HGET", "garbage:heads", "lobby"));
    const messages = [
      ["note", "hello"],
      ["p", head, "f", "eve"],
      ["p", "yesterday", "f", "eve", "c", "thi", "t", "1"],
      ["p", head, "f", "eve and ann", "c", "thi", "t", "1"],
      ["p", head, "f", "eve", "c", "b!!!", "t", "1"],
      ["p", head, "f", "eve", "c", "hi", "t", "1"],
      ["p", head, "f", "eve", "c", "thi", "t", "now"],
      ["f", "eve", "p", head, "c", "thi", "t", "1"],
    ];
    for (const message of messages) await redis.send("XADD", "garbage:room:lobby", "*", ...message);
    const [oldest] = Object(await redis.send("XRANGE", "garbage:room:lobby", "-", "+"));
    // Also before the oldest message.
    await redis.send("DEL", "garbage:room:lobby");
    await redis.send("XADD", "garbage:room:lobby", "1-1", "note", "hello");
    await redis.send("XADD", "garbage:room:lobby", oldest[0], ...oldest[1]);
    for (const message of messages) await redis.send("XADD", "garbage:room:lobby", "*", ...message);
    await redis.send("XADD", "garbage:room:lobby", `${Date.now() + 60_000}-0`, "note", "from the future");
    await using bob = await server.joinJson("bob", { history: 50 });
    await bob.hears({ type: "message", from: "ann", text: "before" });
    bob.says("after");
    await bob.hears({ type: "message", from: "bob", text: "after" });
    const beforeOldest = String(oldest[1][1]);
    const { recovered } = JSON.parse(
      (await server.answer(`/rooms/lobby/messages?after=${beforeOldest}`)).body,
    );
    expect(recovered).toBe(true);
    await using carl = await server.joinJson("carl", { after: head });
    expect(carl.welcome).toMatchObject({ recovered: true, last: head });
    await carl.hears({ type: "message", from: "bob", text: "after" });
    expect(await server.texts()).toEqual(["before", "after"]);
    await carl.hearsNothing();
  });
});

/** What makes Redis reject writes, and what ends that. */
const REFUSALS = [
  ["is full", ["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]],
  [
    "lacks replicas",
    ["CONFIG", "SET", "min-replicas-to-write", "1"],
    ["CONFIG", "SET", "min-replicas-to-write", "0"],
  ],
  ["has become a replica", ["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]],
] as const;

describe.skipIf(skipped !== "")(`while Redis rejects writes${skipped}`, () => {
  test.concurrent.each(REFUSALS)(
    "because it %s, nothing is acknowledged, and stored messages can be read",
    async (_, [reject, ...rejectArgs], [accept, ...acceptArgs]) => {
      await using redis = await Redis.start();
      await using server = await start(redis.url("full"), "--log", "text");
      await using other = await start(redis.url("full"));
      await using ann = await server.joinJson("ann", { session: "s" });
      const stored: string[] = [];
      let seq = 1;
      /** @returns the type of the event that follows the ack, or the error code */
      const send = async () => {
        ann.says(`${seq}`, { seq });
        for (;;) {
          const { type, code } = await ann.next();
          if (type === "error") return code;
          if (type === "ack") stored.push(`${seq++}`);
          else return type;
        }
      };
      expect([await send(), await send()]).toEqual(["message", "message"]);
      const texts = (query?: string) => server.texts("lobby", query);
      expect(await texts()).toEqual(stored); // which applies the last record
      // A last record, and the half of it that is applied.
      const [top, head] = [
        String(await redis.send("HGET", "full:meta", "head")),
        String(await redis.send("HGET", "full:heads", "lobby")),
      ];
      const [appliedId = "", id = ""] = [9, 10].map((more) =>
        top.replace(/\d+$/, (sequence) => `${Number(sequence) + more}`),
      );
      const record = [
        ...["h", `- 0 ${top} 100 ${Date.now()}`, "p", "lobby zoe 1"],
        ...["m", `${appliedId} ${head} lobby zoe`, "c", "tjust before"],
        ...["m", `${id} ${appliedId} lobby zoe`, "c", "tat the last moment", "k", `7 ${id} zoe z`],
      ];
      const message = ["p", head, "f", "zoe", "c", "tjust before", "t", `${Date.now()}`];
      await redis.send("XADD", "full:room:lobby", appliedId, ...message);
      // One step, because a heartbeat in between would take the head for lost.
      const write = `
        redis.call('XADD', 'full:log', ARGV[1], unpack(ARGV, 2))
        redis.call('HSET', 'full:meta', 'head', ARGV[1])`;
      await redis.send("EVAL", write, "0", id, ...record);
      await redis.send(reject, ...rejectArgs);
      stored.push("just before", "at the last moment");
      const lastTwo = [
        { type: "message", id: appliedId, from: "zoe", text: "just before" },
        { type: "message", id, from: "zoe", text: "at the last moment" },
      ];
      await ann.hears(...lastTwo);
      expect([await send(), await send()]).toEqual(["unavailable", "unavailable"]);
      for (let i = 0; i < 20; i++) {
        expect(await server.isReady()).toBe(false);
        await Bun.sleep(TWO_HEARTBEATS_MS / 20);
      }
      expect(await send()).toBe("unavailable");
      // Stored messages can still be read,
      expect(await texts()).toEqual(stored);
      expect([await texts("?limit=1"), await texts(`?before=${id}`)]).toEqual([
        stored.slice(-1),
        stored.slice(0, -1),
      ]);
      expect([await texts(`?after=${head}`), await texts(`?after=${id}`)]).toEqual([stored.slice(-2), []]);
      // also by a node where the room was not open.
      await using zoe = await other.joinJson("zoe", { session: "z", after: head });
      expect(zoe.welcome).toMatchObject({ recovered: true, last: head, sent: 7 });
      await zoe.hears(...lastTwo);
      await using eve = await server.joinJson("eve", { after: id });
      expect(eve.welcome).toMatchObject({ recovered: true, last: id });
      expect(await (await server.get("/rooms/lobby/members")).json()).toMatchObject({ count: 3 });
      await redis.send(accept, ...acceptArgs);
      await server.becomesReady();
      expect([await send(), await send()]).toEqual(["message", "message"]);
      expect(await texts()).toEqual(stored);
      await ann.hearsNothing();
      await server.stop("SIGTERM");
      expect([...(await server.output).matchAll(/ (store \w+)/g)].map(([, event]) => event)).toEqual([
        "store unavailable",
        "store available",
      ]);
    },
  );
});

describe.skipIf(skipped !== "")(`a node that cannot${skipped}`, () => {
  test.concurrent(
    "read the log, because Redis forbids it, logs that and is not ready until Redis allows it",
    async () => {
      await using redis = await Redis.start();
      await using server = await start(redis.url("deaf"), "--log", "text");
      await using ann = await server.joinJson("ann", { session: "s" });
      ann.says("before", { seq: 1 });
      await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "before" });
      await redis.send("ACL", "SETUSER", "default", "-xread");
      await server.becomesUnready();
      ann.says("meanwhile", { seq: 2 });
      expect(await ann.next()).toMatchObject({ type: "error", code: "unavailable", seq: 2 });
      for (let i = 0; i < 20; i++) {
        expect(await server.isReady()).toBe(false); // although heartbeats succeed
        await Bun.sleep(TWO_HEARTBEATS_MS / 20);
      }
      await redis.send("ACL", "SETUSER", "default", "+xread");
      await server.becomesReady();
      ann.says("after", { seq: 2 });
      await ann.hears({ type: "ack", seq: 2 }, { type: "message", from: "ann", text: "after" });
      await server.stop("SIGTERM");
      const events = (await server.output).match(/store .*/g) ?? [];
      expect(events).toEqual([
        expect.stringMatching(/^store unavailable reason="the log cannot be read: NOPERM .*xread/),
        "store available",
      ]);
    },
  );

  test.concurrent.each(["xrevrange", "xrange", "hget", "smembers", "info"])(
    "run %s, because Redis forbids it, logs that once and is not ready until Redis allows it",
    async (command) => {
      await using redis = await Redis.start();
      await using server = await start(redis.url("denied"), "--log", "text");
      await using ann = await server.joinJson("ann");
      ann.says("before");
      await ann.hears({ type: "message", from: "ann", text: "before" });
      await redis.send("ACL", "SETUSER", "default", `-${command}`);
      await server.becomesUnready();
      for (let i = 0; i < 20; i++) {
        expect(await server.isReady()).toBe(false);
        await server.answer(`/rooms/room-${i}/messages`);
        await Bun.sleep(TWO_HEARTBEATS_MS / 20);
      }
      await redis.send("ACL", "SETUSER", "default", `+${command}`);
      await server.becomesReady();
      ann.says("after");
      await ann.hears({ type: "message", from: "ann", text: "after" });
      await server.stop("SIGTERM");
      expect((await server.output).match(/ (store|Redis) \w+/g)).toEqual([
        " store unavailable",
        " store available",
      ]);
    },
  );

  test.concurrent("write records, because Redis forbids it, logs that once", async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("mute"), "--log", "text");
    await using ann = await server.joinJson("ann");
    await redis.send("ACL", "SETUSER", "default", "-xadd");
    await server.becomesUnready();
    for (let i = 0; i < 20; i++) {
      ann.says("meanwhile");
      expect(await ann.next()).toMatchObject({ type: "error", code: "unavailable" });
      await Bun.sleep(50);
    }
    await redis.send("ACL", "SETUSER", "default", "+xadd");
    await server.becomesReady();
    ann.says("after");
    await ann.hears({ type: "message", from: "ann", text: "after" });
    await server.stop("SIGTERM");
    expect((await server.output).match(/ store unavailable /g)).toHaveLength(1);
  });

  test.concurrent(
    "process the log, because of a bug, reports that once and is not ready meanwhile",
    async () => {
      await using redis = await Redis.start();
      await using server = await startServer({
        store: { name: "Redis", url: redis.url("broken"), preload: "break-redis.ts" },
      });
      await using ann = await server.joinJson("ann");
      ann.says("boom");
      await server.becomesUnready();
      await redis.send("SET", "reads", "0");
      const reads = async () => Number(await redis.send("GET", "reads"));
      await eventually(async () => (await reads()) > 20, "it keeps trying");
      await redis.send("SET", "fixed", "1");
      await server.becomesReady();
      await ann.hears({ type: "message", from: "ann", text: "boom" });
      await server.stop("SIGTERM");
      expect((await server.errors).match(/^The log cannot be read: .*injected/gm)).toHaveLength(1);
    },
  );
});

test.skipIf(skipped !== "")(
  `a message in flight to an unavailable Redis gets a result before shutdown${skipped}`,
  async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("stop"));
    await using ann = await server.join("ann");
    ann.says("one");
    await ann.hears("You wrote: one", "Client #ann says: one");
    redis.freeze();
    ann.says("two");
    await ann.hearsNothingBeforePong();
    await server.stop("SIGTERM");
    await ann.hears("Not sent (unconfirmed): two");
    expect(await ann.closes()).toMatchObject({ code: 1012 });
    expect(server.process.exitCode).toBe(0);
  },
);

test.skipIf(skipped !== "")(
  `after Redis lost all data, clients have to reconnect once${skipped}`,
  async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("empty"), "--log", "text");
    await using ann = await server.join("ann");
    await redis.send("FLUSHALL");
    expect(await ann.closes()).toMatchObject({ code: 1012 });
    await Bun.sleep(TWO_HEARTBEATS_MS);
    await server.stop("SIGTERM");
    expect((await server.output).match(/ log gap /g)).toHaveLength(1);
  },
);

test.skipIf(skipped !== "")(
  `after Redis lost all data and another node began a new epoch, too${skipped}`,
  async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("begun"), "--log", "text");
    await using ann = await server.join("ann");
    const begin = `
      redis.call('FLUSHALL')
      redis.call('HSET', 'begun:meta', 'epoch', ARGV[1], 'origin', ARGV[1], 'head', ARGV[2], 'applied', ARGV[2])
      redis.call('XADD', 'begun:log', ARGV[2], 'h', '- 0 ' .. ARGV[1] .. ' 0 1', 'd', 'nobody')`;
    const [epoch, head] = [`${Date.now() + 1}-0`, `${Date.now() + 2}-0`];
    await redis.send("EVAL", begin, "0", epoch, head);
    expect(await ann.closes()).toMatchObject({ code: 1012 });
    await eventually(async () => {
      await using bob = await server.join("bob");
      bob.says("hi");
      return (await bob.next()) === "You wrote: hi";
    }, "a message is stored");
    await using carl = await server.join("carl");
    await Bun.sleep(TWO_HEARTBEATS_MS);
    carl.says("still here");
    await carl.hearsUpTo("Client #carl says: still here");
    await server.stop("SIGTERM");
    expect((await server.output).match(/ log gap /g)).toHaveLength(1);
  },
);

/** Once it is told to, it fails when a record is applied, one time. */
class FailingEngine extends RedisEngine {
  failsNext = false;

  override async applyPending(): Promise<void> {
    const fails = this.failsNext;
    this.failsNext = false;
    if (fails) throw new EngineUnreachable("cut off");
    await super.applyPending();
  }
}

async function openStore(redis: Redis, prefix: string) {
  const lost = Promise.withResolvers<void>();
  const config = { url: `redis://127.0.0.1:${redis.port}`, prefix: `${prefix}:`, name: "Redis" };
  const listener = {
    onEntry() {},
    onRemotePresence() {},
    onSessionClaimed() {},
    onBan() {},
    onRemovedAll() {},
    onStateLost: () => lost.resolve(),
  };
  const options = { history: 100, keepDays: 0 };
  const context = { clock: systemClock, random: systemRandom, timing: sharedLogTiming };
  const engine = new FailingEngine(config, options, context);
  const store = new SharedLogStore(engine, options, listener, context);
  await store.open();
  const append = (content: string) =>
    new Promise<AppendResult>((resolve) => {
      const pending = { room: "tea", from: "ann", content, session: undefined, seq: undefined };
      store.append({ ...pending, requiresSeq: undefined }, { onResult: (_, result) => resolve(result) });
    });
  return { engine, store, append, lost: lost.promise };
}

test.skipIf(skipped !== "")(
  `a removal counts its messages although the connection is cut between its two commands${skipped}`,
  async () => {
    const { engine, store, append } = await openStore(await sharedRedis(), "removal-cut");
    await append("one");
    await append("two");
    await store.readHistory("tea", { limit: 1 }); // after the node has applied its last record
    engine.failsNext = true;
    expect(await store.remove("tea", { from: "ann" })).toBe(2);
    expect(engine.failsNext).toBe(false);
    await store.close();
  },
);

test.skipIf(skipped !== "")(
  `a removal includes messages that are still to be written${skipped}`,
  async () => {
    const { store, append } = await openStore(await sharedRedis(), "removal-queue");
    const results = Promise.all([append("in flight"), append("in flight")]);
    const removed = store.remove("tea", { from: "ann" });
    expect(await results).toMatchObject([{ stored: {} }, { stored: {} }]);
    expect(await removed).toBe(2);
    await store.close();
  },
);

test.skipIf(skipped !== "")(
  `a room that is held while Redis loses its data is loaded again${skipped}`,
  async () => {
    await using redis = await Redis.start();
    const { store, append, lost } = await openStore(redis, "held");
    await store.acquireRoom("tea");
    await append("before");
    await redis.send("FLUSHALL");
    await withDeadline(lost, () => "it is not noticed");
    const history = await store.acquireRoom("tea");
    expect(history.nextOffset - history.firstOffset).toBe(0);
    expect(await append("after")).toMatchObject({ stored: { content: "after" } });
    store.releaseRoom("tea");
    store.releaseRoom("tea");
    await store.close();
  },
);

test.skipIf(skipped !== "")(
  `a batch whose reply is lost is written again, and broadcast once${skipped}`,
  async () => {
    await using redis = await Redis.start();
    // A proxy that cuts all connections once it has forwarded this, before the reply.
    const open = new Set<Socket>();
    let fatal = "";
    /** A command that is sent to Redis just after that. */
    let next = "";
    const proxy = createServer((node) => {
      const to = connect(redis.port, "127.0.0.1");
      for (const socket of [node, to]) {
        open.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => open.delete(socket));
      }
      to.on("data", (result) => node.write(result));
      node.on("data", (request) => {
        const isFatal = fatal !== "" && request.includes(fatal);
        if (isFatal) {
          fatal = "";
          for (const socket of open) if (socket !== to) socket.destroy();
        }
        to.write(request, () => isFatal && setTimeout(() => to.destroy(), 20));
        if (isFatal && next) to.write(next);
      });
      node.on("close", () => to.destroySoon());
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const address = proxy.address();
    const port = typeof address === "object" ? address?.port : undefined;
    await using server = await start(`redis://127.0.0.1:${port}`);
    await using ann = await server.join("ann");
    for (let i = 0; i < 5; i++) {
      fatal = `t${i} is stored once`;
      ann.says(`${i} is stored once`);
      await ann.hears(`You wrote: ${i} is stored once`, `Client #ann says: ${i} is stored once`);
      await server.becomesReady(); // the log may be read again before Redis counts as available
    }
    const { messages } = JSON.parse((await server.answer("/rooms/lobby/messages")).body);
    expect(messages).toHaveLength(5);
    await ann.hearsNothing();

    // A rejection of the second attempt does not mean that the first was not written.
    fatal = "twritten and rejected";
    next = "CONFIG SET min-replicas-to-write 1\r\n";
    ann.says("written and rejected");
    await ann.hears("You wrote: written and rejected", "Client #ann says: written and rejected");
    proxy.close();
  },
);
