/** `hubbub export` and `hubbub import`: moving between stores, while servers and clients run; interruptions and damage. */

import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtemp, readdir, rm, stat, symlink, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportFlags, importFlags } from "../../src/cli/parse-command.ts";
import { connect } from "../../src/client/client.ts";
import { ArchiveParser } from "../../src/store/archive.ts";
import { compareIds } from "../../src/store/message-id.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { codeBlock, readDoc } from "../support/docs.ts";
import { eventually } from "../support/deadline.ts";
import { randomFrom } from "../support/random.ts";
import { sharedPostgres, skipped as withoutPostgres } from "../support/postgres.ts";
import { sharedRedis, skipped } from "../support/redis.ts";
import { startServer, type TestServer } from "../support/server.ts";

setDefaultTimeout(240_000);

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "hubbub-"));
});
afterEach(() => rm(folder, { recursive: true }));

const SQLITE = "sqlite:chat.db";
let redisUrls = 0;
const newRedis = async () => (await sharedRedis()).url(`transfer${redisUrls++}`);
let schemas = 0;
const newPostgres = async () => (await sharedPostgres()).url(`transfer_${process.pid}_${schemas++}`);

interface Result {
  readonly code: number | null;
  readonly out: string;
  readonly error: string;
}

/** Runs the program in the folder. */
async function run(args: readonly string[], input = ""): Promise<Result> {
  await using hubbub = Bun.spawn([serverExecutable(), ...args], {
    cwd: folder,
    stdin: new Blob([input]),
    stderr: "pipe",
  });
  const [out, error] = await Promise.all([hubbub.stdout.text(), hubbub.stderr.text()]);
  return { code: await hubbub.exited, out, error };
}

const exported = async (store: string, ...args: string[]) => {
  const result = await run(["export", "--store", store, ...args]);
  expect(result).toMatchObject({ code: 0, error: "" });
  return result.out;
};
const imports = (store: string, input: string, ...args: string[]) =>
  run(["import", "--store", store, ...args], input);
const succeeds = { code: 0, out: "", error: "" };

const start = (url: string, ...args: string[]) =>
  startServer({ store: { name: url, url }, cwd: folder, args });

/** A server that ran on a store, and what its clients saw. */
async function fill(store: string): Promise<void> {
  const server = await start(store);
  await using ann = await server.joinJson("ann", { session: "s", room: "tea", history: 0 });
  await using bob = await server.joinJson("bob", { session: "t", room: "茶", history: 0 });
  for (let seq = 1; seq <= 20; seq++) {
    ann.says(`line\n${seq} 😀 \u2028`, { seq });
    bob.says(`${seq}`, { seq });
  }
  for (const peer of [ann, bob])
    for (let acks = 0; acks < 20;) if ((await peer.next()).type === "ack") acks++;
  await server.post("tea", { data: new Uint8Array([0, 255, 10]).toBase64(), from: "ci" });
  await server.stop("SIGTERM");
}

const line = (value: object) => `${JSON.stringify(value)}\n`;
const header = (more = {}) =>
  line({ format: "hubbub-export", version: 1, origin: "1700000000000-5", ...more });
const message = (id: string, prev: string, room = "tea", more = {}) =>
  line({ type: "message", id, prev, time: 1_700_000_000_000, room, from: "ann", text: `at ${id}`, ...more });
const end = (messages: number, more = {}) => line({ type: "end", messages, ...more });
/** An export with its last line as the program writes it. */
const complete = (lines: string, messages: number, more = {}) =>
  lines + end(messages, { ...more, checksum: Bun.hash.crc32(lines) });

const STORES = [
  ["SQLite", async () => SQLITE],
  ...(skipped ? [] : [["Redis", newRedis] as const]),
  ...(withoutPostgres ? [] : [["Postgres", newPostgres] as const]),
] as const;

