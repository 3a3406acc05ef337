/** Several nodes with one Redis: one conversation, whatever happens to either. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { RedisConnection } from "../../src/store/redis/connection.ts";
import { scripts } from "../../src/store/redis/scripts.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import type { JsonPeer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { DURABLE, Redis, sharedRedis, skipped } from "../support/redis.ts";

setDefaultTimeout(60_000);

/** Longer than a dead node takes to be noticed. */
const PATIENCE_MS = 30_000;
/** After a fault, until messages are kept again. */
const HEALED_MS = 3000;

const startNode = (redis: Redis, prefix: string, ...args: string[]) =>
  startServer({ store: { name: "Redis", url: redis.url(prefix) }, args });

const isReady = async (node: TestServer) => (await node.get("/readyz")).status === 200;

async function membersOf(node: TestServer, room = "lobby"): Promise<string[]> {
  const { members } = JSON.parse((await node.answer(`/rooms/${room}/members`)).body);
  return members.toSorted();
}

const sees = (node: TestServer, ...members: string[]) =>
  eventually(
    async () => Bun.deepEquals(await membersOf(node), members.toSorted()),
    `${members.join(" and ")} are there`,
    PATIENCE_MS,
  );

async function textsOf(node: TestServer): Promise<string[]> {
  const { body } = await node.answer("/rooms/lobby/messages?limit=1000");
  return JSON.parse(body).messages.map(({ text }: { text: string }) => text);
}

/** What becomes of a numbered message: what its sender is told first, of whatever else is said. */
async function says(peer: JsonPeer, seq: number, text = `${peer.welcome.client} ${seq}`): Promise<unknown> {
  peer.says(text, { seq });
  return answer(peer, seq);
}

async function answer(peer: JsonPeer, seq: number): Promise<unknown> {
  for (;;) {
    const { type, code, seq: which } = await peer.next(`expected an answer to ${seq}`);
    if (which === seq) return type === "ack" ? "ack" : code;
  }
}

/** Comes in as soon as that works. */
async function comes(
  node: TestServer,
  id: string,
  query: Record<string, string | number> = {},
): Promise<JsonPeer> {
  const end = performance.now() + PATIENCE_MS;
  for (;;)
    try {
      return await node.joinJson(id, query);
    } catch (error) {
      if (performance.now() > end) throw error;
      await Bun.sleep(20);
    }
}

/** Faults of Redis itself; for so long it is away. */
const FAULTS = [
  { name: "frozen for 3 s", ms: 3000, isLong: false, args: undefined },
  { name: "frozen for 10 s", ms: 10_000, isLong: true, args: undefined },
  { name: "killed, and started again after 3 s", ms: 3000, isLong: false, args: DURABLE },
] as const;

