/** The memory store: the latest messages of each room, for as long as the process runs. */

import { ClockWatch } from "./clock-watch.ts";
import { RoomCache, type CachedRoom } from "./room-cache.ts";
import { Sessions } from "./dedup.ts";
import {
  History,
  type Draft,
  type Entry,
  type Follow,
  type Page,
  type ReadonlyHistory,
  type Sender,
  type Store,
  type Where,
} from "./store.ts";

const LIMITS = {
  rooms: 50_000,
  /** 400 messages of 64 KiB, with two bytes for each character. */
  roomBytes: 64 * 1024 * 1024,
  bytes: 256 * 1024 * 1024,
};

export class MemoryStore implements Store {
  readonly isReady = true;
  readonly promise = "in memory, until it stops";
  readonly #rooms: RoomCache<CachedRoom>;
  /** Rooms that nobody is in, the least recently used first: those with history, and those without. */
  readonly #unused = new Set<string>();
  readonly #unusedEmpty = new Set<string>();
  /** How many rooms have history; those without are as many as connections, and a few that are evicted first. */
  #withHistory = 0;
  readonly #sessions = new Sessions();
  readonly #clockWatch = new ClockWatch();
  #lastMs = 0;
  /** Starts anywhere in a millisecond, so that a store with a wrong clock hardly makes an id of an earlier one. */
  readonly #firstSequence = Math.floor(Math.random() * 1000);
  #sequence = this.#firstSequence;

  constructor(
    private readonly maxEntries: number,
    private readonly follow: Follow,
    private readonly limits: Readonly<typeof LIMITS> = LIMITS,
    private readonly clock: () => number = Date.now,
  ) {
    this.#rooms = new RoomCache(limits.bytes, (grown) => this.#makeSpace(grown));
  }

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.#room(name);
    if (!room) return "unavailable";
    room.holders++;
    this.#unused.delete(name);
    this.#unusedEmpty.delete(name);
    return room.history;
  }

  close(name: string): void {
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

  append(draft: Draft, sender: Sender): void {
    const nowMs = this.clock();
    const objection = this.#sessions.objection(draft, nowMs);
    if (objection) return sender.answered(draft, objection);
    const room = this.#room(draft.room);
    if (!room || (room.history.bytes === 0 && !this.#makePlace()))
      return sender.answered(draft, { refused: "unavailable" });

    const prev = room.history.head;
    const id = this.#nextId(nowMs);
    this.#clockWatch.check(this.#lastMs, nowMs);
    const entry: Entry = {
      id,
      prev,
      time: nowMs,
      room: draft.room,
      from: draft.from,
      content: draft.content,
    };
    this.#sessions.kept(draft, id, nowMs);
    this.#push(draft.room, room, entry);
    sender.answered(draft, { kept: entry });
    this.follow(entry);
  }

  #push(name: string, room: CachedRoom, entry: Entry): void {
    const before = room.history.bytes;
    this.#unused.delete(name); // it makes space for itself, and is not evicted
    this.#rooms.push(room, entry);
    this.#withHistory += Number(room.history.bytes > 0) - Number(before > 0);
    if (room.holders === 0) this.#setUnused(name, room);
  }

  async sent(client: string, session: string): Promise<number | null> {
    return this.#sessions.sent(client, session, this.clock());
  }

  async read(room: string, where: Where): Promise<Page> {
    const { history } = this.#rooms.get(room) ?? {};
    return history?.page(where) ?? { entries: [], more: false, ...(where.after ? { recovered: false } : {}) };
  }

  async settle(): Promise<void> {}

  end(): void {}

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