describe.each(STORES)("%s", (name, newStore) => {
  test("what is exported is imported with ids, times and order unchanged, to every store and back", async () => {
    const store = await newStore();
    await fill(store);
    const lines = await exported(store);
    expect(lines.split("\n").length).toBe(1 + 41 + 2 + 1 + 1);
    const copies = [
      "sqlite:copy.db",
      ...(skipped ? [] : [await newRedis()]),
      "sqlite:copy of a copy.db",
      ...(withoutPostgres ? [] : [await newPostgres(), await newPostgres()]),
    ];
    let from = lines;
    for (const copy of copies) {
      expect(await imports(copy, from)).toEqual(succeeds);
      from = await exported(copy);
      expect(from).toBe(lines);
    }
  });

  test("removals, and the places of removed messages, are exported and imported", async () => {
    const id = (sequence: number) => `1700000000000-${sequence}`;
    const place = (sequence: number) => ({
      type: "removal",
      id: id(sequence),
      prev: id(sequence - 1),
      time: 1_700_000_000_000,
      room: "tea",
    });
    const lines = [
      header(),
      message(id(6), id(5), "tea", { text: undefined, removed: true }),
      message(id(7), id(6), "tea", { from: "bob", text: undefined, removed: true }),
      message(id(8), id(7)),
      line({ ...place(9), message: id(6) }),
      line({ ...place(10), from: "bob", upTo: id(9) }),
    ].join("");
    const counts = { type: "end", messages: 3, removals: 2 };
    const complete = lines + line({ ...counts, checksum: Bun.hash.crc32(lines) });
    const store = await newStore();
    expect(await imports(store, complete, "--history", "3")).toEqual(succeeds);
    expect(await exported(store)).toBe(complete);
    await using server = await start(store, "--history", "3");
    await using ann = await server.joinJson("ann", { room: "tea", after: id(7) });
    expect(ann.welcome.recovered).toBe(true);
    await ann.hears({ type: "message", from: "ann", text: `at ${id(8)}`, time: 1_700_000_000_000 });
    expect(await ann.next()).toEqual({ type: "removed", id: id(9), message: id(6) });
    expect(await ann.next()).toEqual({ type: "removed", id: id(10), from: "bob", upTo: id(9) });
  });

  test("ids that another store assigned, out of step with the clock, keep their order, and new ones follow", async () => {
    const now = Date.now();
    const ids = [
      "5-1",
      "1700000000000-8191",
      "1700000000000-8192",
      "1700000000000-170000000000000",
      "1700000000000-170000000000001",
      "1700000000001-0",
      `${now}-3`,
      `${now}-${now}00`,
      `${now + 60_000}-0`,
      `${now + 60_000}-999999999999999`,
    ];
    const entries = ids.map((id, i) => message(id, ids[i - 2] ?? "0-0", i % 2 ? "tea" : "coffee"));
    const session = line({
      type: "session",
      client: "ann",
      session: "s",
      seq: 7,
      id: "1700000000000-9999999",
      time: now,
    });
    const lines = complete([header(), ...entries, session].join(""), 10, { sessions: 1 });
    const store = await newStore();
    expect(await imports(store, lines)).toEqual(succeeds);
    expect(await exported(store)).toBe(lines);
    await using server = await start(store);
    const newest = ids.at(-1);
    for (const [after, recovered] of [
      ["0-0", true], // the id before the oldest
      [ids[3], true],
      ["1700000000000-8193", false], // which was never assigned
      [newest, true],
    ] as const) {
      await using bob = await server.joinJson("bob", { room: "tea", after });
      expect([after, bob.welcome.recovered]).toEqual([after, recovered]);
    }
    await using ann = await server.joinJson("ann", { room: "tea", session: "s", after: newest });
    expect(ann.welcome.sent).toBe(7);
    ann.says("duplicate", { seq: 7 });
    expect(await ann.next()).toEqual({
      type: "ack",
      seq: 7,
      id: "1700000000000-9999999",
    });
    ann.says("new", { seq: 8 });
    const { id } = await ann.next();
    expect(compareIds(String(id), `${newest}`)).toBeGreaterThan(0);
    await server.stop("SIGTERM");
    const again = (await exported(store)).split("\n");
    expect(again.slice(1, 11)).toEqual(entries.map((text) => text.trim()));
    expect(JSON.parse(again[11] ?? "")).toMatchObject({ id, prev: newest, text: "new" });
  });

  test("one room, with the sessions whose latest message is in it", async () => {
    const store = await newStore();
    await fill(store);
    const entries = (await exported(store, "--room", "茶"))
      .trim()
      .split("\n")
      .map((text) => JSON.parse(text));
    expect(new Set(entries.map(({ type, room, session }) => `${type} ${room ?? session}`))).toEqual(
      new Set(["undefined undefined", "message 茶", "session t", "end undefined"]),
    );
    expect(entries.at(-1)).toMatchObject({ type: "end", messages: 20, sessions: 1 });
  });

  test("an export taken while clients send is consistent: a session's seq is that of its last message in it", async () => {
    const store = await newStore();
    await using server = await start(store, "--history", "1000");
    const clients = await Promise.all(
      Array.from({ length: 5 }, (_, i) =>
        server.joinJson(`c${i}`, { session: "s", room: `r${i}`, history: 0 }),
      ),
    );
    const sent = clients.map(() => 0);
    let isOver = false;
    const sending = clients.map(async (client, i) => {
      while (!isOver) {
        const seq = (sent[i] = (sent[i] ?? 0) + 1);
        client.says(`${seq}`, { seq });
        while ((await client.next()).type !== "ack");
      }
    });
    for (let round = 0; round < 3; round++) {
      const entries = (await exported(store))
        .trim()
        .split("\n")
        .map((text) => JSON.parse(text));
      for (const [i] of clients.entries()) {
        const texts = entries.filter(({ room }) => room === `r${i}`).map(({ text }) => Number(text));
        const seq = entries.find(({ type, client }) => type === "session" && client === `c${i}`)?.seq ?? 0;
        expect(texts).toEqual(Array.from({ length: seq }, (_, n) => n + 1));
      }
    }
    isOver = true;
    await Promise.all(sending);
  });

  test("a store that is not empty, or in use by a server, is left alone", async () => {
    const store = await newStore();
    await fill(store);
    const before = await exported(store);
    const refused = await imports(store, header() + end(0));
    expect(refused).toMatchObject({ code: 1, out: "" });
    expect(refused.error).toMatch(/^\S+( at \S+)? is not empty\. [^\n]+\n$/);
    expect(await exported(store)).toBe(before);
    const other = store === SQLITE ? "sqlite:other.db" : await newStore();
    await using server = await start(other);
    const { code, error } = await imports(other, header() + end(0));
    expect([code, error]).toEqual([1, expect.stringMatching(/ in use by (another|a) server\. [^\n]+\n$/)]);
    expect(await server.isReady()).toBe(true);
  });

  test("a store in which a server has run, but stored nothing, counts as empty", async () => {
    const store = await newStore();
    const server = await start(store);
    await server.get("/readyz");
    server.process.kill("SIGTERM");
    await server.process.exited;
    const lines = header() + message("1700000000000-7", "1700000000000-5") + end(1);
    expect(await imports(store, lines)).toEqual(succeeds);
    await using second = await start(store);
    expect(await second.texts("tea")).toEqual(["at 1700000000000-7"]);
    expect(second.greeting).not.toContain("missing");
  });

  test("no client resumes across a message that is missing from the export", async () => {
    const [first, second, missing, last] = [6, 7, 8, 9].map((n) => `1700000000000-${n}`);
    const lines = [
      header(),
      message(`${first}`, "1700000000000-5"),
      message(`${second}`, `${first}`),
      message(`${last}`, `${missing}`),
      end(3),
    ];
    const store = await newStore();
    expect(await imports(store, lines.join(""))).toEqual(succeeds);
    await using server = await start(store);
    for (const [after, recovered] of [
      [first, false],
      [second, false],
      [last, true],
    ] as const) {
      await using bob = await server.joinJson("bob", { room: "tea", after });
      expect([after, bob.welcome.recovered]).toEqual([after, recovered]);
    }
  });

  test("no client resumes across a loss that the export reports in its first line", async () => {
    const ids = [6, 7, 8, 9].map((n) => `1700000000000-${n}`);
    const entries = ids.map((id, i) => message(id, ids[i - 1] ?? "1700000000000-5"));
    const store = await newStore();
    const lines = header({ damagedUpTo: ids[1] }) + entries.join("") + end(4);
    expect(await imports(store, lines)).toEqual(succeeds);
    await using server = await start(store);
    for (const [i, recovered] of [false, false, true, true].entries()) {
      await using bob = await server.joinJson("bob", { room: "tea", after: ids[i] });
      expect([i, bob.welcome.recovered]).toEqual([i, recovered]);
    }
    expect((await server.texts("tea")).at(-1)).toBe(`at ${ids[3]}`);
  });

  test("a room whose messages are all pruned remembers its newest id", async () => {
    const [newest, other] = ["1700000000000-6", "1700000000000-7"];
    const entries = [
      message(other, "1700000000000-5", "coffee"),
      line({ type: "room", room: "tea", last: newest }),
    ];
    const lines = complete(header() + entries.join(""), 1, { rooms: 1 });
    const store = await newStore();
    expect(await imports(store, lines)).toEqual(succeeds);
    expect(await exported(store)).toBe(lines);
    await using server = await start(store);
    await using bob = await server.joinJson("bob", { room: "tea", after: newest });
    expect(bob.welcome.recovered).toBe(true);
  });

  describe("nothing is imported from", () => {
    const one = message("1700000000000-6", "1700000000000-5");
    const nothing = "Nothing was imported.\n";
    test.each([
      ["an empty input", "", `Standard input is empty. ${nothing}`],
      ["something else", "hello\n", `Line 1 of standard input is not an export of Hubbub. ${nothing}`],
      [
        "a newer format",
        header({ version: 2 }) + end(0),
        `Line 1 of standard input has version 2 of the format, not 1: import it with the version of Hubbub that wrote it. ${nothing}`,
      ],
      [
        "an input without its end",
        header() + one,
        `Standard input is not complete: it ends after line 2. ${nothing}`,
      ],
      [
        "an input that ends in a line",
        header() + one.slice(0, 50),
        `Line 2 of standard input is not JSON. ${nothing}`,
      ],
      [
        "an input that lacks a line",
        header() + end(1),
        `Line 2 of standard input has 0 messages instead of 1. ${nothing}`,
      ],
      [
        "an input with a line after its end",
        header() + end(0) + one,
        `Line 3 of standard input continues after its end. ${nothing}`,
      ],
      [
        "an input in which a text has changed",
        complete(header() + one, 1).replace("at 17", "at 18"),
        `Line 3 of standard input has a checksum that differs: a line before it is damaged. ${nothing}`,
      ],
      [
        "messages in another order",
        header() + message("1700000000000-7", "1700000000000-5") + one + end(2),
        `Line 3 of standard input has the message 1700000000000-6 out of order. ${nothing}`,
      ],
      ...[
        ["an unknown entry", line({ type: "reaction" })],
        ["a message without a room", one.replace('"room"', '"place"')],
        ["a message with a wrong id", one.replaceAll("000-6", "000.6")],
        ["a message with a time that is none", one.replace(/"time":\d+/, '"time":8640000000000001')],
        ["a message without content", one.replace('"text"', '"words"')],
      ].map(
        ([what, text]) =>
          [
            what ?? "",
            header() + text + end(1),
            `Line 2 of standard input is not a valid entry. ${nothing}`,
          ] as const,
      ),
    ])("%s", async (_, input, error) => {
      const store = await newStore();
      expect(await imports(store, input)).toEqual({ code: 1, out: "", error });
      // It still counts as empty.
      expect(await imports(store, header() + one + end(1))).toEqual(succeeds);
    });

    /** An import that waits for the rest of its input. */
    const beginImport = async (store: string) => {
      const many = Array.from({ length: 5000 }, (_, i) =>
        message(`17000000${10_000 + i}-0`, i ? `17000000${9_999 + i}-0` : "1700000000000-5"),
      );
      const importing = Bun.spawn([serverExecutable(), "import", "--store", store], {
        cwd: folder,
        stdin: "pipe",
        stderr: "pipe",
      });
      importing.stdin.write(header() + many.join(""));
      await importing.stdin.flush();
      const redis = store.startsWith("redis:") ? await sharedRedis() : undefined;
      const { searchParams } = new URL(store);
      const prefix = searchParams.get("prefix");
      const hasBegun = async () => {
        if (redis) return (await redis.send("EXISTS", `${prefix}:room:tea`)) === 1;
        if (store === SQLITE) return (await readdir(folder)).includes("chat.db-wal");
        const locks =
          "SELECT FROM pg_locks WHERE relation = to_regclass('%.messages') AND mode = 'RowExclusiveLock'";
        const schema = searchParams.get("schema") ?? "";
        return (await (await sharedPostgres()).query(locks.replace("%", schema))).length > 0;
      };
      await eventually(hasBegun, "some messages are written");
      return { importing, redis, prefix };
    };

    test("an import that is interrupted by Ctrl+C or a supervisor, which leaves nothing", async () => {
      for (const signal of ["SIGINT", "SIGTERM"] as const) {
        const store = await newStore();
        const { importing, redis, prefix } = await beginImport(store);
        importing.kill(signal);
        expect(await importing.stderr.text()).toBe(`The import was interrupted. ${nothing}`);
        expect(await importing.exited).toBe(1);
        if (redis) expect(await redis.send("KEYS", `${prefix}:*`)).toEqual([]);
        const server = await start(store);
        expect(await server.texts("tea")).toEqual([]);
        await server.stop("SIGTERM");
      }
    });

    if (name === "Postgres")
      test("an import whose connection is cut", async () => {
        const postgres = await sharedPostgres();
        // That of the user's name, where a new connection would find the tables, too.
        const store = postgres.url("hubbub");
        const { importing } = await beginImport(store);
        const idle = "FROM pg_stat_activity WHERE state = 'idle in transaction'";
        const cut = async () => (await postgres.query(`SELECT pg_terminate_backend(pid) ${idle}`)).length > 0;
        await eventually(cut, "its connection is cut");
        const more = Array.from({ length: 5000 }, (_, i) =>
          message(`17000000${15_000 + i}-0`, `17000000${14_999 + i}-0`),
        );
        try {
          await importing.stdin.write(more.join(""));
          await importing.stdin.end();
        } catch {} // it has ended by then
        expect(await importing.stderr.text()).toContain("Nothing was imported");
        expect(await importing.exited).toBe(1);
        const isEnded = async () => (await postgres.query(`SELECT ${idle}`)).length === 0;
        await eventually(isEnded, "Postgres ends the transaction");
        expect(await imports(store, header() + one + end(1))).toEqual(succeeds);
      });

    test("an import that is killed", async () => {
      const store = await newStore();
      const { importing, redis, prefix } = await beginImport(store);
      importing.kill("SIGKILL");
      await importing.exited;
      if (redis) {
        // No server takes it for a complete store.
        const refused = await start(store).catch((error: Error) => error.message);
        expect(refused).toContain("an import is running, or was interrupted. Import again.");
        expect((await run(["export", "--store", store])).error).toContain("was interrupted");
        expect((await imports(store, header() + one + end(1))).error).toContain("Try again later.");
        await redis.send("DEL", `${prefix}:lease:import`); // it expires after a minute
      } else {
        // Postgres notices a moment later.
        const started = Promise.withResolvers<TestServer>();
        await eventually(
          () =>
            start(store).then(
              (server) => (started.resolve(server), true),
              () => false,
            ),
          "a server starts",
        );
        await using server = await started.promise;
        expect(await server.texts("tea")).toEqual([]);
        await server.stop("SIGTERM");
      }
      expect(await imports(store, header() + one + end(1))).toEqual(succeeds);
      await using server = await start(store);
      expect(await server.texts("tea")).toEqual(["at 1700000000000-6"]);
    });
  });
});

