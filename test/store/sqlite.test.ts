/** The SQLite store: what is acknowledged is in the file, and is there after a restart. */

import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, spyOn, test } from "bun:test";
import {
  copyFile,
  link,
  mkdir,
  mkdtemp,
  open as openFile,
  readdir,
  rename,
  rm,
  stat,
  symlink,
  truncate,
  utimes,
} from "node:fs/promises";
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { RoomCache, type CachedRoom } from "../../src/store/room-cache.ts";
import { SqliteStore } from "../../src/store/sqlite/store.ts";
import { sqliteArchive } from "../../src/store/sqlite/archive.ts";
import { StoreUnavailable } from "../../src/store/store.ts";
import { openDatabase } from "../../src/store/sqlite/database.ts";
import {
  isMessage,
  type AppendResult,
  type PendingMessage,
  type StoredMessage,
} from "../../src/store/message.ts";
import { eventually } from "../support/deadline.ts";
import { findProgram } from "../support/programs.ts";
import { startServer } from "../support/server.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

const STORE = { name: "SQLite", url: "sqlite:chat.db" };
const DAY_MS = 24 * 60 * 60 * 1000;
const HOUR_MS = 60 * 60 * 1000;

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "hubbub-"));
});
afterEach(() => rm(folder, { recursive: true }));

const start = (...args: string[]) => startServer({ store: STORE, cwd: folder, args });
/** Runs SQL on a file. */
function edit(file: string, ...statements: string[]): void {
  using db = new Database(join(folder, file));
  for (const statement of statements) db.run(statement);
}
/** Bytes of the header of a write-ahead log, and of each of its frames: https://sqlite.org/fileformat2.html, section 4.1. */
const LOG_HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;

/** The transactions in the write-ahead log since it was started anew. */
function countCommits(): number {
  const log = readFileSync(join(folder, "chat.db-wal"));
  if (log.length === 0) return 0;
  const frameBytes = FRAME_HEADER_BYTES + log.readUInt32BE(8);
  let commits = 0;
  // The last frame of a commit has the size of the database.
  for (let at = LOG_HEADER_BYTES; at + frameBytes <= log.length; at += frameBytes)
    if (log.readUInt32BE(at + 4) > 0) commits++;
  return commits;
}

/** What a server prints that does not start. */
const refusal = (url = STORE.url) =>
  startServer({ store: { name: url, url }, cwd: folder }).then(
    () => "it started",
    (error: Error) => error.message.replace("the server did not start: ", ""),
  );

test("messages, their order and sessions survive kill -9", async () => {
  const first = await start();
  const ann = await first.joinJson("ann", { session: "s" });
  for (let seq = 1; seq <= 50; seq++) ann.says(`${seq}`, { seq });
  let acks = 0;
  while (acks < 50) if ((await ann.next()).type === "ack") acks++;
  ann.sends(new Uint8Array([0, 255]));
  ann.sends(new Uint8Array());
  ann.says("NUL \0, 語, 😀, and nothing:");
  ann.says("");
  await first.stop("SIGKILL");

  await using second = await start();
  await using back = await second.joinJson("ann", { session: "s", after: String(ann.welcome.last) });
  expect(back.welcome).toMatchObject({ recovered: true, sent: 50, last: ann.welcome.last });
  for (let i = 1; i <= 50; i++) await back.hears({ type: "message", from: "ann", text: `${i}` });
  await using bob = await second.join("bob", { history: 2 });
  await bob.next();
  await bob.next();
  back.says("50 again", { seq: 50 });
  back.says("51", { seq: 51 });
  await bob.hearsUpTo("Client #ann says: 51");
  const ids = [];
  for (;;) {
    const { type, id, text } = await back.next();
    if (type === "message") ids.push(String(id));
    if (text === "51") break;
  }
  expect(ids).toEqual(ids.toSorted());
});

test("binary messages, NULs and empty messages are unchanged after a restart", async () => {
  const contents = [new Uint8Array([0, 255, 10]), new Uint8Array(), "NUL \0 語 😀", ""];
  const first = await start();
  const ann = await first.join("ann");
  for (const content of contents) ann.says(content);
  ann.says("last");
  await ann.hearsUpTo("Client #ann says: last");
  await first.stop();
  await using second = await start();
  await using bob = await second.join("bob", { history: 10 });
  await bob.hears(
    ...contents.map((content) => (typeof content === "string" ? `Client #ann says: ${content}` : content)),
    "Client #ann says: last",
  );
});

