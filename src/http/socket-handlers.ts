/** What each event of a WebSocket leads to. Importable without a server, so that a simulator can call the handlers. */

import { echo } from "./echo.ts";
import { ReadThrottle } from "./read-throttle.ts";
import type { ServerSocket, SocketRegistry } from "./socket-registry.ts";
import { closeSocket } from "../chat/socket.ts";
import type { Hub } from "../chat/hub.ts";
import { logError, logEvent } from "../ops/log.ts";
import { CLIENT_CODES, disconnectsTotal } from "../ops/metrics.ts";
import type { Content } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";

export interface SocketHandlers {
  open(socket: ServerSocket): void;
  message(socket: ServerSocket, frame: Content): void;
  ping(socket: ServerSocket): void;
  pong(socket: ServerSocket): void;
  drain(socket: ServerSocket): void;
  close(socket: ServerSocket, code: number, reason: string): void;
}

export function socketHandlers(
  hub: Hub,
  sockets: SocketRegistry,
  { maxMessageBytes }: { readonly maxMessageBytes: number },
  clock: Clock,
): SocketHandlers {
  const throttle = new ReadThrottle((socket, frame) => {
    if (socket.data.connection) hub.receive(socket.data.connection, frame);
    else echo(socket, frame, maxMessageBytes);
  }, clock);

  function onControlFrame(socket: ServerSocket): void {
    socket.data.missedPongs = 0;
    if (socket.data.connection?.bucket.chargeAbuse(clock.elapsed()) === false) closeSocket(socket, "abuse");
  }

  return {
    open: isolateErrors((socket) => {
      sockets.add(socket);
      logEvent("connected", connectionFields(socket));
      if (socket.data.connection) hub.join(socket.data.connection, socket);
    }),
    message: isolateErrors((socket, frame: Content) => {
      socket.data.missedPongs = 0;
      throttle.receive(socket, frame);
    }),
    ping: isolateErrors(onControlFrame),
    pong: isolateErrors((socket) => {
      onControlFrame(socket);
      if (socket.data.connection?.socket) hub.sessions.onPong(socket.data.connection);
    }),
    drain: isolateErrors((socket) => {
      socket.data.missedPongs = 0; // it is reading
      socket.data.connection?.onDrain();
      throttle.resume(socket);
    }),
    close: isolateErrors((socket, code: number, reason: string) => {
      throttle.close(socket);
      sockets.remove(socket);
      const { disconnectReason } = socket.data;
      // A client may close with any code, so only the common ones have a label of their own.
      disconnectsTotal.count(disconnectReason || CLIENT_CODES.includes(code) ? code : "other");
      logEvent("disconnected", {
        ...connectionFields(socket),
        code,
        ...(disconnectReason
          ? { reason: disconnectReason === "silent" ? "missed pongs" : reason }
          : { client_reason: reason || undefined }),
      });
      socket.data.connection?.onClosed();
    }),
  };
}

function connectionFields({ data: { connection, addressGroup } }: ServerSocket): Record<string, string> {
  if (!connection) return { path: "/websocket", address: addressGroup };
  return {
    client: connection.client,
    room: connection.room.name,
    wire: connection.codec.name,
    address: addressGroup,
  };
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
