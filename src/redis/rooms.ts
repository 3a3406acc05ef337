/** The rooms that are open here, kept up to date by what the log tells of them. */

import { isId, readEntries, readPresent } from "./records.ts";
import { aPageOf, compareIds, History, type Entry, type Follower, type ReadonlyHistory } from "../store.ts";

/** What is kept ready of a room; Redis may have more. */
const MAX_ROOM_BYTES = 4 * 1024 * 1024;
const MAX_READY_BYTES = 256 * 1024 * 1024;
const MAX_LATE_ROOM_BYTES = 64 * 1024;

/** What the log tells of one room. */
export type News =
  { readonly said: Entry } | { readonly client: string; readonly node: string; readonly connections: number };

interface Room {
  history: History;
  holders: number;
  /** How far the log was when this was read: what it had told by then is in it. Empty once it has gone beyond. */
  from: string;
  /** Until it is read: what the log tells meanwhile, and in which record. */
  meanwhile: { readonly record: string; readonly news: News }[] | undefined;
  /** By each other node: the connections of each client. */
  readonly elsewhere: Map<string, Map<string, number>>;
  isOpen: Promise<boolean>;
}

export class RedisRooms {
  readonly #rooms = new Map<string, Room>();
  /** Of all that is kept ready. */
  #readyBytes = 0;

  /**
   * @param look what the script `open` answers for a room, with entries of so many bytes
   * @param own the nodes that this process is or was: what these tell is known here already
   */
  constructor(
    private readonly look: (name: string, maxBytes: number) => Promise<unknown>,
    private readonly own: ReadonlySet<string>,
    private readonly maxEntries: number,
    private readonly follower: Follower,
  ) {}

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.#rooms.get(name) ?? this.#makeRoom(name);
    room.holders++;
    if (await room.isOpen) return room.history;
    this.close(name);
    return "unavailable";
  }

  close(name: string): void {
    const room = this.#rooms.get(name);
    if (!room || --room.holders > 0) return;
    this.#rooms.delete(name);
    this.#readyBytes -= room.history.bytes;
  }

  /** What was open is not what it was: it is read again for whoever is only just coming in, and still holds it. */
  readAnew(): void {
    for (const [name, room] of this.#rooms) room.isOpen = this.#load(name, room);
  }

  /** Each once, in the log's order. @param record its id */
  tell(name: string, record: string, news: News): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    if (room.meanwhile) return void room.meanwhile.push({ record, news });
    if (room.from && compareIds(record, room.from) <= 0) return;
    room.from = "";
    if ("said" in news) {
      this.#readyBytes -= room.history.bytes;
      room.history.push(news.said);
      this.#readyBytes += room.history.bytes;
      this.follower.said(news.said);
    } else {
      const { client, node, connections } = news;
      setPresent(room, client, node, connections);
      this.follower.present(name, client, node, connections);
    }
  }

  /** A node has died, and its clients with it. @param record that tells so */
  tellDead(node: string, record: string): void {
    for (const [name, { elsewhere }] of this.#rooms)
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
    this.#rooms.set(name, room);
    room.isOpen = this.#load(name, room);
    return room;
  }

  /** One look at a room: its latest entries, who is there, and how far the log was. */
  async #load(name: string, room: Room): Promise<boolean> {
    const meanwhile: Room["meanwhile"] = (room.meanwhile = []);
    const maxBytes = this.#readyBytes < MAX_READY_BYTES ? MAX_ROOM_BYTES : MAX_LATE_ROOM_BYTES;
    const reply = await this.look(name, 2 * maxBytes);
    if (room.meanwhile !== meanwhile) return room.isOpen; // it is being read anew
    if (this.#rooms.get(name) !== room) return false; // closed meanwhile: its bytes would count for ever
    const [top, head, rows, present]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isId(top) || !isId(head)) return false;
    const entries = aPageOf(readEntries(rows, name), this.maxEntries, maxBytes).entries.reverse();
    this.#readyBytes -= room.history.bytes;
    room.history = new History(entries[0]?.prev ?? head, this.maxEntries, maxBytes);
    for (const entry of entries) room.history.push(entry);
    this.#readyBytes += room.history.bytes;
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
