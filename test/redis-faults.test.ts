/** What is in Redis that is not ours, and what Redis does not take. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, createServer, type Socket } from "node:net";
import { startHubbub, until } from "./hubbub.ts";
import { Redis, sharedRedis, skipped } from "./redis.ts";

setDefaultTimeout(60_000);

const start = (url: string, ...args: string[]) => startHubbub({ store: { name: "Redis", url }, args });

describe.skipIf(skipped !== "")(`what is not ours in Redis${skipped}`, () => {
  test("is passed over in the log, and nobody is disconnected", async () => {
    const redis = await sharedRedis();
    await using hub = await start(redis.url("foreign"), "--log", "text");
    await using ann = await hub.join("ann");
    await using bob = await hub.joinJson("bob");
    const prev = String(await redis.send("HGET", "foreign:meta", "top"));
    const heads = ["h", `somebody 1 ${prev}`];
    const records = [
      ["note", "hello"],
      ["h", "somebody"],
      ["h", `somebody 1 yesterday`],
      [...heads, "m", "1-1 0-0 lobby eve", "c", "b!!!"],
      [...heads, "m", "1-1 0-0 lobby"],
      [...heads, "m", "one 0-0 lobby eve", "c", "thi"],
      [...heads, "m", "1-1 0-0 lobby eve", "c", "without a letter before it"],
      [...heads, "p", "lobby eve many"],
      [...heads, "p", "lobby \u200b 1"],
      [...heads, "x", "y"],
      [...heads, "v", "r"],
      [...heads, "d", ""],
    ];
    const soon = `${Date.now() + 60_000}-0`; // what is said next still comes after it
    for (const record of records) await redis.send("XADD", "foreign:log", "*", ...record);
    await redis.send("XADD", "foreign:log", soon, "note", "from the future");
    ann.says("undisturbed");
    await ann.hears("You wrote: undisturbed", "Client #ann says: undisturbed");
    await bob.hears({ type: "message", from: "ann", text: "undisturbed" });
    await bob.hearsNothing();
    expect(await hub.answer("/readyz")).toEqual({ status: 200, body: "Messages are taken, and kept.\n" });
    await hub.stop("SIGTERM");
    const said = (await hub.output).match(/^\S+ not ours key=foreign:log id=\d+-\d+$/gm) ?? [];
    expect(said).toHaveLength(records.length + 1);
  });

  test("is passed over in a room's stream, for who comes, resumes or reads", async () => {
    const redis = await sharedRedis();
    await using hub = await start(redis.url("garbage"));
    const ann = await hub.join("ann");
    ann.says("before");
    await ann.hears("You wrote: before", "Client #ann says: before");
    await ann.leaves();
    await hub.answer("/rooms/lobby/messages"); // now it is in the room's stream
    const head = String(await redis.send("HGET", "garbage:heads", "lobby"));
    const entries = [
      ["note", "hello"],
      ["p", head, "f", "eve"],
      ["p", "yesterday", "f", "eve", "c", "thi"],
      ["p", head, "f", "eve and ann", "c", "thi"],
      ["p", head, "f", "eve", "c", "b!!!"],
      ["p", head, "f", "eve", "c", "hi"],
      ["f", "eve", "p", head, "c", "thi"],
    ];
    for (const entry of entries) await redis.send("XADD", "garbage:room:lobby", "*", ...entry);
    await redis.send("XADD", "garbage:room:lobby", `${Date.now() + 60_000}-0`, "note", "from the future");
    await using bob = await hub.joinJson("bob", { history: 50 });
    await bob.hears({ type: "message", from: "ann", text: "before" });
    bob.says("after");
    await bob.hears({ type: "message", from: "bob", text: "after" });
    await using carl = await hub.joinJson("carl", { after: head });
    expect(carl.welcome).toMatchObject({ recovered: true, last: head });
    await carl.hears({ type: "message", from: "bob", text: "after" });
    await carl.hearsNothing();
    const { body } = await hub.answer("/rooms/lobby/messages");
    expect(JSON.parse(body)).toMatchObject({ messages: [{ text: "before" }, { text: "after" }] });
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
      await using hub = await start(redis.url("full"), "--log", "text");
      await using ann = await hub.joinJson("ann", { session: "s" });
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
      await hub.answer("/rooms/lobby/messages"); // after which nothing is left to be done for what was said
      await redis.send(refuse, ...no);
      expect([await say(), await say()]).toEqual(["unavailable", "unavailable"]);
      const ready = async () => (await hub.get("/readyz")).status;
      // Several looks for Redis later it is still as it was.
      for (let i = 0; i < 50; i++) {
        expect(await ready()).toBe(503);
        await Bun.sleep(20);
      }
      expect(await say()).toBe("unavailable");
      // What was said before can be read all the same.
      await using eve = await hub.joinJson("eve", { history: 50 });
      for (const text of kept) await eve.hears({ type: "message", from: "ann", text });
      expect((await hub.get("/rooms/lobby/messages")).status).toBe(200);
      await redis.send(take, ...yes);
      await until(async () => (await ready()) === 200, "it goes on");
      expect([await say(), await say()]).toEqual(["message", "message"]);
      await ann.hearsNothing();
      const { body } = await hub.answer("/rooms/lobby/messages");
      expect(JSON.parse(body).messages.map(({ text }: { text: string }) => text)).toEqual(kept);
      await hub.stop("SIGTERM");
      expect([...(await hub.output).matchAll(/ (store \w+)/g)].map(([, fact]) => fact)).toEqual([
        "store lost",
        "store found",
      ]);
    },
  );
});

test.skipIf(skipped !== "")(
  `whoever waits for a Redis that is away is answered before a server stops${skipped}`,
  async () => {
    await using redis = await Redis.start();
    await using hub = await start(redis.url("stop"));
    await using ann = await hub.join("ann");
    ann.says("one");
    await ann.hears("You wrote: one", "Client #ann says: one");
    redis.freeze();
    ann.says("two");
    await ann.hearsNothing();
    await hub.stop("SIGTERM");
    await ann.hears("Not sent (unconfirmed): two");
    expect(await ann.closes()).toMatchObject({ code: 1012 });
    expect(hub.process.exitCode).toBe(0);
  },
);

test.skipIf(skipped !== "")(`when Redis is empty all are sent to come back, and once${skipped}`, async () => {
  const RENEWED_MS = 2500; // by then a node has looked once more at what Redis has
  await using redis = await Redis.start();
  await using hub = await start(redis.url("empty"), "--log", "text");
  await using ann = await hub.join("ann");
  await redis.send("FLUSHALL");
  expect(await ann.closes()).toMatchObject({ code: 1012 });
  await Bun.sleep(RENEWED_MS);
  await hub.stop("SIGTERM");
  expect((await hub.output).match(/ store skipped /g)).toHaveLength(1);
});

test.skipIf(skipped !== "")(
  `a batch whose answer is lost is written again, and said once${skipped}`,
  async () => {
    await using redis = await Redis.start();
    // Passes everything on, until it has passed this on: then all connections end before the answer.
    const open = new Set<Socket>();
    let fatal = "";
    const proxy = createServer((node) => {
      const to = connect(redis.port, "127.0.0.1");
      for (const socket of [node, to]) {
        open.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => open.delete(socket));
      }
      to.on("data", (answer) => node.write(answer));
      node.on("data", (request) => {
        const isFatal = fatal !== "" && request.includes(fatal);
        if (isFatal) {
          fatal = "";
          for (const socket of open) if (socket !== to) socket.destroy();
        }
        to.write(request, () => isFatal && setTimeout(() => to.destroy(), 20));
      });
      node.on("close", () => to.destroySoon());
    });
    await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    const address = proxy.address();
    const port = typeof address === "object" ? address?.port : undefined;
    await using hub = await start(`redis://127.0.0.1:${port}`);
    await using ann = await hub.join("ann");
    for (let i = 0; i < 5; i++) {
      fatal = `t${i} is said once`;
      ann.says(`${i} is said once`);
      await ann.hears(`You wrote: ${i} is said once`, `Client #ann says: ${i} is said once`);
    }
    await ann.hearsNothing();
    const { messages } = JSON.parse((await hub.answer("/rooms/lobby/messages")).body);
    expect(messages).toHaveLength(5);
    proxy.close();
  },
);
