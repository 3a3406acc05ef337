/** The histories of rooms in memory, reference-counted and under one byte budget. */

import type { History } from "./history.ts";
import { compareIds } from "./message-id.ts";
import type { StoredEntry } from "./message.ts";

/** What a store that has the rest elsewhere caches of one room. */
export const CACHED_ROOM_BYTES = 4 * 1024 * 1024;
const CACHED_ROOM_BYTES_WHEN_FULL = 64 * 1024;
const CACHE_BYTES = 256 * 1024 * 1024;
/** The share of the budget left after shrinking, so that it is not shrunk for every message. */
const SHRUNK_SHARE = 0.9;

export interface CachedRoom {
  history: History;
  /** How often it was acquired and not released since. */
  refCount: number;
}

export class RoomCache<R extends CachedRoom> {
  readonly #rooms = new Map<string, R>();
  #bytes = 0;

  /** @param shrink called when a room grows beyond `maxBytes`; by default the largest histories lose their oldest messages */
  constructor(
    readonly maxBytes = CACHE_BYTES,
    private readonly shrink: (grown: R) => void = () => this.#shrinkLargest(),
  ) {}

  get size(): number {
    return this.#rooms.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get isOver(): boolean {
    return this.#bytes > this.maxBytes;
  }

  /** How much of a room to load when it is acquired. */
  get loadBytes(): number {
    return Math.min(CACHED_ROOM_BYTES, Math.max(CACHED_ROOM_BYTES_WHEN_FULL, this.maxBytes - this.#bytes));
  }

  get(name: string): R | undefined {
    return this.#rooms.get(name);
  }

  entries(): Iterable<[name: string, room: R]> {
    return this.#rooms;
  }

  add(name: string, room: R): void {
    this.#rooms.set(name, room);
    this.#change(room, () => {}, 0);
  }

  delete(name: string): void {
    this.#bytes -= this.#rooms.get(name)?.history.bytes ?? 0;
    this.#rooms.delete(name);
  }

  /** @returns the room if this was its last reference; it is cached until {@link delete} */
  release(name: string): R | undefined {
    const room = this.#rooms.get(name);
    return room && --room.refCount === 0 ? room : undefined;
  }

  push(room: R, entry: StoredEntry): void {
    this.#change(room, () => room.history.push(entry));
  }

  /** Drops a room's entries up to and including that id. */
  prune(name: string, upTo: string): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    const oldest = () => room.history.get(room.history.firstOffset);
    for (let entry = oldest(); entry && compareIds(entry.id, upTo) <= 0; entry = oldest())
      this.evictOldest(room);
  }

  evictOldest(room: R): void {
    this.#change(room, () => room.history.evictOldest());
  }

  /** Of a room that was loaded again. */
  replace(room: R, history: History): void {
    this.#change(room, () => void (room.history = history));
  }

  #change(room: R, change: () => void, bytesBefore = room.history.bytes): void {
    change();
    const grownBytes = room.history.bytes - bytesBefore;
    this.#bytes += grownBytes;
    if (grownBytes > 0 && this.isOver) this.shrink(room);
  }

  /** Cuts all histories above a certain size down to that size, so that small rooms lose nothing. */
  #shrinkLargest(): void {
    const largestFirst = [...this.#rooms.values()].sort((a, b) => b.history.bytes - a.history.bytes);
    let otherBytes = this.#bytes;
    let maxRoomBytes = 0;
    for (const [i, { history }] of largestFirst.entries()) {
      otherBytes -= history.bytes;
      maxRoomBytes = (SHRUNK_SHARE * this.maxBytes - otherBytes) / (i + 1);
      if (maxRoomBytes >= (largestFirst[i + 1]?.history.bytes ?? 0)) break;
    }
    for (const room of largestFirst) {
      if (room.history.bytes <= maxRoomBytes) return;
      while (room.history.bytes > maxRoomBytes && room.history.bytes > 0) this.evictOldest(room);
    }
  }
}
