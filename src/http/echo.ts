/** The tutorial's other address, `/websocket`: what comes goes back. It costs nobody else anything, so no rate limits it. */

import type { Socket } from "./sockets.ts";
import { isTooBig, text } from "../protocol/codec.ts";
import type { Content } from "../store/store.ts";
import { end, isBehind } from "../chat/connection.ts";

export function echo(socket: Socket, message: Content, maxMessageBytes: number): void {
  if (isTooBig(message, maxMessageBytes)) return end(socket, "tooBig");
  const sent = socket.send(typeof message === "string" ? text.echo(message) : message);
  if (sent < 0 && isBehind(socket)) end(socket, "tooSlow");
}
