/** The shared log in Postgres, without servers: its order, contents, removals, pruning, and what every node sees of them. */

import { SQL } from "bun";
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { parsePostgresUrl } from "../../src/store/postgres/config.ts";
import { PostgresEngine } from "../../src/store/postgres/engine.ts";
import { SCHEMA_VERSION } from "../../src/store/postgres/schema.ts";
import type { LogRecord } from "../../src/store/shared-log/log-record.ts";
import type { Content } from "../../src/protocol/codec.ts";
import { isMessage, type PendingMessage } from "../../src/store/message.ts";
import { systemClock as clock } from "../../src/util/clock.ts";
import { systemRandom as random } from "../../src/util/random.ts";
import { eventually } from "../support/deadline.ts";
import { sharedPostgres, skipped } from "../support/postgres.ts";

setDefaultTimeout(240_000);

const DAY_MS = 24 * 60 * 60 * 1000;
const LEASE_MS = 60_000;

const engines: PostgresEngine[] = [];
afterEach(() => {
  for (const engine of engines.splice(0)) engine.close();
});

let schemas = 0;
const newSchema = () => `engine_${process.pid}_${schemas++}`;

async function openEngine(schema: string, keepDays = 0): Promise<PostgresEngine> {
  const config = parsePostgresUrl(new URL((await sharedPostgres()).url(schema)));
  if (!config) throw new Error("the URL is invalid");
  const engine = new PostgresEngine(
    config,
    { history: 100, keepDays },
    { clock, random, timing: { leaseMs: LEASE_MS } },
  );
  engines.push(engine);
  await engine.open();
  return engine;
}

/** A node, and the head of the log when it joined. */
async function joined(schema: string, node = "one", keepDays = 0) {
  const engine = await openEngine(schema, keepDays);
  const { head } = await engine.join(node);
  let number = 0;
  const write = (...messages: readonly PendingMessage[]) =>
    engine.append({
      node,
      number: ++number,
      updates: [],
      messages: messages.map((pending) => ({ pending })),
    });
  return { engine, head, write };
}

const message = (content: Content, more: Partial<PendingMessage> = {}): PendingMessage => ({
  room: "tea",
  from: "ann",
  content,
  session: undefined,
  seq: undefined,
  requiresSeq: undefined,
  ...more,
});

/** Reads the log up to its head. */
async function readAll(engine: PostgresEngine, from: string): Promise<LogRecord[]> {
  const records: LogRecord[] = [];
  for (let position = from; ;) {
    const page = await engine.readLog(position, 0);
    if (page.records.length === 0) return records;
    records.push(...page.records);
    position = page.position;
  }
}

const storedIn = (records: readonly LogRecord[]) =>
  records.flatMap(({ parts }) =>
    parts.flatMap((part) => (part.kind === "result" && "stored" in part.result ? [part.result.stored] : [])),
  );

const contentsOf = async (engine: PostgresEngine, room = "tea") =>
  (await engine.readHistory(room, { limit: 1000 })).entries.filter(isMessage).map(({ content }) => content);

const sql = async (statement: string) => (await sharedPostgres()).query(statement);

