/** The tutorial's other address, `/websocket`: what comes goes back. */

import type { Socket } from "./connections.ts";
import { closes, isTooBig, text } from "./protocol.ts";
import type { Content } from "./store.ts";
import { isBehind } from "./visitor.ts";

export function echo(socket: Socket, message: Content, maxMessageBytes: number): void {
  if (isTooBig(message, maxMessageBytes)) return socket.close(...closes.tooBig);
  const { allowance } = socket.data;
  const isText = typeof message === "string";
  const isTaken = allowance.take(message, performance.now()) === 0;
  const sent = socket.send(
    !isTaken ? text.notSent("rate-limited", message) : isText ? text.echo(message) : message,
  );
  if (sent < 0 && isBehind(socket)) socket.close(...closes.tooSlow);
  else if (!isTaken && !allowance.bear(performance.now())) socket.close(...closes.abuse);
}
