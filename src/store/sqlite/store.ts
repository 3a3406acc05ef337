/** The SQLite store: every room's whole conversation in one file, kept through anything but the loss of the disk. */

import type { Database } from "bun:sqlite";
import { ClockWatch } from "../clock-watch.ts";
import { logEvent, logError } from "../../ops/log.ts";
import { MAX_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import { DedupTable, sessionKey } from "../dedup.ts";
import { DatabaseHealth } from "./health.ts";
import {
  idFromKey,
  keyFromMs,
  keyFromId,
  MAX_KEY,
  msFromKey,
  openDatabase,
  prepareStatements,
  sumOf,
  sumOfSession,
  timeOf,
  type MessageRow,
} from "./database.ts";
import { NewestMark } from "./newest-mark.ts";
import {
  takePage,
  History,
  MAX_PAGE_BYTES,
  type HistoryPage,
  type ReadonlyHistory,
  type PageQuery,
} from "../history.ts";
import type { AppendResult, PendingMessage, StoredMessage } from "../message.ts";
import type { MessageListener, AppendCallback, MessageStore, StoreOptions } from "../store.ts";

/** A commit takes what came in one tick; where the disk is slow, what comes in two milliseconds. */
const FAST_COMMIT_MS = 1;
const SLOW_COMMIT_WAIT_MS = 2;
/** How often what is too old is looked for. */
const FORGET_EVERY_MS = 1000;
const FORGET_MORE_MS = 50;
/** Old entries deleted at a time: a piece of work that nobody notices. */
const FORGET_AT_ONCE = 500;
const PRUNE_ROOMS_AT_ONCE = 500;
/** A longer run of times in the future, at the front of a room, is left alone until they have passed. */
const MAX_FUTURE_RUN = 10_000;
/** Damage beyond this many places is no longer logged one by one. */
const MAX_FOUND = 1000;
const MAX = Number.MAX_SAFE_INTEGER;
const DAY_MS = 24 * 60 * 60 * 1000;

/** @throws StoreError when the file cannot be used */
export class SqliteStore implements MessageStore {
  #db: Database;
  #sql: ReturnType<typeof prepareStatements>;
  readonly #sessions: DedupTable;
  #queue: [PendingMessage, AppendCallback][] = [];
  /** The next commit, once it is scheduled. */
  #nextCommit: PromiseWithResolvers<void> | undefined;
  /** How long the last one took. */
  #commitMs = 0;
  #forgetting: Timer | undefined;
  #isClosed = false;
  /** The last room that was looked through for what is older than `--keep-days`. */
  #prunedRoom = "";
  #lastKey: number;
  /** Nobody can resume from an id up to this one: something after it was lost. */
  #damaged: number;
  /** Damage that was logged. */
  readonly #found = new Set<number>();
  readonly #mark: NewestMark;
  durability: string;
  readonly #clockWatch = new ClockWatch();
  readonly #originKey: number;
  readonly #health: DatabaseHealth;

  constructor(
    private readonly path: string,
    private readonly options: StoreOptions,
    private readonly follow: MessageListener,
    private readonly clock: () => number = Date.now,
    /** What is cached of the rooms that are open; the file has the rest. */
    private readonly rooms = new RoomCache<CachedRoom>(),
  ) {
    this.durability = `in ${path}`;
    this.#db = openDatabase(path, this.clock());
    this.#sql = prepareStatements(this.#db);
    this.#health = new DatabaseHealth(
      path,
      () => this.#sql.touch.run(),
      () => this.#saveLog(),
    );
    const { id: origin = 0, damaged = 0 } = this.#sql.origin.get() ?? {};
    this.#originKey = origin;
    this.#damaged = damaged;
    this.#mark = new NewestMark(path);
    const newest = Math.max(origin, this.#sql.newest.get()?.id ?? 0);
    const marked = this.#mark.read(origin);
    // Clients may have received what is missing: its ids are not assigned again.
    this.#lastKey = Math.max(newest, marked.key);
    if (marked.key > newest || marked.isOther) this.#admitLoss(newest, marked.key);
    this.#mark.write(origin, this.#lastKey);
    this.#sessions = new DedupTable((client, session) => {
      const row = this.#sql.session.get(client, session);
      if (!row) return undefined;
      // A number that is too high would pass new messages for duplicates.
      if (row.sum !== null && row.sum !== sumOfSession(client, session, row))
        return void logEvent("session damaged", { client });
      return { seq: row.seq, id: idFromKey(row.id), usedMs: row.used };
    });
    this.#schedulePruning(FORGET_EVERY_MS);
  }

  /** At the start: what was acknowledged last is not in the file. */
  #admitLoss(newest: number, acknowledged: number): void {
    const [after, upTo] = [idFromKey(newest), idFromKey(acknowledged)];
    logEvent("messages missing", { after, upTo });
    this.durability += ` (messages are missing: ${upTo} had been stored, and the newest in the file is ${after})`;
    this.#admitDamage(newest);
  }

  get isReady(): boolean {
    return this.#health.isReady;
  }

  async acquireRoom(name: string): Promise<ReadonlyHistory> {
    const room = this.rooms.get(name) ?? this.#health.read(() => this.#load(name));
    room.holders++;
    return room.history;
  }

  releaseRoom(name: string): void {
    if (this.rooms.release(name)) this.rooms.delete(name);
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#nextCommit?.promise; // what is pending may be of that session
    return this.#health.read(() => this.#sessions.lastSeq(client, session, this.clock()));
  }

  async readHistory(room: string, where: PageQuery): Promise<HistoryPage> {
    return this.#health.read(() => this.#read(room, where));
  }

  #read(room: string, { after, before, limit }: PageQuery): HistoryPage {
    if (after === undefined) {
      const page = this.#pageOf(
        room,
        this.#sql.before.iterate(room, before ? keyFromId(before) : MAX),
        limit,
      );
      return { ...page, messages: page.messages.reverse() };
    }
    const page = this.#pageOf(room, this.#sql.after.iterate(room, keyFromId(after)), limit);
    if (!this.#isResumable(room, after)) return { ...page, recovered: false };
    const isDamaged = keyFromId(after) <= this.#damaged;
    return { ...page, recovered: !isDamaged, ...(isDamaged ? { isDamaged } : {}) };
  }

  /** Only what is as it was stored. What is missing or damaged is reported, and nobody can resume across it. */
  #pageOf(room: string, rows: Iterable<MessageRow>, limit: number, maxBytes = MAX_PAGE_BYTES) {
    let damaged = 0;
    const found = (fact: string, key: number) => {
      damaged = Math.max(damaged, key);
      if (this.#found.has(key) || this.#found.size >= MAX_FOUND) return;
      this.#found.add(key);
      logEvent(fact, { room, id: idFromKey(key) });
    };
    const entriesIn = function* (): Generator<StoredMessage> {
      let last: MessageRow | undefined;
      for (const row of rows) {
        const [older, newer] = last && last.id > row.id ? [row, last] : [last, row];
        if (older && newer.prev !== older.id) found("messages missing after", older.id);
        last = row;
        if (row.sum !== null && row.sum !== sumOf(row, room)) found("message damaged", row.id);
        else yield entryOf(row, room);
      }
    };
    const page = takePage(entriesIn(), limit, maxBytes);
    this.#admitDamage(damaged);
    return page;
  }

  /** From here on nobody is told that nothing is missing who resumes from an id up to this one. */
  #admitDamage(key: number): void {
    const damaged = Math.min(key, this.#lastKey);
    if (damaged <= this.#damaged) return;
    this.#damaged = damaged;
    this.#health.write(() => this.#sql.setDamaged.run(damaged));
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    return this.#health.read(() =>
      idFromKey(this.#sql.latest.get(room, count)?.id ?? this.#idBeforeOldest(room)),
    );
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    this.#queue.push([pending, sender]);
    if (this.#nextCommit) return;
    this.#nextCommit = Promise.withResolvers();
    if (this.#commitMs < FAST_COMMIT_MS) setImmediate(() => this.#commit());
    else setTimeout(() => this.#commit(), SLOW_COMMIT_WAIT_MS);
  }

  async drain(): Promise<void> {
    this.#commit();
  }

  /** Keeps what has come in, and lets go of the file. */
  close(): void {
    this.#commit();
    clearTimeout(this.#forgetting);
    this.#closeFile();
    this.#mark.close();
  }

  /** All that has come in becomes one transaction; who sent it is answered, and everyone hears it, after that. */
  #commit(): void {
    const batch = this.#queue;
    const thisCommit = this.#nextCommit;
    this.#queue = [];
    this.#nextCommit = undefined;
    if (batch.length > 0) this.#store(batch);
    thisCommit?.resolve();
  }

  #store(batch: readonly [PendingMessage, AppendCallback][]): void {
    const nowMs = this.clock();
    const startMs = performance.now();
    const transaction = this.#db.transaction(() => this.#writeBatch(batch, nowMs));
    const { done: results, isSure } = this.#health.write(() => transaction.immediate()) ?? {};
    this.#commitMs = performance.now() - startMs;
    const newest = results?.findLast((result) => "stored" in result);
    if (isSure && newest && "stored" in newest)
      this.#mark.write(this.#originKey, keyFromId(newest.stored.id));
    // What a failed transaction had noted of them holds no more.
    if (!results) this.#sessions.invalidate(batch.map(([pending]) => pending));
    for (const [i, [pending, sender]] of batch.entries())
      try {
        const result = results?.[i] ?? { rejected: "unavailable" };
        if ("stored" in result) this.#cache(result.stored);
        sender.onResult(pending, results && !isSure ? { rejected: "unconfirmed" } : result);
        if ("stored" in result) this.follow(result.stored);
      } catch (error) {
        logError("A message that is kept could not be told", error); // and the next ones still can
      }
  }

  #writeBatch(batch: readonly [PendingMessage, AppendCallback][], nowMs: number): AppendResult[] {
    const heads = new Map<string, number>();
    const numbered = new Map<string, PendingMessage>();
    const results = batch.map(([pending]): AppendResult => {
      const objection = this.#sessions.check(pending, nowMs);
      if (objection) return objection;
      const { room, from, content, session } = pending;
      const prev = heads.get(room) ?? this.#head(room);
      const clockKey = keyFromMs(nowMs);
      const key = clockKey < MAX_KEY ? Math.max(this.#lastKey + 1, clockKey) : this.#lastKey + 1;
      const sum = sumOf({ id: key, prev, time: nowMs, sender: from, content }, room);
      this.#sql.insert.run(key, prev, nowMs, room, from, content, sum);
      this.#lastKey = key;
      heads.set(room, key);
      const message: StoredMessage = {
        id: idFromKey(key),
        prev: idFromKey(prev),
        time: nowMs,
        room,
        from,
        content,
      };
      this.#sessions.record(pending, message.id, nowMs);
      if (session !== undefined) numbered.set(sessionKey(from, session), pending);
      return { stored: message };
    });
    if (heads.size > 0) this.#clockWatch.check(msFromKey(this.#lastKey), nowMs);
    for (const [room, key] of heads) this.#sql.setHead.run(room, key);
    for (const { from, session = "" } of numbered.values()) {
      const known = this.#sessions.get(from, session, nowMs);
      if (!known) continue;
      const row = { seq: known.seq, id: keyFromId(known.id), used: nowMs };
      const sum = sumOfSession(from, session, row);
      this.#sql.setSession.run(from, session, row.seq, row.id, row.used, sum);
    }
    return results;
  }

  #cache(message: StoredMessage): void {
    const room = this.rooms.get(message.room);
    if (room) this.rooms.push(room, message);
  }

  #head(room: string): number {
    return this.#sql.head.get(room)?.id ?? this.#originKey;
  }

  /** The rule of *recovered*, with all that is in the file. */
  #isResumable(room: string, id: string): boolean {
    const key = keyFromId(id);
    if (idFromKey(key) !== id) return false;
    return key === this.#idBeforeOldest(room) || this.#sql.exists.get(room, key) !== null;
  }

  #idBeforeOldest(room: string): number {
    return this.#sql.oldest.get(room)?.prev ?? this.#head(room);
  }

  #load(name: string): CachedRoom {
    const { history: count } = this.options;
    const latest = this.#sql.before.iterate(name, MAX);
    const messages = this.#pageOf(name, latest, count, this.rooms.loadBytes).messages.reverse();
    const history = new History(messages[0]?.prev ?? idFromKey(this.#head(name)), count, MAX_ROOM_BYTES);
    for (const message of messages) history.push(message);
    const room = { history, holders: 0 };
    this.rooms.add(name, room);
    return room;
  }

  /** SQLite lets go of a file, and ends its log, when no statement is left. */
  #closeFile(): void {
    if (this.#isClosed) return;
    for (const statement of Object.values(this.#sql)) statement.finalize();
    this.#db.close();
    this.#isClosed = true;
  }

  /** The write-ahead log was removed: what it holds goes to the main file, which is then opened with a new one. */
  #saveLog(): void {
    if (!this.#isClosed) {
      if (this.#sql.checkpoint.get()?.busy !== 0) throw new Error("The write-ahead log could not be saved");
      this.#closeFile();
    }
    this.#db = openDatabase(this.path, this.clock());
    this.#sql = prepareStatements(this.#db);
    this.#isClosed = false;
  }

  #schedulePruning(waitMs: number): void {
    this.#forgetting = setTimeout(() => {
      this.#health.look();
      const isMore = this.prune() > 0;
      this.#schedulePruning(isMore ? FORGET_MORE_MS : FORGET_EVERY_MS);
    }, waitMs).unref();
  }

  /** A small step, which nobody notices. @returns how much was forgotten */
  prune(): number {
    const { keepDays } = this.options;
    const nowMs = this.clock();
    const forget = this.#db.transaction(() => {
      const sessions = this.#sql.forgetSessions.run(nowMs - DAY_MS, FORGET_AT_ONCE).changes;
      return sessions + (keepDays === 0 ? 0 : this.#prune(nowMs, nowMs - keepDays * DAY_MS));
    });
    return this.#health.write(() => forget.immediate())?.done ?? 0;
  }

  /** Some rooms at a time, each from its front: `recovered` relies on nothing missing in the middle. @returns how many */
  #prune(nowMs: number, limitMs: number): number {
    const rooms = this.#sql.roomsAfter.all(this.#prunedRoom, PRUNE_ROOMS_AT_ONCE);
    let pruned = 0;
    for (const { room } of rooms) {
      const { upTo, count } = this.#oldIn(room, nowMs, limitMs, FORGET_AT_ONCE - pruned);
      if (count > 0) {
        this.#sql.pruneUpTo.run(room, upTo);
        this.rooms.prune(room, idFromKey(upTo));
      }
      pruned += count;
      if (pruned >= FORGET_AT_ONCE) return pruned; // the next step goes on with this room
      this.#prunedRoom = room;
    }
    if (rooms.length < PRUNE_ROOMS_AT_ONCE) this.#prunedRoom = "";
    return pruned;
  }

  /** The front of a room that is past the limit. A time in the future, from a wrong clock, counts as the next message's. */
  #oldIn(room: string, nowMs: number, limitMs: number, maxCount: number): { upTo: number; count: number } {
    let [upTo, count, future] = [0, 0, 0];
    for (const row of this.#sql.oldestTimes.iterate(room, maxCount + MAX_FUTURE_RUN)) {
      if (timeOf(row) > nowMs) {
        if (++future > MAX_FUTURE_RUN) break;
        continue;
      }
      if (timeOf(row) >= limitMs || count >= maxCount) break;
      upTo = row.id;
      count += future + 1;
      future = 0;
    }
    return { upTo, count };
  }
}

function entryOf(row: MessageRow, room: string): StoredMessage {
  const { id, prev, sender, content } = row;
  return { id: idFromKey(id), prev: idFromKey(prev), time: timeOf(row), room, from: sender, content };
}
