/** What happens inside Redis, script by script: what a node may do that was taken for dead, and what is done once. */

import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { RedisConnection } from "../../src/store/redis/connection.ts";
import { scripts } from "../../src/store/redis/scripts.ts";
import { sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(60_000);

const lines: RedisConnection[] = [];

async function connect(prefix: string) {
  const redis = await sharedRedis();
  const line = new RedisConnection(`redis://127.0.0.1:${redis.port}`, `${prefix}:`);
  lines.push(line);
  return {
    line,
    records: () => redis.send("XLEN", `${prefix}:log`),
    dies: (node: string) => redis.send("DEL", `${prefix}:lease:${node}`),
    /** A batch of one message without a number. */
    write: (node: string, batch: number) =>
      line.run(scripts.append, node, batch, 5, 100, 0, 0, "lobby", "ann", "", "", "", `tbatch ${batch}`),
  };
}

afterAll(() => lines.forEach((line) => line.close()));

test.skipIf(skipped !== "")(
  `a batch is written once, also by a node that has been taken for dead${skipped}`,
  async () => {
    const { line, write, records, dies } = await connect("once");
    await line.run(scripts.join, "node", 60_000, 5);
    expect([await write("node", 1), await write("node", 1)]).toEqual(["written", "written before"]);
    expect(await line.run(scripts.removeNode, "node")).toBe(0); // it is alive
    await dies("node");
    expect([await line.run(scripts.removeNode, "node"), await line.run(scripts.removeNode, "node")]).toEqual([
      1, 0,
    ]);
    expect([await write("node", 1), await write("node", 2)]).toEqual(["unknown node", "unknown node"]);
    expect(await records()).toBe(2);
  },
);
