/**
 * What goes out to a room. The write to each socket is what costs, and Bun does at most one a tick: so a quiet room
 * is written to at once, and in a busy one what is said during a pause shares the next write. A crowd is written to
 * section by section, with turns for others in between.
 */

import { logError } from "../ops/log.ts";
import { MAX_SHARD_SIZE, type ConnectionManager, type Member } from "./connection-manager.ts";
import { recordDelivery } from "../ops/metrics.ts";
import type { WireFormat } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import type { Content } from "../store/message.ts";
import type { Connection } from "./connection.ts";
import { isSlowConsumer, SLOW_CONSUMER_BYTES } from "./socket.ts";

/** So much does not wait any longer, the frames of both wires counted in characters: 64 KiB were no faster, and later. */
const FLUSH_AT_CHARS = 16 * 1024;
/** While a crowd is written to, so much more may wait; beyond it all is written at once, and nothing is read meanwhile. */
const FORCE_FLUSH_AT_CHARS = 256 * 1024;
/** Before the pause a crowd rests for so much of the time that it took, up to so long: others have more than a quarter for themselves. */
const REST_RATIO = 0.4;
const MAX_REST_MS = 100;
/** As many as Bun writes to a socket at once. */
const FRAMES_PER_WRITE = 32;
/** How soon a reader that does not keep up is looked for. */
const SLOW_CHECK_MS = 50;

/** To all in the room who speak a wire. */
export interface OutboundFrame {
  readonly to: WireFormat;
  readonly message: Content;
  /** It is in the history, too, where who has just come reads it. */
  readonly isStored: boolean;
}

/** As much of a visitor as it takes to be written to. */
type Listener = Member & Pick<Connection, "socket">;

/** What waits for a section of the room's connections. */
interface Queue<L> {
  waiting: OutboundFrame[];
  characters: number;
  /** The clients whose messages are among it. */
  readonly senders: Set<string>;
  /** Those that have been sent some of it already, and how much: they are not subscribed until it is written. */
  ahead: Map<L, number>;
}

interface FlushCycle {
  isPausing: boolean;
}

export class Broadcaster<L extends Listener> {
  /** By the numbers of the manager's sections; one that was empty all the time has none. */
  readonly #queues: Queue<L>[] = [];
  /** The writes to all sections and the pause after them, until it is over. */
  #flushCycle: FlushCycle | undefined;
  #slowTimer: Timer | undefined;
  /** Written to slow readers, among others, since it was last looked who they are. */
  #charactersSinceSlowCheck = 0;

  /** @param dismiss closes a connection: a slow consumer, or one that a broadcast did not reach */
  constructor(
    private readonly manager: ConnectionManager<L>,
    private readonly catchingUp: ReadonlySet<L>,
    private readonly flushMs: number,
    private readonly dismiss: (connection: L, why: CloseReason) => void,
  ) {}

