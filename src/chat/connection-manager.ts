/** The tutorial's ConnectionManager: who is in a room, on any node, and announcing who joins and leaves. */

import { jsonCodec, MAX_LISTED_MEMBERS, textCodec, type Content } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";
import type { Broadcaster, OutboundFrame, Subscriber } from "./broadcaster.ts";

/**
 * A leave is announced after this time, unless the client is back. Leaves are announced in batches: one by one, 10,000
 * clients that leave at once would stall the server for 15 s.
 */
const LEAVE_DEBOUNCE_MS = 100;
/**
 * Pending leave announcements of a room. In a flood of clients that connect and disconnect, further leaves of clients
 * that have sent nothing are not announced on the text wire.
 */
const MAX_PENDING_LEAVES = 1_000;
/** Leave lines × connections per batch; the next batch follows after a pause, which is left to other rooms. */
const MAX_DELIVERIES_PER_BATCH = 10_000;
const BATCH_PAUSE_MS = 10;
const PRESENCE_INTERVAL_MS = 200;

export class ConnectionManager {
  /** Connections of each client, on all nodes: two tabs with one id are one client. */
  readonly #connectionCounts = new Map<string, number>();
  /** Those on other nodes, by client and node. */
  readonly #remoteCounts = new Map<string, Map<string, number>>();
  /** Clients that have sent a message since they joined, until their leave is announced. */
  readonly #senders = new Set<string>();
  readonly #pendingLeaves = new Leaves();
  /** Since the last presence event; a client that did both is in neither. */
  readonly #joinedSinceEvent = new Set<string>();
  readonly #leftSinceEvent = new Leaves();
  #leaveTimer: Timer | undefined;
  #presenceTimer: Timer | undefined;
  #isAnnouncing = true;

  constructor(
    private readonly broadcaster: Broadcaster,
    private readonly clock: Clock,
  ) {}

  connect(connection: Subscriber): void {
    this.broadcaster.add(connection);
    this.#adjustCount(connection.client, 1);
  }

  disconnect(connection: Subscriber): void {
    if (this.broadcaster.remove(connection)) this.#adjustCount(connection.client, -1);
  }

  /** Sends to one connection; a message of its client that was broadcast before arrives before. */
  sendPersonalMessage(message: Content, connection: Subscriber): void {
    this.broadcaster.sendAfterOwn(message, connection);
  }

  /** @param from the client whose message it is */
  broadcast(frames: readonly OutboundFrame[], from?: string): void {
    this.broadcaster.enqueue(frames, from);
  }

  /** Sets how many connections a client has on another node. */
  setRemoteCount(client: string, node: string, connections: number): void {
    const nodes = this.#remoteCounts.get(client) ?? new Map<string, number>();
    const before = nodes.get(node) ?? 0;
    if (connections > 0) this.#remoteCounts.set(client, nodes.set(node, connections));
    else if (nodes.delete(node) && nodes.size === 0) this.#remoteCounts.delete(client);
    this.#adjustCount(client, connections - before);
  }

  /** Sets the remote counts of a room that has just opened, whose first connection learns of them by its welcome. */
  initRemoteCounts(counts: Iterable<readonly [client: string, node: string, connections: number]>): void {
    for (const [client, node, connections] of counts) this.setRemoteCount(client, node, connections);
    this.#joinedSinceEvent.clear();
  }

  #adjustCount(client: string, difference: number): void {
    const before = this.#connectionCounts.get(client) ?? 0;
    const count = before + difference;
    if (count > 0) this.#connectionCounts.set(client, count);
    else this.#connectionCounts.delete(client);
    if (before === 0 && count > 0) {
      this.#pendingLeaves.delete(client);
      if (!this.#leftSinceEvent.delete(client)) this.#joinedSinceEvent.add(client);
    } else if (before > 0 && count === 0) {
      const isSender = this.#senders.has(client);
      const nowMs = this.clock.elapsed();
      if (isSender || this.#pendingLeaves.size < MAX_PENDING_LEAVES)
        this.#pendingLeaves.add(client, isSender, nowMs);
      if (!this.#joinedSinceEvent.delete(client)) this.#leftSinceEvent.add(client, isSender, nowMs);
    } else return;
    this.#scheduleLeaves();
    this.#schedulePresence();
  }

  /** The client has sent a message: its leave is announced, and before those of silent clients. */
  markSender(client: string): void {
    if (this.#connectionCounts.has(client)) this.#senders.add(client);
  }

  /** Clients in the room. */
  get count(): number {
    return this.#connectionCounts.size;
  }

  /** Up to {@link MAX_LISTED_MEMBERS} of the clients in the room. */
  get members(): string[] {
    return this.#connectionCounts.keys().take(MAX_LISTED_MEMBERS).toArray();
  }

  connectionCount(client: string): number {
    return this.#connectionCounts.get(client) ?? 0;
  }

  /** The client's connections on this node. */
  localConnectionCount(client: string): number {
    let count = this.connectionCount(client);
    for (const remote of this.#remoteCounts.get(client)?.values() ?? []) count -= remote;
    return count;
  }

  /** On the text wire each leave is a line. */
  #scheduleLeaves(afterMs = LEAVE_DEBOUNCE_MS / 2): void {
    if (!this.#isAnnouncing || this.#pendingLeaves.size === 0) return;
    this.#leaveTimer ??= this.clock.setTimeout(() => this.#announceLeaves(), afterMs);
  }

  #announceLeaves(): void {
    this.#leaveTimer = undefined;
    const batchSize = Math.ceil(MAX_DELIVERIES_PER_BATCH / Math.max(this.broadcaster.size, 1));
    const clients = [...this.#pendingLeaves.take(batchSize, this.clock.elapsed() - LEAVE_DEBOUNCE_MS)];
    this.#scheduleLeaves(clients.length === batchSize ? BATCH_PAUSE_MS : undefined);
    for (const client of clients) {
      this.#senders.delete(client);
      if (this.broadcaster.uses(textCodec))
        this.broadcast([{ codec: textCodec, frame: textCodec.left(client), isStored: false }]);
    }
  }

  /** On the JSON wire one event names who joined and who left. */
  #schedulePresence(): void {
    if (!this.#isAnnouncing || !this.#hasPendingPresence) return;
    this.#presenceTimer ??= this.clock.setTimeout(() => this.#announcePresence(), PRESENCE_INTERVAL_MS);
  }

  #announcePresence(): void {
    this.#presenceTimer = undefined;
    if (!this.#hasPendingPresence) return;
    const joined = this.#joinedSinceEvent.values().take(MAX_LISTED_MEMBERS).toArray();
    for (const client of joined) this.#joinedSinceEvent.delete(client);
    const left = [...this.#leftSinceEvent.take(MAX_LISTED_MEMBERS)];
    this.#schedulePresence();
    if (!this.broadcaster.uses(jsonCodec)) return;
    const frame = jsonCodec.presence({ joined, left, count: this.count });
    this.broadcast([{ codec: jsonCodec, frame, isStored: false }]);
  }

  get #hasPendingPresence(): boolean {
    return this.#joinedSinceEvent.size + this.#leftSinceEvent.size > 0;
  }

  /** The room is empty, or the server shuts down: nothing more is announced. */
  stopAnnouncing(): void {
    this.#isAnnouncing = false;
    this.clock.clear(this.#leaveTimer);
    this.clock.clear(this.#presenceTimer);
  }
}

/** Clients that have left: senders first, then in the order of leaving. */
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

  /** Removes and returns up to `count` clients that left at `byMs` or earlier. */
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
