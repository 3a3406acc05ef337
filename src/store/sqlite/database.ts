/** The SQLite store's database file: its schema and migrations, all statements, and ids as integer keys. */

import { constants, Database, SQLiteError } from "bun:sqlite";
import { resolve } from "node:path";
import { lazyFs } from "../../util/lazy-node.ts";
import type { Random } from "../../util/random.ts";
import type { Content } from "../../protocol/codec.ts";
import { StoreError } from "../store.ts";

/** "Hubb": marks a database file as this program's (https://sqlite.org/fileformat2.html, application ID). */
const APPLICATION_ID = 0x48756262;
const IS_MESSAGE = "removes IS NULL";
const SET_LAST_MESSAGE_IDS = `UPDATE rooms SET last_message_id =
  (SELECT id FROM messages WHERE room = rooms.room AND ${IS_MESSAGE} ORDER BY id DESC LIMIT 1)`;
/** Each brings a file to the next version. A file's `user_version` is the number of migrations applied to it. */
const MIGRATIONS = [
  `CREATE TABLE entries (
     id INTEGER PRIMARY KEY, prev INTEGER NOT NULL, room TEXT NOT NULL, sender TEXT NOT NULL, content ANY NOT NULL
   ) STRICT;
   CREATE INDEX entries_of_room ON entries (room, id);
   CREATE TABLE heads (room TEXT PRIMARY KEY, id INTEGER NOT NULL) STRICT, WITHOUT ROWID;
   CREATE TABLE origin (id INTEGER NOT NULL) STRICT;
   CREATE TABLE sessions (
     client TEXT, session TEXT, seq INTEGER NOT NULL, id INTEGER NOT NULL, used INTEGER NOT NULL,
     PRIMARY KEY (client, session)
   ) STRICT, WITHOUT ROWID;
   CREATE INDEX sessions_by_use ON sessions (used);`,
  // Null in rows written before: their time is that of their id.
  `ALTER TABLE entries ADD COLUMN time INTEGER`,
  // The checksum is null in rows written before.
  `ALTER TABLE entries ADD COLUMN sum INTEGER;
   ALTER TABLE sessions ADD COLUMN sum INTEGER;
   ALTER TABLE origin ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0`,
  `ALTER TABLE entries RENAME TO messages;
   ALTER TABLE messages RENAME COLUMN sum TO checksum;
   DROP INDEX entries_of_room;
   CREATE INDEX messages_by_room ON messages (room, id);
   ALTER TABLE sessions RENAME COLUMN used TO used_ms;
   ALTER TABLE sessions RENAME COLUMN sum TO checksum;
   -- Each room's newest id, which outlives its messages.
   ALTER TABLE heads RENAME TO rooms;
   ALTER TABLE rooms RENAME COLUMN id TO last_id;
   -- The id before the first message of every room. No client can resume from an id up to \`damaged_up_to\`: a later message may be lost.
   ALTER TABLE origin RENAME COLUMN damaged TO damaged_up_to`,
  `CREATE INDEX rooms_by_last_id ON rooms (last_id)`,
  `-- Imported ids that differ from those that their keys stand for.
   CREATE TABLE imported_ids (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE) STRICT;
   -- The greatest key that an import reserved.
   ALTER TABLE origin ADD COLUMN reserved_up_to INTEGER NOT NULL DEFAULT 0`,
  // See MessageRow.
  `ALTER TABLE messages ADD COLUMN removes TEXT`,
  // \`rooms\` are patterns, separated by spaces.
  `CREATE TABLE bans (
     client TEXT, rooms TEXT, until_ms INTEGER NOT NULL, PRIMARY KEY (client, rooms)
   ) STRICT, WITHOUT ROWID`,
  // Null: the room has no messages.
  `ALTER TABLE rooms ADD COLUMN last_message_id INTEGER;
   ${SET_LAST_MESSAGE_IDS};
   DROP INDEX rooms_by_last_id;
   CREATE INDEX rooms_by_last_message_id ON rooms (last_message_id)`,
  // The removals whose messages still have their content, at least in part.
  `CREATE TABLE erasures (id INTEGER PRIMARY KEY) STRICT`,
];

/** An id is stored as one integer of milliseconds and sequence, which is exact in a double until the year 2054. */
const EPOCH_MS = Date.UTC(2020);
const IDS_PER_MS = 8192;
/** Above this, keys no longer follow the clock but count up, so that a wrong clock cannot exhaust them. */
export const MAX_KEY = Number.MAX_SAFE_INTEGER - 2 ** 40;