  /**
   * Goes out together, after all that waits.
   * @param from the client whose message it is
   */
  enqueue(outgoing: readonly OutboundFrame[], from?: string): void {
    let characters = 0;
    for (const { to, message, isStored } of outgoing) {
      if (isStored) recordDelivery(message, this.#receiverCount(to));
      // Who is catching up is not subscribed yet, and would never hear of it.
      else for (const connection of this.catchingUp) if (connection.wire === to) connection.send(message);
      characters += message.length;
    }
    let longest = 0;
    for (const [section, size] of this.manager.shardSizes.entries()) {
      if (size === 0) continue;
      const queue = (this.#queues[section] ??= {
        waiting: [],
        characters: 0,
        senders: new Set(),
        ahead: new Map(),
      });
      if (from !== undefined) queue.senders.add(from);
      queue.waiting.push(...outgoing);
      queue.characters += characters;
      longest = Math.max(longest, queue.characters);
    }
    if (this.flushMs === 0 || longest >= FORCE_FLUSH_AT_CHARS) this.flush();
    else if (!this.#flushCycle || (this.#flushCycle.isPausing && longest >= FLUSH_AT_CHARS))
      void this.#runFlushCycle();
  }

  /** To one connection, at once, and after its own messages. */
  sendAfterOwn(message: Content, connection: L): void {
    const { shard, client } = connection;
    if (this.#queues[shard]?.senders.has(client)) this.enqueueFor(message, connection);
    else this.manager.sendPersonalMessage(message, connection);
  }

  /**
   * To one connection, at once, and after all that waits: it is sent that now, alone, and not again when that is
   * written. So nothing has to wait for the write, and nobody else's write comes sooner.
   */
  enqueueFor(message: Content, connection: L): void {
    const { shard, socket } = connection;
    const queue = this.#queues[shard];
    if (!socket || !queue || queue.waiting.length === 0) return void connection.send(message);
    const sent = queue.ahead.get(connection);
    socket.cork(() => {
      sendFrom(queue.waiting, sent ?? 0, connection);
      connection.send(message);
    });
    if (sent === undefined) socket.unsubscribe(this.#topic(connection));
    queue.ahead.set(connection, queue.waiting.length);
  }

  /** From here on it receives what is broadcast; what waits now it has been sent. */
  subscribe(connection: L): void {
    const queue = this.#queues[connection.shard];
    if (queue && queue.waiting.length > 0) queue.ahead.set(connection, queue.waiting.length);
    else connection.socket?.subscribe(this.#topic(connection));
  }

  #topic({ wire, shard }: L): string {
    return this.manager.topic(wire, shard);
  }

  /** Nothing waits any longer. */
  flush(): void {
    for (const section of this.#queues.keys()) this.#write(section);
  }

  /** Nobody is there any more: what waits is for nobody, nor for who comes into a new room of that name. */
  close(): void {
    this.#queues.length = 0;
    clearTimeout(this.#slowTimer);
  }

  async #runFlushCycle(): Promise<void> {
    const round: FlushCycle = { isPausing: false };
    this.#flushCycle = round;
    try {
      const startMs = performance.now();
      let isCrowd = false;
      let writes = 0;
      for (const section of this.#queues.keys()) {
        if (writes >= MAX_SHARD_SIZE) {
          isCrowd = true;
          writes = 0;
          await afterSocketWrites();
        }
        const size = this.manager.shardSizes[section] ?? 0;
        writes += size * Math.ceil(this.#write(section) / FRAMES_PER_WRITE);
      }
      round.isPausing = !isCrowd;
      await afterSocketWrites();
      if (isCrowd) await Bun.sleep(Math.min(REST_RATIO * (performance.now() - startMs), MAX_REST_MS));
      round.isPausing = true;
      await Bun.sleep(this.flushMs);
    } finally {
      // Not so when something could not wait.
      if (this.#flushCycle === round) {
        this.#flushCycle = undefined;
        if (this.#queues.some(({ waiting }) => waiting.length > 0)) void this.#runFlushCycle();
      }
    }
  }

  /** @returns how many messages were waiting */
  #write(section: number): number {
    const queue = this.#queues[section];
    if (!queue || queue.waiting.length === 0) return 0;
    const { waiting, characters, ahead } = queue;
    queue.waiting = [];
    queue.characters = 0;
    queue.senders.clear();
    if (ahead.size > 0) queue.ahead = new Map();
    let isSlow = false;
    for (const { to, message } of waiting)
      try {
        isSlow = this.manager.broadcast(to, section, message) < 0 || isSlow;
      } catch (error) {
        this.fail(error, (each) => each.shard === section && each.wire === to && !ahead.has(each));
      }
    for (const [connection, sent] of ahead)
      try {
        connection.socket?.cork(() => (isSlow = sendFrom(waiting, sent, connection) || isSlow));
        connection.socket?.subscribe(this.#topic(connection));
      } catch (error) {
        this.fail(error, (each) => each === connection);
      }
    if (isSlow) this.#scheduleSlowCheck(characters);
    return waiting.length;
  }

  /**
   * A broadcast has thrown, which is a fault of ours. What was stored is acknowledged all the same, so the connections
   * that it did not reach are closed before anything that follows it, and resume.
   */
  fail(error: unknown, isAffected: (connection: L) => boolean = () => true): void {
    logError("A broadcast failed", error);
    // A replay reads the history, where it is.
    for (const each of this.manager.connections())
      if (isAffected(each) && !this.catchingUp.has(each)) this.dismiss(each, "undelivered");
  }

  /** Looks who it is, now and then, and sooner the more is being said. */
  #scheduleSlowCheck(characters: number): void {
    this.#charactersSinceSlowCheck += characters;
    if (this.#charactersSinceSlowCheck > SLOW_CONSUMER_BYTES / 4) return this.#disconnectSlow();
    this.#slowTimer ??= setTimeout(() => this.#disconnectSlow(), SLOW_CHECK_MS);
  }

  #disconnectSlow(): void {
    clearTimeout(this.#slowTimer);
    this.#slowTimer = undefined;
    this.#charactersSinceSlowCheck = 0;
    for (const connection of this.manager.connections())
      if (connection.socket && isSlowConsumer(connection.socket)) this.dismiss(connection, "tooSlow");
  }

  #receiverCount(wire: WireFormat): number {
    let count = this.manager.countByWire(wire);
    for (const connection of this.catchingUp) if (connection.wire === wire) count--;
    return count;
  }
}

/** @returns whether it does not keep up */
function sendFrom(waiting: readonly OutboundFrame[], start: number, connection: Listener): boolean {
  let isSlow = false;
  for (let i = start; i < waiting.length; i++) {
    const outgoing = waiting[i];
    if (outgoing?.to === connection.wire) isSlow = connection.send(outgoing.message) < 0 || isSlow;
  }
  return isSlow;
}

/** Only in one of the next two turns does Bun write to the sockets, which takes milliseconds. */
async function afterSocketWrites(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise(setImmediate);
}