test("a client that was away for longer than the cached history misses nothing", async () => {
  await using server = await start("--history", "10");
  await using ann = await server.joinJson("ann");
  const start10 = String(ann.welcome.last);
  const texts = Array.from({ length: 1000 }, (_, i) => `${i} `.padEnd(2_000, "x"));
  for (const text of texts) ann.says(text);
  for (const text of texts) await ann.hears({ type: "message", from: "ann", text });
  await using bob = await server.joinJson("bob", { after: start10 });
  expect(bob.welcome).toMatchObject({ recovered: true, last: start10 });
  ann.says("meanwhile");
  for (const text of [...texts, "meanwhile"]) await bob.hears({ type: "message", from: "ann", text });
  await bob.hearsNothing();
});

test("a long history, requested by a reader that stalls, is neither cut off nor reordered by live messages", async () => {
  await using server = await start("--history", "100");
  await using ann = await server.joinJson("ann", { session: "s" });
  const pad = (i: number) => `${i} `.padEnd(60_000, "x");
  const say = async (i: number) => {
    ann.says(pad(i), { seq: i });
    while ((await ann.next()).type !== "message");
  };
  for (let i = 1; i <= 150; i++) await say(i);
  // Paused at once, within the replay: a reader that stalls after it is a slow consumer.
  await using bob = await server.join("bob", { history: 140 });
  bob.pauses();
  await using eve = await server.join("eve", { history: 100 });
  eve.pauses();
  for (let i = 151; i <= 300; i++) await say(i);
  for (const peer of [bob, eve]) peer.resumes();
  for (let i = 11; i <= 300; i++) await bob.hears(`Client #ann says: ${pad(i)}`);
  for (let i = 51; i <= 300; i++) await eve.hears(`Client #ann says: ${pad(i)}`);
});

test("a long replay leaves time for everyone else", async () => {
  await using server = await start("--history", "10");
  const ann = await server.joinJson("ann");
  const from = String(ann.welcome.last);
  for (let i = 0; i < 20_000; i++) ann.says(`${i}`);
  ann.sends({ type: "ping" });
  while ((await ann.next()).type !== "pong");
  const sent = async () => (await server.metrics()).get("hubbub_sent_messages_total") ?? NaN;
  const before = await sent();
  let isOver = false;
  const reading = (async () => {
    await using bob = await server.joinJson("bob", { after: from });
    for (let i = 0; i < 20_000; i++) await bob.hears({ type: "message", from: "ann", text: `${i}` });
  })().finally(() => (isOver = true));
  // Requests are answered in the middle of it.
  let answers = 0;
  while (!isOver) {
    const count = (await sent()) - before;
    if (count > 0 && count < 20_000) answers++;
  }
  await reading;
  expect(answers).toBeGreaterThan(0);
});

test("while the file is missing messages are rejected; once it is back they are stored", async () => {
  await using server = await start();
  const ann = await server.join("ann");
  await rename(join(folder, "chat.db"), join(folder, "elsewhere.db"));
  await server.becomesUnready();
  ann.says("into nothing");
  await ann.hears("Not sent (unavailable): into nothing");
  await rename(join(folder, "elsewhere.db"), join(folder, "chat.db"));
  await server.becomesReady();
  ann.says("stored");
  await ann.hears("You wrote: stored", "Client #ann says: stored");
});

test("a new modification time alone does no harm", async () => {
  await using server = await start();
  await using ann = await server.join("ann");
  await utimes(join(folder, "chat.db"), new Date(), new Date());
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  expect(await server.isReady()).toBe(true);
});

describe("after its files were changed by another program a server acknowledges nothing", () => {
  const file = (name: string) => join(folder, name);
  const changes: Record<string, () => Promise<unknown>> = {
    "the file is removed": () => rm(file("chat.db")),
    "the file is truncated": () => truncate(file("chat.db"), 4096),
    "the file is replaced by another": async () => {
      await copyFile(file("other.db"), file("new.db"));
      await rename(file("new.db"), file("chat.db"));
    },
    "the file is overwritten by another": () => copyFile(file("other.db"), file("chat.db")),
    "its header is overwritten in place": async () => {
      await using handle = await openFile(file("chat.db"), "r+");
      await handle.write(new Uint8Array(4).fill(255), 0, 4, 24); // the file change counter
    },
    "the log is truncated": () => truncate(file("chat.db-wal"), 40_000),
    "the log is emptied": () => truncate(file("chat.db-wal"), 0),
    "the log is replaced": async () => {
      await copyFile(file("chat.db-wal"), file("new"));
      await rename(file("new"), file("chat.db-wal"));
    },
  };
  test.each(Object.keys(changes))("%s", async (name) => {
    edit("other.db", ...VERSION_1);
    await using server = await start();
    const post = async (text: string) => (await server.post("lobby", { text, from: "ci" })).status;
    for (let i = 0; i < 20; i++) expect(await post(`${i}`)).toBe(201);
    const ann = await server.joinJson("ann", { session: "s", history: 0 });
    await changes[name]?.();
    ann.says("lost", { seq: 1 });
    expect(await ann.next()).toMatchObject({ type: "error", code: "unavailable", seq: 1 });
    expect(await post("lost")).toBe(503);
    expect((await server.get("/readyz")).status).toBe(503);
  });

  test("the contents of a removed log are saved, and the server recovers", async () => {
    const first = await start("--log", "text");
    const ann = await first.joinJson("ann", { session: "s", history: 0 });
    const say = async (seq: number) => {
      ann.says(`${seq}`, { seq });
      for (;;) {
        const { type, code } = await ann.next();
        if (type === "message") return "stored";
        if (type === "error") return code;
      }
    };
    for (let seq = 1; seq <= 10; seq++) expect(await say(seq)).toBe("stored");
    await rm(file("chat.db-wal"));
    await eventually(async () => (await say(11)) === "stored", "the server is ready");
    for (let seq = 12; seq <= 20; seq++) expect(await say(seq)).toBe("stored");
    await first.stop("SIGKILL");
    const events = [...(await first.output).matchAll(/ (store \w+)/g)].map(([, event]) => event);
    expect(events).toEqual(["store unavailable", "store available"]);
    await using second = await start();
    await using bob = await second.joinJson("bob", { after: String(ann.welcome.last) });
    expect(bob.welcome.recovered).toBe(true);
    for (let seq = 1; seq <= 20; seq++) await bob.hears({ type: "message", from: "ann", text: `${seq}` });
    await bob.hearsNothing();
  });
});

