/** The rooms that are open here, kept up to date by what the log tells of them. */

import { isId, readEntries, readPresent } from "./records.ts";
import { MAX_ROOM_BYTES, RoomCache, type CachedRoom } from "../room-cache.ts";
import { aPageOf, compareIds, History, type Entry, type Follower, type ReadonlyHistory } from "../store.ts";

/** What the log tells of one room. */
export type News =
  { readonly said: Entry } | { readonly client: string; readonly node: string; readonly connections: number };

interface Room extends CachedRoom {
  /** How far the log was when this was read: what it had told by then is in it. Empty once it has gone beyond. */
  from: string;
  /** Until it is read: what the log tells meanwhile, and in which record. */
  meanwhile: { readonly record: string; readonly news: News }[] | undefined;
  /** By each other node: the connections of each client. */
  readonly elsewhere: Map<string, Map<string, number>>;
  isOpen: Promise<boolean>;
}

export class RedisRooms {
  readonly #rooms: RoomCache<Room>;

  /**
   * @param look what the script `open` answers for a room, with entries of so many bytes
   * @param own the nodes that this process is or was: what these tell is known here already
   */
  constructor(
    private readonly look: (name: string, maxBytes: number) => Promise<unknown>,
    private readonly own: ReadonlySet<string>,
    private readonly maxEntries: number,
    private readonly follower: Follower,
    maxBytes?: number,
  ) {
    this.#rooms = new RoomCache<Room>(maxBytes);
  }

  /** Of all histories. */
  get bytes(): number {
    return this.#rooms.bytes;
  }

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.#rooms.get(name) ?? this.#makeRoom(name);
    room.holders++;
    if (await room.isOpen) return room.history;
    this.close(name);
    return "unavailable";
  }

  close(name: string): void {
    if (this.#rooms.release(name)) this.#rooms.delete(name);
  }

  /** As Redis does: only from the front, where a time that is still to come counts as the next message's. */
  forgetOld(limitMs: number, nowMs: number): void {
    for (const [name, { history }] of this.#rooms.entries()) {
      let upTo: string | undefined;
      for (let position = history.start; position < history.end; position++) {
        const { id, time = Infinity } = history.at(position) ?? {};
        if (time > nowMs) continue;
        if (time > limitMs) break;
        upTo = id;
      }
      if (upTo !== undefined) this.#rooms.prune(name, upTo);
    }
  }

  /** What was open is not what it was: it is read again for whoever is only just coming in, and still holds it. */
  readAnew(): void {
    for (const [name, room] of this.#rooms.entries()) room.isOpen = this.#load(name, room);
  }

  /** Each once, in the log's order. @param record its id */
  tell(name: string, record: string, news: News): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    if (room.meanwhile) return void room.meanwhile.push({ record, news });
    if (room.from && compareIds(record, room.from) <= 0) return;
    room.from = "";
    if ("said" in news) {
      this.#rooms.push(room, news.said);
      this.follower.said(news.said);
    } else {
      const { client, node, connections } = news;
      setPresent(room, client, node, connections);
      this.follower.present(name, client, node, connections);
    }
  }

  /** A node has died, and its clients with it. @param record that tells so */
  tellDead(node: string, record: string): void {
    for (const [name, { elsewhere }] of this.#rooms.entries())
      for (const client of elsewhere.get(node)?.keys().toArray() ?? [])
        this.tell(name, record, { client, node, connections: 0 });
  }

  /** Who is in a room by way of other nodes. */
  *presentIn(name: string): Generator<[client: string, node: string, connections: number]> {
    for (const [node, clients] of this.#rooms.get(name)?.elsewhere ?? [])
      for (const [client, connections] of clients) yield [client, node, connections];
  }

  #makeRoom(name: string): Room {
    const room: Room = {
      history: new History("0-0", 0, 0),
      holders: 0,
      from: "",
      meanwhile: undefined,
      elsewhere: new Map(),
      isOpen: Promise.resolve(false),
    };
    this.#rooms.add(name, room);
    room.isOpen = this.#load(name, room);
    return room;
  }

  /** One look at a room: its latest entries, who is there, and how far the log was. */
  async #load(name: string, room: Room): Promise<boolean> {
    const meanwhile: Room["meanwhile"] = (room.meanwhile = []);
    const maxBytes = this.#rooms.loadBytes;
    const reply = await this.look(name, 2 * maxBytes);
    if (room.meanwhile !== meanwhile) return room.isOpen; // it is being read anew
    if (this.#rooms.get(name) !== room) return false; // closed meanwhile: its bytes would count for ever
    const [top, head, rows, present]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isId(top) || !isId(head)) return false;
    const entries = aPageOf(readEntries(rows, name), this.maxEntries, maxBytes).entries.reverse();
    const history = new History(entries[0]?.prev ?? head, this.maxEntries, MAX_ROOM_BYTES);
    for (const entry of entries) history.push(entry);
    this.#rooms.replace(room, history);
    room.from = top;
    room.elsewhere.clear();
    for (const [client, node, connections] of readPresent(present))
      if (!this.own.has(node)) setPresent(room, client, node, connections);
    room.meanwhile = undefined;
    for (const { record, news } of meanwhile) this.tell(name, record, news);
    return true;
  }
}

function setPresent({ elsewhere }: Room, client: string, node: string, connections: number): void {
  const there = elsewhere.get(node) ?? new Map<string, number>();
  if (connections > 0) elsewhere.set(node, there.set(client, connections));
  else if (there.delete(client) && there.size === 0) elsewhere.delete(node);
}