describe.skipIf(skipped !== "")(`two nodes and a Redis${skipped}`, () => {
  for (const { name, ms, isLong, args } of FAULTS)
    test.concurrent(
      `that is ${name}: nobody is disconnected, nothing is lost, repeated or made up`,
      async () => {
        await using redis = await Redis.start(args);
        await using one = await startNode(redis, "p");
        await using other = await startNode(redis, "p");
        await using ann = await one.joinJson("ann", { session: "a" });
        await using bob = await other.joinJson("bob", { session: "b" });
        await using eve = await one.join("eve");
        await using zoe = await other.join("zoe");
        for (const node of [one, other]) await sees(node, "ann", "bob", "eve", "zoe");
        expect([await says(ann, 1), await says(bob, 1)]).toEqual(["ack", "ack"]);

        if (args) await redis.stop();
        else redis.freeze();
        const away = Bun.sleep(ms); // how long the fault lasts is what is tested
        for (const peer of [ann, bob]) peer.says(`${peer.welcome.client} 2`, { seq: 2 });
        for (const node of [one, other]) await eventually(async () => !(await isReady(node)), "it notices");
        for (const peer of [ann, bob]) expect(await says(peer, 3)).toBe("unavailable");
        if (isLong) for (const peer of [ann, bob]) expect(await answer(peer, 2)).toBe("unconfirmed");
        await away;
        if (args) await redis.start();
        else redis.thaw();

        const healed = (async () => {
          for (const node of [one, other]) await eventually(() => isReady(node), "it is ready");
          for (const peer of [ann, bob]) {
            if (isLong) expect(await says(peer, 2)).toBe("ack");
            expect(await says(peer, 3)).toBe("ack");
          }
        })();
        await withDeadline(healed, () => "no message is kept after the fault", HEALED_MS);
        for (const peer of [ann, bob]) expect(await says(peer, 2)).toBe("ack");
        const texts = await textsOf(one);
        expect(texts.toSorted()).toEqual(["ann 1", "ann 2", "ann 3", "bob 1", "bob 2", "bob 3"]);
        // Everyone has heard the same, and of nobody's leaving.
        for (const peer of [eve, zoe]) {
          peer.says("end");
          await peer.hears(...texts.map((text) => `Client #${text.slice(0, 3)} says: ${text}`));
          await peer.hearsUpTo(`Client #${peer === eve ? "eve" : "zoe"} says: end`);
        }
        for (const node of [one, other]) expect(await membersOf(node)).toEqual(["ann", "bob", "eve", "zoe"]);
      },
    );

  test.concurrent("that cuts all connections again and again: nobody notices", async () => {
    await using redis = await Redis.start();
    await using one = await startNode(redis, "p", "--log", "text");
    await using other = await startNode(redis, "p", "--log", "text");
    await using ann = await one.joinJson("ann", { session: "a" });
    await using bob = await other.joinJson("bob", { session: "b" });
    for (let seq = 1; seq <= 20; seq++) {
      const said = Promise.all([says(ann, seq), says(bob, seq)]);
      await redis.send("CLIENT", "KILL", "TYPE", "normal");
      expect(await said).toEqual(["ack", "ack"]);
    }
    expect(await textsOf(one)).toHaveLength(40);
    for (const node of [one, other]) {
      await node.stop("SIGTERM");
      expect(await node.output).not.toContain("store ");
    }
  });

  test.concurrent("that has lost everything: all come again, and nobody is said to have left", async () => {
    await using redis = await Redis.start();
    await using one = await startNode(redis, "p");
    await using other = await startNode(redis, "p");
    const ann = await one.joinJson("ann", { session: "a" });
    const bob = await other.joinJson("bob", { session: "b" });
    for (const node of [one, other]) await sees(node, "ann", "bob");
    expect([await says(ann, 1), await says(bob, 1)]).toEqual(["ack", "ack"]);
    await redis.send("FLUSHALL");
    const back = async (node: TestServer, peer: JsonPeer, session: string) => {
      expect((await peer.peer.closes()).code).toBe(1012);
      return comes(node, String(peer.welcome.client), { session, after: peer.after });
    };
    const [ann2, bob2] = await Promise.all([back(one, ann, "a"), back(other, bob, "b")]);
    for (const { welcome } of [ann2, bob2]) expect(welcome).toMatchObject({ recovered: false, sent: null });
    await using eve = await one.join("eve");
    await using zoe = await other.join("zoe");
    for (const node of [one, other]) await sees(node, "ann", "bob", "eve", "zoe");
    expect([await says(ann2, 2), await says(bob2, 2)]).toEqual(["ack", "ack"]);
    await eve.hears("Client #ann says: ann 2", "Client #bob says: bob 2");
    await zoe.hears("Client #ann says: ann 2", "Client #bob says: bob 2");
    for (const peer of [ann2, bob2]) {
      peer.sends({ type: "ping" });
      while ((await peer.next()).type !== "pong"); // what was said has been heard; presence comes on its own
      const joined: unknown[] = [];
      while (!["eve", "zoe"].every((id) => joined.includes(id))) {
        const event = await peer.nextPresence();
        expect(event.left).toEqual([]);
        joined.push(...[event.joined].flat());
      }
    }
  });
});

