/** What happens inside Redis, script by script: what a node may do that was taken for dead, and what is done once. */

import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { RedisLine } from "../../src/store/redis/connection.ts";
import { bury, register } from "../../src/store/redis/node-scripts.ts";
import { write } from "../../src/store/redis/scripts.ts";
import { sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(60_000);

const lines: RedisLine[] = [];

async function connect(prefix: string) {
  const redis = await sharedRedis();
  const line = new RedisLine(`redis://127.0.0.1:${redis.port}`, `${prefix}:`);
  lines.push(line);
  return {
    line,
    records: () => redis.send("XLEN", `${prefix}:log`),
    dies: (node: string) => redis.send("DEL", `${prefix}:alive:${node}`),
    /** A batch of one message without a number. */
    write: (node: string, batch: number) =>
      line.run(write, node, batch, 5, 100, 0, 0, "lobby", "ann", "", "", "", `tbatch ${batch}`),
  };
}

afterAll(() => lines.forEach((line) => line.end()));

test.skipIf(skipped !== "")(
  `a batch is written once, also by a node that has been taken for dead${skipped}`,
  async () => {
    const { line, write, records, dies } = await connect("once");
    await line.run(register, "node", 60_000, 5);
    expect([await write("node", 1), await write("node", 1)]).toEqual(["written", "written before"]);
    expect(await line.run(bury, "node")).toBe(0); // it is alive
    await dies("node");
    expect([await line.run(bury, "node"), await line.run(bury, "node")]).toEqual([1, 0]);
    expect([await write("node", 1), await write("node", 2)]).toEqual(["unknown node", "unknown node"]);
    expect(await records()).toBe(2);
  },
);