test("--keep-days prunes in the background", async () => {
  edit(
    "chat.db",
    ...VERSION_1.map((statement) =>
      statement.replace(/17835\d{11}/g, (key) => `${Number(key) - 8192 * DAY_MS * 2000}`),
    ),
  );
  await using server = await start("--keep-days", "30");
  await using bob = await server.join("bob", { room: "elsewhere" });
  bob.says("new");
  await bob.hears("You wrote: new", "Client #bob says: new");
  await eventually(async () => (await server.texts()).length === 0, "old messages are pruned");
  expect(await server.texts("elsewhere")).toEqual(["new"]);
});

test("commits are synced to disk", () => {
  using db = openDatabase(join(folder, "chat.db"), Date.now(), systemRandom);
  const of = (pragma: string) =>
    Object.values(db.query<Record<string, unknown>, []>(`PRAGMA ${pragma}`).get() ?? {});
  expect(["synchronous", "journal_mode"].flatMap(of)).toEqual([2, "wal"]);
});

test("after a shutdown everything is in one file", async () => {
  const server = await start();
  const ann = await server.join("ann");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  server.process.kill("SIGTERM");
  expect(await server.process.exited).toBe(0);
  // The others hold nothing, and a single id.
  expect((await readdir(folder)).toSorted()).toEqual(["chat.db", "chat.db-lock", "chat.db-newest"]);
});

test("only the owner can read the file, and only one server can use it", async () => {
  await using server = await start();
  for (const name of await readdir(folder))
    expect([name, (await stat(join(folder, name))).mode & 0o777]).toEqual([name, 0o600]);
  expect(await refusal()).toBe("chat.db is in use by another server. Stop that one first.\n");
  await using ann = await server.join("ann");
  ann.says("undisturbed");
  await ann.hears("You wrote: undisturbed", "Client #ann says: undisturbed");
});

test("a symbolic link leads to the same store: only one server can use it, and all its files are beside the database", async () => {
  await mkdir(join(folder, "data"));
  await symlink("data/chat.db", join(folder, "link.db"));
  await symlink("link.db", join(folder, "chat.db"));
  const inUse = (file: string) => `${file} is in use by another server. Stop that one first.\n`;
  const server = await start();
  const ann = await server.join("ann");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  for (const file of ["link.db", "data/chat.db"]) expect(await refusal(`sqlite:${file}`)).toBe(inUse(file));
  server.process.kill("SIGTERM");
  expect(await server.process.exited).toBe(0);
  expect((await readdir(folder)).toSorted()).toEqual(["chat.db", "data", "link.db"]);
  expect((await readdir(join(folder, "data"))).toSorted()).toEqual([
    "chat.db",
    "chat.db-lock",
    "chat.db-newest",
  ]);
});

test("a file with a second name, a hard link, is refused under either: each name would have a write-ahead log of its own", async () => {
  await using server = await start();
  const ann = await server.join("ann");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  await link(join(folder, "chat.db"), join(folder, "hard.db"));
  const sentence = (file: string) =>
    `${file} has 2 names (hard links), and the latest messages are beside only one of them. Remove the other names, or use a copy.\n`;
  expect(await refusal("sqlite:hard.db")).toBe(sentence("hard.db"));
  const archive = sqliteArchive(join(folder, "hard.db"), systemClock, systemRandom);
  expect(async () => archive.openSource(undefined, () => {})).toThrow("hard.db has 2 names");
  expect((await readdir(folder)).filter((file) => file.startsWith("hard"))).toEqual(["hard.db"]);
  await server.stop();
  expect(await refusal("sqlite:chat.db")).toBe(sentence("chat.db"));
  await rm(join(folder, "hard.db"));
  await using again = await start();
  await using bob = await again.join("bob", { history: 1 });
  await bob.hears("Client #ann says: hi");
});

