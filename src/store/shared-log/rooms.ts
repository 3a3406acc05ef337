/** The rooms that are open on this node: their cached histories and remote presence, updated from the log. */

import type { Engine } from "./engine.ts";
import { findExpired, takeLatest, History, type ReadonlyHistory } from "../history.ts";
import { compareIds } from "../message-id.ts";
import type { StoredEntry } from "../message.ts";
import { CACHED_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import { StoreUnavailable, type StoreListener } from "../store.ts";

type RoomUpdate =
  | { readonly entry: StoredEntry }
  | { readonly client: string; readonly node: string; readonly connections: number };

interface Room extends CachedRoom {
  /** Head of the log when the room was loaded: earlier records are in it. Cleared after the first later record. */
  loadedAtId: string;
  /** Updates that arrive during a load. */
  bufferedUpdates: { readonly recordId: string; readonly update: RoomUpdate }[] | undefined;
  /** Connections by client by node. */
  readonly remotePresence: Map<string, Map<string, number>>;
  /** False if the database was unavailable. */
  loaded: Promise<boolean>;
}

export class OpenRooms {
  readonly #rooms: RoomCache<Room>;

  /**
   * @param engine throws StoreUnavailable if it fails
   * @param ownNodeIds the ids that this process has or had; their presence is known here
   */
  constructor(
    private readonly engine: Pick<Engine, "openRoom">,
    private readonly ownNodeIds: ReadonlySet<string>,
    private readonly maxMessages: number,
    private readonly listener: StoreListener,
    maxBytes?: number,
  ) {
    this.#rooms = new RoomCache<Room>(maxBytes);
  }

  /** Of all cached histories. */
  get bytes(): number {
    return this.#rooms.bytes;
  }

  /** @throws StoreUnavailable */
  async open(name: string): Promise<ReadonlyHistory> {
    const room = this.#rooms.get(name) ?? this.#addRoom(name);
    room.refCount++;
    if (await room.loaded) return room.history;
    this.close(name);
    throw new StoreUnavailable();
  }

  close(name: string): void {
    if (this.#rooms.release(name)) this.#rooms.delete(name);
  }

  /** Drops expired messages, as the database does. */
  prune(cutoffMs: number, nowMs: number): void {
    for (const [name, { history }] of this.#rooms.entries()) {
      const { upTo } = findExpired(history.oldestFirst(), nowMs, cutoffMs);
      if (upTo !== undefined) this.#rooms.prune(name, upTo);
    }
  }

  /** After the log had a gap, for rooms that are still held. */
  reloadAll(): void {
    for (const [name, room] of this.#rooms.entries()) room.loaded = this.#load(name, room);
  }

  /** Has to be called once for each update, in the log's order. */
  apply(name: string, recordId: string, update: RoomUpdate): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    if (room.bufferedUpdates) return void room.bufferedUpdates.push({ recordId, update });
    if (room.loadedAtId && compareIds(recordId, room.loadedAtId) <= 0) return;
    room.loadedAtId = "";
    if ("entry" in update) {
      this.#rooms.push(room, update.entry);
      this.listener.onEntry(update.entry);
    } else {
      const { client, node, connections } = update;
      this.listener.onRemotePresence(name, client, setPresence(room, client, node, connections));
    }
  }

  /** Removes all presence of a node. */
  applyNodeRemoval(node: string, recordId: string): void {
    for (const [name, { remotePresence }] of this.#rooms.entries())
      for (const client of remotePresence.get(node)?.keys().toArray() ?? [])
        this.apply(name, recordId, { client, node, connections: 0 });
  }

  *remoteConnections(name: string): Generator<[client: string, connections: number]> {
    for (const clients of this.#rooms.get(name)?.remotePresence.values() ?? []) yield* clients;
  }

  #addRoom(name: string): Room {
    const room: Room = {
      history: new History("0-0", 0, 0),
      refCount: 0,
      loadedAtId: "",
      bufferedUpdates: undefined,
      remotePresence: new Map(),
      loaded: Promise.resolve(false),
    };
    this.#rooms.add(name, room);
    room.loaded = this.#load(name, room);
    return room;
  }

  async #load(name: string, room: Room): Promise<boolean> {
    const buffered: Room["bufferedUpdates"] = (room.bufferedUpdates = []);
    const maxBytes = this.#rooms.loadBytes;
    const snapshot = await this.engine
      .openRoom(name, this.maxMessages, 2 * maxBytes)
      .catch(unlessUnavailable);
    if (room.bufferedUpdates !== buffered) return room.loaded; // a later load has begun
    if (this.#rooms.get(name) !== room) return false; // closed: its bytes would never be released
    if (!snapshot) return false;
    const { entries } = takeLatest(snapshot.newestFirst, this.maxMessages, maxBytes);
    const history = new History(snapshot.lastId, this.maxMessages, CACHED_ROOM_BYTES, entries);
    this.#rooms.replace(room, history);
    room.loadedAtId = snapshot.head;
    room.remotePresence.clear();
    for (const [client, node, connections] of snapshot.presence)
      if (!this.ownNodeIds.has(node)) setPresence(room, client, node, connections);
    room.bufferedUpdates = undefined;
    for (const { recordId, update } of buffered) this.apply(name, recordId, update);
    return true;
  }
}

function unlessUnavailable(error: unknown): undefined {
  if (!(error instanceof StoreUnavailable)) throw error;
}

/** @returns the difference to the number of connections before */
function setPresence({ remotePresence }: Room, client: string, node: string, connections: number): number {
  const clients = remotePresence.get(node) ?? new Map<string, number>();
  const before = clients.get(client) ?? 0;
  if (connections > 0) remotePresence.set(node, clients.set(client, connections));
  else if (clients.delete(client) && clients.size === 0) remotePresence.delete(node);
  return connections - before;
}
