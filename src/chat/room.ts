/** The rooms that somebody is in, or on the way to: who takes a place in one opens it, and the last to go closes it. */

import { stopTelling } from "./announcements.ts";
import { FanOut } from "./broadcaster.ts";
import type { Allowance } from "../util/token-bucket.ts";
import { ConnectionManager, type Publish } from "./connection-manager.ts";
import type { Close } from "../protocol/codec.ts";
import type { Page, ReadonlyHistory, Store } from "../store/store.ts";
import { Visitor, type Room, type Wish } from "./connection.ts";

/** `?history=N` goes back this far also where less than that is kept ready. */
const MAX_REPLAY = 1000;

export class Rooms {
  readonly #rooms = new Map<string, Room>();
  /** How often the store has lost what was open. */
  #losses = 0;
  #tickets = 0;

  /** @param dismiss closes a connection */
  constructor(
    private readonly store: Store,
    private readonly publish: Publish,
    private readonly flushMs: number,
    private readonly dismiss: (visitor: Visitor, why: Close) => void,
  ) {}

  get size(): number {
    return this.#rooms.size;
  }

  get(name: string): Room | undefined {
    return this.#rooms.get(name);
  }

  all(): readonly Room[] {
    return [...this.#rooms.values()];
  }

  /** Whether it is not one that the store had lost. */
  has(room: Room): boolean {
    return this.#rooms.get(room.name) === room;
  }

  /** Takes a place, until {@link release}. */
  async reserve(wish: Wish, allowance: Allowance): Promise<Visitor | "unavailable"> {
    const losses = this.#losses;
    const { client, session, after } = wish;
    // First of all: what follows may take one of two connections of a session longer than the other.
    const asked = session === undefined ? 0 : (this.store.others?.ticket() ?? ++this.#tickets);
    const history = await this.store.open(wish.room);
    if (history === "unavailable") return history;
    if (losses !== this.#losses) {
      this.store.close(wish.room);
      return "unavailable";
    }
    const room = this.#rooms.get(wish.room) ?? this.#make(wish.room, history);
    room.visitors++;
    const [sent, kept, ticket] = await Promise.all([
      session === undefined ? null : this.store.sent(client, session),
      after === undefined ? {} : this.store.read(wish.room, { after, limit: 1 }),
      asked,
    ]);
    const { recovered: isAfterKept = false, isDamaged = false }: Partial<Page> =
      kept === "unavailable" ? {} : kept;
    const idBefore = isAfterKept ? undefined : await this.#idBefore(wish, history);
    if (
      sent !== "unavailable" &&
      kept !== "unavailable" &&
      ticket !== "unavailable" &&
      idBefore !== "unavailable"
    ) {
      const arrival = { after, history: wish.history, sent, isAfterKept, isDamaged, idBefore };
      return new Visitor(wish, room, allowance, arrival, ticket);
    }
    this.release(room);
    return "unavailable";
  }

  /** Where the latest messages begin that it asks for, if not all of them are in the history. */
  async #idBefore(wish: Wish, history: ReadonlyHistory): Promise<string | "unavailable" | undefined> {
    const count = Math.min(wish.history, MAX_REPLAY);
    if (count <= history.end - history.start) return undefined;
    return this.store.idBeforeLatest?.(wish.room, count);
  }

  #make(name: string, history: ReadonlyHistory): Room {
    const manager = new ConnectionManager<Visitor>(name, this.publish);
    const catchingUp = new Set<Visitor>();
    const fanOut = new FanOut(manager, catchingUp, this.flushMs, this.dismiss);
    for (const present of this.store.others?.in(name) ?? []) manager.setElsewhere(...present, 0);
    manager.takePresence(Infinity); // a newcomer learns of these by its welcome
    const room = { name, history, manager, catchingUp, fanOut, timers: {}, visitors: 0 };
    this.#rooms.set(name, room);
    return room;
  }

  release(room: Room): void {
    this.store.close(room.name);
    if (--room.visitors > 0) return;
    if (this.has(room)) this.#rooms.delete(room.name);
    stopTelling(room);
    room.fanOut.end();
  }

  /** The store has lost what was open: whoever takes a place from here on does so in another room of that name. */
  clear(): void {
    this.#losses++;
    for (const { fanOut } of this.#rooms.values()) fanOut.end();
    this.#rooms.clear();
  }
}
