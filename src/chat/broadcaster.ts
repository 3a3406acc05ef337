/**
 * Broadcasts to a room. Writing to sockets is the main cost, and Bun writes to each at most once per tick: a quiet room
 * is written to at once, and in a busy one all frames of `--flush-ms` share a write. A large room is written to shard by
 * shard, with turns of the event loop in between, so that other rooms stay responsive.
 */

import { logError } from "../ops/log.ts";
import { recordDelivery } from "../ops/metrics.ts";
import { jsonCodec, textCodec, type Codec, type Content, type Encoder } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import { ndjsonEncoder, sseEncoder } from "../protocol/stream-encoders.ts";
import { isMessage, type StoredEntry } from "../store/message.ts";
import type { Clock } from "../util/clock.ts";
import { isSlowConsumer, SLOW_CONSUMER_BYTES } from "./slow-consumer.ts";
import type { ConnectionSocket } from "./socket.ts";

/** Connections per shard: writing to these takes about 2 ms. */
const MAX_SHARD_SIZE = 250;
/** A queue of this size is flushed early; 64 KiB gave more latency and no more throughput. Counts the frames of both wires. */
const FLUSH_AT_CHARS = 16 * 1024;
/** While a flush cycle is in progress, a queue may grow to this size; then everything is written synchronously. */
const FORCE_FLUSH_AT_CHARS = 256 * 1024;
/** After writing to a large room, the cycle rests for this share of the time it took: a quarter of the CPU is left to others. */
const REST_RATIO = 0.4;
const MAX_REST_MS = 100;
/** Bun hands at most this many frames of a socket to the kernel in one write. */
const FRAMES_PER_WRITE = 32;
const SLOW_CHECK_MS = 50;

const ENCODERS: readonly Encoder[] = [textCodec, jsonCodec, sseEncoder, ndjsonEncoder];

/** Sends a frame to a topic's subscribers; negative if one of them has backpressure. */
export type PublishToTopic = (topic: string, frame: Content) => number;

/** A receiver of the room's messages, as far as broadcasting needs it. */
export interface Subscriber {
  readonly codec: Encoder;
  readonly socket: ConnectionSocket | undefined;
  /** Undefined for a guest or anyone who only reads. */
  readonly client?: string | undefined;
  /** Where it comes from; addresses that count as one are the same. */
  readonly address?: string | undefined;
  /** Assigned by {@link Broadcaster.add}. */
  shard: number;
  /** Negative if the socket has backpressure. */
  send(frame: Content): number;
  close(reason: CloseReason): void;
}

/** A subscriber that is a client in the room. */
export interface Member extends Subscriber {
  readonly client: string;
  readonly codec: Codec;
}

/** For every subscriber with that codec. */
interface OutboundFrame {
  readonly codec: Encoder;
  readonly frame: Content;
}

class Shard {
  readonly connections = new Set<Subscriber>();
  queue: OutboundFrame[] = [];
  queuedChars = 0;
  /** Clients with a message in the queue. */
  readonly senders = new Set<string>();
  /**
   * Connections that have received the first part of the queue already, and how many frames of it. They are not
   * subscribed until the queue is written.
   */
  ahead = new Map<Subscriber, number>();
}

interface FlushCycle {
  readonly startMs: number;
  nextShard: number;
  /** All shards are written; the cycle waits for more frames to share the next write. */
  isBatching: boolean;
}

export class Broadcaster {
  readonly #shards: Shard[] = [];
  readonly #replaying = new Set<Subscriber>();
  readonly #counts: Record<Encoder["name"], number> = { text: 0, json: 0, sse: 0, ndjson: 0 };
  readonly #subscribed: Record<Encoder["name"], number> = { text: 0, json: 0, sse: 0, ndjson: 0 };
  #flushCycle: FlushCycle | undefined;
  #slowTimer: Timer | undefined;
  /** Broadcast to slow connections since the last check. */
  #charsSinceSlowCheck = 0;

  constructor(
    private readonly room: string,
    private readonly publishToTopic: PublishToTopic,
    private readonly flushMs: number,
    private readonly clock: Clock,
  ) {}

