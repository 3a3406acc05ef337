/** The SQLite store's file: its shape and versions, all that is asked of it, and how ids stand in it. */

import { Database } from "bun:sqlite";
import { resolve } from "node:path";
import { lazyFs } from "../../util/lazy-node.ts";
import type { Content } from "../message.ts";
import { StoreError } from "../store.ts";

/** "Hubb", by which a file is known as ours. */
const APPLICATION_ID = 0x48756262;
/** Each brings a file to the next version; a file's version is how many of them it has been through. */
const MIGRATIONS = [
  `CREATE TABLE entries (
     id INTEGER PRIMARY KEY, prev INTEGER NOT NULL, room TEXT NOT NULL, sender TEXT NOT NULL, content ANY NOT NULL
   ) STRICT;
   CREATE INDEX entries_of_room ON entries (room, id);
   -- The newest id that a room has ever had, and the one before all rooms.
   CREATE TABLE heads (room TEXT PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE origin (id INTEGER NOT NULL) STRICT;
   CREATE TABLE sessions (
     client TEXT, session TEXT, seq INTEGER NOT NULL, id INTEGER NOT NULL, used INTEGER NOT NULL,
     PRIMARY KEY (client, session)
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX sessions_by_use ON sessions (used);`,
  // Rows of before have none: theirs is the id's.
  `ALTER TABLE entries ADD COLUMN time INTEGER`,
  // Rows of before have no checksum. Nobody can resume from an id up to \`damaged\`: something after it may be lost.
  `ALTER TABLE entries ADD COLUMN sum INTEGER;
   ALTER TABLE sessions ADD COLUMN sum INTEGER;
   ALTER TABLE origin ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0`,
];

/** An id as SQLite's own key, a number: time and sequence in one, exact in a double until the year 2054. */
const EPOCH_MS = Date.UTC(2020);
const IDS_A_MS = 8192;
/** With room for all that a clock beyond it can still bring. */
export const MAX_KEY = Number.MAX_SAFE_INTEGER - 2 ** 40;

/** Writes, and changes nothing. */
const TOUCH = "UPDATE origin SET id = id";

export interface MessageRow {
  readonly id: number;
  readonly prev: number;
  readonly time: number | null;
  readonly sender: string;
  readonly content: Content;
  readonly sum: number | null;
}

export interface SessionRow {
  readonly seq: number;
  readonly id: number;
  readonly used: number;
  readonly sum: number | null;
}

/** A larger file is not looked through at the start: that would take seconds. What is read of it is checked all the same. */
const MAX_CHECKED_BYTES = 256 * 1024 * 1024;

/** @throws StoreError when the file cannot be used */
export function openDatabase(path: string, nowMs: number): Database {
  try {
    const { closeSync, openSync } = lazyFs();
    closeSync(openSync(path, "a", 0o600)); // SQLite would make it readable to everyone
    const db = new Database(resolve(path), { strict: true }); // no name means anything else to SQLite
    // Before anything is read: the file is this process's alone, until it ends.
    for (const pragma of ["locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"])
      db.run(`PRAGMA ${pragma}`);
    db.transaction(() => migrate(db, path, nowMs)).immediate();
    db.run("PRAGMA wal_checkpoint(TRUNCATE)"); // what is in the main file needs no log to be found
    check(db, path);
    db.run(TOUCH); // from here on there is a write-ahead log, which can be looked after
    return db;
  } catch (error) {
    throw error instanceof StoreError ? error : new StoreError(describe(path, error));
  }
}

function migrate(db: Database, path: string, nowMs: number): void {
  const { application_id = 0 } =
    db.query<{ application_id: number }, []>("PRAGMA application_id").get() ?? {};
  const { user_version = 0 } = db.query<{ user_version: number }, []>("PRAGMA user_version").get() ?? {};
  const isEmpty = db.query("SELECT 1 FROM sqlite_schema").get() === null;
  if (application_id !== APPLICATION_ID && !isEmpty)
    throw new StoreError(`${path} is a database of something else: choose another file with --store.`);
  if (user_version > MIGRATIONS.length)
    throw new StoreError(`${path} was written by a newer Hubbub: start that one, or choose another file.`);
  for (const migration of MIGRATIONS.slice(user_version)) db.run(migration);
  db.run(`PRAGMA application_id = ${APPLICATION_ID}`);
  db.run(`PRAGMA user_version = ${MIGRATIONS.length}`);
  // An id of its own, so that nobody takes this file for another one that they have heard from.
  if (isEmpty)
    db.run("INSERT INTO origin (id) VALUES (?)", [keyFromMs(nowMs) + Math.floor(Math.random() * IDS_A_MS)]);
}

function check(db: Database, path: string): void {
  if (lazyFs().statSync(path).size > MAX_CHECKED_BYTES) return;
  const result = db.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get()?.quick_check;
  if (result !== "ok") throw new StoreError(damaged(path, result ?? "unreadable"));
}

function damaged(path: string, why: string): string {
  return `${path} is damaged (${why.replaceAll("\n", " ")}): restore a copy, or save what can be read with sqlite3's .recover.`;
}