const sqlite = findProgram("sqlite3", "sqlite3");

test.skipIf(sqlite.skipped !== "").each([
  [".backup copy.db", "while messages are sent"],
  ["VACUUM INTO 'copy.db'", "while messages are sent"],
])(`%s of sqlite3 copies the file %s, and the copy resumes a session${sqlite.skipped}`, async (command) => {
  await using server = await start();
  const ann = await server.joinJson("ann", { session: "s", history: 0 });
  let sent = 0;
  const say = async () => {
    ann.says(`${++sent}`, { seq: sent });
    while ((await ann.next()).type !== "ack");
  };
  for (let i = 0; i < 20; i++) await say();
  const backup = Bun.spawn({
    cmd: [sqlite.path ?? "sqlite3", "chat.db", command],
    cwd: folder,
    stderr: "pipe",
  });
  while (backup.exitCode === null && sent < 1000) await say();
  await backup.exited;
  expect([backup.exitCode, await new Response(backup.stderr).text()]).toEqual([0, ""]);
  const total = sent + 20;
  while (sent < total) await say(); // the server is undisturbed
  expect(await server.isReady()).toBe(true);
  await using copy = await startServer({ store: { name: "SQLite", url: "sqlite:copy.db" }, cwd: folder });
  await using again = await copy.joinJson("ann", { session: "s", after: String(ann.welcome.last) });
  expect(again.welcome).toMatchObject({ recovered: true });
  const copied = Number(again.welcome.sent);
  expect(copied).toBeGreaterThanOrEqual(20);
  for (let seq = 1; seq <= copied; seq++) await again.hears({ type: "message", from: "ann", text: `${seq}` });
});

describe("a file that cannot be used prevents the start, with a reason", () => {
  test("a missing folder, no database, the database of another program or of a newer version, a folder", async () => {
    expect(await refusal("sqlite:no/such/chat.db")).toBe(
      "no/such/chat.db cannot be created: its folder does not exist.\n",
    );
    await Bun.write(join(folder, "text.db"), "This is not a database at all. ".repeat(100));
    expect(await refusal("sqlite:text.db")).toBe(
      "text.db is not a database. Choose another file with --store.\n",
    );
    edit("other.db", "CREATE TABLE notes (text)");
    expect(await refusal("sqlite:other.db")).toBe(
      "other.db is a database of another program. Choose another file with --store.\n",
    );
    await (await start()).stop();
    edit("chat.db", "PRAGMA user_version = 99");
    expect(await refusal()).toBe(
      "chat.db was written by a newer version of Hubbub. Start that version, or choose another file.\n",
    );
    expect(await refusal("sqlite:.")).toMatch(/^\. cannot be used: .*\n$/);
    for (const none of ["sqlite:", "sqlite:a?b.db", "sqlite:a#b.db", "sqlite:100%.db"])
      expect(await refusal(none)).toBe(
        `--store: expected memory:, sqlite:FILE, redis://HOST or postgres://HOST, got "${none}"\n`,
      );
  });

  test("a file name that has a special meaning in SQLite is an ordinary file", async () => {
    const first = await startServer({ store: { name: "SQLite", url: "sqlite::memory:" }, cwd: folder });
    const ann = await first.join("ann");
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    await first.stop();
    await using second = await startServer({
      store: { name: "SQLite", url: "sqlite::memory:" },
      cwd: folder,
    });
    await using bob = await second.join("bob", { history: 1 });
    await bob.hears("Client #ann says: hi");
  });

  /** Starts a server in a mount namespace, with its database on `/mnt`. */
  const onMount = async (prepare: string) => {
    const command = `${prepare} && exec "$0" "$1" --port 0 --store sqlite:/mnt/chat.db`;
    const { exitCode, stderr } =
      await Bun.$`unshare -rm sh -c ${command} ${process.execPath} ${import.meta.dir}/../../src/server.ts`
        .quiet()
        .nothrow();
    return { exitCode, stderr: `${stderr}` };
  };
  const canMount = Bun.spawnSync(["sh", "-c", "unshare -rm mount -t tmpfs tmpfs /mnt"]).success;
  const skippedMounts = canMount ? "" : " (skipped: file systems cannot be mounted here)";
  test.skipIf(!canMount)(`a full or read-only file system exits with 1${skippedMounts}`, async () => {
    const full = "mount -t tmpfs -o size=64k tmpfs /mnt && (head -c 100000 /dev/zero > /mnt/full || true)";
    const fullDisk = await onMount(`${full} 2> /dev/null`);
    expect(fullDisk).toEqual({
      exitCode: 1,
      stderr: "/mnt/chat.db cannot grow: no space is left.\n",
    });
    const readOnly = "mount -t tmpfs tmpfs /mnt && touch /mnt/chat.db && mount -o remount,ro /mnt";
    expect(await onMount(readOnly)).toEqual({
      exitCode: 1,
      stderr: "/mnt/chat.db cannot be written: its file system is read-only.\n",
    });
  });

  test("a file in use by another server exits with 1", async () => {
    await using server = await start();
    const command = [process.execPath, `${import.meta.dir}/../../src/server.ts`, "--store", STORE.url];
    const { exitCode } = await Bun.$`${command} --port 0`.cwd(folder).quiet().nothrow();
    expect(exitCode).toBe(1);
    await (await server.join("ann")).hearsNothing();
  });

  test("a rejected file is left unchanged", async () => {
    await Bun.write(join(folder, "text.db"), "not a database");
    await refusal("sqlite:text.db");
    expect(await Bun.file(join(folder, "text.db")).text()).toBe("not a database");
  });
});

