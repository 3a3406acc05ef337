/** Who is in a room: the tutorial's ConnectionManager, for clients that may hold several connections. */

import type { PresenceChange } from "../protocol/events.ts";
import type { WireFormat } from "../protocol/codec.ts";
import type { Content } from "../store/message.ts";

/** As much of a connection as the manager needs. */
export interface Member {
  readonly client: string;
  readonly wire: WireFormat;
  /** Of the room; given by {@link ConnectionManager.connect}. */
  shard: number;
  /** Negative if it does not keep up. */
  send(message: Content): number;
}

/** Connections that are written to in one go, which takes about 2 ms; then others have their turn. */
export const MAX_SHARD_SIZE = 250;

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
  readonly #connectionCounts = new Map<string, number>();
  /** Those of them that are with other nodes, by client and node. */
  readonly #remoteCounts = new Map<string, Map<string, number>>();
  readonly #speakers: Record<WireFormat, number> = { text: 0, json: 0 };
  readonly #shardSizes: number[] = [];
  /** Clients that have sent something since they joined, until their leave is announced. */
  readonly #senders = new Set<string>();
  /** Pending leave announcements, each with when the client left. */
  readonly #pendingLeaves = new Leaves();
  /** Who came or went since the last presence event; who did both is in neither. */
  readonly #joinedSinceEvent = new Set<string>();
  readonly #leftSinceEvent = new Leaves();

  constructor(
    private readonly room: string,
    private readonly publish: Publish,
  ) {}

  connect(connection: M): void {
    const { client, wire } = connection;
    const free = this.#shardSizes.findIndex((size) => size < MAX_SHARD_SIZE);
    connection.shard = free < 0 ? this.#shardSizes.length : free;
    this.#adjustShard(connection.shard, 1);
    this.#connections.add(connection);
    this.#speakers[wire]++;
    this.#adjustCount(client, 1, 0);
  }

  /** Forgets the connection; a client without any other has left, unless it connects before that is said. */
  disconnect(connection: M, nowMs: number): void {
    if (!this.#connections.delete(connection)) return;
    const { client, wire, shard } = connection;
    this.#adjustShard(shard, -1);
    this.#speakers[wire]--;
    this.#adjustCount(client, -1, nowMs);
  }

  #adjustShard(section: number, by: number): void {
    this.#shardSizes[section] = (this.#shardSizes[section] ?? 0) + by;
  }

  /** So many connections a client has by another node. */
  setRemoteCount(client: string, node: string, connections: number, nowMs: number): void {
    const nodes = this.#remoteCounts.get(client) ?? new Map<string, number>();
    const before = nodes.get(node) ?? 0;
    if (connections > 0) this.#remoteCounts.set(client, nodes.set(node, connections));
    else if (nodes.delete(node) && nodes.size === 0) this.#remoteCounts.delete(client);
    this.#adjustCount(client, connections - before, nowMs);
  }

  #adjustCount(client: string, more: number, nowMs: number): void {
    const before = this.#connectionCounts.get(client) ?? 0;
    const held = before + more;
    if (held > 0) this.#connectionCounts.set(client, held);
    else this.#connectionCounts.delete(client);
    if (before === 0 && held > 0) {
      this.#pendingLeaves.delete(client);
      if (!this.#leftSinceEvent.delete(client)) this.#joinedSinceEvent.add(client);
    } else if (before > 0 && held === 0) {
      const isSender = this.#senders.has(client);
      if (isSender || this.#pendingLeaves.size < MAX_PENDING_LEAVES)
        this.#pendingLeaves.add(client, isSender, nowMs);
      if (!this.#joinedSinceEvent.delete(client)) this.#leftSinceEvent.add(client, isSender, nowMs);
    }
  }

  /** The client has sent a message: its leave is announced, and first. */
  hasSent(client: string): void {
    if (this.#connectionCounts.has(client)) this.#senders.add(client);
  }

  sendPersonalMessage(message: Content, connection: M): void {
    connection.send(message);
  }

  /** To everyone in a section who is subscribed to its {@link topic}; negative as {@link Publish} is. */
  broadcast(wire: WireFormat, section: number, message: Content): number {
    return this.publish(this.topic(wire, section), message);
  }

  /** What a connection subscribes to in order to hear {@link broadcast}. */
  topic(wire: WireFormat, section: number): string {
    return `${wire}:${section}:${this.room}`;
  }

  /** How many connections each section has. */
  get shardSizes(): readonly number[] {
    return this.#shardSizes;
  }

  /** How many connections speak that wire. */
  countByWire(wire: WireFormat): number {
    return this.#speakers[wire];
  }

  /** Up to `count` of the clients that have been gone since `sinceMs` or longer; each is handed out once. */
  *drainLeaves(count: number, sinceMs: number): Generator<string> {
    for (const client of this.#pendingLeaves.take(count, sinceMs)) {
      this.#senders.delete(client);
      yield client;
    }
  }

  /** What changed since it was last asked for, up to `count` names each way; the rest comes the next time. */
  drainPresence(count: number): PresenceChange {
    return {
      joined: take(this.#joinedSinceEvent, count),
      left: [...this.#leftSinceEvent.take(count)],
      count: this.count,
    };
  }

  get hasPendingLeaves(): boolean {
    return this.#pendingLeaves.size > 0;
  }

  get hasPendingPresence(): boolean {
    return this.#joinedSinceEvent.size + this.#leftSinceEvent.size > 0;
  }

  /** Clients in the room. */
  get count(): number {
    return this.#connectionCounts.size;
  }

  members(count: number): string[] {
    return this.#connectionCounts.keys().take(count).toArray();
  }

  connectionCount(client: string): number {
    return this.#connectionCounts.get(client) ?? 0;
  }

  /** Of those, as many as are with this node. */
  localConnectionCount(client: string): number {
    let here = this.connectionCount(client);
    for (const connections of this.#remoteCounts.get(client)?.values() ?? []) here -= connections;
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
