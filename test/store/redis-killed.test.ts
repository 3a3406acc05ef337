/**
 * A Redis that is killed while it writes its append-only file. The file ends with a script's first commands, which versions
 * up to 7 do not drop for good: they run when Redis is restarted a second time (src/store/redis/README.md).
 */

import { expect, setDefaultTimeout, test } from "bun:test";
import { truncate } from "node:fs/promises";
import { eventually } from "../support/deadline.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { DURABLE, Redis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

/** What is on disk of a script: everything but its end, or this number of commands. */
type Cut = "end" | number;

test.skipIf(skipped !== "")(
  `wherever a script is cut off, each message is stored once${skipped}`,
  async () => {
    await using redis = await Redis.start(DURABLE);
    await using server = await start(redis);
    for (let cut = 0; ; cut++) {
      const room = `after-${cut}`;
      await post(server, room, 1);
      await post(server, room, 2);
      await server.texts(room); // which applies the last record
      const isCut = await killWhileWriting(redis, `t${room} 2`, cut);
      if (!isCut) return expect(cut).toBeGreaterThan(10);
      await post(server, room, 2);
      await redis.stop();
      await redis.start();
      await post(server, room, 2); // resent, as by a client that has received no ack
      await post(server, room, 3);
      expect(await server.texts(room)).toEqual([1, 2, 3].map((seq) => `${room} ${seq}`));
    }
  },
);

test.skipIf(skipped !== "")(`the same while ids are ahead of the clock${skipped}`, async () => {
  await using redis = await Redis.start(DURABLE);
  await using server = await start(redis);
  await redis.send("XADD", "killed:log", `${Date.now() + 3_600_000}-0`, "from", "the future");
  for (const room of ["tea", "coffee", "cocoa"]) {
    await post(server, room, 1);
    await post(server, room, 2);
    await killWhileWriting(redis, `t${room} 2`, "end");
    await post(server, room, 1, "carol");
    await redis.stop();
    await redis.start();
    await post(server, room, 2);
    await post(server, room, 3);
    const texts = await server.texts(room);
    expect(texts).toEqual([`${room} 1`, `${room} 1`, `${room} 2`, `${room} 3`]);
  }
});

test.skipIf(skipped !== "")(
  `a node that was frozen meanwhile broadcasts each message once, too${skipped}`,
  async () => {
    await using redis = await Redis.start(DURABLE);
    await using server = await start(redis);
    await using frozen = await start(redis);
    await using ann = await frozen.joinJson("ann");
    await post(server, "lobby", 1);
    await ann.hears({ type: "message", from: "bob", text: "lobby 1" });
    frozen.freeze();
    // Nothing is in flight to the frozen node: what Redis has not written to disk, it has sent to no one.
    await redis.send("CLIENT", "KILL", "TYPE", "normal");
    await post(server, "lobby", 2);
    await killWhileWriting(redis, "tlobby 2", "end");
    await post(server, "lobby", 2);
    await redis.stop();
    await redis.start();
    frozen.thaw();
    await post(server, "lobby", 3);
    await ann.hears(
      { type: "message", from: "bob", text: "lobby 2" },
      { type: "message", from: "bob", text: "lobby 3" },
    );
  },
);

test.skipIf(skipped !== "")(
  `an orphaned record is not broadcast, even if it is the last of one read${skipped}`,
  async () => {
    const READ_AT_ONCE = 20;
    await using redis = await Redis.start();
    await using server = await start(redis);
    await using ann = await server.joinJson("ann");
    await post(server, "lobby", 1);
    await ann.hears({ type: "message", from: "bob", text: "lobby 1" });
    await server.texts("lobby"); // which applies the last record
    server.freeze();
    await redis.send("CLIENT", "KILL", "TYPE", "normal"); // the next read begins with what comes now
    const top = String(await redis.send("HGET", "killed:meta", "head"));
    const idOf = (i: number) => top.replace(/\d+$/, (sequence) => `${Number(sequence) + i}`);
    for (let i = 1; i <= READ_AT_ONCE + 1; i++) {
      const prev = i > READ_AT_ONCE ? idOf(READ_AT_ONCE - 1) : idOf(i - 1);
      const head = ["h", `- 0 ${prev} 100 ${Date.now()}`];
      const message = ["m", `${idOf(i)} ${prev} lobby eve`, "c", `t${i}`];
      await redis.send("XADD", "killed:log", idOf(i), ...head, ...message);
    }
    const last = idOf(READ_AT_ONCE + 1);
    await redis.send("HSET", "killed:meta", "head", last, "applied", last);
    server.thaw();
    for (let i = 1; i <= READ_AT_ONCE + 1; i++)
      if (i !== READ_AT_ONCE) await ann.hears({ type: "message", from: "eve", text: `${i}` });
  },
);

function start(redis: Redis): Promise<TestServer> {
  return startServer({ store: { name: "Redis", url: redis.url("killed") } });
}

/** Retries until the message is stored. */
async function post(server: TestServer, room: string, seq: number, from = "bob"): Promise<void> {
  const message = { text: `${room} ${seq}`, from, session: room, seq };
  await eventually(async () => (await server.post(room, message)).ok, `${room} ${seq} is stored`);
}

/** @returns false if the script that wrote `text`, and the next, which applies it, have fewer commands than `cut` */
async function killWhileWriting(redis: Redis, text: string, cut: Cut): Promise<boolean> {
  await redis.stop();
  const file = await redis.appendedFile();
  const bytes = Buffer.from(await Bun.file(file).arrayBuffer());
  const starts = startsOf(bytes);
  const nameAt = (start: number) =>
    /\$\d+\r\n(.*)\r\n/.exec(bytes.toString("latin1", start, start + 50))?.[1];
  const [first, last] = [bytes.indexOf(text), bytes.lastIndexOf(text)];
  const begin = starts.findLast((start) => start < first && nameAt(start) === "MULTI") ?? NaN;
  const ends = starts.filter((start) => start > first && nameAt(start) === "EXEC");
  const applied = ends.find((end) => end > last) ?? NaN;
  const inside = starts.filter((start) => start > begin && start <= applied);
  const next = cut === "end" ? ends[0] : inside[cut];
  if (next !== undefined) await truncate(file, next + "*1\r".length);
  await redis.start();
  return next !== undefined;
}

/** The offset of each command in RESP: `*2`, and twice `$3` with 3 bytes. */
function startsOf(bytes: Buffer): number[] {
  const starts: number[] = [];
  for (let at = 0; at < bytes.length;) {
    const number = () => {
      const end = bytes.indexOf("\r\n", at);
      const value = Number(bytes.toString("latin1", at + 1, end));
      at = end + 2;
      return value;
    };
    starts.push(at);
    for (let words = number(); words > 0; words--) {
      const length = number();
      at += length + "\r\n".length;
    }
  }
  return starts;
}