/** The content of removals and removed messages: neither text nor bytes. */
export const ERASED = 0;
/** All messages of the removal's sender before it. */
export const ALL_OF_SENDER = "*";

/** Writes to the file without changing anything. */
const PROBE_WRITE = "UPDATE origin SET id = id";

export interface MessageRow {
  readonly id: number;
  readonly prev: number;
  readonly time: number | null;
  readonly sender: string;
  /** {@link ERASED} of a removal, and of a removed message. */
  readonly content: Content | number;
  /** Of a removal: the id of the message that it removes, or {@link ALL_OF_SENDER}; null in a message. */
  readonly removes: string | null;
  readonly checksum: number | null;
}

/** A removal of all messages of a client, whose content is not erased completely yet. */
export interface Erasure {
  /** Of the removal. */
  readonly id: number;
  readonly room: string;
  readonly sender: string;
  readonly upTo: number;
}

/** To readers, these messages are removed already. */
export function isBeingErased(
  erasures: readonly Erasure[],
  room: string,
  { id, sender }: Pick<MessageRow, "id" | "sender">,
): boolean {
  return erasures.some((each) => each.room === room && each.sender === sender && id <= each.upTo);
}

export interface SessionRow {
  readonly seq: number;
  readonly id: number;
  readonly used_ms: number;
  readonly checksum: number | null;
}

/** A larger file is not checked at the start, which would take seconds. What is read of it is checked all the same. */
const MAX_CHECKED_BYTES = 256 * 1024 * 1024;

/** A program that reads a file after a crash locks it while it recovers the write-ahead log. */
const OPEN_WAIT_MS = 2000;

/** A file beside the database, where SQLite has its own: not beside a symbolic link to it. */
export function besideDatabase(path: string, suffix: string): string {
  return `${lazyFs().realpathSync(path)}${suffix}`;
}

/**
 * Excludes other servers, and nothing else: other programs can read the database, such as to back it up. The lock is an
 * exclusive transaction in an empty database beside it, which the system ends with the process at the latest.
 * @returns closing it releases the lock @throws StoreError
 */
export function lockDatabase(path: string): Database {
  try {
    const { closeSync, openSync } = lazyFs();
    // SQLite would make them readable for everyone.
    const create = (file: string) => closeSync(openSync(file, "a", 0o600));
    create(path);
    requireOneName(path);
    const lockPath = besideDatabase(path, "-lock");
    create(lockPath);
    const lock = new Database(resolve(lockPath));
    lock.run("PRAGMA journal_mode = MEMORY"); // else it creates a file, too
    lock.run("BEGIN EXCLUSIVE");
    return lock;
  } catch (error) {
    throw databaseError(path, error);
  }
}

/** SQLite names its write-ahead log and its locks by the path: https://sqlite.org/howtocorrupt.html, section 2.5. @throws StoreError */
function requireOneName(path: string): void {
  const { nlink } = lazyFs().statSync(path);
  if (nlink > 1)
    throw new StoreError(
      `${path} has ${nlink} names (hard links), and the latest messages are beside only one of them. Remove the other names, or use a copy.`,
    );
}

/** Requires {@link lockDatabase}. @throws StoreError when the file cannot be used */
export function openDatabase(path: string, nowMs: number, random: Random): Database {
  try {
    const db = new Database(resolve(path), { strict: true }); // an absolute path has no special meaning, as `:memory:` has
    // `secure_delete` overwrites what is removed with zeros.
    for (const pragma of [
      `busy_timeout = ${OPEN_WAIT_MS}`,
      "journal_mode = WAL",
      "synchronous = FULL",
      "secure_delete = ON",
    ])
      db.run(`PRAGMA ${pragma}`);
    db.transaction(() => migrate(db, path, nowMs, random)).immediate();
    db.run("PRAGMA wal_checkpoint(TRUNCATE)"); // messages in the main file do not depend on the write-ahead log
    check(db, path);
    db.run("PRAGMA busy_timeout = 0"); // the server must never wait for another program
    db.run(PROBE_WRITE); // creates the write-ahead log, which can be watched from here on
    return db;
  } catch (error) {
    throw databaseError(path, error);
  }
}

/** A file that another process may be writing to, as it is now, until the database is closed. @throws StoreError */
export function openSnapshot(path: string): Database {
  if (!lazyFs().existsSync(path)) throw new StoreError(`${path} does not exist.`);
  try {
    requireOneName(path);
    const db = openReadOnly(path);
    db.run("BEGIN"); // the first read begins the snapshot
    if (checkVersion(db, path).version < MIGRATIONS.length)
      throw new StoreError(
        `${path} was written by an older version of Hubbub. Start this version on it once.`,
      );
    return db;
  } catch (error) {
    throw databaseError(path, error);
  }
}