  /** Adds a connection, which receives no stored messages before {@link subscribe}. */
  add(connection: Subscriber): void {
    const free = this.#shards.findIndex(({ connections }) => connections.size < MAX_SHARD_SIZE);
    connection.shard = free < 0 ? this.#shards.length : free;
    (this.#shards[connection.shard] ??= new Shard()).connections.add(connection);
    this.#replaying.add(connection);
    this.#counts[connection.codec.name]++;
  }

  /** The connection's replay has sent all stored messages, including the queued ones: it receives what is broadcast from now on. */
  subscribe(connection: Subscriber): void {
    const shard = this.#shards[connection.shard];
    if (!shard || !this.#replaying.delete(connection)) return;
    this.#subscribed[connection.codec.name]++;
    if (shard.queue.length > 0) shard.ahead.set(connection, shard.queue.length);
    else connection.socket?.subscribe(this.#topic(connection.codec, connection.shard));
  }

  unsubscribe({ socket, codec, shard }: Subscriber): void {
    socket?.unsubscribe(this.#topic(codec, shard));
  }

  /** @returns whether the connection was there */
  remove(connection: Subscriber): boolean {
    const shard = this.#shards[connection.shard];
    if (!shard?.connections.delete(connection)) return false;
    shard.ahead.delete(connection);
    this.#counts[connection.codec.name]--;
    if (!this.#replaying.delete(connection)) this.#subscribed[connection.codec.name]--;
    return true;
  }

  /** Connections in the room. */
  get size(): number {
    return this.#counts.text + this.#counts.json;
  }

  *connections(): Generator<Subscriber> {
    for (const { connections } of this.#shards) yield* connections;
  }

  /** Broadcasts an entry of the room's history, encoded once for each codec in use. A replay sends it, too. */
  broadcast(entry: StoredEntry): void {
    try {
      const frames: OutboundFrame[] = [];
      for (const codec of ENCODERS) {
        if (this.#counts[codec.name] === 0) continue;
        const frame = encodeEntry(codec, entry);
        if (frame === undefined) continue;
        recordDelivery(frame, isMessage(entry), this.#subscribed[codec.name]);
        frames.push({ codec, frame });
      }
      if (frames.length > 0) this.#enqueue(frames, isMessage(entry) ? entry.from : undefined);
    } catch (error) {
      this.#closeUnreached(error, () => true);
    }
  }

  /** Broadcasts a frame that is not part of the history, so that connections with a replay receive it now. */
  announce(codec: Encoder, frame: Content): void {
    if (this.#counts[codec.name] === 0) return;
    for (const connection of this.#replaying) if (connection.codec === codec) connection.send(frame);
    this.#enqueue([{ codec, frame }]);
  }

  /** Queues frames that are sent together, after all earlier ones. @param from the client whose message they are */
  #enqueue(frames: readonly OutboundFrame[], from?: string): void {
    let chars = 0;
    for (const { frame } of frames) chars += frame.length;
    let longest = 0;
    for (const shard of this.#shards) {
      if (shard.connections.size === 0) continue;
      if (from !== undefined) shard.senders.add(from);
      shard.queue.push(...frames);
      shard.queuedChars += chars;
      longest = Math.max(longest, shard.queuedChars);
    }
    if (this.flushMs === 0 || longest >= FORCE_FLUSH_AT_CHARS) this.flush();
    else if (!this.#flushCycle || (this.#flushCycle.isBatching && longest >= FLUSH_AT_CHARS))
      this.#startFlushCycle();
  }

  /** Sends to one connection at once, but after its client's own queued messages. */
  sendAfterOwn(frame: Content, connection: Member): void {
    if (this.#shards[connection.shard]?.senders.has(connection.client))
      this.sendAfterQueued(frame, connection);
    else connection.send(frame);
  }

  /**
   * Sends to one connection at once, after all queued frames: it receives those now, alone, and is skipped when the queue
   * is written. So nothing waits for that write, and the write is not brought forward for the others.
   */
  sendAfterQueued(frame: Content, connection: Subscriber): void {
    const { socket } = connection;
    const shard = this.#shards[connection.shard];
    if (!socket || !shard || shard.queue.length === 0) return void connection.send(frame);
    const received = shard.ahead.get(connection);
    socket.cork(() => {
      sendFrom(shard.queue, received ?? 0, connection);
      connection.send(frame);
    });
    if (received === undefined) this.unsubscribe(connection);
    shard.ahead.set(connection, shard.queue.length);
  }

  #topic(codec: Encoder, shard: number): string {
    return `${codec.name}:${shard}:${this.room}`;
  }

  /** Writes all queued frames now. */
  flush(): void {
    for (const index of this.#shards.keys()) this.#write(index);
  }

  /** The last connection has left: queued frames are discarded, or they would reach the next room of this name. */
  close(): void {
    this.#shards.length = 0;
    this.clock.clear(this.#slowTimer);
  }

  /** Writes to a part of the room, and leaves the rest to later turns: all that runs here delays the frames. */
  #startFlushCycle(): void {
    const cycle = { startMs: this.clock.elapsed(), nextShard: 0, isBatching: false };
    this.#flushCycle = cycle;
    this.clock.setImmediate(() => void this.#continueFlushCycle(cycle));
    cycle.nextShard = this.#writeShards(0);
    cycle.isBatching = cycle.nextShard === this.#shards.length;
  }

  async #continueFlushCycle(cycle: FlushCycle): Promise<void> {
    try {
      const isLarge = !cycle.isBatching;
      await this.#nextTurn();
      while (cycle.nextShard < this.#shards.length) {
        cycle.nextShard = this.#writeShards(cycle.nextShard);
        await this.#nextTurn();
        await this.#nextTurn();
      }
      if (isLarge)
        await this.clock.sleep(Math.min(REST_RATIO * (this.clock.elapsed() - cycle.startMs), MAX_REST_MS));
      cycle.isBatching = true;
      await this.clock.sleep(this.flushMs);
    } finally {
      // An early flush has started another cycle.
      if (this.#flushCycle === cycle) {
        this.#flushCycle = undefined;
        if (this.#shards.some(({ queue }) => queue.length > 0)) this.#startFlushCycle();
      }
    }
  }

  /** Writes to as many shards as may share a turn of the event loop. @returns the next one */
  #writeShards(next: number): number {
    for (let writes = 0; next < this.#shards.length && writes < MAX_SHARD_SIZE; next++) {
      const size = this.#shards[next]?.connections.size ?? 0;
      writes += size * Math.ceil(this.#write(next) / FRAMES_PER_WRITE);
    }
    return next;
  }

  /** Bun writes to the sockets in one of the next two turns of the event loop. */
  #nextTurn(): Promise<void> {
    return new Promise((resolve) => this.clock.setImmediate(resolve));
  }

  /** Writes a shard's queue. @returns how many frames it had */
  #write(index: number): number {
    const shard = this.#shards[index];
    if (!shard || shard.queue.length === 0) return 0;
    const { queue, queuedChars, ahead } = shard;
    shard.queue = [];
    shard.queuedChars = 0;
    shard.senders.clear();
    if (ahead.size > 0) shard.ahead = new Map();
    let hasBackpressure = false;
    const hasStreams = this.#counts.sse + this.#counts.ndjson > 0;
    for (const { codec, frame } of hasStreams ? joinStreamed(queue) : queue)
      try {
        hasBackpressure = this.publishToShard(codec, index, frame) < 0 || hasBackpressure;
      } catch (error) {
        this.#closeUnreached(
          error,
          (each) => each.shard === index && each.codec === codec && !ahead.has(each),
        );
      }
    for (const [connection, received] of ahead)
      try {
        connection.socket?.cork(
          () => (hasBackpressure = sendFrom(queue, received, connection) || hasBackpressure),
        );
        connection.socket?.subscribe(this.#topic(connection.codec, index));
      } catch (error) {
        this.#closeUnreached(error, (each) => each === connection);
      }
    if (hasBackpressure) this.#scheduleSlowCheck(queuedChars);
    return queue.length;
  }

  /** Sends a frame to the subscribed connections of a shard; negative as {@link PublishToTopic}. */
  publishToShard(codec: Encoder, shard: number, frame: Content): number {
    return this.publishToTopic(this.#topic(codec, shard), frame);
  }

  /**
   * A broadcast has thrown, which is a bug. The message is stored and acknowledged all the same, so the connections it
   * did not reach are closed before they receive a later one; they resume.
   */
  #closeUnreached(error: unknown, isAffected: (connection: Subscriber) => boolean): void {
    logError("A broadcast failed", error);
    // A replay reads the message from the history.
    for (const connection of this.connections())
      if (isAffected(connection) && !this.#replaying.has(connection)) connection.close("undelivered");
  }

  /** Within {@link SLOW_CHECK_MS}, or immediately after 256 KiB. */
  #scheduleSlowCheck(chars: number): void {
    this.#charsSinceSlowCheck += chars;
    if (this.#charsSinceSlowCheck > SLOW_CONSUMER_BYTES / 4) return this.#disconnectSlow();
    this.#slowTimer ??= this.clock.setTimeout(() => this.#disconnectSlow(), SLOW_CHECK_MS);
  }

  #disconnectSlow(): void {
    this.clock.clear(this.#slowTimer);
    this.#slowTimer = undefined;
    this.#charsSinceSlowCheck = 0;
    for (const connection of this.connections())
      if (connection.socket && isSlowConsumer(connection.socket)) connection.close("tooSlow");
  }
}

/** @returns undefined where the wire has nothing to write */
export function encodeEntry(codec: Encoder, entry: StoredEntry): Content | undefined {
  return isMessage(entry) ? codec.message(entry) : codec.removed(entry);
}

/** An event stream has no frames, so all that is queued for its format becomes one, which all streams share. */
function joinStreamed(queue: readonly OutboundFrame[]): OutboundFrame[] {
  const joined = new Map<Encoder, string>();
  const frames = queue.filter(({ codec, frame }) => {
    const isStreamed = codec === sseEncoder || codec === ndjsonEncoder;
    if (isStreamed) joined.set(codec, (joined.get(codec) ?? "") + frame);
    return !isStreamed;
  });
  for (const [codec, frame] of joined) frames.push({ codec, frame });
  return frames;
}

/** @returns whether the socket has backpressure */
function sendFrom(queue: readonly OutboundFrame[], start: number, connection: Subscriber): boolean {
  let hasBackpressure = false;
  for (let i = start; i < queue.length; i++) {
    const outbound = queue[i];
    if (outbound?.codec === connection.codec)
      hasBackpressure = connection.send(outbound.frame) < 0 || hasBackpressure;
  }
  return hasBackpressure;
}
