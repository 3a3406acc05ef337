#!/usr/bin/env bun
/**
 * Hubbub: the chat server of the "WebSockets in FastAPI" tutorial, made to be depended on.
 *
 * The way of a message:
 *
 *     socket → `message`, below → ConnectionManager → the room's topic → every socket in the room
 *
 * The files, in reading order:
 *
 *     server.ts       starts Bun.serve; its routes, and what each socket event does
 *     door.ts         who may come in: Host, Origin, the client's id
 *     connections.ts  the ConnectionManager: who is in the room, and who has gone
 *     page.ts         index.html as a response, with its content security policy
 *     options.ts      the command line and the environment
 *     console.ts      what the operator is told
 *
 * Nothing imports this file.
 */

import { hostname } from "node:os";
import { version } from "../package.json";
import { ConnectionManager } from "./connections.ts";
import { describeListenError, greet, report } from "./console.ts";
import { readId, refuse } from "./door.ts";
import { helpText, readCommand, type Options } from "./options.ts";
import { page } from "./page.ts";

/** The largest message; what is larger is closed with 1009 by Bun. */
const MAX_MESSAGE_BYTES = 64 * 1024;
/** A reader with more than this unread is closed; left open, Bun would skip messages for it in silence. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
/**
 * A leave waits this long: others join it, and a client that is back by then has not left. Announced one by
 * one, 10,000 clients that go at once stall a server for 15 s.
 */
const LEAVE_GATHER_MS = 100;
/** Announcements × listeners in one go; then other work has its turn. */
const MAX_DELIVERIES_AT_ONCE = 100_000;

/** What a socket is for, decided by its path before the upgrade. */
type Visit = { readonly to: "echo" } | { readonly to: "chat"; readonly client: string };
type Socket = Bun.ServerWebSocket<Visit>;

function serve(options: Options): Bun.Server<Visit> {
  const manager = new ConnectionManager((topic, message) => server.publish(topic, message, false));
  const machineName = hostname();

  const server: Bun.Server<Visit> = Bun.serve<Visit>({
    hostname: options.host,
    port: options.port,
    development: false,
    reusePort: false, // without development mode Bun shares the port: a second server would start, and split the room

    routes: {
      "/": { GET: toClient },
      "/client": { GET: page },
      "/websocket": { GET: (request: Request) => enter(request, { to: "echo" }) },
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
      maxPayloadLength: MAX_MESSAGE_BYTES,
      backpressureLimit: MAX_UNREAD_BYTES,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,

      open: guarded((socket) => {
        if (socket.data.to === "chat") manager.connect(socket.data.client, socket);
      }),
      message: guarded((socket, message: string | Buffer<ArrayBuffer>) => {
        const visit = socket.data;
        if (visit.to === "echo") {
          socket.send(typeof message === "string" ? `Message text was: ${message}` : message);
        } else if (typeof message === "string") {
          manager.sendPersonalMessage(`You wrote: ${message}`, socket);
          manager.broadcast(`Client #${visit.client} says: ${message}`);
        } else {
          manager.broadcast(message);
        }
      }),
      close: guarded((socket) => {
        if (socket.data.to === "echo") return;
        manager.disconnect(socket.data.client, socket, performance.now());
        gatherLeaves();
      }),
    },
  });

  function chat(request: Bun.BunRequest<"/ws/:id">): Response | undefined {
    const client = readId(request.params.id);
    return "id" in client
      ? enter(request, { to: "chat", client: client.id })
      : answer(client.status, client.sentence);
  }

  function enter(request: Request, visit: Visit): Response | undefined {
    const refusal = refuse(request.headers, machineName);
    if (refusal) return answer(refusal.status, refusal.sentence);
    // Left alone, Bun agrees to whichever subprotocol is offered first.
    if (server.upgrade(request, { data: visit, headers: { "Sec-WebSocket-Protocol": "" } })) return undefined;
    return answer(426, "Open this address with a WebSocket client; the chat's page is at /client.", {
      Connection: "Upgrade",
      Upgrade: "websocket",
    });
  }

  let leavesTimer: Timer | undefined;
  function gatherLeaves(): void {
    if (manager.hasGone) leavesTimer ??= setTimeout(announceLeaves, LEAVE_GATHER_MS / 2);
  }

  function announceLeaves(): void {
    leavesTimer = undefined;
    const atOnce = Math.ceil(MAX_DELIVERIES_AT_ONCE / Math.max(manager.size, 1));
    try {
      for (const client of manager.takeGone(atOnce, performance.now() - LEAVE_GATHER_MS))
        manager.broadcast(`Client #${client} left the chat`);
    } finally {
      gatherLeaves();
    }
  }

  return server;
}

function toClient(request: Request): Response {
  return answer(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
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
      socket.close(1011, "Something went wrong on our side: please come back.");
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
