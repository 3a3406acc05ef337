/** Export and import of the keys of one prefix. */

import { Database, SQLiteError } from "bun:sqlite";
import type { Content } from "../../protocol/codec.ts";
import type { Clock } from "../../util/clock.ts";
import type { Random } from "../../util/random.ts";
import {
  inBatches,
  isStoredName,
  type ArchivedSession,
  type ArchiveEntry,
  type ArchiveHeader,
  type ArchiveSource,
  type ArchiveTarget,
  type StoreArchive,
} from "../archive.ts";
import { sessionKey } from "../dedup.ts";
import { compareIds, isMessageId } from "../message-id.ts";
import { isMessage, type StoredEntry } from "../message.ts";
import { StoreError } from "../store.ts";
import { verifyRedis, type RedisConfig } from "./config.ts";
import { RedisConnection, redisTiming } from "./connection.ts";
import { arrayOf, encodeEntry, parseEntries, parseRecord, parseSessions } from "./records.ts";
import { scripts } from "./scripts.ts";
import { EngineRejection, EngineUnreachable } from "../shared-log/engine.ts";

/** A page of a room, of the log, or of a hash. */
const PAGE_MESSAGES = 500;
const PAGE_BYTES = 1024 * 1024;
const PAGE_RECORDS = 20;
const PAGE_NAMES = 500;
/** A script that writes a batch takes milliseconds; a slow disk may take longer. */
const IMPORT_REPLY_MS = 30_000;
/** How long an import that was interrupted excludes another one. */
const IMPORT_LEASE_MS = 60_000;

/** @param history how many messages of each room an import retains */
export function redisArchive(
  config: RedisConfig,
  history: number,
  clock: Clock,
  random: Random,
): StoreArchive {
  const timing = { ...redisTiming, replyMs: IMPORT_REPLY_MS };
  const connect = async () => {
    const connection = new RedisConnection(config.url, config.prefix, clock, timing);
    await verifyRedis(connection, config);
    return connection;
  };
  return {
    openSource: async (room, onRead) =>
      withReason(config, async () => RedisSource.open(config, await connect(), room, onRead)),
    openTarget: async (header) =>
      withReason(config, async () => {
        const token = `${clock.now()}-${random.next()}`;
        const target = new RedisTarget(await connect(), config, header, history, token);
        await target.begin();
        return target;
      }),
  };
}

async function withReason<T>({ name }: RedisConfig, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const sentence = describeError(name, error);
    throw sentence === undefined ? error : new StoreError(sentence);
  }
}

/** @returns undefined for a bug */
function describeError(name: string, error: unknown): string | undefined {
  if (!(error instanceof Error) || error instanceof StoreError) return undefined;
  const { message } = error;
  if (error instanceof SQLiteError) return `A temporary file cannot be written (${message}).`;
  if (error instanceof EngineRejection) {
    if (message.startsWith("OOM"))
      return `Redis at ${name} is full: raise its maxmemory, or lower --history.`;
    // The scripts' own errors are sentences.
    if (message.endsWith(".")) return `Redis at ${name} cannot be used: ${message}`;
    return `Redis at ${name} rejects a command (${message}).`;
  }
  return error instanceof EngineUnreachable
    ? `Redis at ${name} cannot be reached any more (${message}).`
    : undefined;
}

/** What was applied to the keys, what is in the log, and since when it is the same data. */
interface Position {
  readonly applied: string;
  readonly head: string;
  readonly epoch: string;
  readonly origin: string;
}

/**
 * Collected in a temporary database on disk, which sorts the messages of all rooms. First the keys are read, while servers
 * change them; then the records that were written to the log meanwhile. Together they are the state at the last of these
 * records. Rooms are read from their newest message back, because only the oldest are ever removed.
 */
class RedisSource implements ArchiveSource {
  readonly losses = [];
  header: ArchiveHeader = { origin: "0-0" };
  readonly #rows = openRows();
  #readCount = 0;

  private constructor(
    private readonly connection: RedisConnection,
    private readonly config: RedisConfig,
    private readonly room: string | undefined,
    private readonly onRead: (messages: number) => void,
  ) {}