function openReadOnly(path: string): Database {
  const { SQLITE_OPEN_READONLY, SQLITE_OPEN_URI } = constants;
  try {
    const db = new Database(resolve(path), SQLITE_OPEN_READONLY);
    db.run(`PRAGMA busy_timeout = ${OPEN_WAIT_MS}`);
    db.query("SELECT 1 FROM sqlite_schema").get();
    return db;
  } catch (error) {
    // In a folder that cannot be written to, there is no place for locks, but also nobody who writes.
    const isUnwritable = error instanceof SQLiteError && error.code === "SQLITE_CANTOPEN";
    if (!isUnwritable || lazyFs().existsSync(besideDatabase(path, "-wal"))) throw error;
    return new Database(
      `${Bun.pathToFileURL(resolve(path)).href}?immutable=1`,
      SQLITE_OPEN_READONLY | SQLITE_OPEN_URI,
    );
  }
}

/** @throws StoreError for a database of another program, or of a newer version */
function checkVersion(db: Database, path: string): { readonly version: number; readonly isEmpty: boolean } {
  const { application_id = 0 } =
    db.query<{ application_id: number }, []>("PRAGMA application_id").get() ?? {};
  const { user_version = 0 } = db.query<{ user_version: number }, []>("PRAGMA user_version").get() ?? {};
  const isEmpty = db.query("SELECT 1 FROM sqlite_schema").get() === null;
  if (application_id !== APPLICATION_ID && !isEmpty)
    throw new StoreError(`${path} is a database of another program. Choose another file with --store.`);
  if (user_version > MIGRATIONS.length)
    throw new StoreError(
      `${path} was written by a newer version of Hubbub. Start that version, or choose another file.`,
    );
  return { version: user_version, isEmpty };
}

function migrate(db: Database, path: string, nowMs: number, random: Random): void {
  const { version, isEmpty } = checkVersion(db, path);
  if (version === MIGRATIONS.length) return;
  for (const migration of MIGRATIONS.slice(version)) db.run(migration);
  db.run(`PRAGMA application_id = ${APPLICATION_ID}`);
  db.run(`PRAGMA user_version = ${MIGRATIONS.length}`);
  // A random id, so that clients of another file do not resume in this one.
  if (isEmpty)
    db.run("INSERT INTO origin (id) VALUES (?)", [keyFromMs(nowMs) + Math.floor(random.next() * IDS_PER_MS)]);
}

function check(db: Database, path: string): void {
  if (lazyFs().statSync(path).size > MAX_CHECKED_BYTES) return;
  const result = db.query<{ quick_check: string }, []>("PRAGMA quick_check(1)").get()?.quick_check;
  if (result !== "ok") throw new StoreError(describeDamage(path, result ?? "unreadable"));
}

function describeDamage(path: string, reason: string): string {
  return `${path} is damaged (${reason.replaceAll("\n", " ")}). Restore a backup, or recover what is readable with sqlite3's .recover.`;
}

/** Why a file cannot be used, by the error code of SQLite or of the system. */
const REASONS: readonly [RegExp, string][] = [
  [/^SQLITE_BUSY/, "is in use by another server. Stop that one first."],
  [/^SQLITE_NOTADB$/, "is not a database. Choose another file with --store."],
  [/^(SQLITE_FULL|ENOSPC|EDQUOT)$/, "cannot grow: no space is left."],
  [/^(SQLITE_READONLY.*|EROFS)$/, "cannot be written: its file system is read-only."],
  [/^(SQLITE_PERM|EACCES|EPERM)$/, "cannot be written: permission denied. Check its owner and mode."],
  [/^ENOENT$/, "cannot be created: its folder does not exist."],
];

/** For whatever SQLite or the system throws. */
export function databaseError(path: string, error: unknown): StoreError {
  return error instanceof StoreError ? error : new StoreError(describe(path, error));
}

function describe(path: string, error: unknown): string {
  const code = error instanceof Error && "code" in error ? `${error.code}` : "";
  const message = error instanceof Error ? error.message : `${error}`;
  if (code.startsWith("SQLITE_CORRUPT")) return describeDamage(path, message);
  const reason = REASONS.find(([codes]) => codes.test(code))?.[1];
  return `${path} ${reason ?? `cannot be used: ${message}.`}`;
}

const TIME = `coalesce(time, ${EPOCH_MS} + id / ${IDS_PER_MS})`;
const SELECT_MESSAGES =
  "SELECT id, prev, time, sender, content, removes, checksum FROM messages WHERE room = ?";