test("a file of schema version 1 opens with everything in it", async () => {
  edit("chat.db", ...VERSION_1);
  await using server = await start();
  await using ann = await server.joinJson("ann", { session: "s" });
  expect(ann.welcome).toMatchObject({ sent: 7, last: "1795552789506-4" });
  await ann.hears(
    { type: "message", id: "1795552789506-5", time: 1795552789506, from: "ann", text: "hi" },
    { type: "message", id: "1795552789507-0", time: 1795552789507, from: "bob", data: "AQI=" },
  );
  ann.says("new");
  await ann.hears({ type: "message", from: "ann", text: "new" });
});

/** A file as the first development version wrote it. */
const VERSION_1 = [
  "PRAGMA application_id = 1215652450",
  "PRAGMA user_version = 1",
  "CREATE TABLE entries (id INTEGER PRIMARY KEY, prev INTEGER NOT NULL, room TEXT NOT NULL, sender TEXT NOT NULL, content ANY NOT NULL) STRICT",
  "CREATE INDEX entries_of_room ON entries (room, id)",
  "CREATE TABLE heads (room TEXT PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID",
  "CREATE TABLE origin (id INTEGER NOT NULL) STRICT",
  "CREATE TABLE sessions (client TEXT, session TEXT, seq INTEGER NOT NULL, id INTEGER NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (client, session)) STRICT, WITHOUT ROWID",
  "CREATE INDEX sessions_by_use ON sessions (used)",
  "INSERT INTO origin VALUES (1783529386033156)",
  "INSERT INTO entries VALUES (1783529386033157, 1783529386033156, 'lobby', 'ann', 'hi')",
  "INSERT INTO entries VALUES (1783529386041344, 1783529386033157, 'lobby', 'bob', x'0102')",
  "INSERT INTO heads VALUES ('lobby', 1783529386041344)",
  `INSERT INTO sessions VALUES ('ann', 's', 7, 1783529386033157, ${Date.now()})`,
];