describe.skipIf(skipped !== "")(`the log in Postgres${skipped}`, () => {
  test("while several nodes write, each reads all records once and in one order", async () => {
    const schema = newSchema();
    const nodes = await Promise.all(["one", "two", "three"].map((node) => joined(schema, node)));
    const BATCHES = 60;
    const reading = nodes.map(async ({ engine }) => {
      const records: LogRecord[] = [];
      let position = nodes[0]?.head ?? "";
      while (records.length < nodes.length * BATCHES) {
        const page = await engine.readLog(position, 1000);
        position = page.position;
        records.push(...page.records);
      }
      return records;
    });
    const writing = nodes.map(async ({ write }, i) => {
      for (let n = 0; n < BATCHES; n++)
        expect(await write(message(`${i} ${n}`), message(`${i} ${n}`, { room: `room ${i}` }))).toBe(
          "written",
        );
    });
    await Promise.all(writing);
    const [one = [], ...others] = await Promise.all(reading);
    for (const other of others) expect(other).toEqual(one);
    let { head } = nodes[0] ?? { head: "" };
    for (const { id, prev } of one) {
      expect(prev).toBe(head);
      head = id;
    }
    const inTea = storedIn(one).filter(({ room }) => room === "tea");
    expect(inTea.length).toBe(nodes.length * BATCHES);
    expect(inTea.slice(1).map(({ prev }) => prev)).toEqual(inTea.slice(0, -1).map(({ id }) => id));
    for (const i of nodes.keys())
      expect(inTea.map(({ content }) => content).filter((text) => String(text).startsWith(`${i} `))).toEqual(
        Array.from({ length: BATCHES }, (_, n) => `${i} ${n}`),
      );
  });

  test("a batch takes effect once; duplicates and messages out of order are results of it", async () => {
    const { engine, head } = await joined(newSchema());
    const numbered = (seq: number, requiresSeq?: number) =>
      message(`${seq}`, { session: "s", seq, requiresSeq });
    const messages = [
      numbered(1),
      numbered(2, 1),
      numbered(1),
      numbered(2),
      message("plain"),
      numbered(9, 7),
      numbered(3, 2),
    ];
    const batch = { node: "one", number: 5, updates: [], messages: messages.map((pending) => ({ pending })) };
    expect(await engine.append(batch)).toBe("written");
    expect(await engine.append(batch)).toBe("written before");
    expect(await engine.append({ ...batch, number: 4 })).toBe("written before");
    expect(await engine.append({ ...batch, node: "other" })).toBe("unknown node");
    const records = await readAll(engine, head);
    const [, second, , third] = storedIn(records);
    const results = [
      { stored: { content: "1" } },
      { stored: { content: "2" } },
      { duplicateSeq: 1 },
      { duplicateSeq: 2, id: second?.id },
      { stored: { content: "plain" } },
      { rejected: "out-of-order" },
      { stored: { content: "3" } },
    ];
    expect(records).toMatchObject([
      { batch: 5, node: "one", parts: results.map((result) => ({ kind: "result", result })) },
    ]);
    expect(await engine.lastSeq("ann", "s")).toBe(3);
    expect(await engine.lastSeq("ann", "t")).toBeNull();
    expect(await engine.append({ ...batch, number: 6, messages: [{ pending: numbered(3) }] })).toBe(
      "written",
    );
    const [last] = (await readAll(engine, records[0]?.id ?? "")).flatMap(({ parts }) => parts);
    expect(last).toEqual({ kind: "result", result: { duplicateSeq: 3, id: third?.id ?? "" } });
  });

  test("a session that is pruned while a batch updates it is stored anew", async () => {
    const schema = newSchema();
    const { engine, write } = await joined(schema);
    const numbered = (seq: number) => message("x", { session: "s", seq });
    await write(numbered(1));
    const { href } = new URL("?", (await sharedPostgres()).url(schema));
    await using pruning = new SQL({ url: href, max: 1 });
    let writing: Promise<unknown> | undefined;
    await pruning.begin(async (transaction) => {
      await transaction.unsafe(`DELETE FROM ${schema}.sessions`);
      writing = write(numbered(2));
      const waits = `SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%"${schema}".append(%'`;
      await eventually(async () => (await sql(waits)).length === 1, "the batch waits for the session's row");
    });
    expect(await writing).toBe("written");
    expect(await engine.lastSeq("ann", "s")).toBe(2);
  });

  test("contents are stored exactly", async () => {
    const { engine, head, write } = await joined(newSchema());
    const contents = [
      "",
      " ",
      "NUL \0 in a text\0",
      "\"quotes' \\back\\slashes\\u0000 {a,b} NULL",
      "é 茶 😀 \u2028\r\n\t\u007f\ufffe",
      new Uint8Array(),
      new Uint8Array([0, 255, 10]),
      new Uint8Array(Array.from({ length: 1000 }, (_, i) => i)),
      "x".repeat(200_000),
    ];
    await write(...contents.map((content) => message(content)));
    expect(storedIn(await readAll(engine, head)).map(({ content }) => content)).toEqual(contents);
    expect(await contentsOf(engine)).toEqual(contents);
    const { newestFirst } = await engine.openRoom("tea", 100, 1e9);
    expect(newestFirst.filter(isMessage).map(({ content }) => content)).toEqual(contents.toReversed());
  });

  test("ids grow although the clock is behind, and fencing tokens do", async () => {
    const schema = newSchema();
    const { engine, head, write } = await joined(schema);
    await write(message("now"));
    const ahead = `${9_000_000_000_000}-7`;
    await sql(`UPDATE ${schema}.log SET id = 90000000000000000000000000007 WHERE batch = 1`);
    const before = await engine.nextFencingToken();
    await write(message("later"), message("last"));
    const [one, two] = storedIn(await readAll(engine, ahead));
    expect(one?.id).toMatch(/^9000000000000-\d+$/);
    expect(Number(two?.id.split("-")[1])).toBe(Number(one?.id.split("-")[1]) + 1);
    expect(one?.time).toBeLessThan(Date.now() + DAY_MS);
    await sql(`SELECT setval('${schema}.fencing_tokens', ${before + 1e9})`);
    expect(await engine.nextFencingToken()).toBe(before + 1e9 + 1);
    expect(head).not.toBe(ahead);
  });

  test("removing a client's 3,000 messages: no reader sees them from the first moment, other messages are stored meanwhile", async () => {
    const schema = newSchema();
    const { engine, head, write } = await joined(schema);
    for (let i = 0; i < 6; i++)
      await write(...Array.from({ length: 500 }, (_, n) => message(`${i * 500 + n}`)));
    await write(message("stays", { from: "bob" }));
    const other = await openEngine(schema);
    const removing = engine.remove("tea", { from: "ann" });
    await eventually(
      async () => (await other.readHistory("tea", { limit: 1 })).entries.some((e) => !isMessage(e)),
      "the removal",
    );
    expect((await contentsOf(other)).filter((content) => content !== undefined)).toEqual(["stays"]);
    await write(message("meanwhile"));
    expect(await removing).toBe(3000);
    expect((await contentsOf(other)).filter((content) => content !== undefined)).toEqual([
      "stays",
      "meanwhile",
    ]);
    const left = await sql(
      `SELECT count(*)::int AS n FROM ${schema}.messages WHERE sender = 'ann' AND text IS NOT NULL`,
    );
    expect(left).toEqual([{ n: 1 }]);
    expect(await engine.remove("tea", { from: "carol" })).toBe(0);
    expect(storedIn(await readAll(engine, head)).length).toBe(3002);
  });

  test("a removal that was interrupted is completed by any node", async () => {
    const schema = newSchema();
    const { engine, write } = await joined(schema);
    await write(...Array.from({ length: 500 }, (_, n) => message(`${n}`)));
    await sql(`SELECT ${schema}.begin_erasure(${SCHEMA_VERSION}, 'tea', 'ann', 1)`);
    const contents = () => sql(`SELECT FROM ${schema}.messages WHERE text IS NOT NULL`);
    expect((await contents()).length).toBe(500);
    expect(await contentsOf(engine)).toEqual(Array.from({ length: 500 }, () => undefined));
    await sql(`UPDATE ${schema}.erasures SET step_time = 0`);
    await engine.heartbeat("one");
    await eventually(async () => (await contents()).length === 0, "all are erased");
    await eventually(
      async () => (await sql(`SELECT FROM ${schema}.erasures`)).length === 0,
      "it is complete",
    );
  });

  test("a removal that is repeated while it is under way waits for it, and counts its messages", async () => {
    const schema = newSchema();
    const { engine, write } = await joined(schema);
    await write(...Array.from({ length: 500 }, (_, n) => message(`${n}`)));
    await sql(`SELECT ${schema}.begin_erasure(${SCHEMA_VERSION}, 'tea', 'ann', 1)`);
    expect(await engine.remove("tea", { from: "ann" })).toBe(500);
    expect(await engine.remove("tea", { from: "ann" })).toBe(0);
  });

  test("one message is removed once, and only from its room", async () => {
    const { engine, head, write } = await joined(newSchema());
    await write(message("a"), message("b"));
    const [a] = storedIn(await readAll(engine, head));
    const target = { message: a?.id ?? "" };
    expect(await engine.remove("coffee", target)).toBeUndefined();
    expect(await engine.remove("tea", { message: "1-1" })).toBeUndefined();
    expect(await engine.remove("tea", target)).toBe(1);
    expect(await engine.remove("tea", target)).toBe(0);
    const { entries } = await engine.readHistory("tea", { limit: 10 });
    expect(entries).toMatchObject([{ content: undefined }, { content: "b" }, { removes: target }]);
    expect(await engine.remove("tea", { message: entries[2]?.id ?? "" })).toBeUndefined();
    expect(await engine.listRooms(undefined, 5)).toMatchObject([{ room: "tea", id: entries[1]?.id }]);
  });

  test("old messages are pruned, oldest first, up to the first that is not too old; `recovered` says what is left", async () => {
    const schema = newSchema();
    const { engine, head, write } = await joined(schema, "one", 1);
    await write(...Array.from({ length: 1300 }, (_, n) => message(`${n}`)));
    const stored = storedIn(await readAll(engine, head));
    // The clock was wrong when number 5 was stored; number 1,250 keeps the later ones.
    await sql(`UPDATE ${schema}.messages SET time = time - ${2 * DAY_MS} WHERE text NOT IN ('5', '1250');
      UPDATE ${schema}.messages SET time = time + ${DAY_MS} WHERE text = '5'`);
    await engine.heartbeat("one");
    const count = async () => (await sql(`SELECT FROM ${schema}.messages`)).length;
    await eventually(async () => (await count()) === 50, "they are pruned");
    const isRecovered = async (i: number) =>
      (await engine.readHistory("tea", { after: stored[i]?.id ?? "", limit: 5 })).recovered;
    expect(await Promise.all([1248, 1249, 1250, 1299].map(isRecovered))).toEqual([false, true, true, true]);
    await sql(`UPDATE ${schema}.messages SET time = time - ${2 * DAY_MS}`);
    const again = await openEngine(schema, 1);
    await again.heartbeat("one");
    await eventually(async () => (await count()) === 0, "all are pruned");
    expect(await Promise.all([1298, 1299].map(isRecovered))).toEqual([false, true]);
    expect(await engine.listRooms(undefined, 5)).toEqual([]);
    await write(message("new"));
    expect((await engine.readHistory("tea", { limit: 1 })).entries).toMatchObject([
      { prev: stored.at(-1)?.id },
    ]);
  });

  test("sessions are forgotten 30 days after their last message, bans a day after their end, records of the log after a minute", async () => {
    const schema = newSchema();
    const { engine, write } = await joined(schema);
    await write(...["old", "new"].map((session) => message("x", { session, seq: 1 })));
    await engine.ban({ client: "eve", rooms: ["*"], untilMs: Date.now() + DAY_MS });
    await engine.ban({ client: "bob", rooms: ["tea", "coffee-*"], untilMs: Date.now() + DAY_MS });
    await sql(`UPDATE ${schema}.sessions SET time = time - ${30 * DAY_MS} WHERE session = 'old';
      UPDATE ${schema}.bans SET until = until - ${2 * DAY_MS + 1000} WHERE client = 'eve';
      UPDATE ${schema}.log SET time = time - 70000`);
    expect((await engine.readBans()).map(({ client }) => client).toSorted()).toEqual(["bob", "eve"]);
    await engine.heartbeat("one");
    await eventually(async () => (await engine.lastSeq("ann", "old")) === null, "it is forgotten");
    expect(await engine.lastSeq("ann", "new")).toBe(1);
    expect((await engine.readBans()).map(({ client, rooms }) => [client, rooms])).toEqual([
      ["bob", ["tea", "coffee-*"]],
    ]);
    // The last one is the head.
    expect((await sql(`SELECT FROM ${schema}.log`)).length).toBe(1);
    await engine.ban({ client: "bob", rooms: ["tea", "coffee-*"], untilMs: 0 });
    expect(await engine.readBans()).toEqual([]);
  });

  test("a node whose lease has expired is removed once, with its presence; one with a lease is not", async () => {
    const schema = newSchema();
    const { engine, head } = await joined(schema, "one");
    await engine.join("two");
    const presence = { room: "tea", client: "ann", connections: 2 };
    await engine.append({
      node: "two",
      number: 1,
      updates: [presence, { client: "ann", session: "s", fencingToken: 3 }],
      messages: [],
    });
    expect((await engine.openRoom("tea", 1, 1)).presence).toEqual([["ann", "two", 2]]);
    expect(await engine.removeNode("two")).toBe(false);
    expect((await engine.heartbeat("two")).expiredNodes).toEqual([]);
    await engine.leave("two");
    expect((await engine.openRoom("tea", 1, 1)).presence).toEqual([]);
    expect((await engine.heartbeat("one")).expiredNodes).toEqual(["two"]);
    expect([await engine.removeNode("two"), await engine.removeNode("two")]).toEqual([true, false]);
    expect(await engine.heartbeat("two")).toMatchObject({ isKnown: false, wasAlive: false });
    expect((await readAll(engine, head)).flatMap(({ parts }) => parts)).toEqual([
      { kind: "presence", ...presence },
      { kind: "session", client: "ann", session: "s", fencingToken: 3 },
      { kind: "nodeRemoved", node: "two" },
    ]);
    expect(await sql(`SELECT FROM ${schema}.presence`)).toEqual([]);
  });

  test("rooms are listed by their latest message, page by page; a page of history ends at its limits", async () => {
    const { engine, write } = await joined(newSchema());
    for (const room of ["a", "b", "c", "a"]) await write(message("x", { room }));
    const list = async (after?: string) => (await engine.listRooms(after, 2))?.map(({ room }) => room);
    expect([await list(), await list("c"), await list("b"), await list("nowhere")]).toEqual([
      ["a", "c"],
      ["b"],
      [],
      undefined,
    ]);
    await write(...Array.from({ length: 12 }, () => message("y".repeat(100_000), { room: "large" })));
    const latest = await engine.readHistory("large", { limit: 100 });
    expect([latest.entries.length, latest.more]).toEqual([5, true]);
    const [first] = latest.entries;
    const earlier = await engine.readHistory("large", { before: first?.id ?? "", limit: 3 });
    expect([earlier.entries.length, earlier.more]).toEqual([3, true]);
    expect(first?.prev).toBe(earlier.entries[2]?.id ?? "");
    expect(await engine.idBeforeLatest("large", 5)).toBe(first?.prev ?? "");
    const next = await engine.readHistory("large", { after: earlier.entries[2]?.id ?? "", limit: 100 });
    expect(next).toMatchObject({ entries: latest.entries, more: false, recovered: true });
  });

  test("a room with few messages is read without those of other rooms", async () => {
    const schema = newSchema();
    const { write } = await joined(schema);
    await write(message("x", { room: "quiet" }));
    await sql(`INSERT INTO ${schema}.messages
      SELECT id + i, id, 5, 'room' || i % 5, 'ann', 't', 'x' FROM ${schema}.messages, generate_series(1, 20000) AS i`);
    await sql(`ANALYZE ${schema}.messages`);
    for (const read of [
      "open_room('quiet', 100, 100000)",
      "page_before('quiet', NULL, 100, 100000)",
      "page_after('quiet', 1, 100, 100000)",
      "find_erasable('quiet', 'ann', 0, 5000)",
    ]) {
      // One transaction, with the settings of the store's connections.
      const rows = await sql(`SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off;
        SELECT count(*) FROM ${schema}.${read};
        SELECT (seq_tup_read + idx_tup_fetch)::integer AS read FROM pg_stat_xact_user_tables
        WHERE schemaname = '${schema}' AND relname = 'messages'`);
      expect([read, Number(rows.at(-1)?.read) < 10]).toEqual([read, true]);
    }
  });
});