export function prepareStatements(db: Database) {
  return {
    origin: db.query<{ id: number; damaged_up_to: number; reserved_up_to: number }, []>(
      "SELECT id, damaged_up_to, reserved_up_to FROM origin",
    ),
    importedId: db.query<{ id: string }, [number]>("SELECT id FROM imported_ids WHERE key = ?"),
    addImportedId: db.query<unknown, [number, string]>("INSERT INTO imported_ids (key, id) VALUES (?, ?)"),
    importedKey: db.query<{ key: number }, [string]>("SELECT key FROM imported_ids WHERE id = ?"),
    setDamaged: db.query<unknown, [number]>("UPDATE origin SET damaged_up_to = ?"),
    setOrigin: db.query<unknown, [number, number, number]>(
      "UPDATE origin SET id = ?, damaged_up_to = ?, reserved_up_to = ?",
    ),
    newest: db.query<{ id: number | null }, []>(
      "SELECT max(id) AS id FROM (SELECT max(id) AS id FROM messages UNION ALL SELECT max(last_id) FROM rooms)",
    ),
    after: db.query<MessageRow, [string, number]>(`${SELECT_MESSAGES} AND id > ? ORDER BY id`),
    before: db.query<MessageRow, [string, number]>(`${SELECT_MESSAGES} AND id < ? ORDER BY id DESC`),
    oldest: db.query<{ prev: number }, [string]>(
      "SELECT prev FROM messages WHERE room = ? ORDER BY id LIMIT 1",
    ),
    /** The message that the given number of others follow. */
    nthLatest: db.query<{ id: number }, [string, number]>(
      `SELECT id FROM messages WHERE room = ? AND ${IS_MESSAGE} ORDER BY id DESC LIMIT 1 OFFSET ?`,
    ),
    exists: db.query<unknown, [string, number]>("SELECT 1 FROM messages WHERE room = ? AND id = ?"),
    lastId: db.query<{ last_id: number }, [string]>("SELECT last_id FROM rooms WHERE room = ?"),
    lastMessageId: db.query<{ id: number }, [string]>(
      "SELECT last_message_id AS id FROM rooms WHERE room = ? AND last_message_id IS NOT NULL",
    ),
    session: db.query<SessionRow, [string, string]>(
      "SELECT seq, id, used_ms, checksum FROM sessions WHERE client = ? AND session = ?",
    ),
    insert: db.query<unknown, [number, number, number, string, string, Content | number, number]>(
      "INSERT INTO messages (id, prev, time, room, sender, content, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)",
    ),
    insertRemoval: db.query<unknown, [number, number, number, string, string, string, number]>(
      `INSERT INTO messages (id, prev, time, room, sender, content, removes, checksum)
         VALUES (?, ?, ?, ?, ?, ${ERASED}, ?, ?)`,
    ),
    message: db.query<MessageRow, [string, number]>(`${SELECT_MESSAGES} AND id = ? AND ${IS_MESSAGE}`),
    erasures: db.query<Erasure, []>(
      'SELECT id, room, sender, prev AS "upTo" FROM erasures JOIN messages USING (id) ORDER BY id',
    ),
    addErasure: db.query<unknown, [number]>("INSERT INTO erasures (id) VALUES (?)"),
    deleteErasure: db.query<unknown, [number]>("DELETE FROM erasures WHERE id = ?"),
    /** The given number of others are between the first id and this one. */
    nthAfter: db.query<{ id: number }, [string, number, number]>(
      "SELECT id FROM messages WHERE room = ? AND id > ? ORDER BY id LIMIT 1 OFFSET ?",
    ),
    /** Between two ids, the second included. */
    erasable: db.query<Omit<MessageRow, "content" | "checksum">, [string, number, number, string, number]>(
      `SELECT id, prev, time, sender, removes FROM messages
         WHERE room = ? AND id > ? AND id <= ? AND sender = ? AND ${IS_MESSAGE}
           AND typeof(content) <> 'integer' ORDER BY id LIMIT ?`,
    ),
    erase: db.query<unknown, [number, number]>(
      `UPDATE messages SET content = ${ERASED}, checksum = ? WHERE id = ?`,
    ),
    /** Of a removal, or of an imported entry. */
    setLastId: db.query<unknown, [string, number]>(
      `INSERT INTO rooms (room, last_id) VALUES (?, ?)
         ON CONFLICT (room) DO UPDATE SET last_id = excluded.last_id`,
    ),
    setLastMessageId: db.query<unknown, [string, number]>(
      "REPLACE INTO rooms (room, last_id, last_message_id) VALUES (?1, ?2, ?2)",
    ),
    setLastMessageIds: db.query<unknown, []>(SET_LAST_MESSAGE_IDS),
    /** Nothing if the session is new, or was last used at another time. */
    updateSession: db.query<unknown, [number, number, number, string, string, number]>(
      "UPDATE sessions SET seq = ?, id = ?, checksum = ? WHERE client = ? AND session = ? AND used_ms = ?",
    ),
    setSession: db.query<unknown, [string, string, number, number, number, number]>(
      "REPLACE INTO sessions (client, session, seq, id, used_ms, checksum) VALUES (?, ?, ?, ?, ?, ?)",
    ),
    roomsAfter: db.query<{ room: string }, [string, number]>(
      "SELECT room FROM rooms WHERE room > ? ORDER BY room LIMIT ?",
    ),
    /** Rooms whose latest message is stored, that of the latest first. */
    roomsBefore: db.query<{ room: string; id: number; time: number }, [number, number]>(
      `SELECT rooms.room, id, ${TIME} AS time FROM rooms JOIN messages ON id = last_message_id
         WHERE last_message_id < ? ORDER BY last_message_id DESC LIMIT ?`,
    ),
    oldestTimes: db.query<{ id: number; time: number }, [string, number]>(
      `SELECT id, ${TIME} AS time
         FROM messages WHERE room = ? ORDER BY id LIMIT ?`,
    ),
    pruneMessages: db.query<unknown, [string, number]>("DELETE FROM messages WHERE room = ? AND id <= ?"),
    bans: db.query<{ client: string; rooms: string; until_ms: number }, []>(
      "SELECT client, rooms, until_ms FROM bans",
    ),
    saveBan: db.query<unknown, [string, string, number]>(
      "REPLACE INTO bans (client, rooms, until_ms) VALUES (?, ?, ?)",
    ),
    deleteBan: db.query<unknown, [string, string]>("DELETE FROM bans WHERE client = ? AND rooms = ?"),
    /** Any ban or session to prune: without one, nothing is written. */
    hasExpired: db.query<unknown, [number, number]>(
      "SELECT 1 WHERE EXISTS (SELECT 1 FROM bans WHERE until_ms <= ?) OR EXISTS (SELECT 1 FROM sessions WHERE used_ms < ?)",
    ),
    pruneBans: db.query<unknown, [number]>("DELETE FROM bans WHERE until_ms <= ?"),
    pruneSessions: db.query<unknown, [number, number]>(
      `DELETE FROM sessions WHERE (client, session) IN
         (SELECT client, session FROM sessions WHERE used_ms < ? ORDER BY used_ms LIMIT ?)`,
    ),
    probeWrite: db.query<unknown, []>(PROBE_WRITE),
    checkpoint: db.query<{ busy: number }, []>("PRAGMA wal_checkpoint(TRUNCATE)"),
  };
}