describe("the store without a server", () => {
  const emitted: StoredMessage[] = [];
  beforeEach(() => void emitted.splice(0));
  const open = (
    now: number | (() => number) = Date.now(),
    keepDays = 0,
    history = 10,
    rooms?: RoomCache<CachedRoom>,
  ) =>
    new SqliteStore(
      join(folder, "chat.db"),
      { history, keepDays },
      (entry) => isMessage(entry) && emitted.push(entry),
      { ...systemClock, now: () => (typeof now === "number" ? now : now()) },
      systemRandom,
      rooms,
    );
  async function say(
    store: SqliteStore,
    content: string,
    more: Partial<PendingMessage> = {},
  ): Promise<AppendResult> {
    const { promise, resolve } = Promise.withResolvers<AppendResult>();
    const rest = { session: undefined, seq: undefined, requiresSeq: undefined };
    store.append(
      { room: "r", from: "ann", content, ...rest, ...more },
      { onResult: (_, result) => resolve(result) },
    );
    return promise;
  }
  const texts = async (store: SqliteStore) => {
    const page = await store.readHistory("r", { limit: 1000 });
    return page.entries.flatMap((entry) => (isMessage(entry) ? [entry.content] : []));
  };

  test("messages of one turn of the event loop share a commit", async () => {
    const store = open();
    const before = countCommits();
    for (let turn = 1; turn <= 2; turn++) {
      await Promise.all(Array.from({ length: 100 }, (_, i) => say(store, `${i}`)));
      expect(countCommits() - before).toBe(turn);
    }
    expect(emitted).toHaveLength(200);
    store.close();
  });

  test("ids increase even when the clock goes back between two starts", async () => {
    const now = Date.now();
    open(now - 2 * DAY_MS).close(); // creates the file, whose origin id is older than the first message
    const first = open(now);
    await say(first, "1");
    first.close();
    const second = open(now - DAY_MS);
    await say(second, "2");
    await say(second, "3");
    const sequences = emitted.map(({ id }) => Number(id.split("-")[1]));
    expect(emitted.map(({ time }) => time)).toEqual([now, now - DAY_MS, now - DAY_MS]);
    const stored = await second.readHistory("r", { limit: 10 });
    expect(stored).toEqual({ entries: emitted, more: false });
    expect(sequences.map((sequence) => sequence - (sequences[0] ?? 0))).toEqual([0, 1, 2]);
    expect(emitted.map(({ prev }) => prev).slice(1)).toEqual(emitted.map(({ id }) => id).slice(0, 2));
    second.close();
  });

  test("a clock that is decades ahead for a moment neither hides nor stops messages", async () => {
    let now = Date.now();
    const store = open(() => now);
    await say(store, "now");
    now += 40 * 365 * DAY_MS;
    await say(store, "far ahead");
    now -= 40 * 365 * DAY_MS;
    await say(store, "back");
    expect(await texts(store)).toEqual(["now", "far ahead", "back"]);
    store.close();
    const again = open();
    expect(await say(again, "after a restart")).toHaveProperty("stored");
    again.close();
  });

  test("a removal includes messages that are still to be committed", async () => {
    const store = open();
    const results = Promise.all([say(store, "first secret"), say(store, "second secret")]);
    expect(await store.remove("r", { from: "ann" })).toBe(2);
    expect(await results).toMatchObject([{ stored: {} }, { stored: {} }]);
    expect(await texts(store)).toEqual([undefined, undefined]);
    store.close();
  });

  test("a removal that the end of the process interrupts holds at once, and is completed afterwards", async () => {
    const COUNT = 5000;
    const store = open();
    await Promise.all(Array.from({ length: COUNT }, (_, i) => say(store, `secret ${i}`)));
    await say(store, "of bob", { from: "bob" });
    const removal = store.remove("r", { from: "ann" }).catch((error: unknown) => error);
    const isRemoved = async () => {
      const { entries } = await store.readHistory("r", { limit: 1 });
      return entries.some((entry) => !isMessage(entry));
    };
    while (!(await isRemoved())) await new Promise((resolve) => setImmediate(resolve));
    expect(await texts(store)).toEqual([...new Array(999).fill(undefined), "of bob"]);
    store.close();
    expect(await removal).toBeInstanceOf(StoreUnavailable);

    const secrets = () => {
      using database = new Database(join(folder, "chat.db"), { readonly: true });
      const sql = "SELECT count(*) AS count FROM messages WHERE content LIKE 'secret%'";
      return database.query<{ count: number }, []>(sql).get()?.count;
    };
    expect(secrets()).toBeGreaterThan(0);
    const archive = sqliteArchive(join(folder, "chat.db"), systemClock, systemRandom);
    const source = await archive.openSource(undefined, () => {});
    for await (const entries of source.entries()) expect(JSON.stringify(entries)).not.toInclude("secret");
    source.close();
    const again = open();
    expect(await texts(again)).toEqual([...new Array(999).fill(undefined), "of bob"]);
    expect(await again.remove("r", { from: "ann" })).toBe(0);
    await say(again, "later");
    await eventually(async () => secrets() === 0, "the file contains no removed message");
    expect((await texts(again)).slice(-2)).toEqual(["of bob", "later"]);
    again.close();
  });

  test("a session's seq counts while its message is still queued", async () => {
    const store = open();
    const result = say(store, "1", { session: "s", seq: 1 });
    expect(await store.lastSeq("ann", "s")).toBe(1);
    await result;
    store.close();
  });

  test.each([
    ["30 days", 0, 30],
    ["30 days, even if messages are pruned earlier", 7, 30],
    ["--keep-days if that is longer", 90, 90],
  ])("a session's seq is remembered for %s", async (_, keepDays, days) => {
    const store = open(undefined, keepDays);
    await say(store, "1", { session: "s", seq: 1 });
    store.close();
    const again = open(Date.now() + days * DAY_MS - 5000, keepDays);
    again.prune();
    expect(await again.lastSeq("ann", "s")).toBe(1);
    expect(await say(again, "1", { session: "s", seq: 1 })).toMatchObject({ duplicateSeq: 1 });
    again.close();
    const later = open(Date.now() + days * DAY_MS + HOUR_MS, keepDays);
    later.prune();
    expect(await later.lastSeq("ann", "s")).toBe(null);
    later.close();
  });

  test("a session's seq is remembered from the last message on", async () => {
    const days = [0, 20, 45];
    for (const [i, day] of days.entries()) {
      const store = open(Date.now() + day * DAY_MS);
      store.prune();
      expect(await store.lastSeq("ann", "s")).toBe(i || null);
      expect(await say(store, `${i}`, { session: "s", seq: i + 1 })).toHaveProperty("stored");
      store.close();
    }
  });

  test("looking up a session waits for the scheduled commit and does not force one", async () => {
    const store = open();
    const before = countCommits();
    const results = Array.from({ length: 200 }, async (_, i) => {
      const session = `s${i}`;
      const result = say(store, `${i}`, { session, seq: 7 });
      expect(await store.lastSeq("ann", session)).toBe(7);
      return result;
    });
    for (const result of await Promise.all(results)) expect(result).toHaveProperty("stored");
    expect(countCommits() - before).toBe(1);
    expect(await store.lastSeq("ann", "s5")).toBe(7);
    expect(countCommits() - before).toBe(1);
    store.close();
  });

  test("reads that a shutdown overtakes reject, and nothing is logged", async () => {
    const store = open();
    const result = say(store, "1", { session: "s", seq: 1 });
    const sent = store.lastSeq("bob", "s"); // waits for the commit, which closing makes
    using logged = spyOn(console, "error");
    store.close();
    expect(await result).toHaveProperty("stored");
    const reads: readonly (() => Promise<unknown>)[] = [
      () => sent,
      () => store.acquireRoom("r"),
      () => store.readHistory("r", { limit: 1 }),
      () => store.idBeforeLatest("r", 1),
      () => store.listRooms(undefined, 1),
    ];
    for (const read of reads)
      expect(await read().catch((error: unknown) => error)).toBeInstanceOf(StoreUnavailable);
    expect(await say(store, "2")).toEqual({ rejected: "unavailable" });
    expect(logged).not.toHaveBeenCalled();
    expect(store.isReady).toBe(false);
  });

  test("messages older than --keep-days are pruned, and a gap is detected", async () => {
    const now = Date.now();
    const first = open(now - 10 * DAY_MS);
    await say(first, "old");
    first.close();
    const second = open(now, 7);
    await say(second, "new");
    await say(second, "elsewhere", { room: "s" });
    const cached = await second.acquireRoom("r");
    second.prune();
    expect(await texts(second)).toEqual(["new"]);
    expect(cached).toMatchObject({ firstOffset: 1, nextOffset: 2 });
    const recovered = async (after = "") => {
      const page = await second.readHistory("r", { after, limit: 10 });
      return page.recovered;
    };
    const [old, , elsewhere] = emitted;
    expect(await recovered(old?.id)).toBe(true); // just before the oldest stored message
    expect(await recovered(old?.prev)).toBe(false);
    expect(await recovered(elsewhere?.id)).toBe(false);
    second.close();
  });

  test("once the log is removed, the very next message is rejected", async () => {
    const store = open();
    expect(await say(store, "1")).toHaveProperty("stored");
    rmSync(join(folder, "chat.db-wal"));
    expect(await say(store, "2", { session: "s", seq: 1 })).toEqual({ rejected: "unavailable" });
    expect(store.isReady).toBe(false);
    expect(await store.lastSeq("ann", "s")).toBe(null);
    store.close();
  });

  test("after a failed commit the next start reports no loss", async () => {
    const store = open();
    expect(await say(store, "1", { session: "s", seq: 1 })).toHaveProperty("stored");
    const failed = say(store, "2", { session: "s", seq: 2 });
    store.append(
      {
        ...{ room: "r", from: "ann", session: undefined, seq: undefined, requiresSeq: undefined },
        get content(): string {
          throw new Error("injected into a transaction");
        },
      },
      { onResult() {} },
    );
    expect(await failed).toEqual({ rejected: "unavailable" });
    expect(await say(store, "1", { session: "s", seq: 1 })).toHaveProperty("duplicateSeq");
    store.close();
    const again = open();
    expect(again.durability).toBe(`in ${join(folder, "chat.db")}`);
    again.close();
  });

  test("--keep-days prunes only from the front of a room; a time in the future counts as the next message's", async () => {
    let now = Date.now() - 10 * DAY_MS;
    const open7 = () => open(() => now, 7);
    let store = open7();
    const at = async (days: number, ...texts: string[]) => {
      now = Date.now() + days * DAY_MS;
      for (const text of texts) await say(store, text);
    };
    await at(-10, "1", "2");
    await at(3000, "ahead");
    await at(-9, "3");
    await at(-1, "4");
    await at(-30, "late, but behind a newer one");
    await at(3000, "ahead again");
    await at(0, "5");
    store.close();
    store = open7();
    store.prune();
    expect(await texts(store)).toEqual(["4", "late, but behind a newer one", "ahead again", "5"]);
    const resumed = async (i: number) => store.readHistory("r", { after: emitted[i]?.id ?? "", limit: 10 });
    expect(await resumed(3)).toMatchObject({ recovered: true, entries: emitted.slice(4) });
    expect(await resumed(2)).toMatchObject({ recovered: false });
    store.close();
  });

  test("--keep-days prunes more rooms and messages than fit in one step", async () => {
    const first = open(Date.now() - 10 * DAY_MS);
    const saying = Array.from({ length: 1200 }, (_, i) => say(first, "old", { room: `r${i % 1100}` }));
    await Promise.all([...saying, ...Array.from({ length: 700 }, () => say(first, "old", { room: "r5" }))]);
    first.close();
    const second = open(Date.now(), 7);
    await say(second, "new", { room: "r5" });
    for (let i = 0; i < 10; i++) second.prune();
    let left = 0;
    for (let i = 0; i < 1100; i++) {
      const page = await second.readHistory(`r${i}`, { limit: 10 });
      left += page.entries.length;
    }
    expect(left).toBe(1);
    second.close();
  });

  test("the cache stays within its budget when rooms grow; the file has the rest", async () => {
    const cache = new RoomCache<CachedRoom>(1_000_000);
    const store = open(Date.now, 0, 1000, cache);
    for (let i = 0; i < 30; i++) await store.acquireRoom(`r${i}`);
    for (let count = 0; count < 100; count++) {
      await Promise.all(Array.from({ length: 30 }, (_, i) => say(store, "x".repeat(400), { room: `r${i}` })));
      expect(cache.bytes).toBeLessThanOrEqual(1_000_000);
    }
    expect(cache.bytes).toBeGreaterThan(800_000);
    for (let i = 0; i < 30; i++)
      expect(await store.readHistory(`r${i}`, { limit: 1000 })).toMatchObject({ entries: { length: 100 } });
    for (let i = 0; i < 30; i++) store.releaseRoom(`r${i}`);
    expect([cache.bytes, cache.size]).toEqual([0, 0]);
    store.close();
  });

  test("a room whose messages were all pruned still detects a gap", async () => {
    const now = Date.now();
    const first = open(now - 10 * DAY_MS);
    const { lastId: before } = await first.acquireRoom("r");
    await say(first, "1");
    await say(first, "2");
    first.close();
    const second = open(now, 7);
    second.prune();
    expect(await texts(second)).toEqual([]);
    for (const [after, expected] of [
      [before, false],
      [emitted[0]?.id ?? "", false],
      [emitted[1]?.id ?? "", true],
    ] as const)
      expect(await second.readHistory("r", { after, limit: 1 })).toEqual({
        entries: [],
        more: false,
        recovered: expected,
      });
    second.close();
  });
});

