/** The memory store: the latest messages of each room, for as long as the process runs. */

import { ClockWatch } from "./clock-watch.ts";
import { Sessions } from "./sessions.ts";
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

interface Room {
  readonly history: History;
  holders: number;
}

export class MemoryStore implements Store {
  readonly isReady = true;
  readonly promise = "in memory, until it stops";
  /** Of the empty ones, the one that has been empty for longest comes first; those that are held lie anywhere. */
  readonly #rooms = new Map<string, Room>();
  readonly #sessions = new Sessions();
  readonly #clockWatch = new ClockWatch();
  #bytes = 0;
  #lastMs = 0;
  /** Starts anywhere in a millisecond, so that a store with a wrong clock hardly makes an id of an earlier one. */
  readonly #firstSequence = Math.floor(Math.random() * 1000);
  #sequence = this.#firstSequence;

  constructor(
    private readonly maxEntries: number,
    private readonly follow: Follow,
    private readonly limits: Readonly<typeof LIMITS> = LIMITS,
    private readonly clock: () => number = Date.now,
  ) {}

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.#room(name);
    if (!room) return "unavailable";
    room.holders++;
    return room.history;
  }

  close(name: string): void {
    const room = this.#rooms.get(name);
    if (!room || --room.holders > 0) return;
    this.#rooms.delete(name);
    this.#rooms.set(name, room);
  }

  append(draft: Draft, sender: Sender): void {
    const nowMs = this.clock();
    const objection = this.#sessions.objection(draft, nowMs);
    if (objection) return sender.answered(draft, objection);
    const room = this.#room(draft.room);
    if (!room) return sender.answered(draft, { refused: "unavailable" });

    const { history } = room;
    const prev = history.head;
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
    this.#bytes -= history.bytes;
    history.push(entry);
    this.#bytes += history.bytes;
    if (this.#bytes > this.limits.bytes) this.#forgetBytes(room);
    sender.answered(draft, { kept: entry });
    this.follow(entry);
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

  #room(name: string): Room | undefined {
    const known = this.#rooms.get(name);
    if (known) return known;
    if (this.#rooms.size >= this.limits.rooms && !this.#forgetEmptyRoom()) return undefined;
    // An id of its own, so that nobody who was in a room of this name before takes this one for that.
    const room = {
      history: new History(this.#nextId(this.clock()), this.maxEntries, this.limits.roomBytes),
      holders: 0,
    };
    this.#rooms.set(name, room);
    return room;
  }

  /** Empty rooms first; then the room that grew makes place for itself, never another that is occupied. */
  #forgetBytes({ history }: Room): void {
    while (this.#bytes > this.limits.bytes && this.#forgetEmptyRoom(history));
    while (this.#bytes > this.limits.bytes && history.bytes > 0) {
      this.#bytes -= history.bytes;
      history.forgetOldest();
      this.#bytes += history.bytes;
    }
  }

  #forgetEmptyRoom(butNot?: History): boolean {
    for (const [name, { holders, history }] of this.#rooms)
      if (holders === 0 && history !== butNot) {
        this.#rooms.delete(name);
        this.#bytes -= history.bytes;
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