  static async open(
    config: RedisConfig,
    connection: RedisConnection,
    room: string | undefined,
    onRead: (messages: number) => void,
  ) {
    const source = new RedisSource(connection, config, room, onRead);
    try {
      await source.#collect();
      return source;
    } finally {
      connection.close();
    }
  }

  async #collect(): Promise<void> {
    const before = await this.#position();
    for await (const [session, latest] of this.#scan("HSCAN", "sessions")) {
      const [client, name] = session.split(" ");
      const [seq, id] = latest.split(" ");
      if (isStoredName(client) && isStoredName(name) && isMessageId(id))
        this.#rows.addSession.run(client, name, Number(seq), id, 0);
    }
    for await (const [session, usedMs] of this.#scan("ZSCAN", "sessions:used")) {
      const [client = "", name = ""] = session.split(" ");
      this.#rows.setUsed.run(Math.max(0, Math.floor(Number(usedMs))), client, name);
    }
    for await (const [room, lastId] of this.#scan("HSCAN", "heads"))
      if (isStoredName(room) && isMessageId(lastId) && this.#isWanted(room)) {
        this.#rows.setLastId.run(room, lastId);
        await this.#collectRoom(room);
      }
    const after = await this.#position();
    await this.#collectLog(before, after);
    this.header = { origin: after.origin };
  }