/** Verified whenever the row is read, because disks corrupt data. */
export function messageChecksum(
  { id, prev, time, sender, content, removes }: Omit<MessageRow, "checksum">,
  room: string,
): number {
  const kind = typeof content === "string" ? "text" : "bytes";
  // Formatting the numbers as text would take as long as all the rest.
  const numbers = Bun.hash.crc32(new Float64Array([id, prev, time ?? -1]));
  if (typeof content === "number") return Bun.hash.crc32(`${room} ${sender} removed ${removes}`, numbers);
  return Bun.hash.crc32(content, Bun.hash.crc32(`${room} ${sender} ${kind}`, numbers));
}

export function sessionChecksum(
  client: string,
  session: string,
  { seq, id, used_ms }: Omit<SessionRow, "checksum">,
): number {
  return Bun.hash.crc32(`${client} ${session} ${seq} ${id} ${used_ms}`);
}

/** The first key of that millisecond. */
export function keyFromMs(ms: number): number {
  return Math.max(0, ms - EPOCH_MS) * IDS_PER_MS;
}

/** The key of an id; of an id that this store cannot have assigned, one close to it. */
export function keyFromId(id: string): number {
  const [ms = 0, sequence = 0] = id.split("-").map(Number);
  return keyFromMs(ms) + Math.min(sequence, IDS_PER_MS - 1);
}

export function idFromKey(key: number): string {
  return `${msFromKey(key)}-${key % IDS_PER_MS}`;
}

export function msFromKey(key: number): number {
  return EPOCH_MS + Math.floor(key / IDS_PER_MS);
}
