/** The rooms that are open here, kept up to date by what the log tells of them. */

import { isMessageId, parseMessages, parsePresence } from "./records.ts";
import { MAX_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import { takePage, History, type ReadonlyHistory } from "../history.ts";
import { compareIds, type StoredMessage } from "../message.ts";
import { StoreUnavailable, type StoreListener } from "../store.ts";

/** What the log tells of one room. */
export type RoomUpdate =
  | { readonly stored: StoredMessage }
  | { readonly client: string; readonly node: string; readonly connections: number };

interface Room extends CachedRoom {
  /** How far the log was when this was read: what it had told by then is in it. Empty once it has gone beyond. */
  loadedAtId: string;
  /** Until it is read: what the log tells meanwhile, and in which record. */
  bufferedUpdates: { readonly record: string; readonly news: RoomUpdate }[] | undefined;
  /** By each other node: the connections of each client. */
  readonly remotePresence: Map<string, Map<string, number>>;
  loaded: Promise<boolean>;
}

export class RedisRooms {
  readonly #rooms: RoomCache<Room>;

  /**
   * @param loadRoom what the script `open` answers for a room, with entries of so many bytes
   * @param own the nodes that this process is or was: what these tell is known here already
   */
  constructor(
    private readonly loadRoom: (name: string, maxBytes: number) => Promise<unknown>,
    private readonly own: ReadonlySet<string>,
    private readonly maxEntries: number,
    private readonly follower: StoreListener,
    maxBytes?: number,
  ) {
    this.#rooms = new RoomCache<Room>(maxBytes);
  }

  /** Of all histories. */
  get bytes(): number {
    return this.#rooms.bytes;
  }

  async open(name: string): Promise<ReadonlyHistory> {
    const room = this.#rooms.get(name) ?? this.#makeRoom(name);
    room.holders++;
    if (await room.loaded) return room.history;
    this.close(name);
    throw new StoreUnavailable();
  }

  close(name: string): void {
    if (this.#rooms.release(name)) this.#rooms.delete(name);
  }

  /** As Redis does: only from the front, where a time that is still to come counts as the next message's. */
  forgetOld(limitMs: number, nowMs: number): void {
    for (const [name, { history }] of this.#rooms.entries()) {
      let upTo: string | undefined;
      for (let position = history.firstOffset; position < history.nextOffset; position++) {
        const { id, time = Infinity } = history.get(position) ?? {};
        if (time > nowMs) continue;
        if (time > limitMs) break;
        upTo = id;
      }
      if (upTo !== undefined) this.#rooms.prune(name, upTo);
    }
  }

  /** What was open is not what it was: it is read again for whoever is only just coming in, and still holds it. */
  reloadAll(): void {
    for (const [name, room] of this.#rooms.entries()) room.loaded = this.#load(name, room);
  }

  /** Each once, in the log's order. @param record its id */
  apply(name: string, record: string, news: RoomUpdate): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    if (room.bufferedUpdates) return void room.bufferedUpdates.push({ record, news });
    if (room.loadedAtId && compareIds(record, room.loadedAtId) <= 0) return;
    room.loadedAtId = "";
    if ("stored" in news) {
      this.#rooms.push(room, news.stored);
      this.follower.onMessage(news.stored);
    } else {
      const { client, node, connections } = news;
      setPresent(room, client, node, connections);
      this.follower.onRemotePresence(name, client, node, connections);
    }
  }

  /** A node has died, and its clients with it. @param record that tells so */
  applyNodeDeath(node: string, record: string): void {
    for (const [name, { remotePresence }] of this.#rooms.entries())
      for (const client of remotePresence.get(node)?.keys().toArray() ?? [])
        this.apply(name, record, { client, node, connections: 0 });
  }

  /** Who is in a room by way of other nodes. */
  *presentIn(name: string): Generator<[client: string, node: string, connections: number]> {
    for (const [node, clients] of this.#rooms.get(name)?.remotePresence ?? [])
      for (const [client, connections] of clients) yield [client, node, connections];
  }

  #makeRoom(name: string): Room {
    const room: Room = {
      history: new History("0-0", 0, 0),
      holders: 0,
      loadedAtId: "",
      bufferedUpdates: undefined,
      remotePresence: new Map(),
      loaded: Promise.resolve(false),
    };
    this.#rooms.add(name, room);
    room.loaded = this.#load(name, room);
    return room;
  }

  /** One look at a room: its latest entries, who is there, and how far the log was. */
  async #load(name: string, room: Room): Promise<boolean> {
    const meanwhile: Room["bufferedUpdates"] = (room.bufferedUpdates = []);
    const maxBytes = this.#rooms.loadBytes;
    const reply = await this.loadRoom(name, 2 * maxBytes).catch(unlessUnavailable);
    if (room.bufferedUpdates !== meanwhile) return room.loaded; // it is being read anew
    if (this.#rooms.get(name) !== room) return false; // closed meanwhile: its bytes would count for ever
    const [top, head, rows, present]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isMessageId(top) || !isMessageId(head)) return false;
    const messages = takePage(parseMessages(rows, name), this.maxEntries, maxBytes).messages.reverse();
    const history = new History(messages[0]?.prev ?? head, this.maxEntries, MAX_ROOM_BYTES);
    for (const message of messages) history.push(message);
    this.#rooms.replace(room, history);
    room.loadedAtId = top;
    room.remotePresence.clear();
    for (const [client, node, connections] of parsePresence(present))
      if (!this.own.has(node)) setPresent(room, client, node, connections);
    room.bufferedUpdates = undefined;
    for (const { record, news } of meanwhile) this.apply(name, record, news);
    return true;
  }
}

function unlessUnavailable(error: unknown): undefined {
  if (!(error instanceof StoreUnavailable)) throw error;
}

function setPresent({ remotePresence }: Room, client: string, node: string, connections: number): void {
  const there = remotePresence.get(node) ?? new Map<string, number>();
  if (connections > 0) remotePresence.set(node, there.set(client, connections));
  else if (there.delete(client) && there.size === 0) remotePresence.delete(node);
}
