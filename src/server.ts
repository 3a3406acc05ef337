#!/usr/bin/env bun
/**
 * Hubbub: the chat server of the "WebSockets in FastAPI" tutorial, made to be depended on.
 *
 * The way of a message, the same for every wire and every store:
 *
 *     socket → Hub.hear → protocol.parse → limits → store.append ─┐
 *                                                                 │  the store gives it its id, in one order
 *     sockets ← topic ← protocol.encode ← Hub.#follow ←───────────┘
 *
 * The files, in reading order:
 *
 *     server.ts    starts Bun.serve; its routes, and what each socket event leads to
 *     door.ts      who may come in: Host, Origin, tokens, and what the address asks for
 *     tokens.ts    who somebody is; names.ts, what may be a name
 *     connections.ts  all open sockets: how many there may be, which are alive, until when they may stay
 *     hub.ts       what happens when: come, speak, fall behind, go; an entry comes back
 *     visitor.ts   one connection in a room: what it asked for, and what it is sent
 *     manager.ts   the ConnectionManager: who is in a room, and who has gone
 *     protocol.ts  both wires: frames in, commands out; entries and events in, frames out
 *     limits.ts    how much one connection may send
 *     events.ts    what the JSON wire says, as types; the client has the same
 *     store.ts     what a store is: a draft in, an entry out; a room's history
 *     sessions.ts  exactly once and in order: the senders' numbered messages
 *     memory.ts    the memory store; stores.ts, the table of all stores
 *     page.ts      index.html and the client module as responses; transpile.ts, the macro that makes the latter
 *     client.ts    the client, for browsers and Bun: a connection that mends itself
 *     join.ts      the client at a terminal: `hubbub join URL`
 *     answers.ts   what HTTP requests are answered with
 *     options.ts   the command line and the environment; flags.ts, how such a table is read
 *     console.ts   what the operator is told
 *
 * Nothing imports this file.
 */

import { hostname } from "node:os";
import { version } from "../package.json";
import { answer, nothingHere, notWebSocket, preflight, readableBy, refusal, toClient } from "./answers.ts";
import { Connections, networkOf, type Connection, type Socket } from "./connections.ts";
import { describeListenError, greet, link, report } from "./console.ts";
import { addressOf, Door, readWish, roomUnavailable } from "./door.ts";
import { Hub } from "./hub.ts";
import { join } from "./join.ts";
import { Allowance } from "./limits.ts";
import { helpText, readCommand, type Options } from "./options.ts";
import { clientModule, page } from "./page.ts";
import { closes, isTooBig, maxFrameBytes, SUBPROTOCOL, text } from "./protocol.ts";
import { stores } from "./stores.ts";
import { Tokens } from "./tokens.ts";
import { isBehind, type Wish } from "./visitor.ts";