test.skipIf(skipped + withoutPostgres !== "")(
  `a client that is connected before and after each move loses and repeats nothing: SQLite, Redis, Postgres, SQLite${skipped}${withoutPostgres}`,
  async () => {
    const probe = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    const { port } = probe;
    probe.stop(true);
    const stores = [SQLITE, await newRedis(), await newPostgres(), "sqlite:after.db"];
    const open = (store: string) => start(store, "--port", `${port}`, "--history", "1000");
    let server = await open(SQLITE);
    const connection = connect({ server: server.origin, id: "ann", room: "tea" });
    const received: string[] = [];
    const welcomes: unknown[] = [];
    let acknowledged = 0;
    connection.on("welcome", ({ recovered }) => welcomes.push(recovered));
    connection.on("message", ({ text }) => received.push(`${text}`));
    connection.on("acknowledged", () => acknowledged++);
    connection.on("rejected", ({ message }) => received.push(`rejected: ${message}`));
    connection.on("unconfirmed", ({ text }) => received.push(`unconfirmed: ${text}`));
    let sent = 0;
    const send = (count: number) => {
      for (let i = 0; i < count; i++) connection.send(`${++sent}`);
    };
    const settled = () =>
      eventually(async () => acknowledged === sent && received.length >= sent, "all is received");
    send(20);
    await settled();
    for (const [i, store] of stores.entries()) {
      const next = stores[i + 1];
      if (next === undefined) break;
      send(200);
      await server.stop("SIGKILL"); // some of these are stored and not acknowledged
      const lines = await exported(store);
      expect(await imports(next, lines, "--history", "1000")).toEqual(succeeds);
      send(20);
      server = await open(next);
      await settled();
    }
    expect(received).toEqual(Array.from({ length: sent }, (_, i) => `${i + 1}`));
    expect(welcomes).toEqual([undefined, true, true, true]);
    connection.close();
    await server.stop();
  },
);

