/** The scripts by themselves: a batch is written once, and a removed node writes no more. */

import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { RedisConnection } from "../../src/store/redis/connection.ts";
import { scripts } from "../../src/store/redis/scripts.ts";
import { redisTiming } from "../../src/store/redis/timing.ts";
import { systemClock } from "../../src/util/clock.ts";
import { sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(60_000);

const connections: RedisConnection[] = [];

async function connect(prefix: string) {
  const redis = await sharedRedis();
  const connection = new RedisConnection(
    `redis://127.0.0.1:${redis.port}`,
    `${prefix}:`,
    redisTiming,
    systemClock,
  );
  connections.push(connection);
  return {
    join: (node: string) => connection.run(scripts.join, node, 60_000, 5),
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
  const { join, removeNode, expireLease, write, countRecords } = await connect("once");
  await join("node");
  expect([await write("node", 1), await write("node", 1)]).toEqual(["written", "written before"]);
  expect(await removeNode("node")).toBe(0); // it has a lease
  await expireLease("node");
  expect([await removeNode("node"), await removeNode("node")]).toEqual([1, 0]);
  expect([await write("node", 1), await write("node", 2)]).toEqual(["unknown node", "unknown node"]);
  expect(await countRecords()).toBe(2);
});
