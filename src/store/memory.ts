/** The memory store: the latest messages of each room, for as long as the process runs. */

import { ClockWatch } from "./clock-watch.ts";
import { RoomCache, type CachedRoom } from "./room-cache.ts";
import { DedupTable } from "./dedup.ts";
import { History, type HistoryPage, type ReadonlyHistory, type PageQuery } from "./history.ts";
import type { PendingMessage, StoredMessage } from "./message.ts";
import { StoreUnavailable, type MessageListener, type AppendCallback, type MessageStore } from "./store.ts";

const LIMITS = {
  rooms: 50_000,
  /** 400 messages of 64 KiB, with two bytes for each character. */
  roomBytes: 64 * 1024 * 1024,
  bytes: 256 * 1024 * 1024,
};

export class MemoryStore implements MessageStore {
  readonly isReady = true;
  readonly durability = "in memory, until it stops";
  readonly #rooms: RoomCache<CachedRoom>;
  /** Rooms that nobody is in, the least recently used first: those with history, and those without. */
  readonly #unused = new Set<string>();
  readonly #unusedEmpty = new Set<string>();
  /** How many rooms have history; those without are as many as connections, and a few that are evicted first. */
  #withHistory = 0;
  readonly #sessions = new DedupTable();
  readonly #clockWatch = new ClockWatch();
  #lastMs = 0;
  /** Starts anywhere in a millisecond, so that a store with a wrong clock hardly makes an id of an earlier one. */
  readonly #firstSequence = Math.floor(Math.random() * 1000);
  #sequence = this.#firstSequence;

  constructor(
    private readonly maxEntries: number,
    private readonly follow: MessageListener,
    private readonly limits: Readonly<typeof LIMITS> = LIMITS,
    private readonly clock: () => number = Date.now,
  ) {
    this.#rooms = new RoomCache(limits.bytes, (grown) => this.#makeSpace(grown));
  }

  async acquireRoom(name: string): Promise<ReadonlyHistory> {
    const room = this.#room(name);
    if (!room) throw new StoreUnavailable();
    room.holders++;
    this.#unused.delete(name);
    this.#unusedEmpty.delete(name);
    return room.history;
  }

  releaseRoom(name: string): void {
    const room = this.#rooms.release(name);
    if (room) this.#setUnused(name, room);
  }

  #setUnused(name: string, { history }: CachedRoom): void {
    this.#unused.delete(name);
    this.#unusedEmpty.delete(name);
    if (history.bytes > 0) this.#unused.add(name);
    else this.#unusedEmpty.add(name);
    while (this.#rooms.size > this.limits.rooms && this.#evict(this.#unusedEmpty));
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    const nowMs = this.clock();
    const objection = this.#sessions.check(pending, nowMs);
    if (objection) return sender.onResult(pending, objection);
    const room = this.#room(pending.room);
    if (!room || (room.history.bytes === 0 && !this.#makePlace()))
      return sender.onResult(pending, { rejected: "unavailable" });

    const prev = room.history.lastId;
    const id = this.#nextId(nowMs);
    this.#clockWatch.check(this.#lastMs, nowMs);
    const message: StoredMessage = {
      id,
      prev,
      time: nowMs,
      room: pending.room,
      from: pending.from,
      content: pending.content,
    };
    this.#sessions.record(pending, id, nowMs);
    this.#push(pending.room, room, message);
    sender.onResult(pending, { stored: message });
    this.follow(message);
  }

  #push(name: string, room: CachedRoom, message: StoredMessage): void {
    const before = room.history.bytes;
    this.#unused.delete(name); // it makes space for itself, and is not evicted
    this.#rooms.push(room, message);
    this.#withHistory += Number(room.history.bytes > 0) - Number(before > 0);
    if (room.holders === 0) this.#setUnused(name, room);
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    return this.#sessions.lastSeq(client, session, this.clock());
  }

  async readHistory(room: string, where: PageQuery): Promise<HistoryPage> {
    const { history } = this.#rooms.get(room) ?? {};
    return (
      history?.page(where) ?? { messages: [], more: false, ...(where.after ? { recovered: false } : {}) }
    );
  }

  async drain(): Promise<void> {}

  close(): void {}

  #room(name: string): CachedRoom | undefined {
    const known = this.#rooms.get(name);
    if (known) return known;
    if (!this.#canMakePlace) return undefined;
    if (this.#rooms.size >= this.limits.rooms) this.#evict(this.#unusedEmpty);
    // An id of its own, so that nobody who was in a room of this name before takes this one for that.
    const before = this.#nextId(this.clock());
    const room = { history: new History(before, this.maxEntries, this.limits.roomBytes), holders: 0 };
    this.#rooms.add(name, room);
    return room;
  }

  get #canMakePlace(): boolean {
    return this.#withHistory < this.limits.rooms || this.#unused.size > 0;
  }

  /** For one more room with history: not before its first message, or silent joins would evict what others have. */
  #makePlace(): boolean {
    return this.#withHistory < this.limits.rooms || this.#evict(this.#unused);
  }

  /** Rooms that nobody is in first; then the room that grew makes space for itself, never another that is occupied. */
  #makeSpace(grown: CachedRoom): void {
    while (this.#rooms.isOver && this.#evict(this.#unused));
    while (this.#rooms.isOver && grown.history.bytes > 0) this.#rooms.forgetOldest(grown);
  }

  /** The least recently used of them. */
  #evict(unused: Set<string>): boolean {
    for (const name of unused) {
      unused.delete(name);
      if (unused === this.#unused) this.#withHistory--;
      this.#rooms.delete(name);
      return true;
    }
    return false;
  }

  /** Grows also when the clock goes back. */
  #nextId(nowMs: number): string {
    if (nowMs > this.#lastMs) {
      this.#lastMs = nowMs;
      this.#sequence = this.#firstSequence;
    } else this.#sequence++;
    return `${this.#lastMs}-${this.#sequence}`;
  }
}
