/** The histories of open rooms, reference-counted, under one byte budget: for every store that keeps the latest messages in memory. */

import type { History } from "./history.ts";
import { compareIds, type StoredMessage } from "./message.ts";

/** What is cached of one room of a store that has the rest elsewhere. */
export const MAX_ROOM_BYTES = 4 * 1024 * 1024;
const MIN_LOAD_BYTES = 64 * 1024;
const MAX_BYTES = 256 * 1024 * 1024;
/** How full it is after shrinking, so that the next time is a while away. */
const SHRUNK = 0.9;

export interface CachedRoom {
  history: History;
  /** How often it was opened and not closed since. */
  holders: number;
}

export class RoomCache<R extends CachedRoom> {
  readonly #rooms = new Map<string, R>();
  #bytes = 0;

  /** @param makeSpace when it holds more than `maxBytes`; by default the largest histories lose their oldest entries */
  constructor(
    readonly maxBytes = MAX_BYTES,
    private readonly makeSpace: (grown: R) => void = () => this.#shrinkLargest(),
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

  /** How much to load of a room that is opened. */
  get loadBytes(): number {
    return Math.min(MAX_ROOM_BYTES, Math.max(MIN_LOAD_BYTES, this.maxBytes - this.#bytes));
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

  /** @returns the room if this was its last holder; it is cached until {@link delete} */
  release(name: string): R | undefined {
    const room = this.#rooms.get(name);
    return room && --room.holders === 0 ? room : undefined;
  }

  push(room: R, message: StoredMessage): void {
    this.#change(room, () => room.history.push(message));
  }

  /** Up to and including an id. */
  prune(name: string, upTo: string): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    const oldest = () => room.history.get(room.history.firstOffset);
    for (let message = oldest(); message && compareIds(message.id, upTo) <= 0; message = oldest())
      this.forgetOldest(room);
  }

  forgetOldest(room: R): void {
    this.#change(room, () => room.history.evictOldest());
  }

  /** Of a room that was read anew. */
  replace(room: R, history: History): void {
    this.#change(room, () => void (room.history = history));
  }

  #change(room: R, change: () => void, bytesBefore = room.history.bytes): void {
    change();
    const grownBytes = room.history.bytes - bytesBefore;
    this.#bytes += grownBytes;
    if (grownBytes > 0 && this.isOver) this.makeSpace(room);
  }

  /** Down to one size for all that are larger: small rooms keep what they have. */
  #shrinkLargest(): void {
    const largestFirst = [...this.#rooms.values()].sort((a, b) => b.history.bytes - a.history.bytes);
    let otherBytes = this.#bytes;
    let maxRoomBytes = 0;
    for (const [i, { history }] of largestFirst.entries()) {
      otherBytes -= history.bytes;
      maxRoomBytes = (SHRUNK * this.maxBytes - otherBytes) / (i + 1);
      if (maxRoomBytes >= (largestFirst[i + 1]?.history.bytes ?? 0)) break;
    }
    for (const room of largestFirst) {
      if (room.history.bytes <= maxRoomBytes) return;
      while (room.history.bytes > maxRoomBytes && room.history.bytes > 0) this.forgetOldest(room);
    }
  }
}
