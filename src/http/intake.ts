/**
 * A connection is read no faster than it reads. While much of what its own messages lead to is unread or unanswered, the
 * rest of them waits and its socket is not read, so that TCP slows the sender down: one that writes for a while before
 * it reads loses nothing, and takes no more memory than this.
 */

import type { ServerSocket } from "./sockets.ts";
import { logError } from "../ops/log.ts";
import type { Content } from "../store/message.ts";
import { closeSocket } from "../chat/socket.ts";

/** Less than what makes a slow consumer, since one message more, and the room's next write, come on top of it. */
const MAX_PENDING_BYTES = 256 * 1024;
/** A sender that is held and has read nothing for this long is a slow consumer. */
const MAX_STALLED_MS = 3000;
const LOOKS = 2;

export class Intake {
  constructor(private readonly handle: (socket: ServerSocket, frame: Content) => void) {}

  /** The next frame of a connection. */
  take(socket: ServerSocket, frame: Content): void {
    const { held } = socket.data;
    // What Bun had read already still comes after a pause.
    if (held) return void held.frames.push(frame);
    this.handle(socket, frame);
    if (isFull(socket) && !socket.data.disconnectReason) this.#hold(socket);
  }

  /** The connection has read something, or the store has answered it. */
  goOn(socket: ServerSocket): void {
    const { held } = socket.data;
    if (!held) return;
    held.stalledLooks = 0;
    let next = 0;
    for (const frame of held.frames) {
      if (isFull(socket) || socket.data.disconnectReason) break;
      next++;
      this.handle(socket, frame);
    }
    held.frames.splice(0, next);
    if (socket.data.disconnectReason) return;
    if (isFull(socket)) return this.#awaitAnswers(socket);
    if (held.frames.length === 0) this.#release(socket);
  }

  /** The connection is closed. What it sent before it went is not lost; what it sent to one that was closed here is. */
  closed(socket: ServerSocket): void {
    const { held, disconnectReason } = socket.data;
    if (!held) return;
    this.#release(socket);
    if (!disconnectReason) for (const frame of held.frames) this.handle(socket, frame);
  }

  #hold(socket: ServerSocket): void {
    socket.pause();
    const watch = setInterval(() => this.#lookForStalled(socket), MAX_STALLED_MS / LOOKS);
    socket.data.held = { frames: [], stalledLooks: 0, watch };
    // What is sent in this turn is written at its end: if the network takes all of it, nothing is ever drained.
    setImmediate(() => this.#goOnSafely(socket));
  }

  #awaitAnswers(socket: ServerSocket): void {
    const { connection } = socket.data;
    if (connection) connection.onAnswered = () => setImmediate(() => this.#goOnSafely(socket));
  }

  /** Outside of a socket's handler nobody else catches a fault: it costs this connection. */
  #goOnSafely(socket: ServerSocket): void {
    try {
      this.goOn(socket);
    } catch (error) {
      logError("A held message failed", error);
      closeSocket(socket, "failed");
    }
  }

  #release(socket: ServerSocket): void {
    const { held, connection } = socket.data;
    clearInterval(held?.watch);
    delete socket.data.held;
    if (connection) connection.onAnswered = undefined;
    socket.resume();
  }

  #lookForStalled(socket: ServerSocket): void {
    const { held, connection } = socket.data;
    const isReplaying = connection?.room.replaying.has(connection); // that waits for its reader for as long as it takes
    if (!held || isReplaying) return;
    if (socket.getBufferedAmount() <= MAX_PENDING_BYTES) return this.#goOnSafely(socket);
    if (++held.stalledLooks >= LOOKS) closeSocket(socket, "tooSlow");
  }
}

function isFull(socket: ServerSocket): boolean {
  return (
    socket.getBufferedAmount() > MAX_PENDING_BYTES ||
    (socket.data.connection?.unansweredBytes ?? 0) > MAX_PENDING_BYTES
  );
}
