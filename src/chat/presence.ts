/** Presence: which clients are in a room, on any node, and announcing who has joined and left. */

import { jsonCodec, MAX_LISTED_MEMBERS, textCodec } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";
import type { Broadcaster } from "./broadcaster.ts";

/**
 * The text wire's grace period: a leave is announced after this time, unless the client is back. Leaves are announced in
 * batches: one by one, 10,000 clients that leave at once would stall the server for 15 s.
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
/** The JSON wire has no grace period: a client is in an event if it is away, or back, when the event is sent. */
const PRESENCE_INTERVAL_MS = 200;

/** A client whose presence has changed since the last presence event. */
interface Change {
  /** At that event. */
  readonly wasPresent: boolean;
  /** A welcome since then showed the opposite, so the next event names the client even if it has changed back. */
  isWelcomed: boolean;
  /** How many connections had been welcomed when the client's presence last equalled `wasPresent`. */
  welcomesBefore: number;
}

export class Presence {
  /** Connections of each client, on all nodes: two tabs with one id are one client. */
  readonly #connectionCounts = new Map<string, number>();
  /** Clients that have sent a message since they joined, until their leave is announced. */
  readonly #senders = new Set<string>();
  readonly #pendingLeaves = new Leaves();
  /** What the next presence event names. */
  readonly #joinedSinceEvent = new Set<string>();
  readonly #leftSinceEvent = new Leaves();
  /** Of the clients that the next event may have to name. */
  readonly #changes = new Map<string, Change>();
  #welcomes = 0;
  #leaveTimer: Timer | undefined;
  #presenceTimer: Timer | undefined;
  isAnnouncing = true;

  /** @param remote connections on other nodes: the room's first connection learns of them by its welcome */
  constructor(
    private readonly broadcaster: Broadcaster,
    private readonly clock: Clock,
    remote: Iterable<readonly [client: string, connections: number]> = [],
  ) {
    for (const [client, connections] of remote)
      this.#connectionCounts.set(client, this.connectionCount(client) + connections);
  }

  /** A client joins with its first connection, on whatever node, and leaves with its last one. */
  adjustCount(client: string, difference: number): void {
    const before = this.connectionCount(client);
    const count = before + difference;
    if (count > 0) this.#connectionCounts.set(client, count);
    else this.#connectionCounts.delete(client);
    if (before === 0 && count > 0) this.#onJoined(client);
    else if (before > 0 && count === 0) this.#onLeft(client);
    else return;
    this.#scheduleLeaves();
    this.#scheduleEvent();
  }

  #onJoined(client: string): void {
    this.#pendingLeaves.delete(client);
    this.#leftSinceEvent.delete(client);
    if (this.#isNews(client, true)) this.#joinedSinceEvent.add(client);
  }

  #onLeft(client: string): void {
    const isSender = this.#senders.has(client);
    const nowMs = this.clock.elapsed();
    if (isSender || this.#pendingLeaves.size < MAX_PENDING_LEAVES)
      this.#pendingLeaves.add(client, isSender, nowMs);
    this.#joinedSinceEvent.delete(client);
    if (this.#isNews(client, false)) this.#leftSinceEvent.add(client, isSender, nowMs);
  }

  /** Whether some connection believes otherwise, by the last event or by its welcome. */
  #isNews(client: string, isPresent: boolean): boolean {
    const change = this.#changes.get(client) ?? {
      wasPresent: !isPresent,
      isWelcomed: false,
      welcomesBefore: 0,
    };
    if (change.wasPresent === isPresent) change.isWelcomed ||= change.welcomesBefore !== this.#welcomes;
    else change.welcomesBefore = this.#welcomes;
    const isNews = change.wasPresent !== isPresent || change.isWelcomed;
    if (isNews) this.#changes.set(client, change);
    else this.#changes.delete(client);
    return isNews;
  }

  /** What a new connection's welcome shows of the room. It has joined just before. */
  forWelcome(client: string): { count: number; members: string[]; connections: number } {
    const change = this.#changes.get(client);
    const isUnseen = change?.welcomesBefore === this.#welcomes;
    this.#welcomes++;
    if (isUnseen) change.welcomesBefore++; // only its own welcome has shown the change
    return { count: this.count, members: this.members, connections: this.connectionCount(client) };
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

  /** On the text wire each leave is a line. */
  #scheduleLeaves(afterMs = LEAVE_DEBOUNCE_MS / 2): void {
    if (!this.isAnnouncing || this.#pendingLeaves.size === 0) return;
    this.#leaveTimer ??= this.clock.setTimeout(() => this.#announceLeaves(), afterMs);
  }

  #announceLeaves(): void {
    this.#leaveTimer = undefined;
    const batchSize = Math.ceil(MAX_DELIVERIES_PER_BATCH / Math.max(this.broadcaster.size, 1));
    const clients = [...this.#pendingLeaves.take(batchSize, this.clock.elapsed() - LEAVE_DEBOUNCE_MS)];
    this.#scheduleLeaves(clients.length === batchSize ? BATCH_PAUSE_MS : undefined);
    for (const client of clients) this.#senders.delete(client);
    for (const client of clients) this.broadcaster.announce(textCodec, textCodec.left(client));
  }

  /** On the JSON wire one event names who joined and who left. */
  #scheduleEvent(): void {
    if (!this.isAnnouncing || !this.#hasPendingEvent) return;
    this.#presenceTimer ??= this.clock.setTimeout(() => this.#sendEvent(), PRESENCE_INTERVAL_MS);
  }

  #sendEvent(): void {
    this.#presenceTimer = undefined;
    if (!this.#hasPendingEvent) return;
    const joined = this.#joinedSinceEvent.values().take(MAX_LISTED_MEMBERS).toArray();
    for (const client of joined) this.#joinedSinceEvent.delete(client);
    const left = [...this.#leftSinceEvent.take(MAX_LISTED_MEMBERS)];
    for (const client of [...joined, ...left]) this.#changes.delete(client);
    this.#scheduleEvent();
    this.broadcaster.announce(jsonCodec, jsonCodec.presence({ joined, left, count: this.count }));
  }

  get #hasPendingEvent(): boolean {
    return this.#joinedSinceEvent.size + this.#leftSinceEvent.size > 0;
  }

  /** The room is empty, or the server shuts down: nothing more is announced. */
  stopAnnouncing(): void {
    this.isAnnouncing = false;
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
