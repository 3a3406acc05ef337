/** The tutorial's echo at `/websocket`. No rate limits it, because it affects no other connection. */

import type { ServerSocket } from "./socket-registry.ts";
import { isSlowConsumer } from "../chat/slow-consumer.ts";
import { closeSocket } from "../chat/socket.ts";
import { exceedsBytes, textCodec, type Content } from "../protocol/codec.ts";

export function echo(socket: ServerSocket, frame: Content, maxMessageBytes: number): void {
  if (exceedsBytes(frame, maxMessageBytes)) return closeSocket(socket, "tooBig");
  const sent = socket.send(typeof frame === "string" ? textCodec.echo(frame) : frame);
  if (sent < 0 && isSlowConsumer(socket)) closeSocket(socket, "tooSlow");
}
