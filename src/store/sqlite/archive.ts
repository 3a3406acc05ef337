/** Export and import of a SQLite file. */

import type { Database } from "bun:sqlite";
import type { Clock } from "../../util/clock.ts";
import { lazyFs } from "../../util/lazy-node.ts";
import type { Random } from "../../util/random.ts";
import {
  inBatches,
  type ArchivedSession,
  type ArchiveEntry,
  type ArchiveHeader,
  type ArchiveSource,
  type ArchiveTarget,
  type StoreArchive,
} from "../archive.ts";
import type { Removal, StoredMessage } from "../message.ts";
import { StoreError } from "../store.ts";
import {
  ALL_OF_SENDER,
  besideDatabase,
  databaseError,
  ERASED,
  idFromKey,
  isBeingErased,
  keyFromId,
  keyFromMs,
  lockDatabase,
  MAX_KEY,
  messageChecksum,
  msFromKey,
  openDatabase,
  openSnapshot,
  prepareStatements,
  sessionChecksum,
  type MessageRow,
  type SessionRow,
} from "./database.ts";
import { readMark } from "./newest-mark.ts";

/** The file at this path. */
export function sqliteArchive(path: string, clock: Clock, random: Random): StoreArchive {
  return {
    openSource: async (room) => new SqliteSource(path, room),
    openTarget: async (header) => new SqliteTarget(path, header, clock, random),
  };
}

/** Reads in one transaction, so that it sees the file as it was when it began, while a server writes to it. */
class SqliteSource implements ArchiveSource {
  readonly header: ArchiveHeader;
  readonly losses: string[] = [];
  readonly #db: Database;
  readonly #sql: ReturnType<typeof prepareStatements>;

  /** @throws StoreError */
  constructor(
    private readonly path: string,
    private readonly room: string | undefined,
  ) {
    const mark = readMark(path); // before the snapshot begins, which is not older then
    this.#db = openSnapshot(path);
    this.#sql = prepareStatements(this.#db);
    const { id = 0, damaged_up_to = 0, reserved_up_to = 0 } = this.#sql.origin.get() ?? {};
    const newest = Math.max(id, reserved_up_to, this.#sql.newest.get()?.id ?? 0);
    const isEndMissing = mark !== undefined && (mark.key > newest || mark.origin !== id);
    if (isEndMissing) this.losses.push(`messages after ${this.#idOf(newest)} are missing`);
    const damagedUpTo = isEndMissing ? newest : damaged_up_to;
    this.header = {
      origin: this.#idOf(id),
      damagedUpTo: damagedUpTo > 0 ? this.#idOf(damagedUpTo) : undefined,
    };
  }

  async *entries(): AsyncGenerator<readonly ArchiveEntry[]> {
    try {
      yield* inBatches(this.#read());
    } catch (error) {
      throw databaseError(this.path, error);
    }
  }

  *#read(): Generator<ArchiveEntry> {
    let damagedCount = 0;
    const erasures = this.#sql.erasures.all();
    /** Rooms whose newest message so far is damaged. */
    const damaged = new Map<string, number>();
    const messages = this.#select<MessageRow & { room: string }>(
      "SELECT room, id, prev, time, sender, content, removes, checksum FROM messages",
      "room = ?1",
      "ORDER BY id",
    );
    for (const { room, ...row } of messages) {
      if (row.checksum !== null && row.checksum !== messageChecksum(row, room)) {
        damagedCount++;
        damaged.set(room, row.id);
        continue;
      }
      if (damaged.size > 0) damaged.delete(room);
      const { sender: from, content, removes, time } = row;
      const [id, prev] = [this.#idOf(row.id), this.#idOf(row.prev)];
      const place = { id, prev, time: time ?? msFromKey(row.id), room };
      if (removes === null) {
        const isRemoved = typeof content === "number" || isBeingErased(erasures, room, row);
        const message = { ...place, from, content: isRemoved ? undefined : content };
        yield { type: "message", message };
      } else {
        const removed = removes === ALL_OF_SENDER ? { from, upTo: prev } : { message: removes };
        yield { type: "removal", removal: { ...place, removes: removed } };
      }
    }
    for (const [room, id] of damaged) yield { type: "room", room, lastId: this.#idOf(id) };
    const rooms = this.#select<{ room: string; last_id: number }>(
      "SELECT room, last_id FROM rooms WHERE last_id NOT IN (SELECT id FROM messages)",
      "room = ?1",
    );
    for (const { room, last_id } of rooms) yield { type: "room", room, lastId: this.#idOf(last_id) };
    const sessions = this.#select<SessionRow & { client: string; session: string }>(
      "SELECT client, session, seq, id, used_ms, checksum FROM sessions",
      "id IN (SELECT id FROM messages WHERE room = ?1)",
    );
    for (const { client, session, checksum, ...row } of sessions)
      if (checksum !== null && checksum !== sessionChecksum(client, session, row)) damagedCount++;
      else {
        const { seq, id, used_ms: time } = row;
        yield { type: "session", session: { client, session, seq, id: this.#idOf(id), time } };
      }
    if (damagedCount === 1) this.losses.push("1 damaged entry is left out");
    if (damagedCount > 1) this.losses.push(`${damagedCount} damaged entries are left out`);
  }

  /** @param ofRoom the condition if only one room is exported */
  #select<Row>(select: string, ofRoom: string, order = ""): Iterable<Row> {
    if (this.room === undefined) return this.#db.query<Row, []>(`${select} ${order}`).iterate();
    const condition = `${select.includes(" WHERE ") ? "AND" : "WHERE"} ${ofRoom}`;
    return this.#db.query<Row, [string]>(`${select} ${condition} ${order}`).iterate(this.room);
  }

  #idOf(key: number): string {
    return this.#sql.importedId.get(key)?.id ?? idFromKey(key);
  }

  close(): void {
    this.#db.close();
  }
}

/** Writes in one transaction: until that is committed, the file is empty. */
class SqliteTarget implements ArchiveTarget {
  readonly #lock: Database;
  readonly #db: Database;
  readonly #sql: ReturnType<typeof prepareStatements>;
  #lastKey = 0;
  #damagedUpTo = 0;
  /** The highest milliseconds of an id that its key does not stand for. */
  #maxImportedMs = 0;

