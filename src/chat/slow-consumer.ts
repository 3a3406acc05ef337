/**
 * Slow consumers: receivers with too much unread data. So that it does not fill the memory, they are closed with 1013,
 * or cut off if they are event streams; they reconnect and resume. The broadcaster does this after a write,
 * `Connection.closeIfSlow` after replies, http/read-throttle.ts to a sender that does not read, and
 * http/socket-handlers.ts on the echo.
 */

import type { ConnectionSocket } from "./socket.ts";

/** More unread bytes than this make a slow consumer. Bun's own limit is higher, and gives no close code. */
export const SLOW_CONSUMER_BYTES = 1024 * 1024;

/** @param heldBytes what waits for the connection besides its socket's buffer */
export function isSlowConsumer(socket: Pick<ConnectionSocket, "getBufferedAmount">, heldBytes = 0): boolean {
  return socket.getBufferedAmount() + heldBytes > SLOW_CONSUMER_BYTES;
}
