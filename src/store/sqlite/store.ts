/** The SQLite store: all messages of all rooms in one file. */

import type { Database } from "bun:sqlite";
import { logEvent, logError } from "../../ops/log.ts";
import type { Clock } from "../../util/clock.ts";
import type { Random } from "../../util/random.ts";
import { ClockWatch } from "../clock-watch.ts";
import { DedupTable, sessionKey, type SessionRecord } from "../dedup.ts";
import {
  findExpired,
  History,
  takeLatest,
  takePage,
  type HistoryPage,
  type PageQuery,
  type ReadonlyHistory,
} from "../history.ts";
import {
  isNumbered,
  type AppendResult,
  type PendingMessage,
  type Removal,
  type RemovalTarget,
  type StoredEntry,
} from "../message.ts";
import { CACHED_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import type { AppendCallback, Ban, ListedRoom, EntryListener, MessageStore, StoreOptions } from "../store.ts";
import { StoreUnavailable } from "../store.ts";
import {
  ALL_OF_SENDER,
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
  prepareStatements,
  sessionChecksum,
  type Erasure,
  type MessageRow,
} from "./database.ts";
import { DatabaseHealth } from "./health.ts";
import { NewestMark } from "./newest-mark.ts";

/** Everything appended in one turn of the event loop shares a commit; on a slow disk, everything within this time. */
const FAST_COMMIT_MS = 1;
const SLOW_COMMIT_WAIT_MS = 2;
const DAY_MS = 24 * 60 * 60 * 1000;
/** How long sessions are remembered at least; longer if messages are. */
const MIN_SESSION_DAYS = 30;
/** The time of a session's last use is rounded up: its index would change with every message otherwise. */
const SESSION_USE_STEP_MS = 60 * 60 * 1000;
const PRUNE_INTERVAL_MS = 1000;
/** The interval while there is more to prune. */
const PRUNE_MORE_MS = 50;
/** Small enough that a step does not delay anything noticeably. */
const PRUNE_ROWS_PER_STEP = 500;
const PRUNE_ROOMS_PER_STEP = 500;
/** A step takes a few milliseconds, whether it finds much or little to erase. */
const ERASE_ROWS_PER_STEP = 250;
const SCANNED_ROWS_PER_STEP = 5000;
/** If more messages than this at the front of a room have a time in the future, pruning waits until it has come. */
const MAX_FUTURE_RUN = 10_000;
/** Damage in more places than this is not logged individually. */
const MAX_LOGGED_DAMAGE = 1000;

type Batch = [PendingMessage, AppendCallback][];

export class SqliteStore implements MessageStore {
  durability: string;
  readonly #lock: Database;
  #db: Database;
  #sql: ReturnType<typeof prepareStatements>;
  /** In one transaction. Bun takes longer to define a transaction than to run it. */
  #insertAtOnce: (batch: Batch, nowMs: number) => AppendResult[];
  readonly #health: DatabaseHealth;
  readonly #mark: NewestMark;
  readonly #sessionTtlMs: number;
  readonly #sessions: DedupTable;
  readonly #clockWatch = new ClockWatch();
  #queue: Batch = [];
  /** Set while a commit is scheduled. */
  #nextCommit: PromiseWithResolvers<void> | undefined;
  #lastCommitMs = 0;
  /** The id before the first message of every room. */
  readonly #originKey: number;
  /** The keys up to this one were imported: some stand for other ids. 0: none were. */
  readonly #reservedUpTo: number;
  #lastKey: number;
  /** No client can resume from an id up to this one, because a later message is lost. */
  #damagedUpTo: number;
  readonly #loggedDamage = new Set<number>();
  #pruneTimer: Timer | undefined;
  /** The write-ahead log still contains what was removed. */
  #isErasurePending = false;
  readonly #erasures: Erasure[];
  /** One removal after the other. */
  #lastRemoval: Promise<unknown> = Promise.resolve();
  #isErasing = false;
  /** The room that was pruned last. */
  #prunedRoom = "";
  #isClosed = false;

  /** @throws StoreError when the file cannot be used */
  constructor(
    private readonly path: string,
    private readonly options: StoreOptions,
    private readonly onEntry: EntryListener,
    private readonly clock: Clock,
    private readonly random: Random,
    /** The latest messages of the acquired rooms. */
    private readonly rooms = new RoomCache<CachedRoom>(),
  ) {
    this.durability = `in ${path}`;
    this.#lock = lockDatabase(path);
    try {
      this.#db = openDatabase(path, clock.now(), random);
    } catch (error) {
      this.#lock.close();
      throw error;
    }
    this.#sql = prepareStatements(this.#db);
    this.#insertAtOnce = this.#defineInsert();
    this.#health = new DatabaseHealth(
      path,
      clock,
      () => this.#sql.probeWrite.run(),
      () => this.#saveLog(),
    );
    this.#erasures = this.#sql.erasures.all();
    const { id: origin = 0, damaged_up_to = 0, reserved_up_to = 0 } = this.#sql.origin.get() ?? {};
    this.#originKey = origin;
    this.#reservedUpTo = reserved_up_to;
    this.#damagedUpTo = damaged_up_to;
    this.#mark = new NewestMark(path);
    const newest = Math.max(origin, reserved_up_to, this.#sql.newest.get()?.id ?? 0);
    const marked = this.#mark.read(origin);
    // Clients may have received what is missing, so its ids are not assigned again.
    this.#lastKey = Math.max(newest, marked.key);
    if (marked.key > newest || marked.isOther) this.#reportLoss(newest, marked.key);
    this.#mark.write(origin, this.#lastKey);
    this.#sessionTtlMs = Math.max(MIN_SESSION_DAYS, options.keepDays) * DAY_MS;
    this.#sessions = new DedupTable(this.#sessionTtlMs, (client, session) =>
      this.#loadSession(client, session),
    );
    this.#schedulePruning(PRUNE_INTERVAL_MS);
  }

  /** At the start, when the file ends before the newest acknowledged message. */
  #reportLoss(newest: number, acknowledged: number): void {
    const [after, upTo] = [this.#idOf(newest), this.#idOf(acknowledged)];
    logEvent("messages missing", { after, upTo });
    this.durability += ` (messages are missing: ${upTo} had been stored, and the newest in the file is ${after})`;
    this.#setDamaged(newest);
  }

  get isReady(): boolean {
    return this.#health.isReady;
  }

  async acquireRoom(name: string): Promise<ReadonlyHistory> {
    const room = this.rooms.get(name) ?? this.#health.read(() => this.#loadRoom(name));
    room.refCount++;
    return room.history;
  }

  releaseRoom(name: string): void {
    if (this.rooms.release(name)) this.rooms.delete(name);
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#nextCommit?.promise; // queued messages may belong to that session
    return this.#health.read(() => this.#sessions.lastSeq(client, session, this.clock.now()));
  }

  async readHistory(room: string, query: PageQuery): Promise<HistoryPage> {
    return this.#health.read(() => this.#readPage(room, query));
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    return this.#health.read(() =>
      this.#idOf(this.#sql.nthLatest.get(room, count)?.id ?? this.#keyBeforeOldest(room)),
    );
  }

  async listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    return this.#health.read(() => {
      const before = after === undefined ? Number.MAX_SAFE_INTEGER : this.#sql.lastMessageId.get(after)?.id;
      if (before === undefined) return undefined;
      const rows = this.#sql.roomsBefore.all(before, limit);
      return rows.map(({ room, id, time }) => ({ room, id: this.#idOf(id), time }));
    });
  }

  append(pending: PendingMessage, callback: AppendCallback): void {
    this.#queue.push([pending, callback]);
    if (this.#nextCommit) return;
    this.#nextCommit = Promise.withResolvers();
    if (this.#lastCommitMs < FAST_COMMIT_MS) this.clock.setImmediate(() => this.#commit());
    else this.clock.setTimeout(() => this.#commit(), SLOW_COMMIT_WAIT_MS);
  }

  /** The content is gone from both files, unless another program reads them at the moment: then once that has ended. */
  remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    return this.#afterOtherRemovals(async () => {
      await this.#nextCommit?.promise; // queued messages were received before
      return "from" in target ? this.#removeAll(room, target.from) : this.#removeOne(room, target.message);
    });
  }

  async #afterOtherRemovals<T>(remove: () => Promise<T>): Promise<T> {
    const removal = this.#lastRemoval.then(remove);
    this.#lastRemoval = removal.catch(() => {});
    return removal;
  }

  async #removeOne(room: string, message: string): Promise<number | undefined> {
    const key = this.#keyOf(message);
    const row =
      this.#idOf(key) === message ? this.#health.read(() => this.#sql.message.get(room, key)) : null;
    if (!row) return undefined;
    if (row.content === ERASED || isBeingErased(this.#erasures, room, row)) return 0;
    this.#isErasurePending = true;
    this.#store(room, "", message, () => this.#erase(row, room));
    this.#emptyLog();
    return 1;
  }

  /** There may be a million: they are removed for all readers at once, and from the file step by step. */
  async #removeAll(room: string, from: string): Promise<number> {
    if (!(await this.#hasErasable(room, from))) return 0;
    const { id, prev } = this.#store(room, from, ALL_OF_SENDER, (key) => this.#sql.addErasure.run(key));
    return this.#finishErasure({ id, room, sender: from, upTo: prev });
  }

  async #hasErasable(room: string, sender: string): Promise<boolean> {
    const upTo = this.#health.read(() => this.#lastKeyOf(room));
    const removed = this.#erasures.findLast((each) => each.room === room && each.sender === sender);
    for (let after = removed?.upTo ?? 0; after < upTo; await this.#nextTurn()) {
      const step = this.#health.read(() => this.#findErasable({ room, sender, upTo }, after, 1));
      if (step.rows.length > 0) return true;
      after = step.upTo;
    }
    return false;
  }

  /** @returns the client's messages in a part of the room, and where that ends */
  #findErasable({ room, sender, upTo }: Omit<Erasure, "id">, after: number, maxCount: number) {
    const end = Math.min(upTo, this.#sql.nthAfter.get(room, after, SCANNED_ROWS_PER_STEP)?.id ?? upTo);
    const rows = this.#sql.erasable.all(room, after, end, sender, maxCount);
    return { rows, upTo: rows.length < maxCount ? end : (rows.at(-1)?.id ?? end) };
  }

  /** Stores a removal, and emits it. @throws StoreUnavailable */
  #store(room: string, sender: string, removes: string, erase: (key: number) => unknown) {
    const nowMs = this.clock.now();
    const transaction = this.#db.transaction(() => {
      const [id, prev] = [this.#nextKey(nowMs), this.#lastKeyOf(room)];
      const row = { id, prev, time: nowMs, sender, content: ERASED, removes };
      const checksum = messageChecksum(row, room);
      this.#sql.insertRemoval.run(id, prev, nowMs, room, sender, removes, checksum);
      this.#sql.setLastId.run(room, id);
      erase(id);
      return { ...row, checksum };
    });
    const result = this.#health.write(() => transaction.immediate());
    if (!result) throw new StoreUnavailable();
    const { value: row, isSure } = result;
    if (removes === ALL_OF_SENDER) this.#erasures.push({ id: row.id, room, sender, upTo: row.prev });
    const removal = this.#removalOf(row, room, removes);
    if (isSure) this.#mark.write(this.#originKey, row.id);
    this.#appendToCache(removal);
    this.onEntry(removal);
    if (!isSure) throw new StoreUnavailable();
    return row;
  }

  #erase(row: Omit<MessageRow, "content" | "checksum">, room: string): void {
    this.#sql.erase.run(messageChecksum({ ...row, content: ERASED }, room), row.id);
  }

  /** @returns how many messages it has erased @throws StoreUnavailable: then it is continued later */
  async #finishErasure(erasure: Erasure): Promise<number> {
    let count = 0;
    for (let after = 0; after < erasure.upTo; await this.#nextTurn()) {
      const { rows, upTo } = this.#health.read(() => this.#findErasable(erasure, after, ERASE_ROWS_PER_STEP));
      if (rows.length > 0) this.#write(() => rows.forEach((row) => this.#erase(row, erasure.room)));
      count += rows.length;
      after = upTo;
    }
    this.#write(() => this.#sql.deleteErasure.run(erasure.id));
    this.#erasures.splice(
      this.#erasures.findIndex(({ id }) => id === erasure.id),
      1,
    );
    this.#isErasurePending = true;
    this.#emptyLog();
    return count;
  }

  /** What a failure or the end of the process has interrupted. */
  #continueErasures(): void {
    const [erasure] = this.#erasures;
    if (!erasure || this.#isErasing) return;
    this.#isErasing = true;
    const finish = async () => {
      if (this.#erasures.includes(erasure)) await this.#finishErasure(erasure);
    };
    void this.#afterOtherRemovals(finish)
      .catch(() => {}) // the store has logged why; the next attempt follows
      .finally(() => (this.#isErasing = false));
  }

  /** One transaction. @throws StoreUnavailable */
  #write(work: () => unknown): void {
    const transaction = this.#db.transaction(work);
    if (!this.#health.write(() => transaction.immediate())?.isSure) throw new StoreUnavailable();
  }

  #nextTurn(): Promise<void> {
    return new Promise((resolve) => this.clock.setImmediate(resolve));
  }

  #emptyLog(): void {
    if (!this.#isErasurePending) return;
    this.#isErasurePending = !this.#health.emptyLog(() => this.#sql.checkpoint.get()?.busy === 0);
  }

  readonly bans = {
    read: async (): Promise<readonly Ban[]> =>
      this.#health.read(() =>
        this.#sql.bans
          .all()
          .map(({ client, rooms, until_ms }) => ({ client, rooms: rooms.split(" "), untilMs: until_ms })),
      ),
    save: async ({ client, rooms, untilMs }: Ban): Promise<void> => {
      const key = [client, rooms.join(" ")] as const;
      const write = () =>
        untilMs === 0 ? this.#sql.deleteBan.run(...key) : this.#sql.saveBan.run(...key, untilMs);
      if (!this.#health.write(write)?.isSure) throw new StoreUnavailable();
    },
  };

  async drain(): Promise<void> {
    this.#commit();
  }

  /** Stores what is queued, and closes the file. */
  close(): void {
    this.#commit();
    this.clock.clear(this.#pruneTimer);
    this.#closeDatabase();
    this.#health.close();
    this.#mark.close();
    this.#lock.close();
  }

  #commit(): void {
    const batch = this.#queue;
    const thisCommit = this.#nextCommit;
    this.#queue = [];
    this.#nextCommit = undefined;
    if (batch.length > 0) this.#storeBatch(batch);
    thisCommit?.resolve();
  }

  /** One transaction; the results are reported, and the messages emitted, once it is committed. */
  #storeBatch(batch: Batch): void {
    const nowMs = this.clock.now();
    const startMs = this.clock.elapsed();
    const { value: results, isSure } = this.#health.write(() => this.#insertAtOnce(batch, nowMs)) ?? {};
    this.#lastCommitMs = this.clock.elapsed() - startMs;
    const newest = results?.findLast((result) => "stored" in result);
    if (isSure && newest && "stored" in newest)
      this.#mark.write(this.#originKey, this.#keyOf(newest.stored.id));
    if (!results) this.#sessions.invalidate(batch.map(([pending]) => pending));
    for (const [i, [pending, callback]] of batch.entries())
      try {
        const result = results?.[i] ?? { rejected: "unavailable" };
        if ("stored" in result) this.#appendToCache(result.stored);
        callback.onResult(pending, results && !isSure ? { rejected: "unconfirmed" } : result);
        if ("stored" in result) this.onEntry(result.stored);
      } catch (error) {
        logError("A stored message could not be delivered", error); // the rest of the batch still is
      }
  }

  #defineInsert() {
    return this.#db.transaction((batch: Batch, nowMs: number) => this.#insertBatch(batch, nowMs)).immediate;
  }

  #insertBatch(batch: Batch, nowMs: number): AppendResult[] {
    const lastKeys = new Map<string, number>();
    const changedSessions = new Map<string, PendingMessage>();
    const results = batch.map(([pending]): AppendResult => {
      const result = this.#sessions.check(pending, nowMs);
      if (result) return result;
      const { room, from, content } = pending;
      const prev = lastKeys.get(room) ?? this.#lastKeyOf(room);
      const key = this.#nextKey(nowMs);
      const row = { id: key, prev, time: nowMs, sender: from, content, removes: null };
      const checksum = messageChecksum(row, room);
      this.#sql.insert.run(key, prev, nowMs, room, from, content, checksum);
      lastKeys.set(room, key);
      const id = idFromKey(key);
      this.#sessions.record(pending, id, nowMs);
      if (isNumbered(pending)) changedSessions.set(sessionKey(from, pending.session), pending);
      return { stored: { id, prev: this.#idOf(prev), time: nowMs, room, from, content } };
    });
    if (lastKeys.size > 0) this.#clockWatch.check(msFromKey(this.#lastKey), nowMs);
    for (const [room, key] of lastKeys) this.#sql.setLastMessageId.run(room, key);
    for (const { from, session = "" } of changedSessions.values()) this.#saveSession(from, session, nowMs);
    return results;
  }

  /** Follows the clock, and is greater than all keys before even when the clock goes back. */
  #nextKey(nowMs: number): number {
    const clockKey = keyFromMs(nowMs);
    const next = this.#lastKey + 1;
    return (this.#lastKey = clockKey < MAX_KEY ? Math.max(next, clockKey) : next);
  }

  #saveSession(client: string, session: string, nowMs: number): void {
    const record = this.#sessions.get(client, session, nowMs);
    if (!record) return;
    const used_ms = Math.ceil(nowMs / SESSION_USE_STEP_MS) * SESSION_USE_STEP_MS;
    const row = { seq: record.seq, id: this.#keyOf(record.id), used_ms };
    const checksum = sessionChecksum(client, session, row);
    const { changes } = this.#sql.updateSession.run(row.seq, row.id, checksum, client, session, used_ms);
    if (changes === 0) this.#sql.setSession.run(client, session, row.seq, row.id, used_ms, checksum);
  }

  #loadSession(client: string, session: string): SessionRecord | undefined {
    const row = this.#sql.session.get(client, session);
    if (!row) return undefined;
    // With a `seq` that is too high, new messages would be taken for duplicates.
    if (row.checksum !== null && row.checksum !== sessionChecksum(client, session, row)) {
      logEvent("session damaged", { client });
      return undefined;
    }
    return { seq: row.seq, id: this.#idOf(row.id), usedMs: row.used_ms };
  }

  #appendToCache(entry: StoredEntry): void {
    const room = this.rooms.get(entry.room);
    if (room) this.rooms.push(room, entry);
  }

  #loadRoom(name: string): CachedRoom {
    const { history: count } = this.options;
    const latest = this.#sql.before.iterate(name, Number.MAX_SAFE_INTEGER);
    const { entries } = takeLatest(this.#intact(name, latest), count, this.rooms.loadBytes);
    const history = new History(this.#idOf(this.#lastKeyOf(name)), count, CACHED_ROOM_BYTES, entries);
    const room = { history, refCount: 0 };
    this.rooms.add(name, room);
    return room;
  }

  #readPage(room: string, { after, before, limit }: PageQuery): HistoryPage {
    if (after === undefined) {
      const end = before ? this.#keyOf(before) : Number.MAX_SAFE_INTEGER;
      return takeLatest(this.#intact(room, this.#sql.before.iterate(room, end)), limit);
    }
    const isResumable = this.#isResumable(room, after);
    const rows = this.#sql.after.iterate(room, this.#keyOf(after));
    const page = takePage(this.#intact(room, rows, isResumable ? this.#keyOf(after) : undefined), limit);
    if (!isResumable) return { ...page, recovered: false };
    const isDamaged = this.#keyOf(after) <= this.#damagedUpTo;
    return { ...page, recovered: !isDamaged, ...(isDamaged ? { isDamaged } : {}) };
  }

  /**
   * Skips damaged messages. Damaged and missing ones are logged, and no client can resume across them.
   * @param after the message that the first row must follow, if known: a damaged index may skip some
   */
  *#intact(room: string, rows: Iterable<MessageRow>, after?: number): Generator<StoredEntry> {
    let damagedUpTo = 0;
    const report = (event: string, key: number) => {
      damagedUpTo = Math.max(damagedUpTo, key);
      if (this.#loggedDamage.has(key) || this.#loggedDamage.size >= MAX_LOGGED_DAMAGE) return;
      this.#loggedDamage.add(key);
      logEvent(event, { room, id: this.#idOf(key) });
    };
    let last: MessageRow | undefined;
    try {
      for (const row of rows) {
        const [older, newer] = last && last.id > row.id ? [row, last] : [last, row];
        const olderId = older?.id ?? after;
        if (olderId !== undefined && newer.prev !== olderId) report("messages missing after", olderId);
        last = row;
        if (row.checksum !== null && row.checksum !== messageChecksum(row, room))
          report("message damaged", row.id);
        else yield this.#entryOf(row, room);
      }
    } finally {
      this.#setDamaged(damagedUpTo);
    }
  }

  #setDamaged(key: number): void {
    const damagedUpTo = Math.min(key, this.#lastKey);
    if (damagedUpTo <= this.#damagedUpTo) return;
    this.#damagedUpTo = damagedUpTo;
    this.#health.write(() => this.#sql.setDamaged.run(damagedUpTo));
  }

  /** The rule of *recovered*, over everything in the file. */
  #isResumable(room: string, id: string): boolean {
    const key = this.#keyOf(id);
    if (this.#idOf(key) !== id) return false;
    return this.#sql.exists.get(room, key) !== null || key === this.#keyBeforeOldest(room);
  }

  #keyBeforeOldest(room: string): number {
    return this.#sql.oldest.get(room)?.prev ?? this.#lastKeyOf(room);
  }

  #lastKeyOf(room: string): number {
    return this.#sql.lastId.get(room)?.last_id ?? this.#originKey;
  }

  /** SQLite closes the file, and removes its write-ahead log, only when all statements are finalized. */
  #closeDatabase(): void {
    if (this.#isClosed) return;
    for (const statement of Object.values(this.#sql)) statement.finalize();
    this.#db.close();
    this.#isClosed = true;
  }

  /** After the write-ahead log was removed: moves what it contains to the main file, and opens that with a new log. */
  #saveLog(): void {
    if (!this.#isClosed) {
      if (this.#sql.checkpoint.get()?.busy !== 0) throw new Error("The write-ahead log could not be saved");
      this.#closeDatabase();
    }
    this.#db = openDatabase(this.path, this.clock.now(), this.random);
    this.#sql = prepareStatements(this.#db);
    this.#insertAtOnce = this.#defineInsert();
    this.#isClosed = false;
  }

  #schedulePruning(waitMs: number): void {
    const step = () => {
      this.#health.checkFiles();
      this.#emptyLog();
      this.#continueErasures();
      const hasMore = this.prune() > 0;
      this.#schedulePruning(hasMore ? PRUNE_MORE_MS : PRUNE_INTERVAL_MS);
    };
    this.#pruneTimer = this.clock.setTimeout(step, waitMs).unref();
  }

  /** One small step. @returns the number of rows deleted */
  prune(): number {
    const { keepDays } = this.options;
    const nowMs = this.clock.now();
    const bansUntilMs = nowMs - DAY_MS; // a wrong clock can be set right
    const usedMs = nowMs - this.#sessionTtlMs;
    const isDue = () => keepDays > 0 || this.#sql.hasExpired.get(bansUntilMs, usedMs) !== null;
    if (!this.#health.attempt(isDue)?.value) return 0;
    const transaction = this.#db.transaction(() => {
      this.#sql.pruneBans.run(bansUntilMs);
      const sessions = this.#sql.pruneSessions.run(usedMs, PRUNE_ROWS_PER_STEP).changes;
      return sessions + (keepDays === 0 ? 0 : this.#pruneMessages(nowMs, nowMs - keepDays * DAY_MS));
    });
    return this.#health.write(() => transaction.immediate())?.value ?? 0;
  }

  /** @returns the number of rows deleted */
  #pruneMessages(nowMs: number, cutoffMs: number): number {
    const rooms = this.#sql.roomsAfter.all(this.#prunedRoom, PRUNE_ROOMS_PER_STEP);
    let pruned = 0;
    for (const { room } of rooms) {
      const maxCount = PRUNE_ROWS_PER_STEP - pruned;
      const oldest = this.#sql.oldestTimes.iterate(room, maxCount + MAX_FUTURE_RUN);
      const { upTo, count } = findExpired(oldest, nowMs, cutoffMs, maxCount);
      if (upTo !== undefined) {
        this.#sql.pruneMessages.run(room, upTo);
        this.rooms.prune(room, this.#idOf(upTo));
      }
      pruned += count;
      if (pruned >= PRUNE_ROWS_PER_STEP) return pruned; // the next step continues with this room
      this.#prunedRoom = room;
    }
    if (rooms.length < PRUNE_ROOMS_PER_STEP) this.#prunedRoom = "";
    return pruned;
  }

  #entryOf(row: MessageRow, room: string): StoredEntry {
    if (row.removes !== null) return this.#removalOf(row, room, row.removes);
    const { sender: from, content } = row;
    const isRemoved = typeof content === "number" || isBeingErased(this.#erasures, room, row);
    return { ...this.#placeOf(row, room), from, content: isRemoved ? undefined : content };
  }

  #removalOf(row: MessageRow, room: string, removes: string): Removal {
    const place = this.#placeOf(row, room);
    const isOfSender = removes === ALL_OF_SENDER;
    return {
      ...place,
      removes: isOfSender ? { from: row.sender, upTo: place.prev } : { message: removes },
    };
  }

  #placeOf({ id, prev, time }: MessageRow, room: string) {
    return { id: this.#idOf(id), prev: this.#idOf(prev), time: time ?? msFromKey(id), room };
  }

  #idOf(key: number): string {
    const imported = key <= this.#reservedUpTo ? this.#sql.importedId.get(key)?.id : undefined;
    return imported ?? idFromKey(key);
  }

  /** The key of an id; of an id that is not in this file, one close to it. */
  #keyOf(id: string): number {
    const imported = this.#reservedUpTo > 0 ? this.#sql.importedKey.get(id)?.key : undefined;
    return imported ?? keyFromId(id);
  }
}
