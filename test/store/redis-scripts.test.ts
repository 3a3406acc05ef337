/** The scripts by themselves: batches, removed nodes, and the probe of the commands. */

import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync } from "node:fs";
import { RedisConnection } from "../../src/store/redis/connection.ts";
import { parseHeartbeat } from "../../src/store/redis/records.ts";
import { scripts } from "../../src/store/redis/scripts.ts";
import { systemClock } from "../../src/util/clock.ts";
import { readDoc } from "../support/docs.ts";
import { Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

const connections: RedisConnection[] = [];

async function connect(prefix: string, redis?: Redis) {
  redis ??= await sharedRedis();
  const connection = new RedisConnection(`redis://127.0.0.1:${redis.port}`, `${prefix}:`, systemClock);
  connections.push(connection);
  return {
    join: (node: string) => connection.run(scripts.join, node, 60_000, 5),
    heartbeat: (node: string) => connection.run(scripts.heartbeat, node, 60_000, 0, 1e9, 100, 100),
    removeNode: (node: string) => connection.run(scripts.removeNode, node),
    expireLease: (node: string) => redis.send("DEL", `${prefix}:lease:${node}`),
    /** A batch of one unnumbered message. */
    write: (node: string, batch: number) => {
      const message = ["lobby", "ann", "", "", "", `tbatch ${batch}`];
      return connection.run(scripts.append, node, batch, 5, 100, 0, 0, ...message);
    },
    countRecords: () => redis.send("XLEN", `${prefix}:log`),
  };
}

afterAll(() => connections.forEach((connection) => connection.close()));

test.skipIf(skipped !== "")(`a batch is written once, and never by a removed node${skipped}`, async () => {
  const { join, removeNode, expireLease, heartbeat, write, countRecords } = await connect("once");
  await join("node");
  expect([await write("node", 1), await write("node", 1)]).toEqual(["eviction due", "written before"]);
  await heartbeat("node"); // which finds much memory free
  expect([await write("node", 2), await write("node", 2)]).toEqual(["written", "written before"]);
  expect(await removeNode("node")).toBe(0); // it has a lease
  await expireLease("node");
  expect([await removeNode("node"), await removeNode("node")]).toEqual([1, 0]);
  expect([await write("node", 2), await write("node", 3)]).toEqual(["unknown node", "unknown node"]);
  expect(await countRecords()).toBe(3);
});

/** Options of commands, and an error. */
const OTHER_WORDS = ["COUNT", "LIMIT", "MAXLEN", "PX", "USAGE", "WITHSCORES", "WRONGTYPE", "XX"];

const LUA = "src/store/redis/lua";

function commandsIn(source: string): readonly string[] {
  const words = [...source.matchAll(/'([A-Z]{2,})'/g)].map(([, word = ""]) => word);
  return [...new Set(words)].filter((word) => !OTHER_WORDS.includes(word)).toSorted();
}

test("the heartbeat probes every command that the scripts use", () => {
  const others = readdirSync(LUA).filter((file) => file.endsWith(".lua") && file !== "probe.lua");
  const used = commandsIn(others.map((file) => readDoc(`${LUA}/${file}`)).join("\n"));
  expect(commandsIn(readDoc(`${LUA}/probe.lua`))).toEqual(used);
});

test.skipIf(skipped !== "")(
  `the probe has no effect, and names each command that Redis denies${skipped}`,
  async () => {
    await using redis = await Redis.start();
    const { join, write, heartbeat } = await connect("probe", redis);
    await join("node");
    const rejection = async () => {
      try {
        return parseHeartbeat(await heartbeat("node")).rejection;
      } catch (error) {
        return String(error);
      }
    };
    expect(await rejection()).toBe(""); // while there is no log yet
    await write("node", 1);
    expect(await rejection()).toBe("");
    const dump = async () => {
      await redis.send("HDEL", "probe:meta", "evict_at"); // which depends on the memory in use
      const keys = [await redis.send("KEYS", "*")].flat().map(String).toSorted();
      return Promise.all(keys.map(async (key) => [key, String(await redis.send("DUMP", key))]));
    };
    const before = await dump();
    for (const command of commandsIn(readDoc(`${LUA}/probe.lua`))) {
      await redis.send("ACL", "SETUSER", "default", `-${command}`);
      expect(await rejection()).toMatch(/ACL|NOPERM|can't run this command/);
      await redis.send("ACL", "SETUSER", "default", `+${command}`);
      expect(await rejection()).toBe("");
    }
    expect(await dump()).toEqual(before);
  },
);
