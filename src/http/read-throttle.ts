/**
 * Slows down a sender that does not read. While too many bytes wait for it to read them, or for a result of the store,
 * its further frames wait and its socket is paused, so that TCP slows it down. A client that writes for a while before it
 * reads loses nothing, and its input takes little memory.
 */

import type { ServerSocket } from "./socket-registry.ts";
import { SLOW_CONSUMER_BYTES } from "../chat/slow-consumer.ts";
import { closeSocket } from "../chat/socket.ts";
import { logError } from "../ops/log.ts";
import type { Content } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";

/** Well below what makes a slow consumer: one more message, and the room's next write, come on top. */
const MAX_PENDING_BYTES = SLOW_CONSUMER_BYTES / 4;
/** A paused sender that has read nothing for this long is a slow consumer. It costs little memory meanwhile. */
const MAX_STALLED_MS = 15_000;
const CHECK_MS = 1000;

export class ReadThrottle {
  constructor(
    private readonly handle: (socket: ServerSocket, frame: Content) => void,
    private readonly clock: Clock,
  ) {}

  receive(socket: ServerSocket, frame: Content): void {
    const { throttled } = socket.data;
    // Frames that Bun had read already arrive even after a pause.
    if (throttled) return void throttled.frames.push(frame);
    this.handle(socket, frame);
    if (isFull(socket) && !socket.data.disconnectReason) this.#pause(socket);
  }

  /** Called when the connection has read something, or has a result from the store. */
  resume(socket: ServerSocket): void {
    const { throttled } = socket.data;
    if (!throttled) return;
    throttled.progressMs = this.clock.elapsed();
    let handled = 0;
    for (const frame of throttled.frames) {
      if (isFull(socket) || socket.data.disconnectReason) break;
      handled++;
      this.handle(socket, frame);
    }
    throttled.frames.splice(0, handled);
    if (socket.data.disconnectReason) return;
    if (isFull(socket)) return this.#awaitResult(socket);
    if (throttled.frames.length === 0) this.#release(socket);
  }

  /** Handles the frames that a client sent before it closed; those of a connection that the server closed are dropped. */
  close(socket: ServerSocket): void {
    const { throttled, disconnectReason } = socket.data;
    if (!throttled) return;
    this.#release(socket);
    if (!disconnectReason) for (const frame of throttled.frames) this.handle(socket, frame);
  }

  #pause(socket: ServerSocket): void {
    socket.pause();
    const watch = this.clock.setInterval(() => this.#checkStalled(socket), CHECK_MS);
    socket.data.throttled = { frames: [], progressMs: this.clock.elapsed(), watch };
    // This turn's frames are written at its end. If the network takes all of them, no drain event follows.
    this.clock.setImmediate(() => this.#resumeSafely(socket));
  }

  #awaitResult(socket: ServerSocket): void {
    const { connection } = socket.data;
    if (connection) connection.onNextResult = () => this.clock.setImmediate(() => this.#resumeSafely(socket));
  }

  /** For calls from timers, where no socket handler isolates errors: an exception closes only this connection. */
  #resumeSafely(socket: ServerSocket): void {
    try {
      this.resume(socket);
    } catch (error) {
      logError("Handling a waiting frame failed", error);
      closeSocket(socket, "failed");
    }
  }

  #release(socket: ServerSocket): void {
    const { throttled, connection } = socket.data;
    this.clock.clear(throttled?.watch);
    delete socket.data.throttled;
    if (connection) connection.onNextResult = undefined;
    socket.resume();
  }

  #checkStalled(socket: ServerSocket): void {
    const { throttled, connection } = socket.data;
    const isReplaying = connection?.isReplaying; // a replay waits for its reader without limit
    if (!throttled || isReplaying) return;
    if (socket.getBufferedAmount() <= MAX_PENDING_BYTES) {
      socket.data.missedPongs = 0; // its pongs are not read while it waits for the store
      return this.#resumeSafely(socket);
    }
    if (this.clock.elapsed() - throttled.progressMs >= MAX_STALLED_MS) closeSocket(socket, "tooSlow");
  }
}

function isFull(socket: ServerSocket): boolean {
  return (
    socket.getBufferedAmount() > MAX_PENDING_BYTES ||
    (socket.data.connection?.pendingBytes ?? 0) > MAX_PENDING_BYTES
  );
}
