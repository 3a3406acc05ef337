/** What each event of a WebSocket leads to. Importable without a server, so that a simulator can call the handlers. */

import { ReadThrottle } from "./read-throttle.ts";
import type { ServerSocket, SocketRegistry } from "./socket-registry.ts";
import type { Hub } from "../chat/hub.ts";
import { receive } from "../chat/receive.ts";
import { isSlowConsumer } from "../chat/slow-consumer.ts";
import { closeSocket } from "../chat/socket.ts";
import { logError, logEvent } from "../ops/log.ts";
import { CLIENT_CODES, disconnectsTotal } from "../ops/metrics.ts";
import { exceedsBytes, textCodec, type Content } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";

export function socketHandlers(
  hub: Hub,
  sockets: SocketRegistry,
  { maxMessageBytes }: { readonly maxMessageBytes: number },
  clock: Clock,
) {
  const throttle = new ReadThrottle((socket, frame) => {
    if (socket.data.connection) receive(socket.data.connection, frame);
    else echo(socket, frame, maxMessageBytes);
  }, clock);

  function onFrame({ data }: ServerSocket): void {
    data.missedPongs = 0;
    if (data.connection?.socket) hub.sessions.onFrame(data.connection);
  }

  function onControlFrame(socket: ServerSocket): void {
    onFrame(socket);
    if (socket.data.connection?.bucket.chargeAbuse(clock.elapsed()) === false) closeSocket(socket, "abuse");
  }

  return {
    open: isolateErrors((socket) => {
      sockets.add(socket);
      logEvent("connected", connectionFields(socket));
      if (socket.data.connection) hub.join(socket.data.connection, socket);
    }),
    message: isolateErrors((socket, frame: Content) => {
      onFrame(socket);
      throttle.receive(socket, frame);
    }),
    ping: isolateErrors(onControlFrame),
    pong: isolateErrors(onControlFrame),
    drain: isolateErrors((socket) => {
      socket.data.missedPongs = 0; // it is reading
      socket.data.connection?.onDrain();
      throttle.resume(socket);
    }),
    close: isolateErrors((socket, code: number, reason: string) => {
      throttle.close(socket);
      sockets.remove(socket);
      const { disconnectReason } = socket.data;
      // A client may close with any code, so only the common ones have their own label.
      disconnectsTotal.count(disconnectReason || CLIENT_CODES.includes(code) ? code : "other");
      const why = disconnectReason
        ? { reason: disconnectReason === "silent" ? "missed pongs" : reason }
        : { client_reason: reason || undefined };
      logEvent("disconnected", { ...connectionFields(socket), code, ...why });
      socket.data.connection?.onClosed();
    }),
  };
}

/** The tutorial's echo at `/websocket`. No rate limits it, because it affects no other connection. */
function echo(socket: ServerSocket, frame: Content, maxMessageBytes: number): void {
  if (exceedsBytes(frame, maxMessageBytes)) return closeSocket(socket, "tooBig");
  const sent = socket.send(typeof frame === "string" ? textCodec.echo(frame) : frame);
  if (sent < 0 && isSlowConsumer(socket)) closeSocket(socket, "tooSlow");
}

function connectionFields({ data: { connection, addressGroup } }: ServerSocket): Record<string, string> {
  if (!connection) return { path: "/websocket", address: addressGroup };
  const { client, room, codec } = connection;
  return { client, room: room.name, format: codec.name, address: addressGroup };
}

/** An exception closes only the connection whose handler threw. */
function isolateErrors<Rest extends unknown[]>(handle: (socket: ServerSocket, ...rest: Rest) => void) {
  return (socket: ServerSocket, ...rest: Rest): void => {
    try {
      handle(socket, ...rest);
    } catch (error) {
      logError("A socket's handler failed", error);
      closeSocket(socket, "failed");
    }
  };
}
