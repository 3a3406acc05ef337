/** The memory store: the latest messages of each room, for as long as the process runs. */

import type { Clock } from "../util/clock.ts";
import type { Random } from "../util/random.ts";
import { ClockWatch } from "./clock-watch.ts";
import { DedupTable } from "./dedup.ts";
import { History, type HistoryPage, type PageQuery, type ReadonlyHistory } from "./history.ts";
import { IdGenerator, randomSequence } from "./message-id.ts";
import {
  isMessage,
  type PendingMessage,
  type RemovalTarget,
  type StoredEntry,
  type StoredMessage,
} from "./message.ts";
import { RoomCache, type CachedRoom } from "./room-cache.ts";
import {
  StoreUnavailable,
  type AppendCallback,
  type EntryListener,
  type ListedRoom,
  type MessageStore,
} from "./store.ts";

const LIMITS = {
  rooms: 50_000,
  /** 400 messages of 64 KiB, at two bytes for each character. */
  roomBytes: 64 * 1024 * 1024,
  bytes: 256 * 1024 * 1024,
};
const SESSION_TTL_MS = 24 * 60 * 60 * 1000;

export class MemoryStore implements MessageStore {
  readonly isReady = true;
  readonly durability = "in memory until the server stops";
  readonly #rooms: RoomCache<CachedRoom>;
  /** Unoccupied rooms with history and without, the least recently used first. */
  readonly #unused = new Set<string>();
  readonly #unusedEmpty = new Set<string>();
  /** Rooms with history, that of the latest message last. Those without are not limited: there are as many as connections. */
  readonly #byLatest = new Set<string>();
  readonly #sessions = new DedupTable(SESSION_TTL_MS);
  readonly #clockWatch = new ClockWatch();
  readonly #ids: IdGenerator;

  constructor(
    private readonly maxMessages: number,
    private readonly onEntry: EntryListener,
    private readonly clock: Clock,
    random: Random,
    private readonly limits: Readonly<typeof LIMITS> = LIMITS,
  ) {
    this.#ids = new IdGenerator(randomSequence(random));
    this.#rooms = new RoomCache(limits.bytes, (grown) => this.#shrink(grown));
  }

  async acquireRoom(name: string): Promise<ReadonlyHistory> {
    const room = this.#getOrCreate(name);
    if (!room) throw new StoreUnavailable();
    room.refCount++;
    this.#unused.delete(name);
    this.#unusedEmpty.delete(name);
    return room.history;
  }

  releaseRoom(name: string): void {
    const room = this.#rooms.release(name);
    if (room) this.#setUnused(name, room);
  }

  append(pending: PendingMessage, callback: AppendCallback): void {
    const nowMs = this.clock.now();
    const result = this.#sessions.check(pending, nowMs);
    if (result) return callback.onResult(pending, result);
    const { room: name, from, content } = pending;
    const room = this.#getOrCreate(name);
    if (!room || (room.history.bytes === 0 && !this.#makePlace()))
      return callback.onResult(pending, { rejected: "unavailable" });

    const prev = room.history.lastId;
    const id = this.#ids.next(nowMs);
    this.#clockWatch.check(this.#ids.lastMs, nowMs);
    const message: StoredMessage = { id, prev, time: nowMs, room: name, from, content };
    this.#sessions.record(pending, id, nowMs);
    this.#push(name, room, message);
    callback.onResult(pending, { stored: message });
    this.onEntry(message);
  }

  async remove(name: string, target: RemovalTarget): Promise<number | undefined> {
    const room = this.#rooms.get(name);
    const found = room?.history.findRemovable(target);
    if (!room || !found?.count) return found ? 0 : "from" in target ? 0 : undefined;
    const nowMs = this.clock.now();
    const { history } = room;
    const removal = {
      id: this.#ids.next(nowMs),
      prev: history.lastId,
      time: nowMs,
      room: name,
      removes: found.removes,
    };
    this.#push(name, room, removal);
    this.onEntry(removal);
    return found.count;
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    return this.#sessions.lastSeq(client, session, this.clock.now());
  }

  async readHistory(room: string, query: PageQuery): Promise<HistoryPage> {
    const history = this.#rooms.get(room)?.history;
    if (history) return history.page(query);
    return { entries: [], more: false, ...(query.after ? { recovered: false } : {}) };
  }

  async listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    if (after !== undefined && !this.#byLatest.has(after)) return undefined;
    const names = [...this.#byLatest].reverse();
    const first = after === undefined ? 0 : names.indexOf(after) + 1;
    return names.slice(first, first + limit).flatMap((room) => {
      const { history } = this.#rooms.get(room) ?? {};
      const latest = history?.latestMessage;
      return latest ? { room, id: latest.id, time: latest.time } : [];
    });
  }

  async drain(): Promise<void> {}

  close(): void {}

  #push(name: string, room: CachedRoom, entry: StoredEntry): void {
    this.#unused.delete(name); // if there are too many bytes it shrinks, and is not evicted
    this.#rooms.push(room, entry);
    if (isMessage(entry) || room.history.bytes === 0) this.#byLatest.delete(name);
    if (room.history.bytes > 0) this.#byLatest.add(name);
    if (room.refCount === 0) this.#setUnused(name, room);
  }

  #setUnused(name: string, { history }: CachedRoom): void {
    this.#unused.delete(name);
    this.#unusedEmpty.delete(name);
    if (history.bytes > 0) this.#unused.add(name);
    else this.#unusedEmpty.add(name);
    while (this.#rooms.size > this.limits.rooms && this.#evict(this.#unusedEmpty));
  }

  #getOrCreate(name: string): CachedRoom | undefined {
    const existing = this.#rooms.get(name);
    if (existing) return existing;
    if (!this.#canMakePlace) return undefined;
    if (this.#rooms.size >= this.limits.rooms) this.#evict(this.#unusedEmpty);
    // A new id, so that a client of an evicted room of this name does not resume in this one.
    const idBefore = this.#ids.next(this.clock.now());
    const history = new History(idBefore, this.maxMessages, this.limits.roomBytes);
    const room = { history, refCount: 0 };
    this.#rooms.add(name, room);
    return room;
  }

  get #canMakePlace(): boolean {
    return this.#byLatest.size < this.limits.rooms || this.#unused.size > 0;
  }

  /** For one more room with history. Called for its first message, not when it is joined: joining must not evict the history of others. */
  #makePlace(): boolean {
    return this.#byLatest.size < this.limits.rooms || this.#evict(this.#unused);
  }

  /** Evicts unoccupied rooms first, then the oldest messages of the room that grew, never those of another occupied room. */
  #shrink(grown: CachedRoom): void {
    while (this.#rooms.isOver && this.#evict(this.#unused));
    while (this.#rooms.isOver && grown.history.bytes > 0) this.#rooms.evictOldest(grown);
  }

  /** Evicts the least recently used of these rooms. @returns false if there is none */
  #evict(unused: Set<string>): boolean {
    for (const name of unused) {
      unused.delete(name);
      this.#byLatest.delete(name);
      this.#rooms.delete(name);
      return true;
    }
    return false;
  }
}
