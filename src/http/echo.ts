/** The tutorial's other address, `/websocket`: what comes goes back. It costs nobody else anything, so no rate limits it. */

import type { ServerSocket } from "./sockets.ts";
import { exceedsBytes, textCodec } from "../protocol/codec.ts";
import type { Content } from "../store/message.ts";
import { closeSocket, isSlowConsumer } from "../chat/socket.ts";

export function echo(socket: ServerSocket, message: Content, maxMessageBytes: number): void {
  if (exceedsBytes(message, maxMessageBytes)) return closeSocket(socket, "tooBig");
  const sent = socket.send(typeof message === "string" ? textCodec.echo(message) : message);
  if (sent < 0 && isSlowConsumer(socket)) closeSocket(socket, "tooSlow");
}