  #isWanted(room: string): boolean {
    return this.room === undefined || this.room === room;
  }

  async #position(): Promise<Position> {
    const reply = await this.connection.run(scripts.position);
    const [applied, head, epoch, origin, isImporting] = arrayOf(reply);
    if (isImporting === 1)
      throw new StoreError(
        `An import into Redis at ${this.config.name} is running, or was interrupted. Import again first.`,
      );
    if (![applied, head, epoch, origin].every(isMessageId))
      throw new StoreError(`Redis at ${this.config.name} has nothing with this prefix in this database.`);
    return { applied: `${applied}`, head: `${head}`, epoch: `${epoch}`, origin: `${origin}` };
  }

  /** Every pair that is there all the time, and perhaps twice. */
  async *#scan(command: "HSCAN" | "ZSCAN", key: string): AsyncGenerator<readonly [string, string]> {
    let cursor = "0";
    do {
      const args = [`${this.connection.prefix}${key}`, cursor, "COUNT", `${PAGE_NAMES}`];
      const [next, pairs] = arrayOf(await this.connection.send(command, args));
      const flat = arrayOf(pairs).flat();
      for (let i = 0; i + 1 < flat.length; i += 2) yield [String(flat[i]), String(flat[i + 1])];
      cursor = String(next);
    } while (cursor !== "0");
  }

  async #collectRoom(room: string): Promise<void> {
    for (let before = ""; ;) {
      const page = await this.connection.run(scripts.readBefore, room, PAGE_MESSAGES, PAGE_BYTES, before);
      const entries = parseEntries(page, room);
      this.#rows.add(entries);
      this.onRead((this.#readCount += entries.length));
      const oldest = entries.at(-1);
      if (!oldest) return;
      before = oldest.id;
    }
  }

  async #collectLog(from: Position, to: Position): Promise<void> {
    let { applied: last } = from;
    let isComplete = from.epoch === to.epoch;
    while (isComplete && last !== to.head) {
      const args = [`${this.connection.prefix}log`, last, "+", "COUNT", `${PAGE_RECORDS}`];
      const rows = arrayOf(await this.connection.send("XRANGE", args));
      const position = last;
      for (const row of rows) {
        const record = parseRecord(row);
        if (!record || compareIds(record.id, last) <= 0) continue;
        if (record.prev !== last) isComplete = false;
        last = record.id;
        const stored = record.parts.flatMap((part): StoredEntry[] => {
          if (part.kind === "removal") return [part.removal];
          return part.kind === "result" && "stored" in part.result ? [part.result.stored] : [];
        });
        this.#rows.add(stored.filter(({ room }) => this.#isWanted(room)));
        for (const { room, id } of stored) if (this.#isWanted(room)) this.#rows.setLastId.run(room, id);
        for (const { client, session, seq, id, time } of parseSessions(row))
          this.#rows.addSession.run(client, session, seq, id, time);
        if (last === to.head) break;
      }
      if (last === position) isComplete = false;
    }
    if (!isComplete)
      throw new StoreError(
        `Redis at ${this.config.name} has lost data during the export, or received more than its log holds. Export again.`,
      );
  }

  async *entries(): AsyncGenerator<readonly ArchiveEntry[]> {
    yield* inBatches(this.#rows.entries(this.room !== undefined));
  }

  close(): void {
    this.#rows.db.close();
  }
}

interface MessageRow {
  readonly ms: number;
  readonly sequence: number;
  readonly prev: string;
  readonly time: number;
  readonly room: string;
  readonly sender: string;
  /** 0 of a removal, and of a removed message. */
  readonly content: Content | 0;
  /** Of a removal: the message that it removes, or "*" for all of the sender before it. */
  readonly removes: string | null;
}

/** In a file that SQLite removes by itself, since everything may be more than fits into memory. */
function openRows() {
  const db = new Database(":memory:", { strict: true });
  for (const sql of [
    "ATTACH DATABASE '' AS file",
    "PRAGMA file.journal_mode = OFF",
    "PRAGMA file.synchronous = OFF",
    `CREATE TABLE file.messages (
       ms INTEGER, sequence INTEGER, prev TEXT, time INTEGER, room TEXT, sender TEXT, content ANY, removes TEXT,
       PRIMARY KEY (ms, sequence)
     ) STRICT, WITHOUT ROWID`,
    "CREATE TABLE file.rooms (room TEXT PRIMARY KEY, last_id TEXT) STRICT, WITHOUT ROWID",
    `CREATE TABLE file.sessions (
       client TEXT, session TEXT, seq INTEGER, id TEXT, time INTEGER, PRIMARY KEY (client, session)
     ) STRICT, WITHOUT ROWID`,
  ])
    db.run(sql);
  type Insert = [number, number, string, number, string, string, Content | 0, string | null];
  const insert = db.query<unknown, Insert>("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
  const erase = db.query<unknown, [string, number, number]>(
    "UPDATE messages SET content = 0 WHERE room = ? AND ms = ? AND sequence = ?",
  );
  const eraseFrom = db.query<unknown, [string, string, number, number]>(
    "UPDATE messages SET content = 0 WHERE room = ? AND sender = ? AND (ms, sequence) < (?, ?)",
  );
  /** The page of a room may have been read before the removal. */
  const add = (entry: StoredEntry) => {
    const { id, prev, time, room } = entry;
    const [ms, sequence] = numbersOf(id);
    if (isMessage(entry))
      return void insert.run(ms, sequence, prev, time, room, entry.from, entry.content ?? 0, null);
    const { removes } = entry;
    if ("from" in removes) eraseFrom.run(room, removes.from, ms, sequence);
    else erase.run(room, ...numbersOf(removes.message));
    const [sender, target] = "from" in removes ? [removes.from, "*"] : ["", removes.message];
    insert.run(ms, sequence, prev, time, room, sender, 0, target);
  };
  return {
    db,
    add: db.transaction((entries: readonly StoredEntry[]) => entries.forEach(add)),
    setLastId: db.query<unknown, [string, string]>("REPLACE INTO rooms VALUES (?, ?)"),
    addSession: db.query<unknown, [string, string, number, string, number]>(
      "REPLACE INTO sessions VALUES (?, ?, ?, ?, ?)",
    ),
    setUsed: db.query<unknown, [number, string, string]>(
      "UPDATE sessions SET time = ? WHERE client = ? AND session = ?",
    ),
    /** @param isOneRoom only the sessions whose latest message is among the messages */
    *entries(isOneRoom: boolean): Generator<ArchiveEntry> {
      const messages = db.query<MessageRow, []>("SELECT * FROM messages ORDER BY ms, sequence");
      for (const { ms, sequence, prev, time, room, sender: from, content, removes } of messages.iterate()) {
        const place = { id: `${ms}-${sequence}`, prev, time, room };
        if (removes === null)
          yield {
            type: "message",
            message: { ...place, from, content: content === 0 ? undefined : content },
          };
        else {
          const removed = removes === "*" ? { from, upTo: prev } : { message: removes };
          yield { type: "removal", removal: { ...place, removes: removed } };
        }
      }
      const isStoredId = db.query<unknown, [number, number]>(
        "SELECT 1 FROM messages WHERE ms = ? AND sequence = ?",
      );
      const rooms = db.query<{ room: string; last_id: string }, []>("SELECT room, last_id FROM rooms");
      for (const { room, last_id: lastId } of rooms.iterate())
        if (!isStoredId.get(...numbersOf(lastId))) yield { type: "room", room, lastId };
      const sessions = db.query<ArchivedSession, []>("SELECT * FROM sessions");
      for (const session of sessions.iterate())
        if (!isOneRoom || isStoredId.get(...numbersOf(session.id))) yield { type: "session", session };
    },
  };
}

function numbersOf(id: string): [ms: number, sequence: number] {
  const [ms = 0, sequence = 0] = id.split("-").map(Number);
  return [ms, sequence];
}

/** While the key `import` exists, no server joins. The next import deletes what an interrupted one has left. */
class RedisTarget implements ArchiveTarget {
  #lastId: string;

  constructor(
    private readonly connection: RedisConnection,
    private readonly config: RedisConfig,
    private readonly header: ArchiveHeader,
    private readonly history: number,
    private readonly token: string,
  ) {
    this.#lastId = header.origin;
  }

  /** @throws StoreError */
  async begin(): Promise<void> {
    const { name } = this.config;
    const result = await this.connection.run(scripts.importBegin, this.token, IMPORT_LEASE_MS);
    if (result === "running")
      throw new StoreError(
        `Another import into Redis at ${name} is running, or was interrupted less than ${IMPORT_LEASE_MS / 1000} seconds ago. Try again later.`,
      );
    if (result === "in use")
      throw new StoreError(
        `Redis at ${name} is in use by a server. Stop it first, or choose another ?prefix=.`,
      );
    if (result !== "begun")
      throw new StoreError(`Redis at ${name} is not empty. Choose another database, or another ?prefix=.`);
    await this.#clear(false);
  }

  async write(entries: readonly ArchiveEntry[]): Promise<void> {
    await withReason(this.config, () =>
      this.#run(scripts.importBatch, this.history, ...entries.flatMap((entry) => this.#argumentsOf(entry))),
    );
  }

  #argumentsOf(entry: ArchiveEntry): (string | number)[] {
    switch (entry.type) {
      case "message":
      case "removal": {
        const stored = entry.type === "message" ? entry.message : entry.removal;
        const { id, prev, time, room } = stored;
        this.#note(id);
        // The first message after damage is left out as well: it says that its predecessor is the one before it.
        const { damagedUpTo } = this.header;
        if (damagedUpTo !== undefined && compareIds(prev, damagedUpTo) <= 0)
          return ["r", room, id, numbersOf(id)[0]];
        return ["m", room, id, prev, ...encodeEntry(stored), time];
      }
      case "room":
        this.#note(entry.lastId);
        return ["r", entry.room, entry.lastId, numbersOf(entry.lastId)[0]];
      case "session": {
        const { client, session, seq, id, time } = entry.session;
        this.#note(id);
        return ["s", sessionKey(client, session), `${seq} ${id}`, time];
      }
    }
  }

  #note(id: string): void {
    if (compareIds(id, this.#lastId) > 0) this.#lastId = id;
  }

  async finish(): Promise<void> {
    await withReason(this.config, () => this.#run(scripts.importEnd, this.#lastId, this.header.origin));
    this.connection.close();
  }

  async abort(): Promise<void> {
    try {
      await this.#clear(true);
    } finally {
      this.connection.close();
    }
  }

  async #clear(isEnd: boolean): Promise<void> {
    while ((await this.#run(scripts.importClear, isEnd ? "1" : "0")) === 1);
  }

  #run(script: (typeof scripts)["importEnd"], ...args: readonly (string | number)[]): Promise<unknown> {
    return this.connection.run(script, this.token, IMPORT_LEASE_MS, ...args);
  }
}