  /** @throws StoreError */
  constructor(
    private readonly path: string,
    private readonly header: ArchiveHeader,
    clock: Clock,
    random: Random,
  ) {
    this.#lock = lockDatabase(path);
    try {
      this.#db = openDatabase(path, clock.now(), random);
      const isEmpty = ["messages", "rooms", "sessions"].every(
        (table) => this.#db.query(`SELECT 1 FROM ${table} LIMIT 1`).get() === null,
      );
      if (!isEmpty) throw new StoreError(`${path} is not empty. Choose a new file with --store.`);
      this.#sql = prepareStatements(this.#db);
      this.#db.run("BEGIN IMMEDIATE");
    } catch (error) {
      this.#lock.close();
      throw databaseError(path, error);
    }
  }

  async write(entries: readonly ArchiveEntry[]): Promise<void> {
    this.#attempt(() => {
      const lastKeys = new Map<string, number>();
      for (const entry of entries)
        if (entry.type === "message") this.#addMessage(entry.message, lastKeys);
        else if (entry.type === "removal") this.#addRemoval(entry.removal, lastKeys);
        else if (entry.type === "session") this.#addSession(entry.session);
        else this.#setLastId(entry.room, entry.lastId, lastKeys);
      for (const [room, key] of lastKeys) this.#sql.setLastId.run(room, key);
    });
  }

  async finish(): Promise<void> {
    this.#attempt(() => {
      const { origin, damagedUpTo } = this.header;
      const originKey = this.#keyOf(origin);
      if (damagedUpTo !== undefined) this.#setDamaged(this.#keyOf(damagedUpTo));
      // Later ids follow all imported ones, in their own form as well.
      const reserved =
        this.#maxImportedMs > 0 ? Math.max(this.#lastKey, keyFromMs(this.#maxImportedMs + 1) - 1) : 0;
      this.#checkKey(reserved);
      this.#sql.setLastMessageIds.run();
      this.#sql.setOrigin.run(originKey, this.#damagedUpTo, reserved);
      lazyFs().rmSync(besideDatabase(this.path, "-newest"), { force: true }); // it was that of the empty file
      this.#db.run("COMMIT");
      this.#db.run("PRAGMA wal_checkpoint(TRUNCATE)");
      this.#close();
    });
  }

  async abort(): Promise<void> {
    this.#close();
  }

  #attempt(work: () => void): void {
    try {
      work();
    } catch (error) {
      throw databaseError(this.path, error);
    }
  }

  #close(): void {
    for (const statement of Object.values(this.#sql)) statement.finalize();
    this.#db.close();
    this.#lock.close();
  }

  #addMessage(message: StoredMessage, lastKeys: Map<string, number>): void {
    const { time, room, from: sender, content = ERASED } = message;
    const place = this.#addPlace(message, lastKeys);
    const checksum = messageChecksum({ ...place, time, sender, content, removes: null }, room);
    this.#sql.insert.run(place.id, place.prev, time, room, sender, content, checksum);
  }

  #addRemoval(removal: Removal, lastKeys: Map<string, number>): void {
    const { time, room, removes: removed } = removal;
    const { id, prev } = this.#addPlace(removal, lastKeys);
    const [sender, removes] = "from" in removed ? [removed.from, ALL_OF_SENDER] : ["", removed.message];
    const checksum = messageChecksum({ id, prev, time, sender, content: ERASED, removes }, room);
    this.#sql.insertRemoval.run(id, prev, time, room, sender, removes, checksum);
  }

  /** The next place in the order, as keys. */
  #addPlace(
    { id, prev, room }: StoredMessage | Removal,
    lastKeys: Map<string, number>,
  ): { readonly id: number; readonly prev: number } {
    const lastKey = lastKeys.get(room) ?? this.#sql.lastId.get(room)?.last_id;
    const prevKey = this.#keyOf(prev);
    // A message before this one is missing: no client may resume across it.
    if (lastKey !== undefined && lastKey !== prevKey) this.#setDamaged(lastKey);
    const key = this.#assign(id, exactKey(id) ?? keyFromMs(msOf(id)));
    lastKeys.set(room, key);
    return { id: key, prev: prevKey };
  }

  #setLastId(room: string, id: string, lastKeys: Map<string, number>): void {
    const lastKey = lastKeys.get(room) ?? this.#sql.lastId.get(room)?.last_id;
    if (lastKey !== undefined) this.#setDamaged(lastKey);
    lastKeys.set(room, this.#keyOf(id));
  }

  #addSession({ client, session, seq, id, time }: ArchivedSession): void {
    const row = { seq, id: this.#keyOf(id), used_ms: time };
    const checksum = sessionChecksum(client, session, row);
    this.#sql.setSession.run(client, session, seq, row.id, time, checksum);
  }

  #setDamaged(key: number): void {
    this.#damagedUpTo = Math.max(this.#damagedUpTo, key);
  }

  /** The key of an id that was assigned before, or that belongs to no stored message. */
  #keyOf(id: string): number {
    const imported = this.#sql.importedKey.get(id)?.key;
    if (imported !== undefined) return imported;
    const exact = exactKey(id);
    if (exact === undefined || this.#sql.importedId.get(exact)) return this.#assign(id, keyFromMs(msOf(id)));
    this.#checkKey(exact);
    this.#lastKey = Math.max(this.#lastKey, exact);
    return exact;
  }

  /** A key greater than all before. If it stands for another id, that is recorded. */
  #assign(id: string, minKey: number): number {
    const key = (this.#lastKey = Math.max(minKey, this.#lastKey + 1));
    this.#checkKey(key);
    if (idFromKey(key) !== id) {
      this.#sql.addImportedId.run(key, id);
      this.#maxImportedMs = Math.max(this.#maxImportedMs, msOf(id));
    }
    return key;
  }

  #checkKey(key: number): void {
    if (key > MAX_KEY)
      throw new StoreError(
        "The ids are too far in the future for SQLite: a clock was wrong when they were assigned.",
      );
  }
}

function msOf(id: string): number {
  return Number(id.split("-")[0]);
}

/** @returns undefined if no key stands for the id */
function exactKey(id: string): number | undefined {
  const key = keyFromId(id);
  return idFromKey(key) === id ? key : undefined;
}
