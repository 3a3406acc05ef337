/** What is in Redis that is not ours, and what Redis does not take. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { RedisStore } from "../../src/store/redis/store.ts";
import type { AppendResult } from "../../src/store/message.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(60_000);

const start = (url: string, ...args: string[]) => startServer({ store: { name: "Redis", url }, args });

describe.skipIf(skipped !== "")(`what is not ours in Redis${skipped}`, () => {
  test("is passed over in the log, and nobody is disconnected", async () => {
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
    const soon = `${Date.now() + 60_000}-0`; // what is said next still comes after it
    for (const record of records) await redis.send("XADD", "foreign:log", "*", ...record);
    await redis.send("XADD", "foreign:log", soon, "note", "from the future");
    ann.says("undisturbed");
    await ann.hears("You wrote: undisturbed", "Client #ann says: undisturbed");
    await bob.hears({ type: "message", from: "ann", text: "undisturbed" });
    await bob.hearsNothing();
    expect(await server.answer("/readyz")).toEqual({ status: 200, body: "Ready.\n" });
    await server.stop("SIGTERM");
    const said = (await server.output).match(/^\S+ foreign record key=foreign:log id=\d+-\d+$/gm) ?? [];
    expect(said).toHaveLength(records.length + 1);
  });

  test("is passed over in a room's stream, for who comes, resumes or reads", async () => {
    const redis = await sharedRedis();
    await using server = await start(redis.url("garbage"));
    const ann = await server.join("ann");
    ann.says("before");
    await ann.hears("You wrote: before", "Client #ann says: before");
    await ann.leaves();
    await server.answer("/rooms/lobby/messages"); // now it is in the room's stream
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
    // In front of all, too.
    await redis.send("DEL", "garbage:room:lobby");
    await redis.send("XADD", "garbage:room:lobby", "1-1", "note", "hello");
    await redis.send("XADD", "garbage:room:lobby", oldest[0], ...oldest[1]);
    for (const message of messages) await redis.send("XADD", "garbage:room:lobby", "*", ...message);
    await redis.send("XADD", "garbage:room:lobby", `${Date.now() + 60_000}-0`, "note", "from the future");
    await using bob = await server.joinJson("bob", { history: 50 });
    await bob.hears({ type: "message", from: "ann", text: "before" });
    bob.says("after");
    await bob.hears({ type: "message", from: "bob", text: "after" });
    const beforeAll = String(oldest[1][1]);
    const { recovered } = JSON.parse((await server.answer(`/rooms/lobby/messages?after=${beforeAll}`)).body);
    expect(recovered).toBe(true);
    await using carl = await server.joinJson("carl", { after: head });
    expect(carl.welcome).toMatchObject({ recovered: true, last: head });
    await carl.hears({ type: "message", from: "bob", text: "after" });
    const { body } = await server.answer("/rooms/lobby/messages");
    expect(JSON.parse(body)).toMatchObject({ messages: [{ text: "before" }, { text: "after" }] });
    await carl.hearsNothing();
  });
});

/** Redis answers, and takes nothing; and the way back. */
const REFUSALS = [
  ["is full", ["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]],
  [
    "lacks replicas",
    ["CONFIG", "SET", "min-replicas-to-write", "1"],
    ["CONFIG", "SET", "min-replicas-to-write", "0"],
  ],
  ["has become a replica", ["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]],
] as const;

describe.skipIf(skipped !== "")(`when Redis takes nothing${skipped}`, () => {
  test.concurrent.each(REFUSALS)(
    "since it %s, nothing is acknowledged; afterwards it goes on",
    async (_, [refuse, ...no], [take, ...yes]) => {
      await using redis = await Redis.start();
      await using server = await start(redis.url("full"), "--log", "text");
      await using other = await start(redis.url("full"));
      await using ann = await server.joinJson("ann", { session: "s" });
      const kept: string[] = [];
      let seq = 1;
      /** @returns the answer's type, or what an error is called */
      const say = async () => {
        ann.says(`${seq}`, { seq });
        for (;;) {
          const { type, code } = await ann.next();
          if (type === "error") return code;
          if (type === "ack") kept.push(`${seq++}`);
          else return type;
        }
      };
      expect([await say(), await say()]).toEqual(["message", "message"]);
      // The last that Redis takes, and half of what follows from it.
      const [top, head] = [
        String(await redis.send("HGET", "full:meta", "head")),
        String(await redis.send("HGET", "full:heads", "lobby")),
      ];
      const [half = "", id = ""] = [9, 10].map((more) =>
        top.replace(/\d+$/, (sequence) => `${Number(sequence) + more}`),
      );
      const record = [
        ...["h", `- 0 ${top} 100 ${Date.now()}`, "p", "lobby zoe 1"],
        ...["m", `${half} ${head} lobby zoe`, "c", "tjust before"],
        ...["m", `${id} ${half} lobby zoe`, "c", "tat the last moment", "k", `7 ${id} zoe z`],
      ];
      const message = ["p", head, "f", "zoe", "c", "tjust before", "t", `${Date.now()}`];
      await redis.send("XADD", "full:room:lobby", half, ...message);
      await redis.send("XADD", "full:log", id, ...record);
      await redis.send("HSET", "full:meta", "head", id);
      await redis.send(refuse, ...no);
      kept.push("just before", "at the last moment");
      const lastTwo = [
        { type: "message", id: half, from: "zoe", text: "just before" },
        { type: "message", id, from: "zoe", text: "at the last moment" },
      ];
      await ann.hears(...lastTwo);
      expect([await say(), await say()]).toEqual(["unavailable", "unavailable"]);
      const ready = async () => (await server.get("/readyz")).status;
      // Several looks for Redis later it is still as it was.
      for (let i = 0; i < 50; i++) {
        expect(await ready()).toBe(503);
        await Bun.sleep(20);
      }
      expect(await say()).toBe("unavailable");
      // What was said before can be read all the same.
      const texts = async (query = "") => {
        const { body } = await server.answer(`/rooms/lobby/messages${query}`);
        return JSON.parse(body).messages.map(({ text }: { text: string }) => text);
      };
      expect(await texts()).toEqual(kept);
      expect([await texts("?limit=1"), await texts(`?before=${id}`)]).toEqual([
        kept.slice(-1),
        kept.slice(0, -1),
      ]);
      expect([await texts(`?after=${head}`), await texts(`?after=${id}`)]).toEqual([kept.slice(-2), []]);
      // Also by a node where nobody was in that room.
      await using zoe = await other.joinJson("zoe", { session: "z", after: head });
      expect(zoe.welcome).toMatchObject({ recovered: true, last: head, sent: 7 });
      await zoe.hears(...lastTwo);
      await using eve = await server.joinJson("eve", { after: id });
      expect(eve.welcome).toMatchObject({ recovered: true, last: id });
      expect(await (await server.get("/rooms/lobby/members")).json()).toMatchObject({ count: 3 });
      await redis.send(take, ...yes);
      await eventually(async () => (await ready()) === 200, "it goes on");
      expect([await say(), await say()]).toEqual(["message", "message"]);
      expect(await texts()).toEqual(kept);
      await ann.hearsNothing();
      await server.stop("SIGTERM");
      expect([...(await server.output).matchAll(/ (store \w+)/g)].map(([, fact]) => fact)).toEqual([
        "store unavailable",
        "store available",
      ]);
    },
  );
});

describe.skipIf(skipped !== "")(`when a node cannot read the log${skipped}`, () => {
  const becomes = (server: TestServer, status: number) =>
    eventually(async () => (await server.get("/readyz")).status === status, `/readyz is ${status}`);

  test("since Redis no longer lets it, it says so and is not ready, until Redis does", async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("deaf"), "--log", "text");
    await using ann = await server.joinJson("ann", { session: "s" });
    ann.says("before", { seq: 1 });
    await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "before" });
    await redis.send("ACL", "SETUSER", "default", "-xread");
    await becomes(server, 503);
    ann.says("meanwhile", { seq: 2 });
    expect(await ann.next()).toMatchObject({ type: "error", code: "unavailable", seq: 2 });
    for (let i = 0; i < 30; i++) {
      expect((await server.get("/readyz")).status).toBe(503); // whatever else Redis still allows
      await Bun.sleep(100);
    }
    await redis.send("ACL", "SETUSER", "default", "+xread");
    await becomes(server, 200);
    ann.says("after", { seq: 2 });
    await ann.hears({ type: "ack", seq: 2 }, { type: "message", from: "ann", text: "after" });
    await server.stop("SIGTERM");
    const facts = (await server.output).match(/store .*/g) ?? [];
    expect(facts).toEqual([
      expect.stringMatching(/^store unavailable reason="the log cannot be read: NOPERM .*xread/),
      "store available",
    ]);
  });

  test("nor write, since Redis takes no more records: it says so, once", async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("mute"), "--log", "text");
    await using ann = await server.joinJson("ann");
    await redis.send("ACL", "SETUSER", "default", "-xadd");
    await becomes(server, 503);
    for (let i = 0; i < 20; i++) {
      ann.says("meanwhile");
      expect(await ann.next()).toMatchObject({ type: "error", code: "unavailable" });
      await Bun.sleep(50);
    }
    await redis.send("ACL", "SETUSER", "default", "+xadd");
    await becomes(server, 200);
    ann.says("after");
    await ann.hears({ type: "message", from: "ann", text: "after" });
    await server.stop("SIGTERM");
    expect((await server.output).match(/ store unavailable /g)).toHaveLength(1);
  });

  test("by a fault of ours, that is reported once, and it is not ready meanwhile", async () => {
    await using redis = await Redis.start();
    await using server = await startServer({
      store: { name: "Redis", url: redis.url("broken"), preload: "break-redis.ts" },
    });
    await using ann = await server.joinJson("ann");
    ann.says("boom");
    await becomes(server, 503);
    await redis.send("SET", "looks", "0");
    const looks = async () => Number(await redis.send("GET", "looks"));
    await eventually(async () => (await looks()) > 20, "it tries again and again");
    await redis.send("SET", "mended", "1");
    await becomes(server, 200);
    await ann.hears({ type: "message", from: "ann", text: "boom" });
    await server.stop("SIGTERM");
    expect((await server.errors).match(/^The log cannot be read: .*injected/gm)).toHaveLength(1);
  });
});