test("an export with a changed, added or missing byte or line anywhere is not accepted", () => {
  const random = randomFrom(1);
  const ids = Array.from({ length: 20 }, (_, i) => `1700000000000-${i + 6}`);
  const entries = ids.map((id, i) =>
    message(id, ids[i - 1] ?? "1700000000000-5", "tea", { text: `${i} é "😀" ` }),
  );
  const intact = Buffer.from(complete(header() + entries.join(""), 20));
  const accepts = (bytes: Buffer) => {
    const parser = new ArchiveParser();
    try {
      const [first = "", ...rest] = new TextDecoder("utf-8", { fatal: true }).decode(bytes).split("\n");
      parser.parseHeader(first);
      for (const text of rest.at(-1) === "" ? rest.slice(0, -1) : rest) parser.parseEntry(text);
      return parser.hasEnded;
    } catch {
      return false;
    }
  };
  expect(accepts(intact)).toBe(true);
  const lastLine = intact.lastIndexOf("\n", -2) + 1;
  for (let round = 0; round < 2000; round++) {
    const at = Math.floor(random() * lastLine);
    const to = round % 2 ? at + 1 : intact.indexOf("\n", at) + 1;
    const added = round % 3 ? Buffer.of(Math.floor(random() * 256)) : intact.subarray(at, to);
    const [before, after] = [intact.subarray(0, at), intact.subarray(round % 5 ? to : at)];
    const damaged = Buffer.concat(round % 7 ? [before, added, after] : [before, after]);
    if (damaged.equals(intact)) continue;
    expect([accepts(damaged), `${damaged.subarray(at - 20, at + 20)}`]).toEqual([false, expect.any(String)]);
    expect(accepts(intact.subarray(0, at))).toBe(false);
  }
});