/** What Bun lets wait for a reader before it cuts it off. The hub dismisses one earlier, and with a close code. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;

function serve(options: Options): Bun.Server<Connection> {
  const { publicUrl, allowOrigin, secretFile, maxMessageBytes } = options;
  const tokens = secretFile === undefined ? undefined : new Tokens(secretFile);
  const door = new Door({ publicUrl, allowOrigin, tokens, machineName: hostname() });
  const rate = { perSecond: options.messageRate, burst: options.messageBurst };
  const connections = new Connections(options);
  const makeStore = stores.get(options.store.protocol);
  if (!makeStore) throw new Error(`no such store: ${options.store.protocol}`);
  const hub = new Hub(
    (follow) => makeStore(options.store, options.history, follow),
    (topic, message) => server.publish(topic, message, false),
    options,
  );

  const chatRoute = { GET: chat, OPTIONS: mayAsk };
  const server: Bun.Server<Connection> = Bun.serve<Connection>({
    hostname: options.host,
    port: options.port,
    development: false,
    reusePort: false, // without development mode Bun shares the port: a second server would start, and split the room

    routes: {
      "/": { GET: toClient },
      "/client": { GET: page },
      "/hubbub.js": { GET: clientModule },
      "/websocket": { GET: (request: Request) => letIn(request) },
      "/ws/:id": chatRoute,
      "/websocket/:id": chatRoute,
    },
    fetch: nothingHere,
    error(error) {
      report("A request failed", error);
      return answer(500, "Something went wrong on our side: please try again.");
    },

    websocket: {
      maxPayloadLength: maxFrameBytes(maxMessageBytes),
      backpressureLimit: MAX_UNREAD_BYTES,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
      idleTimeout: 0, // the sweep does it
      sendPings: false,

      open: guarded((socket) => {
        connections.opened(socket, performance.now());
        if (socket.data.visitor) hub.enter(socket.data.visitor, socket);
      }),
      message: guarded((socket, message: string | Buffer<ArrayBuffer>) => {
        socket.data.unansweredPings = 0;
        if (socket.data.visitor) hub.hear(socket.data.visitor, message);
        else echo(socket, message);
      }),
      ping: guarded(showsLife),
      pong: guarded(showsLife),
      drain: guarded((socket) => {
        socket.data.unansweredPings = 0; // it reads
        if (socket.data.visitor) hub.catchUp(socket.data.visitor);
      }),
      close: guarded((socket) => {
        connections.closed(socket);
        if (socket.data.visitor) hub.leave(socket.data.visitor);
      }),
    },
  });
  setInterval(() => connections.sweep(performance.now()), connections.sweepMs).unref();

  async function chat(request: Bun.BunRequest<"/ws/:id">): Promise<Response | undefined> {
    const wish = readWish(request.params.id, request.url, request.headers, options.history);
    const response = "sentence" in wish ? refusal(wish) : await letIn(request, wish);
    return response && readableBy(door.allowedOrigin(request.headers), response);
  }

  /** Every refusal comes before the upgrade, and a plain GET gets the same one. The echo has no wish. */
  async function letIn(request: Request, wish?: Wish): Promise<Response | undefined> {
    const { url, headers } = request;
    const network = networkOf(addressOf(headers, server.requestIP(request)?.address, options.trustProxy));
    const pass = door.admit(url, headers, wish ?? {}, Date.now());
    if ("sentence" in pass) return refusal(pass);
    const full = connections.refuse(network);
    if (full) return refusal(full);
    if (headers.get("upgrade")?.toLowerCase() !== "websocket") return notWebSocket();

    connections.reserve(network);
    const allowance = new Allowance(rate);
    const visitor = wish && (await hub.reserve(wish, allowance).catch(cannotOpen));
    if (visitor !== "unavailable") {
      const { expiresMs } = pass;
      const data = { visitor, allowance, network, expiresMs, unansweredPings: 0, pingedMs: 0 };
      // Left alone, Bun agrees to whichever subprotocol is offered first.
      const subprotocol = wish?.wire === "json" ? SUBPROTOCOL : "";
      if (server.upgrade(request, { data, headers: { "Sec-WebSocket-Protocol": subprotocol } }))
        return undefined;
      if (visitor) hub.release(visitor);
    }
    connections.release(network);
    return visitor === "unavailable" ? refusal(roomUnavailable) : notWebSocket();
  }

  function cannotOpen(error: unknown): "unavailable" {
    report("A room could not be opened", error);
    return "unavailable";
  }

  /** A page of another site asks whether it may show its token. */
  function mayAsk(request: Request): Response {
    const origin = door.allowedOrigin(request.headers);
    return origin === undefined ? nothingHere(request) : preflight(origin);
  }

  function showsLife(socket: Socket): void {
    socket.data.unansweredPings = 0;
    if (!socket.data.allowance.bear(performance.now())) socket.close(...closes.abuse);
  }

  function echo(socket: Socket, message: string | Buffer<ArrayBuffer>): void {
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

  return server;
}
/** Bun ends the whole process when a socket handler throws; here, only the one connection ends. */
function guarded<Rest extends unknown[]>(handle: (socket: Socket, ...rest: Rest) => void) {
  return (socket: Socket, ...rest: Rest): void => {
    try {
      handle(socket, ...rest);
    } catch (error) {
      report("A socket's handler failed", error);
      socket.close(...closes.failed);
    }
  };
}

function listen(options: Options): Bun.Server<Connection> {
  try {
    return serve(options);
  } catch (error) {
    console.error(describeListenError(error, options));
    process.exit(2);
  }
}

const command = readCommand(process.argv.slice(2), process.env);
switch (command.do) {
  case "help":
    console.log(helpText());
    break;
  case "version":
    console.log(version);
    break;
  case "join":
    process.exit(
      await join(command.address, command.token, {
        input: process.stdin,
        output: process.stdout,
        errors: process.stderr,
        user: process.env.USER,
      }),
    );
    break;
  case "token":
    console.log(link(command));
    break;
  case "refuse":
    for (const mistake of command.mistakes) console.error(mistake);
    process.exit(2);
    break;
  case "serve":
    process.on("uncaughtException", (error) => report("Something failed", error));
    process.on("unhandledRejection", (error) => report("Something failed", error));
    for (const warning of command.warnings) console.error(warning);
    greet(version, listen(command.options), command.options, process.stdout.isTTY);
    break;
  default:
    command satisfies never;
}