/** What keeps a file from being used, by SQLite's code or the system's. */
const REASONS: readonly [RegExp, string][] = [
  [/^SQLITE_BUSY/, "is in use by another Hubbub: stop that one first."],
  [/^SQLITE_NOTADB$/, "is not a database: choose another file with --store."],
  [/^(SQLITE_FULL|ENOSPC|EDQUOT)$/, "cannot grow: there is no space left."],
  [/^(SQLITE_READONLY.*|EROFS)$/, "cannot be written: its file system is read-only."],
  [/^(SQLITE_PERM|EACCES|EPERM)$/, "cannot be written: this user may not, see its owner and mode."],
  [/^ENOENT$/, "cannot be made: its folder does not exist."],
];

function describe(path: string, error: unknown): string {
  const code = error instanceof Error && "code" in error ? `${error.code}` : "";
  if (code.startsWith("SQLITE_CORRUPT")) return damaged(path, error instanceof Error ? error.message : code);
  const reason = REASONS.find(([codes]) => codes.test(code))?.[1];
  return `${path} ${reason ?? `cannot be used: ${error instanceof Error ? error.message : error}.`}`;
}

const COLUMNS = "SELECT id, prev, time, sender, content, sum FROM entries WHERE room = ?";

/** All that is asked of it. */
export function prepareStatements(db: Database) {
  return {
    origin: db.query<{ id: number; damaged: number }, []>("SELECT id, damaged FROM origin"),
    setDamaged: db.query<unknown, [number]>("UPDATE origin SET damaged = ?"),
    newest: db.query<{ id: number | null }, []>(
      "SELECT max(id) AS id FROM (SELECT max(id) AS id FROM entries UNION ALL SELECT max(id) FROM heads)",
    ),
    after: db.query<MessageRow, [string, number]>(`${COLUMNS} AND id > ? ORDER BY id`),
    before: db.query<MessageRow, [string, number]>(`${COLUMNS} AND id < ? ORDER BY id DESC`),
    oldest: db.query<{ prev: number }, [string]>(
      "SELECT prev FROM entries WHERE room = ? ORDER BY id LIMIT 1",
    ),
    /** The one that a number of others follow. */
    latest: db.query<{ id: number }, [string, number]>(
      "SELECT id FROM entries WHERE room = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
    ),
    exists: db.query<unknown, [string, number]>("SELECT 1 FROM entries WHERE room = ? AND id = ?"),
    head: db.query<{ id: number }, [string]>("SELECT id FROM heads WHERE room = ?"),
    session: db.query<SessionRow, [string, string]>(
      "SELECT seq, id, used, sum FROM sessions WHERE client = ? AND session = ?",
    ),
    insert: db.query<unknown, [number, number, number, string, string, Content, number]>(
      "INSERT INTO entries (id, prev, time, room, sender, content, sum) VALUES (?, ?, ?, ?, ?, ?, ?)",
    ),
    setHead: db.query<unknown, [string, number]>("REPLACE INTO heads (room, id) VALUES (?, ?)"),
    setSession: db.query<unknown, [string, string, number, number, number, number]>(
      "REPLACE INTO sessions (client, session, seq, id, used, sum) VALUES (?, ?, ?, ?, ?, ?)",
    ),
    roomsAfter: db.query<{ room: string }, [string, number]>(
      "SELECT room FROM heads WHERE room > ? ORDER BY room LIMIT ?",
    ),
    oldestTimes: db.query<Pick<MessageRow, "id" | "time">, [string, number]>(
      "SELECT id, time FROM entries WHERE room = ? ORDER BY id LIMIT ?",
    ),
    pruneUpTo: db.query<unknown, [string, number]>("DELETE FROM entries WHERE room = ? AND id <= ?"),
    forgetSessions: db.query<unknown, [number, number]>(
      `DELETE FROM sessions WHERE (client, session) IN
         (SELECT client, session FROM sessions WHERE used < ? ORDER BY used LIMIT ?)`,
    ),
    touch: db.query<unknown, []>(TOUCH),
    checkpoint: db.query<{ busy: number }, []>("PRAGMA wal_checkpoint(TRUNCATE)"),
  };
}

/** What a row is checked against when it is read: disks change bytes. */
export function sumOf({ id, prev, time, sender, content }: Omit<MessageRow, "sum">, room: string): number {
  const kind = typeof content === "string" ? "text" : "bytes";
  // Numbers as they are: to write them out would take as long as all the rest.
  const numbers = Bun.hash.crc32(new Float64Array([id, prev, time ?? -1]));
  return Bun.hash.crc32(content, Bun.hash.crc32(`${room} ${sender} ${kind}`, numbers));
}

export function sumOfSession(
  client: string,
  session: string,
  { seq, id, used }: Omit<SessionRow, "sum">,
): number {
  return Bun.hash.crc32(`${client} ${session} ${seq} ${id} ${used}`);
}

export function keyFromMs(ms: number): number {
  return Math.max(0, ms - EPOCH_MS) * IDS_A_MS;
}

/** The key of an id, or one beside which it would stand. */
export function keyFromId(id: string): number {
  const [ms = 0, sequence = 0] = id.split("-").map(Number);
  return keyFromMs(ms) + Math.min(sequence, IDS_A_MS - 1);
}

export function idFromKey(key: number): string {
  return `${msFromKey(key)}-${key % IDS_A_MS}`;
}

export function msFromKey(key: number): number {
  return EPOCH_MS + Math.floor(key / IDS_A_MS);
}

export function timeOf({ id, time }: Pick<MessageRow, "id" | "time">): number {
  return time ?? msFromKey(id);
}