test.skipIf(skipped !== "")(
  `whoever waits for a Redis that is away is answered before a server stops${skipped}`,
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

test.skipIf(skipped !== "")(`when Redis is empty all are sent to come back, and once${skipped}`, async () => {
  const RENEWED_MS = 2500; // by then a node has looked once more at what Redis has
  await using redis = await Redis.start();
  await using server = await start(redis.url("empty"), "--log", "text");
  await using ann = await server.join("ann");
  await redis.send("FLUSHALL");
  expect(await ann.closes()).toMatchObject({ code: 1012 });
  await Bun.sleep(RENEWED_MS);
  await server.stop("SIGTERM");
  expect((await server.output).match(/ log gap /g)).toHaveLength(1);
});

test.skipIf(skipped !== "")(
  `when Redis is empty and another conversation has begun there, too${skipped}`,
  async () => {
    await using redis = await Redis.start();
    await using server = await start(redis.url("begun"), "--log", "text");
    await using ann = await server.join("ann");
    const begin = `
      redis.call('FLUSHALL')
      redis.call('HSET', 'begun:meta', 'epoch', ARGV[1], 'origin', ARGV[1], 'head', ARGV[2], 'applied', ARGV[2])
      redis.call('XADD', 'begun:log', ARGV[2], 'h', '- 0 ' .. ARGV[1] .. ' 0 1', 'd', 'nobody')`;
    const [born, top] = [`${Date.now() + 1}-0`, `${Date.now() + 2}-0`];
    await redis.send("EVAL", begin, "0", born, top);
    expect(await ann.closes()).toMatchObject({ code: 1012 });
    const again = eventually(async () => {
      await using bob = await server.join("bob");
      bob.says("hi");
      return (await bob.next()) === "You wrote: hi";
    }, "it goes on");
    await again;
    await using carl = await server.join("carl");
    // Looks at Redis once more, or again and again.
    await Bun.sleep(2500);
    carl.says("still here");
    await carl.hearsUpTo("Client #carl says: still here");
    await server.stop("SIGTERM");
    expect((await server.output).match(/ log gap /g)).toHaveLength(1);
  },
);

test.skipIf(skipped !== "")(
  `a room that is held while Redis loses its data is read anew${skipped}`,
  async () => {
    await using redis = await Redis.start();
    const lost = Promise.withResolvers<void>();
    const address = { url: `redis://127.0.0.1:${redis.port}`, prefix: "held:", name: "Redis" };
    const follower = {
      onMessage() {},
      onRemotePresence() {},
      onSessionClaimed() {},
      onStateLost: () => lost.resolve(),
    };
    const store = new RedisStore(address, { history: 100, keepDays: 0 }, follower);
    await store.open();
    const append = (content: string) =>
      new Promise<AppendResult>((resolve) => {
        const pending = { room: "tea", from: "ann", content, session: undefined, seq: undefined };
        store.append({ ...pending, requiresSeq: undefined }, { onResult: (_, result) => resolve(result) });
      });
    await store.acquireRoom("tea");
    await append("before");
    await redis.send("FLUSHALL");
    await withDeadline(lost.promise, () => "it does not notice");
    const history = await store.acquireRoom("tea");
    expect(history.nextOffset - history.firstOffset).toBe(0);
    expect(await append("after")).toMatchObject({ stored: { content: "after" } });
    store.releaseRoom("tea");
    store.releaseRoom("tea");
    await store.close();
  },
);

test.skipIf(skipped !== "")(
  `a batch whose answer is lost is written again, and said once${skipped}`,
  async () => {
    await using redis = await Redis.start();
    // Passes everything on, until it has passed this on: then all connections end before the answer.
    const open = new Set<Socket>();
    let fatal = "";
    /** What Redis is asked just after that. */
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
      fatal = `t${i} is said once`;
      ann.says(`${i} is said once`);
      await ann.hears(`You wrote: ${i} is said once`, `Client #ann says: ${i} is said once`);
    }
    const { messages } = JSON.parse((await server.answer("/rooms/lobby/messages")).body);
    expect(messages).toHaveLength(5);
    await ann.hearsNothing();

    // That it is refused the second time does not mean that it was not written the first.
    fatal = "twritten and refused";
    next = "CONFIG SET min-replicas-to-write 1\r\n";
    ann.says("written and refused");
    await ann.hears("You wrote: written and refused", "Client #ann says: written and refused");
    proxy.close();
  },
);
