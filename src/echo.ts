/** The tutorial's other address, `/websocket`: what comes goes back. */

import type { Socket } from "./connections.ts";
import { messagesRefused } from "./metrics.ts";
import { isTooBig, text } from "./protocol.ts";
import type { Content } from "./store.ts";
import { end, isBehind } from "./visitor.ts";

export function echo(socket: Socket, message: Content, maxMessageBytes: number): void {
  if (isTooBig(message, maxMessageBytes)) return end(socket, "tooBig");
  const { allowance } = socket.data;
  const isText = typeof message === "string";
  const isTaken = allowance.take(message, performance.now()) === 0;
  if (!isTaken) messagesRefused.count("rate-limited");
  const sent = socket.send(
    !isTaken ? text.notSent("rate-limited", message) : isText ? text.echo(message) : message,
  );
  if (sent < 0 && isBehind(socket)) end(socket, "tooSlow");
  else if (!isTaken && !allowance.bear(performance.now(), message)) end(socket, "abuse");
}
