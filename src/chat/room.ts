/** The rooms that somebody is in, or on the way to: who takes a place in one opens it, and the last to go closes it. */

import { cancelTimers } from "./announcements.ts";
import { Broadcaster } from "./broadcaster.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import { ConnectionManager, type Publish } from "./connection-manager.ts";
import type { CloseReason } from "../protocol/codes.ts";
import type { ReadonlyHistory } from "../store/history.ts";
import { StoreUnavailable, type Cluster, type MessageStore } from "../store/store.ts";
import { Connection, type Room, type JoinRequest } from "./connection.ts";

/** `?history=N` goes back this far also where less than that is kept ready. */
const MAX_REPLAY = 1000;

export class RoomRegistry {
  readonly #rooms = new Map<string, Room>();
  /** How often the store has lost what was open. */
  #generation = 0;
  #nextFencingToken = 0;

  /** @param dismiss closes a connection */
  constructor(
    private readonly store: MessageStore,
    private readonly cluster: Cluster | undefined,
    private readonly publish: Publish,
    private readonly flushMs: number,
    private readonly dismiss: (connection: Connection, why: CloseReason) => void,
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
  isCurrent(room: Room): boolean {
    return this.#rooms.get(room.name) === room;
  }

  /** Takes a place, until {@link release}. @throws StoreUnavailable */
  async acquire(joinRequest: JoinRequest, bucket: TokenBucket): Promise<Connection> {
    const losses = this.#generation;
    const { client, session, after } = joinRequest;
    // First of all: what follows may take one of two connections of a session longer than the other.
    const ticket = session === undefined ? 0 : await this.#fencingToken();
    const history = await this.store.acquireRoom(joinRequest.room);
    if (losses !== this.#generation) {
      this.store.releaseRoom(joinRequest.room);
      throw new StoreUnavailable();
    }
    const room = this.#rooms.get(joinRequest.room) ?? this.#make(joinRequest.room, history);
    room.refCount++;
    try {
      const [sent, kept] = await Promise.all([
        session === undefined ? null : this.store.lastSeq(client, session),
        after === undefined ? undefined : this.store.readHistory(joinRequest.room, { after, limit: 1 }),
      ]);
      const { recovered: isAfterKept = false, isDamaged = false } = kept ?? {};
      const idBefore = isAfterKept ? undefined : await this.#idBefore(joinRequest, history);
      const arrival = { after, history: joinRequest.history, sent, isAfterKept, isDamaged, idBefore };
      return new Connection(joinRequest, room, bucket, arrival, ticket);
    } catch (error) {
      this.release(room);
      throw error;
    }
  }

  #fencingToken(): number | Promise<number> {
    return this.cluster?.nextFencingToken() ?? ++this.#nextFencingToken;
  }

  /** Where the latest messages begin that it asks for, if not all of them are in the history. */
  async #idBefore(joinRequest: JoinRequest, history: ReadonlyHistory): Promise<string | undefined> {
    const count = Math.min(joinRequest.history, MAX_REPLAY);
    if (count <= history.nextOffset - history.firstOffset) return undefined;
    return this.store.idBeforeLatest?.(joinRequest.room, count);
  }

  #make(name: string, history: ReadonlyHistory): Room {
    const manager = new ConnectionManager<Connection>(name, this.publish);
    const replaying = new Set<Connection>();
    const broadcaster = new Broadcaster(manager, replaying, this.flushMs, this.dismiss);
    for (const present of this.cluster?.remoteConnections(name) ?? []) manager.setRemoteCount(...present, 0);
    manager.drainPresence(Infinity); // a newcomer learns of these by its welcome
    const room = { name, history, manager, replaying, broadcaster, timers: {}, refCount: 0 };
    this.#rooms.set(name, room);
    return room;
  }

  release(room: Room): void {
    this.store.releaseRoom(room.name);
    if (--room.refCount > 0) return;
    if (this.isCurrent(room)) this.#rooms.delete(room.name);
    cancelTimers(room);
    room.broadcaster.close();
  }

  /** The store has lost what was open: whoever takes a place from here on does so in another room of that name. */
  detachAll(): void {
    this.#generation++;
    for (const { broadcaster } of this.#rooms.values()) broadcaster.close();
    this.#rooms.clear();
  }
}