const prlimit = Bun.which("prlimit");
const skipped = prlimit ? "" : " (skipped: needs prlimit, part of util-linux)";

test.skipIf(skipped !== "")(
  `while the file cannot grow nothing is acknowledged; afterwards the server recovers${skipped}`,
  async () => {
    const first = await start("--log", "text");
    const limit = (bytes: number | "unlimited") =>
      Bun.$`${prlimit} --pid ${first.process.pid} --fsize=${bytes}:unlimited`.quiet();
    const ann = await first.joinJson("ann", { session: "s" });
    let seq = 0;
    const said: string[] = [];
    /** Sends the next message. @returns "stored", or the code of the error */
    const say = async () => {
      const text = `${seq + 1} `.padEnd(30_000, "x");
      ann.says(text, { seq: seq + 1 });
      for (;;) {
        const { type, code } = await ann.next();
        if (type === "ack") {
          said.push(text);
          seq++;
          return "stored";
        }
        if (type === "error") return code;
      }
    };
    for (let i = 0; i < 5; i++) expect(await say()).toBe("stored");
    await limit(400_000);
    let last: unknown = "stored";
    for (let i = 0; i < 50 && last === "stored"; i++) last = await say();
    expect(last).toBe("unavailable");
    expect(await first.answer("/readyz")).toEqual({
      status: 503,
      body: "Not ready: messages cannot be stored right now.\n",
    });
    const posted = await first.post("lobby", { text: "x".repeat(60_000), from: "ci" });
    expect([posted.status, posted.headers.get("retry-after")]).toEqual([503, "5"]);

    await limit("unlimited");
    await first.becomesReady();
    for (let i = 0; i < 5; i++) expect(await say()).toBe("stored");
    await first.stop("SIGKILL");
    const events = [...(await first.output).matchAll(/ (store \w+)/g)].map(([, event]) => event);
    expect(events).toEqual(["store unavailable", "store available"]);
    await using second = await start();
    await using bob = await second.joinJson("bob", { after: String(ann.welcome.last) });
    for (const text of said) await bob.hears({ type: "message", from: "ann", text });
    await bob.hearsNothing();
  },
);
