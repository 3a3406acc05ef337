/** The SQLite store: every room's whole conversation in one file, kept through anything but the loss of the disk. */

import type { Database } from "bun:sqlite";
import { ClockWatch } from "../clock-watch.ts";
import { note, report } from "../../ops/log.ts";
import { MAX_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import { Sessions } from "../dedup.ts";
import { FileHealth } from "./health.ts";
import {
  idOf,
  keyAt,
  keyOf,
  MAX_KEY,
  msOf,
  openFile,
  prepare,
  sumOf,
  sumOfSession,
  timeOf,
  type Row,
} from "./database.ts";
import { NewestMark } from "./newest-mark.ts";
import {
  aPageOf,
  History,
  MAX_PAGE_BYTES,
  type Answer,
  type Draft,
  type Entry,
  type Follow,
  type Page,
  type ReadonlyHistory,
  type Sender,
  type Store,
  type StoreOptions,
  type Where,
} from "../store.ts";

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
export class SqliteStore implements Store {
  #db: Database;
  #sql: ReturnType<typeof prepare>;
  readonly #sessions: Sessions;
  #waiting: [Draft, Sender][] = [];
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
  promise: string;
  readonly #clockWatch = new ClockWatch();
  readonly #origin: number;
  readonly #health: FileHealth;

  constructor(
    private readonly path: string,
    private readonly options: StoreOptions,
    private readonly follow: Follow,
    private readonly clock: () => number = Date.now,
    /** What is cached of the rooms that are open; the file has the rest. */
    private readonly rooms = new RoomCache<CachedRoom>(),
  ) {
    this.promise = `in ${path}`;
    this.#db = openFile(path, this.clock());
    this.#sql = prepare(this.#db);
    this.#health = new FileHealth(
      path,
      () => this.#sql.touch.run(),
      () => this.#saveLog(),
    );
    const { id: origin = 0, damaged = 0 } = this.#sql.origin.get() ?? {};
    this.#origin = origin;
    this.#damaged = damaged;
    this.#mark = new NewestMark(path);
    const newest = Math.max(origin, this.#sql.newest.get()?.id ?? 0);
    const marked = this.#mark.read(origin);
    // Clients may have received what is missing: its ids are not assigned again.
    this.#lastKey = Math.max(newest, marked.key);
    if (marked.key > newest || marked.isOther) this.#admitLoss(newest, marked.key);
    this.#mark.write(origin, this.#lastKey);
    this.#sessions = new Sessions((client, session) => {
      const row = this.#sql.session.get(client, session);
      if (!row) return undefined;
      // A number that is too high would pass new messages for duplicates.
      if (row.sum !== null && row.sum !== sumOfSession(client, session, row))
        return void note("session damaged", { client });
      return { seq: row.seq, id: idOf(row.id), usedMs: row.used };
    });
    this.#forgetLater(FORGET_EVERY_MS);
  }

  /** At the start: what was acknowledged last is not in the file. */
  #admitLoss(newest: number, acknowledged: number): void {
    const [after, upTo] = [idOf(newest), idOf(acknowledged)];
    note("messages missing", { after, upTo });
    this.promise += ` (messages are missing: ${upTo} had been stored, and the newest in the file is ${after})`;
    this.#admitDamage(newest);
  }

  get isReady(): boolean {
    return this.#health.isReady;
  }

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.rooms.get(name) ?? this.#health.try(() => this.#load(name));
    if (!room) return "unavailable";
    room.holders++;
    return room.history;
  }

  close(name: string): void {
    if (this.rooms.release(name)) this.rooms.delete(name);
  }

  async sent(client: string, session: string): Promise<number | null | "unavailable"> {
    await this.#nextCommit?.promise; // what is pending may be of that session
    const known = this.#health.try(() => ({ sent: this.#sessions.sent(client, session, this.clock()) }));
    return known ? known.sent : "unavailable";
  }

  async read(room: string, where: Where): Promise<Page | "unavailable"> {
    return this.#health.try(() => this.#read(room, where)) ?? "unavailable";
  }

  #read(room: string, { after, before, limit }: Where): Page {
    if (after === undefined) {
      const page = this.#pageOf(room, this.#sql.before.iterate(room, before ? keyOf(before) : MAX), limit);
      return { ...page, entries: page.entries.reverse() };
    }
    const page = this.#pageOf(room, this.#sql.after.iterate(room, keyOf(after)), limit);
    if (!this.#isKept(room, after)) return { ...page, recovered: false };
    const isDamaged = keyOf(after) <= this.#damaged;
    return { ...page, recovered: !isDamaged, ...(isDamaged ? { isDamaged } : {}) };
  }

  /** Only what is as it was stored. What is missing or damaged is reported, and nobody can resume across it. */
  #pageOf(room: string, rows: Iterable<Row>, limit: number, maxBytes = MAX_PAGE_BYTES) {
    let damaged = 0;
    const found = (fact: string, key: number) => {
      damaged = Math.max(damaged, key);
      if (this.#found.has(key) || this.#found.size >= MAX_FOUND) return;
      this.#found.add(key);
      note(fact, { room, id: idOf(key) });
    };
    const entriesIn = function* (): Generator<Entry> {
      let last: Row | undefined;
      for (const row of rows) {
        const [older, newer] = last && last.id > row.id ? [row, last] : [last, row];
        if (older && newer.prev !== older.id) found("messages missing after", older.id);
        last = row;
        if (row.sum !== null && row.sum !== sumOf(row, room)) found("message damaged", row.id);
        else yield entryOf(row, room);
      }
    };
    const page = aPageOf(entriesIn(), limit, maxBytes);
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

  async idBeforeLatest(room: string, count: number): Promise<string | "unavailable"> {
    const idBefore = () => idOf(this.#sql.latest.get(room, count)?.id ?? this.#idBeforeOldest(room));
    return this.#health.try(idBefore) ?? "unavailable";
  }

  append(draft: Draft, sender: Sender): void {
    this.#waiting.push([draft, sender]);
    if (this.#nextCommit) return;
    this.#nextCommit = Promise.withResolvers();
    if (this.#commitMs < FAST_COMMIT_MS) setImmediate(() => this.#commit());
    else setTimeout(() => this.#commit(), SLOW_COMMIT_WAIT_MS);
  }

  async settle(): Promise<void> {
    this.#commit();
  }

  /** Keeps what has come in, and lets go of the file. */
  end(): void {
    this.#commit();
    clearTimeout(this.#forgetting);
    this.#closeFile();
    this.#mark.close();
  }

  /** All that has come in becomes one transaction; who sent it is answered, and everyone hears it, after that. */
  #commit(): void {
    const batch = this.#waiting;
    const thisCommit = this.#nextCommit;
    this.#waiting = [];
    this.#nextCommit = undefined;
    if (batch.length > 0) this.#store(batch);
    thisCommit?.resolve();
  }

  #store(batch: readonly [Draft, Sender][]): void {
    const nowMs = this.clock();
    const startMs = performance.now();
    const transaction = this.#db.transaction(() => this.#decide(batch, nowMs));
    const { done: answers, isSure } = this.#health.write(() => transaction.immediate()) ?? {};
    this.#commitMs = performance.now() - startMs;
    const newest = answers?.findLast((answer) => "kept" in answer);
    if (isSure && newest && "kept" in newest) this.#mark.write(this.#origin, keyOf(newest.kept.id));
    // What a failed transaction had noted of them holds no more.
    if (!answers) this.#sessions.reload(batch.map(([draft]) => draft));
    for (const [i, [draft, sender]] of batch.entries())
      try {
        const answer = answers?.[i] ?? { refused: "unavailable" };
        if ("kept" in answer) this.#cache(answer.kept);
        sender.answered(draft, answers && !isSure ? { refused: "unconfirmed" } : answer);
        if ("kept" in answer) this.follow(answer.kept);
      } catch (error) {
        report("A message that is kept could not be told", error); // and the next ones still can
      }
  }

  #decide(batch: readonly [Draft, Sender][], nowMs: number): Answer[] {
    const heads = new Map<string, number>();
    const numbered = new Map<string, Draft>();
    const answers = batch.map(([draft]): Answer => {
      const objection = this.#sessions.objection(draft, nowMs);
      if (objection) return objection;
      const { room, from, content, session } = draft;
      const prev = heads.get(room) ?? this.#head(room);
      const clockKey = keyAt(nowMs);
      const key = clockKey < MAX_KEY ? Math.max(this.#lastKey + 1, clockKey) : this.#lastKey + 1;
      const sum = sumOf({ id: key, prev, time: nowMs, sender: from, content }, room);
      this.#sql.insert.run(key, prev, nowMs, room, from, content, sum);
      this.#lastKey = key;
      heads.set(room, key);
      const entry: Entry = { id: idOf(key), prev: idOf(prev), time: nowMs, room, from, content };
      this.#sessions.kept(draft, entry.id, nowMs);
      if (session !== undefined) numbered.set(`${from} ${session}`, draft);
      return { kept: entry };
    });
    if (heads.size > 0) this.#clockWatch.check(msOf(this.#lastKey), nowMs);
    for (const [room, key] of heads) this.#sql.setHead.run(room, key);
    for (const { from, session = "" } of numbered.values()) {
      const known = this.#sessions.get(from, session, nowMs);
      if (!known) continue;
      const row = { seq: known.seq, id: keyOf(known.id), used: nowMs };
      const sum = sumOfSession(from, session, row);
      this.#sql.setSession.run(from, session, row.seq, row.id, row.used, sum);
    }
    return answers;
  }

  #cache(entry: Entry): void {
    const room = this.rooms.get(entry.room);
    if (room) this.rooms.push(room, entry);
  }

  #head(room: string): number {
    return this.#sql.head.get(room)?.id ?? this.#origin;
  }

  /** The rule of *recovered*, with all that is in the file. */
  #isKept(room: string, id: string): boolean {
    const key = keyOf(id);
    if (idOf(key) !== id) return false;
    return key === this.#idBeforeOldest(room) || this.#sql.exists.get(room, key) !== null;
  }

  #idBeforeOldest(room: string): number {
    return this.#sql.oldest.get(room)?.prev ?? this.#head(room);
  }

  #load(name: string): CachedRoom {
    const { history: count } = this.options;
    const latest = this.#sql.before.iterate(name, MAX);
    const entries = this.#pageOf(name, latest, count, this.rooms.loadBytes).entries.reverse();
    const history = new History(entries[0]?.prev ?? idOf(this.#head(name)), count, MAX_ROOM_BYTES);
    for (const entry of entries) history.push(entry);
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
    this.#db = openFile(this.path, this.clock());
    this.#sql = prepare(this.#db);
    this.#isClosed = false;
  }

  #forgetLater(waitMs: number): void {
    this.#forgetting = setTimeout(() => {
      this.#health.look();
      const isMore = this.forgetOld() > 0;
      this.#forgetLater(isMore ? FORGET_MORE_MS : FORGET_EVERY_MS);
    }, waitMs).unref();
  }

  /** A small step, which nobody notices. @returns how much was forgotten */
  forgetOld(): number {
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
        this.rooms.prune(room, idOf(upTo));
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

function entryOf(row: Row, room: string): Entry {
  const { id, prev, sender, content } = row;
  return { id: idOf(id), prev: idOf(prev), time: timeOf(row), room, from: sender, content };
}
