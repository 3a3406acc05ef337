/** Who is in a room: the tutorial's ConnectionManager, for clients that may hold several connections. */

import type { Presence } from "../protocol/events.ts";
import type { Wire } from "../protocol/codec.ts";
import type { Content } from "../store/store.ts";

/** As much of a connection as the manager needs. */
export interface Member {
  readonly client: string;
  readonly wire: Wire;
  /** Of the room; given by {@link ConnectionManager.connect}. */
  section: number;
  /** Negative if it does not keep up. */
  send(message: Content): number;
}

/** Connections that are written to in one go, which takes about 2 ms; then others have their turn. */
export const MAX_SECTION = 250;

/**
 * Pending leave announcements of a room. Beyond it, clients that have sent nothing leave unannounced: it takes a flood
 * of clients that come and go at once, and each listener would be sent a line for each of them.
 */
const MAX_PENDING_LEAVES = 1_000;

/** Sends to all who are subscribed to a topic; a negative answer says that somebody does not keep up. */
export type Publish = (topic: string, message: Content) => number;

export class ConnectionManager<M extends Member> {
  readonly #connections = new Set<M>();
  /** How many connections each client holds, by any node: two tabs with one id are one client. */
  readonly #held = new Map<string, number>();
  /** Those of them that are with other nodes, by client and node. */
  readonly #elsewhere = new Map<string, Map<string, number>>();
  readonly #speakers: Record<Wire, number> = { text: 0, json: 0 };
  readonly #sections: number[] = [];
  /** Clients that have sent something since they joined, until their leave is announced. */
  readonly #senders = new Set<string>();
  /** Pending leave announcements, each with when the client left. */
  readonly #gone = new Leaves();
  /** Who came or went since the last presence event; who did both is in neither. */
  readonly #joined = new Set<string>();
  readonly #left = new Leaves();

  constructor(
    private readonly room: string,
    private readonly publish: Publish,
  ) {}

  connect(connection: M): void {
    const { client, wire } = connection;
    const free = this.#sections.findIndex((size) => size < MAX_SECTION);
    connection.section = free < 0 ? this.#sections.length : free;
    this.#grow(connection.section, 1);
    this.#connections.add(connection);
    this.#speakers[wire]++;
    this.#hold(client, 1, 0);
  }

  /** Forgets the connection; a client without any other has left, unless it connects before that is said. */
  disconnect(connection: M, nowMs: number): void {
    if (!this.#connections.delete(connection)) return;
    const { client, wire, section } = connection;
    this.#grow(section, -1);
    this.#speakers[wire]--;
    this.#hold(client, -1, nowMs);
  }

  #grow(section: number, by: number): void {
    this.#sections[section] = (this.#sections[section] ?? 0) + by;
  }

  /** So many connections a client has by another node. */
  setElsewhere(client: string, node: string, connections: number, nowMs: number): void {
    const nodes = this.#elsewhere.get(client) ?? new Map<string, number>();
    const before = nodes.get(node) ?? 0;
    if (connections > 0) this.#elsewhere.set(client, nodes.set(node, connections));
    else if (nodes.delete(node) && nodes.size === 0) this.#elsewhere.delete(client);
    this.#hold(client, connections - before, nowMs);
  }

  #hold(client: string, more: number, nowMs: number): void {
    const before = this.#held.get(client) ?? 0;
    const held = before + more;
    if (held > 0) this.#held.set(client, held);
    else this.#held.delete(client);
    if (before === 0 && held > 0) {
      this.#gone.delete(client);
      if (!this.#left.delete(client)) this.#joined.add(client);
    } else if (before > 0 && held === 0) {
      const isSender = this.#senders.has(client);
      if (isSender || this.#gone.size < MAX_PENDING_LEAVES) this.#gone.add(client, isSender, nowMs);
      if (!this.#joined.delete(client)) this.#left.add(client, isSender, nowMs);
    }
  }

  /** The client has sent a message: its leave is announced, and first. */
  hasSent(client: string): void {
    if (this.#held.has(client)) this.#senders.add(client);
  }

  sendPersonalMessage(message: Content, connection: M): void {
    connection.send(message);
  }

  /** To everyone in a section who is subscribed to its {@link topic}; negative as {@link Publish} is. */
  broadcast(wire: Wire, section: number, message: Content): number {
    return this.publish(this.topic(wire, section), message);
  }

  /** What a connection subscribes to in order to hear {@link broadcast}. */
  topic(wire: Wire, section: number): string {
    return `${wire}:${section}:${this.room}`;
  }

  /** How many connections each section has. */
  get sections(): readonly number[] {
    return this.#sections;
  }

  /** How many connections speak that wire. */
  speakers(wire: Wire): number {
    return this.#speakers[wire];
  }

  /** Up to `count` of the clients that have been gone since `sinceMs` or longer; each is handed out once. */
  *takeGone(count: number, sinceMs: number): Generator<string> {
    for (const client of this.#gone.take(count, sinceMs)) {
      this.#senders.delete(client);
      yield client;
    }
  }

  /** What changed since it was last asked for, up to `count` names each way; the rest comes the next time. */
  takePresence(count: number): Presence {
    return { joined: take(this.#joined, count), left: [...this.#left.take(count)], count: this.count };
  }

  get hasGone(): boolean {
    return this.#gone.size > 0;
  }

  get hasPresence(): boolean {
    return this.#joined.size + this.#left.size > 0;
  }

  /** Clients in the room. */
  get count(): number {
    return this.#held.size;
  }

  members(count: number): string[] {
    return this.#held.keys().take(count).toArray();
  }

  connectionsOf(client: string): number {
    return this.#held.get(client) ?? 0;
  }

  /** Of those, as many as are with this node. */
  connectionsHere(client: string): number {
    let here = this.connectionsOf(client);
    for (const connections of this.#elsewhere.get(client)?.values() ?? []) here -= connections;
    return here;
  }

  connections(): Iterable<M> {
    return this.#connections;
  }

  get size(): number {
    return this.#connections.size;
  }
}

/** Clients that have left, those that had sent something first; among these and the others, the longest gone. */
class Leaves {
  readonly #senders = new Map<string, number>();
  readonly #others = new Map<string, number>();

  add(client: string, isSender: boolean, nowMs: number): void {
    (isSender ? this.#senders : this.#others).set(client, nowMs);
  }

  delete(client: string): boolean {
    return this.#senders.delete(client) || this.#others.delete(client);
  }

  get size(): number {
    return this.#senders.size + this.#others.size;
  }

  /** Up to `count` of those that left by then; each is handed out once. */
  *take(count: number, byMs = Infinity): Generator<string> {
    for (const clients of [this.#senders, this.#others])
      for (const [client, leftMs] of clients) {
        if (leftMs > byMs) break;
        if (count-- <= 0) return;
        clients.delete(client);
        yield client;
      }
  }
}

function take(from: Set<string>, count: number): string[] {
  const taken = from.values().take(count).toArray();
  for (const each of taken) from.delete(each);
  return taken;
}