describe.skipIf(skipped !== "")(`one node of several${skipped}`, () => {
  test.concurrent(
    "that slept while the log was cut: its clients resume, and have missed nothing",
    async () => {
      await using redis = await Redis.start();
      await using one = await startNode(redis, "p");
      await using other = await startNode(redis, "p");
      await using ann = await one.joinJson("ann", { session: "a" });
      const bob = await other.joinJson("bob");
      for (const node of [one, other]) await sees(node, "ann", "bob");
      other.process.kill("SIGSTOP");
      // The first may be on its way to the sleeper already.
      for (let seq = 1; seq <= 5; seq++) expect(await says(ann, seq)).toBe("ack");
      await redis.send("XTRIM", "p:log", "MAXLEN", "1"); // from the last one more is to follow
      expect(await says(ann, 6)).toBe("ack");
      other.process.kill("SIGCONT");
      expect((await bob.peer.closes()).code).toBe(1012);
      const heard = bob.peer
        .unread()
        .map((message) => JSON.parse(String(message)))
        .filter(({ type }) => type === "message");
      const after = String(heard.at(-1)?.id ?? bob.after);
      await using again = await comes(other, "bob", { after });
      expect(again.welcome).toMatchObject({ recovered: true, last: after });
      for (let i = heard.length + 1; i <= 6; i++)
        await again.hears({ type: "message", from: "ann", text: `ann ${i}` });
      await again.hearsNothing();
      expect(heard.map(({ text }) => text)).toEqual(["ann 1"].slice(0, heard.length));
    },
  );

  test.concurrent(
    "that is killed: those who do not come back have left, once, for each other node",
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
      const alive = async () => Object(await redis.send("KEYS", "killed:lease:*")).length;
      await eventually(async () => (await alive()) === 2, "the node is no longer taken for alive", 15_000);
      await Bun.sleep(4000); // the others have looked twice by now, and still give its clients time
      await one.join("emma");
      for (const node of [one, third]) await sees(node, "carl", "dora", "emma", "eve", "zoe");
      const gone = ["Client #ann left the chat", "Client #bob left the chat"];
      for (const witness of [eve, zoe]) {
        expect([await witness.next(), await witness.next()].toSorted()).toEqual(gone);
        await witness.hearsNothing();
      }
      await other[Symbol.asyncDispose]();
    },
  );

  test.concurrent(
    "that is stopped: who comes back by another one has not left, and who does not has",
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
      const back = peers.map(async (peer, i) => {
        expect((await peer.peer.closes()).code).toBe(1012);
        return one.join(ids[i] ?? "");
      });
      await Promise.all(back);
      expect((await lost.closes()).code).toBe(1012);
      expect(await other.process.exited).toBe(0);
      expect(await redis.send("KEYS", "stopped:lease:*")).toHaveLength(1); // it need not be missed first
      await sees(one, ...ids, "eve");
      await eve.hears("Client #ann left the chat");
      await eve.hearsNothing();
    },
  );

  test.concurrent("that sleeps for 5 s: nobody is said to have left", async () => {
    const redis = await sharedRedis();
    await using one = await startNode(redis, "asleep");
    await using other = await startNode(redis, "asleep");
    await using eve = await one.join("eve");
    await using bob = await other.join("bob");
    for (const node of [one, other]) await sees(node, "bob", "eve");
    other.process.kill("SIGSTOP");
    await Bun.sleep(5000); // how long it sleeps is what is tested
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

  test.concurrent(
    "whose clients come while Redis takes nothing: the others learn of them later",
    async () => {
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
      await eve.hearsNothing();
    },
  );

  test.concurrent("that was taken for dead, or nearly, tells again who is with it", async () => {
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
    const line = new RedisConnection(`redis://127.0.0.1:${redis.port}`, "p:");
    for (const isBuried of [false, true]) {
      other.process.kill("SIGSTOP");
      await redis.send("DEL", `p:lease:${await nodeOf()}`);
      if (isBuried) {
        expect(await line.run(scripts.removeNode, String(await nodeOf()))).toBe(1);
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
    line.close();
    expect(await nodeOf()).not.toBe(node);
    bob.says("still here");
    await bob.hears("You wrote: still here", "Client #bob says: still here");
    await eve.hearsUpTo("Client #bob says: still here");
  });

  test.concurrent("that cannot tell what it missed is another one from then on", async () => {
    await using redis = await Redis.start();
    await using server = await startNode(redis, "p");
    await using ann = await server.joinJson("ann");
    const nodes = async () => [await redis.send("HKEYS", "p:nodes")].flat();
    const [node] = await nodes();
    await eventually(
      async () => (await redis.send("HLEN", `p:presence:${node}:lobby`)) === 1,
      "ann is in Redis",
    );
    // As in an old snapshot, with somebody who has left since.
    await redis.send("HSET", `p:presence:${node}:lobby`, "ghost", "1");
    const [top, head] = [
      await redis.send("HGET", "p:meta", "head"),
      await redis.send("HGET", "p:meta", "epoch"),
    ];
    const id = String(top).replace(/\d+$/, (sequence) => `${Number(sequence) + 10}`);
    await redis.send("XADD", "p:log", id, "h", `- 0 ${head} 0 ${Date.now()}`, "d", "nobody");
    await redis.send("HSET", "p:meta", "head", id);
    expect((await ann.peer.closes()).code).toBe(1012);
    await eventually(async () => (await nodes()).length === 2, "it is another one");
    await using again = await comes(server, "ann");
    again.says("here");
    await again.hears({ type: "message", from: "ann", text: "here" });
    const [newer] = (await nodes()).filter((each) => each !== node);
    expect(await redis.send("HKEYS", `p:presence:${newer}:lobby`)).toEqual(["ann"]);
  });

  test.concurrent("tells who is in a room that is open only with another", async () => {
    const redis = await sharedRedis();
    await using one = await startNode(redis, "elsewhere");
    await using other = await startNode(redis, "elsewhere");
    const ann = await other.join("ann", { room: "tea" });
    await other.join("bob", { room: "tea" });
    await eventually(async () => (await membersOf(one, "tea")).length === 2, "both are there");
    expect(await membersOf(one, "tea")).toEqual(["ann", "bob"]);
    await ann.leaves();
    await eventually(async () => (await membersOf(one, "tea")).length === 1, "one has gone");
    expect(await membersOf(one, "tea")).toEqual(["bob"]);
    expect(await membersOf(one, "coffee")).toEqual([]);
  });
});
