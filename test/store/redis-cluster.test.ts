/** Several nodes that share a Redis have one order of messages and one presence, whatever fails. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { RedisConnection } from "../../src/store/redis/connection.ts";
import { scripts } from "../../src/store/redis/scripts.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import { systemClock } from "../../src/util/clock.ts";
import { eventually } from "../support/deadline.ts";
import "../support/fast-shared-log.ts";
import { joinEventually, losesNothing, membersOf, sees, send } from "../support/nodes.ts";
import type { JsonPeer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { DURABLE, Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(240_000);

const { leaseMs, heartbeatMs, writeDeadlineMs } = sharedLogTiming;

const startNode = (redis: Redis, prefix: string, ...args: string[]) =>
  startServer({ store: { name: "Redis", url: redis.url(prefix) }, args, preload: "fast-shared-log.ts" });

/** With the default timing. */
const startSlowNode = (redis: Redis, prefix: string, ...args: string[]) =>
  startServer({ store: { name: "Redis", url: redis.url(prefix) }, args });

/** `ms` is how long Redis is away. */
const FAULTS = [
  { name: "is frozen for less than the write deadline", ms: 1500, isLong: false, args: undefined },
  {
    name: "is frozen for longer than the write deadline and the lease",
    ms: Math.max(writeDeadlineMs, leaseMs) + 500,
    isLong: true,
    args: undefined,
  },
  { name: "is killed and restarted", ms: 1000, isLong: false, args: DURABLE },
];

describe.skipIf(skipped !== "")(`when the Redis of two nodes${skipped}`, () => {
  for (const { name, ms, isLong, args } of FAULTS)
    test.concurrent(
      `${name}, no client is disconnected, and no message is lost, duplicated or invented`,
      async () => {
        await using redis = await Redis.start(args);
        await using one = await startNode(redis, "p");
        await using other = await startNode(redis, "p");
        await losesNothing(one, other, {
          ms,
          isLong,
          begin: () => (args ? redis.stop() : redis.freeze()),
          end: () => (args ? redis.start() : redis.thaw()),
        });
      },
    );

  test.concurrent("cuts all connections again and again, nothing is noticed", async () => {
    await using redis = await Redis.start();
    await using one = await startSlowNode(redis, "p", "--log", "text");
    await using other = await startSlowNode(redis, "p", "--log", "text");
    await using ann = await one.joinJson("ann", { session: "a" });
    await using bob = await other.joinJson("bob", { session: "b" });
    for (let seq = 1; seq <= 20; seq++) {
      const results = Promise.all([send(ann, seq), send(bob, seq)]);
      await redis.send("CLIENT", "KILL", "TYPE", "normal");
      expect(await results).toEqual(["ack", "ack"]);
    }
    expect(await one.texts("lobby", "?limit=1000")).toHaveLength(40);
    for (const node of [one, other]) {
      await node.stop("SIGTERM");
      expect(await node.output).not.toContain("store ");
    }
  });

  test.concurrent("loses all data, all clients reconnect, and none is announced as left", async () => {
    await using redis = await Redis.start();
    await using one = await startNode(redis, "p");
    await using other = await startNode(redis, "p");
    const ann = await one.joinJson("ann", { session: "a" });
    const bob = await other.joinJson("bob", { session: "b" });
    for (const node of [one, other]) await sees(node, "ann", "bob");
    expect([await send(ann, 1), await send(bob, 1)]).toEqual(["ack", "ack"]);
    await redis.send("FLUSHALL");
    const reconnect = async (node: TestServer, peer: JsonPeer, session: string) => {
      expect((await peer.peer.closes()).code).toBe(1012);
      return joinEventually(node, String(peer.welcome.client), { session, after: peer.after });
    };
    const [ann2, bob2] = await Promise.all([reconnect(one, ann, "a"), reconnect(other, bob, "b")]);
    for (const { welcome } of [ann2, bob2]) expect(welcome).toMatchObject({ recovered: false, sent: null });
    await using eve = await one.join("eve");
    await using zoe = await other.join("zoe");
    for (const node of [one, other]) await sees(node, "ann", "bob", "eve", "zoe");
    expect([await send(ann2, 2), await send(bob2, 2)]).toEqual(["ack", "ack"]);
    await eve.hears("Client #ann says: ann 2", "Client #bob says: bob 2");
    await zoe.hears("Client #ann says: ann 2", "Client #bob says: bob 2");
    for (const peer of [ann2, bob2]) {
      peer.sends({ type: "ping" });
      while ((await peer.next()).type !== "pong"); // all messages have arrived; presence is sent separately
      const joined: unknown[] = [];
      while (!["eve", "zoe"].every((id) => joined.includes(id))) {
        const event = await peer.nextPresence();
        expect(event.left).toEqual([]);
        joined.push(...[event.joined].flat());
      }
    }
  });
});

