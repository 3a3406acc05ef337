/**
 * Slow consumers: connections that read so slowly that too much waits for them. The broadcaster closes them after a
 * write, and `Connection.closeIfSlow` after their own messages, with 1013, so that their unread data does not fill the
 * memory; they reconnect and resume.
 */

import type { ConnectionSocket } from "./socket.ts";

/** More unread bytes than this make a slow consumer. Bun's own limit is higher, and gives no close code. */
export const SLOW_CONSUMER_BYTES = 1024 * 1024;

/** @param heldBytes what waits for the connection besides its socket's buffer */
export function isSlowConsumer(socket: Pick<ConnectionSocket, "getBufferedAmount">, heldBytes = 0): boolean {
  return socket.getBufferedAmount() + heldBytes > SLOW_CONSUMER_BYTES;
}
