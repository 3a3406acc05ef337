/** The part of Bun's WebSocket that the chat uses, and closing it. */

import { CLOSE_CODES, type CloseReason } from "../protocol/codes.ts";
import type { Content } from "../protocol/codec.ts";

/** Why the server ended a connection; `"silent"`: it was terminated after missed pongs, without a close frame. */
export type DisconnectReason = CloseReason | "silent";

export interface ConnectionSocket {
  readonly data: { disconnectReason?: DisconnectReason };
  ping(): number;
  /** Frames sent inside the callback share one write. */
  cork(sends: () => void): unknown;
  /** Negative if the frame waits in the socket's buffer. */
  send(message: Content): number;
  subscribe(topic: string): unknown;
  unsubscribe(topic: string): unknown;
  getBufferedAmount(): number;
  /** A paused socket has to be resumed before it is closed: unread input makes TCP reset the connection, and the close frame is lost. */
  resume?(): void;
  close(code: number, reason: string): void;
}

export function closeSocket(socket: ConnectionSocket, reason: CloseReason): void {
  socket.data.disconnectReason = reason;
  socket.resume?.();
  const [code, text] = CLOSE_CODES[reason];
  socket.close(code, text);
}
