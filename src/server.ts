#!/usr/bin/env bun
/**
 * Hubbub: the chat server of the "WebSockets in FastAPI" tutorial, made to be depended on.
 *
 * The way of a message, the same for every wire and every store:
 *
 *     socket → protocol.parse → Hub.hear → store.append ─┐
 *                                                        │  the store gives it its id, in one order
 *     sockets ← topic ← protocol.encode ← Hub.#follow ←──┘
 *
 * The files, in reading order:
 *
 *     server.ts    starts Bun.serve; its routes, and what each socket event leads to
 *     door.ts      who may come in: Host, Origin, and what the address asks for
 *     hub.ts       what happens when: come, speak, fall behind, go; an entry comes back
 *     visitor.ts   one connection in a room: what it asked for, and what it is sent
 *     manager.ts   the ConnectionManager: who is in a room, and who has gone
 *     protocol.ts  both wires: frames in, commands out; entries and events in, frames out
 *     events.ts    what the JSON wire says, as types; the client has the same
 *     store.ts     what a store is: a draft in, an entry out; a room's history
 *     sessions.ts  exactly once and in order: the senders' numbered messages
 *     memory.ts    the memory store; stores.ts, the table of all stores
 *     page.ts      index.html and the client module as responses; transpile.ts, the macro that makes the latter
 *     client.ts    the client, for browsers and Bun: a connection that mends itself
 *     join.ts      the client at a terminal: `hubbub join URL`
 *     options.ts   the command line and the environment
 *     console.ts   what the operator is told
 *
 * Nothing imports this file.
 */

import { hostname } from "node:os";
import { version } from "../package.json";
import { describeListenError, greet, report } from "./console.ts";
import { readWish, refuse } from "./door.ts";
import { Hub } from "./hub.ts";
import { join } from "./join.ts";
import { helpText, readCommand, type Options } from "./options.ts";
import { clientModule, page } from "./page.ts";
import { closes, isTooBig, MAX_FRAME_BYTES, SUBPROTOCOL } from "./protocol.ts";
import { stores } from "./stores.ts";
import { isBehind, type Visitor } from "./visitor.ts";

/** What Bun lets wait for a reader before it cuts it off. The hub dismisses one earlier, and with a close code. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
const RETRY_AFTER_SECONDS = 5;

/** What a socket is for. */
type Visit = "echo" | Visitor;
type Socket = Bun.ServerWebSocket<Visit>;

function serve(options: Options): Bun.Server<Visit> {
  const machineName = hostname();
  const makeStore = stores.get(options.store.protocol);
  if (!makeStore) throw new Error(`no such store: ${options.store.protocol}`);
  const hub = new Hub(
    (follow) => makeStore(options.store, options.history, follow),
    (topic, message) => server.publish(topic, message, false),
  );

  const server: Bun.Server<Visit> = Bun.serve<Visit>({
    hostname: options.host,
    port: options.port,
    development: false,
    reusePort: false, // without development mode Bun shares the port: a second server would start, and split the room

    routes: {
      "/": { GET: toClient },
      "/client": { GET: page },
      "/hubbub.js": { GET: clientModule },
      "/websocket": { GET: (request: Request) => refusal(request) ?? upgrade(request, "echo") },
      "/ws/:id": { GET: chat },
      "/websocket/:id": { GET: chat },
    },
    fetch: ({ method }) =>
      method === "GET" || method === "HEAD"
        ? answer(404, "There is nothing here: the chat is at /client.")
        : answer(405, "Only GET and HEAD are answered here.", { Allow: "GET, HEAD" }),
    error(error) {
      report("A request failed", error);
      return answer(500, "Something went wrong on our side: please try again.");
    },

    websocket: {
      maxPayloadLength: MAX_FRAME_BYTES,
      backpressureLimit: MAX_UNREAD_BYTES,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,

      open: guarded((socket) => {
        if (socket.data !== "echo") hub.enter(socket.data, socket);
      }),
      message: guarded((socket, message: string | Buffer<ArrayBuffer>) => {
        if (socket.data !== "echo") hub.hear(socket.data, message);
        else echo(socket, message);
      }),
      drain: guarded((socket) => {
        if (socket.data !== "echo") hub.catchUp(socket.data);
      }),
      close: guarded((socket) => {
        if (socket.data !== "echo") hub.leave(socket.data);
      }),
    },
  });

  async function chat(request: Bun.BunRequest<"/ws/:id">): Promise<Response | undefined> {
    const wish = readWish(request.params.id, request.url, request.headers, options.history);
    if ("sentence" in wish) return answer(wish.status, wish.sentence);
    const refused = refusal(request);
    if (refused) return refused;
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") return notWebSocket();
    const visitor = await hub.reserve(wish);
    if (visitor === "unavailable")
      return answer(503, "This room cannot be opened just now: please try again in a moment.", {
        "Retry-After": `${RETRY_AFTER_SECONDS}`,
      });
    const response = upgrade(request, visitor, wish.wire === "json" ? SUBPROTOCOL : "");
    if (response) hub.release(visitor);
    return response;
  }

  function refusal(request: Request): Response | undefined {
    const refused = refuse(request.headers, machineName);
    return refused && answer(refused.status, refused.sentence);
  }

  /** Left alone, Bun agrees to whichever subprotocol is offered first. */
  function upgrade(request: Request, data: Visit, subprotocol = ""): Response | undefined {
    if (server.upgrade(request, { data, headers: { "Sec-WebSocket-Protocol": subprotocol } }))
      return undefined;
    return notWebSocket();
  }

  return server;
}

function echo(socket: Socket, message: string | Buffer<ArrayBuffer>): void {
  if (isTooBig(message)) return socket.close(1009, closes[1009]);
  const sent = socket.send(typeof message === "string" ? `Message text was: ${message}` : message);
  if (sent < 0 && isBehind(socket)) socket.close(1013, closes[1013]);
}

function toClient(request: Request): Response {
  return answer(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
  });
}

function notWebSocket(): Response {
  return answer(426, "Open this address with a WebSocket client; the chat's page is at /client.", {
    Connection: "Upgrade",
    Upgrade: "websocket",
  });
}

function answer(status: number, sentence: string, headers: Record<string, string> = {}): Response {
  return new Response(`${sentence}\n`, {
    status,
    headers: { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", ...headers },
  });
}

/** Bun ends the whole process when a socket handler throws; here, only the one connection ends. */
function guarded<Rest extends unknown[]>(handle: (socket: Socket, ...rest: Rest) => void) {
  return (socket: Socket, ...rest: Rest): void => {
    try {
      handle(socket, ...rest);
    } catch (error) {
      report("A socket's handler failed", error);
      socket.close(1011, closes[1011]);
    }
  };
}

function listen(options: Options): Bun.Server<Visit> {
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
      await join(command.address, {
        input: process.stdin,
        output: process.stdout,
        errors: process.stderr,
        user: process.env.USER,
      }),
    );
    break;
  case "refuse":
    for (const mistake of command.mistakes) console.error(mistake);
    process.exit(2);
    break;
  case "serve":
    process.on("uncaughtException", (error) => report("Something failed", error));
    process.on("unhandledRejection", (error) => report("Something failed", error));
    greet(version, listen(command.options), process.stdout.isTTY);
    break;
  default:
    command satisfies never;
}