test.skipIf(skipped !== "")(
  `an export of Redis needs the part of its log that was written meanwhile${skipped}`,
  async () => {
    const store = await newRedis();
    const redis = await sharedRedis();
    const prefix = new URL(store).searchParams.get("prefix");
    await fill(store);
    const complete = await exported(store);
    // As if the records had been written after the rooms were read.
    const [[first], [second]] = JSON.parse(
      JSON.stringify(await redis.send("XRANGE", `${prefix}:log`, "-", "+", "COUNT", "2")),
    );
    await redis.send("HSET", `${prefix}:meta`, "applied", first);
    expect(await exported(store)).toBe(complete);
    await redis.send("HSET", `${prefix}:meta`, "applied", first);
    await redis.send("XDEL", `${prefix}:log`, second);
    const { code, error } = await run(["export", "--store", store]);
    expect([code, error]).toEqual([
      1,
      expect.stringMatching(
        /^Redis at \S+ has lost data during the export, or received more than its log holds\. Export again\.\n$/,
      ),
    ]);
    expect(await run(["export", "--store", await newRedis()])).toMatchObject({
      code: 1,
      error: expect.stringMatching(/^Redis at \S+ has nothing with this prefix in this database\.\n$/),
    });
  },
);

describe("the output", () => {
  test("a file appears once it is complete, replaces the one before, and is its owner's", async () => {
    await fill(SQLITE);
    await Bun.write(join(folder, "out"), "before");
    expect(await run(["export", "out", "--store", "sqlite:none.db"])).toEqual({
      code: 1,
      out: "",
      error: "none.db does not exist.\n",
    });
    expect(await Bun.file(join(folder, "out")).text()).toBe("before");
    expect(await run(["export", "out", "--store", SQLITE])).toEqual(succeeds);
    expect(await Bun.file(join(folder, "out")).text()).toBe(await exported(SQLITE));
    expect((await stat(join(folder, "out"))).mode & 0o777).toBe(0o600);
    expect(await run(["import", "out", "--store", "sqlite:copy.db"])).toEqual(succeeds);
    expect((await readdir(folder)).filter((name) => name.includes("partial"))).toEqual([]);
  });

  test("a place where no file can be is named in a sentence", async () => {
    await fill(SQLITE);
    await symlink("loop", join(folder, "loop"));
    for (const [file, reason] of [
      ["loop", "ELOOP: too many symbolic links encountered"],
      ["chat.db/out", "ENOTDIR: not a directory"],
      ["none/out", "ENOENT: no such file or directory"],
      [".", "EISDIR: illegal operation on a directory"],
    ] as const) {
      const { code, out, error } = await run(["export", file, "--store", SQLITE]);
      expect({ code, out }).toEqual({ code: 1, out: "" });
      expect(error).toStartWith(`The export is not complete: ${file} cannot be written (${reason}`);
      expect(error.trim().split("\n").length).toBe(1);
    }
  });

  test("a reader that stops, and a full disk", async () => {
    const ids = Array.from({ length: 2000 }, (_, i) => `17000000${10_000 + i}-0`);
    const entries = ids.map((id, i) => message(id, ids[i - 1] ?? "0-0", "tea", { text: "x".repeat(100) }));
    expect(await imports(SQLITE, header() + entries.join("") + end(2000))).toEqual(succeeds);
    const shell = async (rest: string) => {
      const command = `"$@" export --store ${SQLITE} ${rest}`;
      const hubbub = Bun.spawn(["bash", "-c", command, "bash", serverExecutable()], {
        cwd: folder,
        stdout: "pipe",
        stderr: "pipe",
      });
      return [await hubbub.exited, (await hubbub.stdout.text()).length, await hubbub.stderr.text()];
    };
    const sentence = (why: string) => `The export is not complete: ${why}.\n`;
    expect(await shell("| head -n 1; exit ${PIPESTATUS[0]}")).toEqual([
      1,
      header().length,
      sentence("the program that reads it has stopped"),
    ]);
    expect(await shell("> /dev/full")).toEqual([1, 0, sentence("no space is left for the output")]);
    expect(await shell("/dev/full")).toEqual([1, 0, sentence("no space is left for /dev/full")]);
  });

  test("a damaged message is left out, which is reported, and no client of the copy resumes across it", async () => {
    await fill(SQLITE);
    {
      using db = new Database(join(folder, "chat.db"));
      db.run("UPDATE messages SET content = 'x' WHERE room = 'tea' AND content LIKE '%15 %'");
    }
    const { code, out, error } = await run(["export", "--store", SQLITE]);
    expect([code, error]).toEqual([
      1,
      "The export is complete except that 1 damaged entry is left out: no client will resume across that.\n",
    ]);
    expect(await imports("sqlite:copy.db", out)).toEqual(succeeds);
    const ids = out
      .split("\n")
      .filter((text) => text.includes('"tea"'))
      .map((text) => JSON.parse(text).id);
    await using server = await start("sqlite:copy.db");
    for (const [after, recovered] of [
      [ids[13], false],
      [ids[14], true],
    ] as const) {
      await using bob = await server.joinJson("bob", { room: "tea", after });
      expect(bob.welcome.recovered).toBe(recovered);
    }
  });

  test("messages that are missing at the end of a file are reported, and no client of the copy resumes there", async () => {
    const server = await start(SQLITE);
    const ids: unknown[] = [];
    for (let i = 0; i < 10; i++) {
      const response = await server.post("tea", { text: `${i}`, from: "ci" });
      ids.push(JSON.parse(await response.text()).id);
    }
    await server.stop("SIGKILL");
    const { size } = await stat(join(folder, "chat.db-wal"));
    await truncate(join(folder, "chat.db-wal"), size - 6000);
    const { code, out, error } = await run(["export", "--store", SQLITE]);
    const newest = ids[out.split("\n").length - 4];
    expect([code, error]).toEqual([
      1,
      `The export is complete except that messages after ${newest} are missing: no client will resume across that.\n`,
    ]);
    expect(await imports("sqlite:copy.db", out)).toEqual(succeeds);
    await using copy = await start("sqlite:copy.db");
    await using bob = await copy.joinJson("bob", { room: "tea", after: String(newest) });
    expect(bob.welcome.recovered).toBe(false);
  });

  test("the documented example is an export, and the documented options are those of --help", async () => {
    const example = codeBlock("src/store/README.md", "json");
    expect(await imports(SQLITE, example)).toEqual(succeeds);
    expect(await exported(SQLITE)).toBe(example);
    const readme = readDoc("src/cli/README.md");
    for (const [command, flags] of [
      ["export", exportFlags],
      ["import", importFlags],
    ] as const) {
      const { out } = await run([command, "--help"]);
      for (const name of Object.keys(flags)) {
        expect(out).toContain(`--${name} `);
        if (name !== "store")
          expect(readme).toMatch(new RegExp(`^\\| \`--${name} [A-Z]+\` *\\| ${command} `, "m"));
      }
    }
  });

  test("wrong options exit with 2", async () => {
    for (const command of ["export", "import"]) {
      expect(await run([command])).toEqual({
        code: 2,
        out: "",
        error: `${command}: expected a store that outlives its server in --store, such as sqlite:FILE, redis://HOST or postgres://HOST\n`,
      });
      expect(await run([command, "a", "b", "--store", SQLITE, "--prot", "1"])).toEqual({
        code: 2,
        out: "",
        error: `--prot: unknown option, see --help\n${command}: expected one file at most, got 2\n`,
      });
      expect((await run([command, "--help"])).out).toStartWith(`hubbub ${command} [FILE]: `);
    }
  });
});