describe.skipIf(skipped !== "")(`a node${skipped}`, () => {
  test.concurrent(
    "that is frozen while the log is trimmed has a gap: its clients resume without loss",
    async () => {
      await using redis = await Redis.start();
      await using one = await startNode(redis, "p");
      await using other = await startNode(redis, "p");
      await using ann = await one.joinJson("ann", { session: "a" });
      const bob = await other.joinJson("bob");
      for (const node of [one, other]) await sees(node, "ann", "bob");
      other.process.kill("SIGSTOP");
      // The first may already be in the frozen node's socket.
      for (let seq = 1; seq <= 5; seq++) expect(await send(ann, seq)).toBe("ack");
      await redis.send("XTRIM", "p:log", "MAXLEN", "1"); // but not the last record, which is yet to be applied
      expect(await send(ann, 6)).toBe("ack");
      other.process.kill("SIGCONT");
      expect((await bob.peer.closes()).code).toBe(1012);
      const received = bob.peer
        .unread()
        .map((message) => JSON.parse(String(message)))
        .filter(({ type }) => type === "message");
      const after = String(received.at(-1)?.id ?? bob.after);
      await using resumed = await joinEventually(other, "bob", { after });
      expect(resumed.welcome).toMatchObject({ recovered: true, last: after });
      for (let i = received.length + 1; i <= 6; i++)
        await resumed.hears({ type: "message", from: "ann", text: `ann ${i}` });
      await resumed.hearsNothing();
      expect(received.map(({ text }) => text)).toEqual(["ann 1"].slice(0, received.length));
    },
  );

  test.concurrent(
    "that is killed: clients that do not reconnect are announced as left once by each other node",
    async () => {
      const redis = await sharedRedis();
      await using one = await startNode(redis, "killed");
      await using third = await startNode(redis, "killed");
      const other = await startNode(redis, "killed");
      await using eve = await one.join("eve");
      await using zoe = await third.join("zoe");
      for (const id of ["ann", "bob", "carl", "dora", "emma"]) await other.join(id);
      for (const node of [one, third]) await sees(node, "ann", "bob", "carl", "dora", "emma", "eve", "zoe");
      await other.stop();
      await one.join("carl");
      await third.join("dora");
      const leases = async () => Object(await redis.send("KEYS", "killed:lease:*")).length;
      await eventually(async () => (await leases()) === 2, "the lease has expired");
      await Bun.sleep(2 * heartbeatMs); // the others know that by now, and the grace period lasts
      await one.join("emma");
      for (const node of [one, third]) await sees(node, "carl", "dora", "emma", "eve", "zoe");
      const leaves = ["Client #ann left the chat", "Client #bob left the chat"];
      for (const witness of [eve, zoe]) {
        expect([await witness.next(), await witness.next()].toSorted()).toEqual(leaves);
        await witness.hearsNothing();
      }
      await other[Symbol.asyncDispose]();
    },
  );

  test.concurrent(
    "that shuts down: clients that reconnect elsewhere have not left, those that do not have",
    async () => {
      const redis = await sharedRedis();
      await using one = await startNode(redis, "stopped");
      await using other = await startNode(redis, "stopped", "--drain-seconds", "1");
      await using eve = await one.join("eve");
      const ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
      const peers = await Promise.all(ids.map((id) => other.joinJson(id)));
      const lost = await other.join("ann");
      await sees(one, ...ids, "ann", "eve");
      other.process.kill("SIGTERM");
      const reconnected = peers.map(async (peer, i) => {
        expect((await peer.peer.closes()).code).toBe(1012);
        return one.join(ids[i] ?? "");
      });
      await Promise.all(reconnected);
      expect((await lost.closes()).code).toBe(1012);
      expect(await other.process.exited).toBe(0);
      expect(await redis.send("KEYS", "stopped:lease:*")).toHaveLength(1); // it has given up its lease
      await sees(one, ...ids, "eve");
      await eve.hears("Client #ann left the chat");
      await eve.hearsNothing();
    },
  );

  test.concurrent("that is frozen for less than its lease: no client is announced as left", async () => {
    const redis = await sharedRedis();
    await using one = await startNode(redis, "asleep");
    await using other = await startNode(redis, "asleep");
    await using eve = await one.join("eve");
    await using bob = await other.join("bob");
    for (const node of [one, other]) await sees(node, "bob", "eve");
    other.process.kill("SIGSTOP");
    await Bun.sleep(leaseMs - 2 * heartbeatMs); // the duration is what is tested
    eve.says("are you there?");
    await eve.hears("You wrote: are you there?", "Client #eve says: are you there?");
    other.process.kill("SIGCONT");
    await bob.hears("Client #eve says: are you there?");
    bob.says("yes");
    await bob.hears("You wrote: yes", "Client #bob says: yes");
    await eve.hears("Client #bob says: yes");
    await eve.hearsNothing();
    for (const node of [one, other]) expect(await membersOf(node)).toEqual(["bob", "eve"]);
  });

  test.concurrent("whose clients join while Redis rejects writes publishes them later", async () => {
    await using redis = await Redis.start();
    await using one = await startNode(redis, "p");
    await using other = await startNode(redis, "p");
    await using eve = await one.join("eve");
    await sees(other, "eve");
    await redis.send("CONFIG", "SET", "min-replicas-to-write", "1");
    await using bob = await other.join("bob");
    bob.says("hi");
    await bob.hears("Not sent (unavailable): hi");
    await redis.send("CONFIG", "SET", "min-replicas-to-write", "0");
    await sees(one, "bob", "eve");
    await one.becomesReady(); // its own heartbeat may have been rejected, too
    await eve.hearsNothing();
  });

  test.concurrent("whose lease expired, or that was removed, publishes its clients again", async () => {
    await using redis = await Redis.start();
    await using one = await startNode(redis, "p");
    await using eve = await one.join("eve");
    const others = String(await redis.send("HKEYS", "p:nodes"));
    await using other = await startNode(redis, "p");
    await using bob = await other.join("bob");
    await sees(one, "bob", "eve");
    const nodeOf = async () =>
      [await redis.send("HKEYS", "p:nodes")]
        .flat()
        .map(String)
        .find((node) => !others.includes(node));
    const node = await nodeOf();
    const connection = new RedisConnection(`redis://127.0.0.1:${redis.port}`, "p:", systemClock);
    for (const isRemoved of [false, true]) {
      other.process.kill("SIGSTOP");
      await redis.send("DEL", `p:lease:${await nodeOf()}`);
      if (isRemoved) {
        expect(await connection.run(scripts.removeNode, String(await nodeOf()))).toBe(1);
        await eve.hears("Client #bob left the chat");
      }
      await using third = await startNode(redis, "p");
      await third.join("zoe");
      expect(await membersOf(third)).toEqual(["eve", "zoe"]);
      other.process.kill("SIGCONT");
      await sees(third, "bob", "eve", "zoe");
      await sees(one, "bob", "eve", "zoe");
      await third.stop("SIGTERM");
    }
    connection.close();
    expect(await nodeOf()).not.toBe(node);
    bob.says("still here");
    await bob.hears("You wrote: still here", "Client #bob says: still here");
    await eve.hearsUpTo("Client #bob says: still here");
  });

  test.concurrent("whose log has a gap joins again under a new id", async () => {
    await using redis = await Redis.start();
    await using server = await startNode(redis, "p");
    await using ann = await server.joinJson("ann");
    const nodes = async () => [await redis.send("HKEYS", "p:nodes")].flat();
    const [node] = await nodes();
    await eventually(
      async () => (await redis.send("HLEN", `p:presence:${node}:lobby`)) === 1,
      "ann is in Redis",
    );
    // As in an old snapshot, with a client that has left since.
    await redis.send("HSET", `p:presence:${node}:lobby`, "ghost", "1");
    const head = String(await redis.send("HGET", "p:meta", "head"));
    const epoch = String(await redis.send("HGET", "p:meta", "epoch"));
    const id = head.replace(/\d+$/, (sequence) => `${Number(sequence) + 10}`);
    // One step, because a heartbeat in between would take the head for lost.
    const write = `
      redis.call('XADD', 'p:log', ARGV[1], 'h', '- 0 ' .. ARGV[2] .. ' 0 1', 'd', 'nobody')
      redis.call('HSET', 'p:meta', 'head', ARGV[1])`;
    await redis.send("EVAL", write, "0", id, epoch);
    expect((await ann.peer.closes()).code).toBe(1012);
    await eventually(async () => (await nodes()).length === 2, "it has a new id");
    await using resumed = await joinEventually(server, "ann");
    resumed.says("here");
    await resumed.hears({ type: "message", from: "ann", text: "here" });
    const [newer] = (await nodes()).filter((each) => each !== node);
    expect(await redis.send("HKEYS", `p:presence:${newer}:lobby`)).toEqual(["ann"]);
  });

  test.concurrent("lists the members of a room that is open only on another node", async () => {
    const redis = await sharedRedis();
    await using one = await startNode(redis, "elsewhere");
    await using other = await startNode(redis, "elsewhere");
    const ann = await other.join("ann", { room: "tea" });
    await other.join("bob", { room: "tea" });
    await eventually(async () => (await membersOf(one, "tea")).length === 2, "both are members");
    expect(await membersOf(one, "tea")).toEqual(["ann", "bob"]);
    await ann.leaves();
    await eventually(async () => (await membersOf(one, "tea")).length === 1, "one has left");
    expect(await membersOf(one, "tea")).toEqual(["bob"]);
    expect(await membersOf(one, "coffee")).toEqual([]);
  });
});
