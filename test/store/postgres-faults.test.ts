/** Two nodes on a Postgres that is killed, frozen, cut off, restored or read-only, and nodes that die. */

import { $ } from "bun";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { SCHEMA_VERSION } from "../../src/store/postgres/schema.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import { eventually } from "../support/deadline.ts";
import "../support/fast-shared-log.ts";
import { joinEventually, losesNothing, membersOf, sees, send } from "../support/nodes.ts";
import type { JsonPeer } from "../support/peer.ts";
import { DURABLE, Postgres, skipped } from "../support/postgres.ts";
import { startServer, type TestServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const { leaseMs, writeDeadlineMs } = sharedLogTiming;

const startNode = (postgres: Postgres, ...args: string[]) =>
  startServer({
    store: { name: "Postgres", url: postgres.url("hubbub") },
    args,
    preload: "fast-shared-log.ts",
  });

/** With the default timing. */
const startSlowNode = (postgres: Postgres) =>
  startServer({ store: { name: "Postgres", url: postgres.url("hubbub") } });

interface Fault {
  readonly name: string;
  /** How long Postgres is away. */
  readonly ms: number;
  /** Longer than a message waits. */
  readonly isLong?: true;
  readonly begin: (postgres: Postgres) => Promise<unknown>;
  readonly end: (postgres: Postgres) => Promise<unknown>;
}

const FAULTS: readonly Fault[] = [
  {
    name: "is frozen for less than the write deadline",
    ms: 2500,
    begin: (postgres) => postgres.freeze(),
    end: (postgres) => postgres.thaw(),
  },
  {
    name: "is frozen for longer than the write deadline and the lease",
    ms: Math.max(writeDeadlineMs, leaseMs) + 500,
    isLong: true,
    begin: (postgres) => postgres.freeze(),
    end: (postgres) => postgres.thaw(),
  },
  {
    name: "is killed and restarted",
    ms: 1000,
    begin: (postgres) => postgres.kill(),
    end: (postgres) => postgres.start(),
  },
  {
    name: "loses its postmaster",
    ms: 1000,
    begin: (postgres) => postgres.killPostmaster(),
    end: (postgres) => postgres.start(),
  },
  {
    name: "is stopped by its administrator",
    ms: 1000,
    begin: (postgres) => postgres.stop(),
    end: (postgres) => postgres.start(),
  },
];

describe.skipIf(skipped !== "")(`when the Postgres of two nodes${skipped}`, () => {
  for (const { name, ms, isLong, begin, end } of FAULTS)
    test(`${name}, no client is disconnected, and no message is lost, duplicated or invented`, async () => {
      await using postgres = await Postgres.start({ settings: DURABLE });
      await using one = await startNode(postgres);
      await using other = await startNode(postgres);
      await losesNothing(one, other, {
        ms,
        isLong: isLong === true,
        begin: () => begin(postgres),
        end: () => end(postgres),
      });
    });

  test("terminates all connections again and again, no client is disconnected, and each message is stored once", async () => {
    await using postgres = await Postgres.start();
    await using one = await startSlowNode(postgres);
    await using other = await startSlowNode(postgres);
    await using ann = await one.joinJson("ann", { session: "a" });
    await using bob = await other.joinJson("bob", { session: "b" });
    const ROUNDS = 10;
    for (let seq = 1; seq <= ROUNDS; seq++) {
      const stored = [ann, bob].map((peer) =>
        eventually(async () => (await send(peer, seq)) === "ack", `message ${seq} is stored`, 180_000),
      );
      await postgres.terminateBackends();
      await Promise.all(stored);
    }
    expect(await one.texts("lobby", "?limit=1000")).toHaveLength(2 * ROUNDS);
    for (const node of [one, other]) {
      await node.stop("SIGTERM");
      expect(await node.errors).toBe("");
    }
  });

  test("has a backend that is frozen, whichever it is, messages go on, over a new connection", async () => {
    await using postgres = await Postgres.start();
    await using one = await startNode(postgres, "--log", "text");
    await using other = await startNode(postgres, "--log", "text");
    await using ann = await one.joinJson("ann", { session: "a" });
    await using bob = await other.joinJson("bob", { session: "b" });
    const backends = () =>
      postgres.query(
        "SELECT pid, query FROM pg_stat_activity WHERE application_name = 'hubbub' ORDER BY pid",
      );
    let seq = 0;
    const frozen: number[] = [];
    // One that is frozen in a transaction may hold the log's lock, without which nobody can write.
    const freezeIdle = async (pid: number) => {
      process.kill(pid, "SIGSTOP");
      const [backend] = await postgres.query(`SELECT state FROM pg_stat_activity WHERE pid = ${pid}`);
      if (backend?.state !== "active") return true;
      process.kill(pid, "SIGCONT");
      return false;
    };
    for (const { pid } of await backends()) {
      await eventually(() => freezeIdle(Number(pid)), `backend ${pid} is idle`);
      frozen.push(Number(pid));
      seq++;
      for (const peer of [ann, bob])
        await eventually(async () => (await send(peer, seq)) === "ack", `message ${seq} is stored`);
    }
    expect(frozen.length).toBeGreaterThanOrEqual(8);
    for (const pid of frozen) process.kill(pid, "SIGCONT");
    const expected = Array.from({ length: seq }, (_, i) => [`ann ${i + 1}`, `bob ${i + 1}`]).flat();
    expect((await one.texts("lobby", "?limit=1000")).toSorted()).toEqual(expected.toSorted());
    for (const node of [one, other]) {
      await node.becomesReady();
      await node.stop("SIGTERM");
      expect([await node.errors, await node.output]).toEqual([
        "",
        expect.stringContaining("no notifications"),
      ]);
    }
  });

  test("is restored from a backup, all clients reconnect, and learn what is missing", async () => {
    await using postgres = await Postgres.start({ settings: DURABLE });
    await using one = await startNode(postgres);
    await using other = await startNode(postgres);
    const ann = await one.joinJson("ann", { session: "a" });
    const bob = await other.joinJson("bob", { session: "b" });
    expect([await send(ann, 1), await send(bob, 1)]).toEqual(["ack", "ack"]);
    await postgres.stop();
    const [data, backup] = [join(postgres.folder, "data"), join(postgres.folder, "backup")];
    await $`cp -a ${data} ${backup}`;
    await postgres.start();
    for (const node of [one, other]) await node.becomesReady();
    for (const peer of [ann, bob]) {
      expect(await send(peer, 2)).toBe("ack");
      peer.says("end");
      while ((await peer.next()).text !== "end") continue;
    }
    await postgres.stop();
    await $`rm -r ${data} && mv ${backup} ${data}`;
    await postgres.start();
    const reconnect = async (node: TestServer, peer: JsonPeer, session: string) => {
      expect((await peer.peer.closes()).code).toBe(1012);
      return joinEventually(node, String(peer.welcome.client), { session, after: peer.after });
    };
    const [ann2, bob2] = await Promise.all([reconnect(one, ann, "a"), reconnect(other, bob, "b")]);
    for (const { welcome } of [ann2, bob2]) expect(welcome).toMatchObject({ recovered: false, sent: 1 });
    for (const node of [one, other]) await sees(node, "ann", "bob");
    expect([await send(ann2, 2), await send(bob2, 2)]).toEqual(["ack", "ack"]);
    for (const node of [one, other])
      expect((await node.texts()).toSorted()).toEqual(["ann 1", "ann 2", "bob 1", "bob 2"]);
  });

  test("becomes read-only, messages are rejected, and what is stored can be read", async () => {
    await using postgres = await Postgres.start();
    await using server = await startNode(postgres);
    await using ann = await server.joinJson("ann", { session: "a" });
    expect(await send(ann, 1)).toBe("ack");
    const setReadOnly = async (value: string) => {
      await postgres.query(`ALTER ROLE hubbub SET default_transaction_read_only = ${value}`);
      await postgres.terminateBackends();
    };
    await setReadOnly("on");
    await server.becomesUnready();
    expect(await send(ann, 2)).toBe("unavailable");
    expect(await server.texts()).toEqual(["ann 1"]);
    await postgres.query("BEGIN READ WRITE; ALTER ROLE hubbub RESET default_transaction_read_only; COMMIT");
    await server.becomesReady();
    expect(await send(ann, 2)).toBe("ack");
  });
});

describe.skipIf(skipped !== "")(`a node on Postgres${skipped}`, () => {
  test("that is killed: clients that do not reconnect are announced as left once", async () => {
    await using postgres = await Postgres.start();
    await using one = await startNode(postgres);
    await using third = await startNode(postgres);
    const other = await startNode(postgres);
    await using eve = await one.join("eve");
    await using zoe = await third.join("zoe");
    for (const id of ["ann", "bob", "carl"]) await other.join(id);
    for (const node of [one, third]) await sees(node, "ann", "bob", "carl", "eve", "zoe");
    await other.stop();
    await one.join("carl");
    for (const node of [one, third]) await sees(node, "carl", "eve", "zoe");
    const leaves = ["Client #ann left the chat", "Client #bob left the chat"];
    for (const witness of [eve, zoe]) {
      expect([await witness.next(), await witness.next()].toSorted()).toEqual(leaves);
      await witness.hearsNothing();
    }
    await other[Symbol.asyncDispose]();
  });

  test("that is frozen while the log is pruned has a gap: its clients resume without loss", async () => {
    await using postgres = await Postgres.start();
    await using one = await startNode(postgres);
    await using other = await startNode(postgres);
    await using ann = await one.joinJson("ann", { session: "a" });
    const bob = await other.joinJson("bob");
    for (const node of [one, other]) await sees(node, "ann", "bob");
    other.process.kill("SIGSTOP");
    // The first may already be in the frozen node's socket.
    for (let seq = 1; seq <= 5; seq++) expect(await send(ann, seq)).toBe("ack");
    await postgres.query("DELETE FROM hubbub.log WHERE id < (SELECT max(id) FROM hubbub.log)");
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
    await other.becomesReady(); // on a busy machine, the first heartbeat after the freeze may be late
    await resumed.hearsNothing();
  });

  test("whose lease expired, or that was removed, publishes its clients again", async () => {
    await using postgres = await Postgres.start();
    await using one = await startNode(postgres);
    await using eve = await one.join("eve");
    await using other = await startNode(postgres);
    await using bob = await other.join("bob");
    await sees(one, "bob", "eve");
    const nodeOf = async () =>
      (await postgres.query("SELECT node FROM hubbub.presence WHERE client = 'bob'"))[0]?.node;
    const before = await nodeOf();
    for (const isRemoved of [false, true]) {
      other.process.kill("SIGSTOP");
      const node = await nodeOf();
      await postgres.query(`DELETE FROM hubbub.leases WHERE node = '${node}'`);
      if (isRemoved) {
        const removed = await postgres.query(
          `SELECT hubbub.remove_node(${SCHEMA_VERSION}, '${node}', 1) AS is_removed`,
        );
        expect([node, removed]).toEqual([node, [{ is_removed: true }]]);
        await eve.hears("Client #bob left the chat");
      }
      await using third = await startNode(postgres);
      await third.join("zoe");
      expect(await membersOf(third)).toEqual(["eve", "zoe"]);
      other.process.kill("SIGCONT");
      await sees(third, "bob", "eve", "zoe");
      await sees(one, "bob", "eve", "zoe");
      await third.stop("SIGTERM");
    }
    expect(await nodeOf()).not.toBe(before);
    bob.says("still here");
    await bob.hears("You wrote: still here", "Client #bob says: still here");
    await eve.hearsUpTo("Client #bob says: still here");
  });

  test("removes a client's messages although its server is killed meanwhile: another one continues", async () => {
    await using postgres = await Postgres.start();
    await using one = await startNode(postgres);
    await using other = await startNode(postgres);
    await one.post("tea", { from: "ann", text: "secret" });
    const [{ from, id }] = JSON.parse((await one.answer("/rooms/tea/messages")).body).messages;
    expect(from).toBe("ann");
    // What a server writes first.
    await postgres.query(
      `SELECT hubbub.begin_erasure(${SCHEMA_VERSION}, 'tea', 'ann', 1); UPDATE hubbub.erasures SET step_time = 0`,
    );
    const messages = JSON.parse((await other.answer("/rooms/tea/messages")).body).messages;
    expect(messages).toMatchObject([{ id, removed: true }]);
    const erased = async () =>
      (await postgres.query("SELECT FROM hubbub.messages WHERE text = 'secret'")).length === 0;
    await eventually(erased, "it is erased");
  });
});
