#!/usr/bin/env bun
/**
 * Hubbub: the chat server of the "WebSockets in FastAPI" tutorial, made to be depended on.
 *
 * The way of a message, the same for every wire and every store:
 *
 *     socket → Hub.hear → protocol.parse → limits → store.append ─┐
 *                                                                 │  the store gives it its id, in one order
 *     sockets ← topic ← FanOut ← protocol.encode ← Hub.#follow ←──┘
 *
 * The files, in reading order:
 *
 *     server.ts    starts Bun.serve; its routes, and what each socket event leads to
 *     entrance.ts  how a connection comes in: every refusal before the upgrade
 *     door.ts      who may come in: Host, Origin, tokens, and what the address asks for
 *     tokens.ts    who somebody is; names.ts, what may be a name
 *     connections.ts  all open sockets: how many, which are alive, until when they may stay; echo.ts, the other address
 *     descriptors.ts  how many file descriptors there are for them
 *     hub.ts       what happens when: come, speak, fall behind, go; an entry comes back
 *     intake.ts    which frames wait, because their sender has not read what came of the last ones
 *     hearing.ts   what a frame leads to, up to the store
 *     rooms.ts     the rooms that somebody is in; holders.ts, who has a session
 *     catch-up.ts  what was said before, for who has just come
 *     fan-out.ts   what goes out to a room, and when; announcements.ts, who has come and gone
 *     visitor.ts   one connection in a room: what it asked for, and what it is sent; personal-lines.ts, the text wire's
 *                  lines for a sender alone
 *     manager.ts   the ConnectionManager: who is in a room, and who has gone
 *     protocol.ts  both wires: frames in, commands out; entries and events in, frames out; events.ts, JSON's as types
 *     limits.ts    how much one connection may send
 *     store.ts     what a store is: a draft in, an entry out; a room's history
 *     sessions.ts  exactly once and in order: the senders' numbered messages
 *     clock-watch.ts  whether ids run ahead of the clock; room-cache.ts, the histories that stores keep in memory
 *     stores.ts    the table of all stores; memory.ts; sqlite.ts, sqlite-file.ts, sqlite-health.ts, sqlite-mark.ts
 *     redis/       store.ts; writer.ts, what goes there, in batches; log.ts, what comes back; rooms.ts, what that tells of
 *                  rooms; changes.ts, what the others are told; nodes.ts, who they are; prelude.ts, scripts.ts and
 *                  node-scripts.ts, what Redis does; records.ts, what it gives; line.ts, a connection; address.ts, which
 *     api.ts       the rooms over HTTP; answers.ts, what HTTP requests are answered with
 *     page.ts      index.html and the client module as responses; macros.ts, what is made of them beforehand
 *     client.ts    the client, for browsers and Bun: a connection that mends itself
 *     join.ts      the client at a terminal: `hubbub join URL`
 *     options.ts   the command line and the environment; flags.ts, option-values.ts; manual.ts, --help
 *     stopping.ts  how it ends; node.ts, what of Node is loaded only when needed
 *     console.ts   what is said at the start; log.ts and metrics.ts, what the operator sees afterwards
 *
 * Nothing imports this file.
 */

import { version } from "../package.json";
import { answer, failed, nothingHere, preflight, toClient } from "./http/responses.ts";
import { roomRoutes } from "./http/rooms-api.ts";
import { Connections, type Connection, type Socket } from "./http/sockets.ts";
import { describeStartError, greet, isOnTerminal, isTerminal, link, startExitCode } from "./cli/banner.ts";
import { connectionsFor, maxDescriptors, watchDescriptors } from "./http/descriptors.ts";
import { Door } from "./http/access.ts";
import { echo } from "./http/echo.ts";
import { Entrance } from "./http/upgrade.ts";
import { Hub } from "./chat/hub.ts";
import { Intake } from "./http/intake.ts";
import { note, report, startLog } from "./ops/log.ts";
import {
  CLIENT_CODES,
  disconnects,
  gauge,
  metricsText,
  watchEventLoop,
  watchProcess,
} from "./ops/metrics.ts";
import { os } from "./util/lazy-node.ts";
import { readCommand, type Options } from "./cli/command.ts";
import { clientModule, page } from "./http/page.ts";
import { maxFrameBytes } from "./protocol/codec.ts";
import { stores } from "./store/open.ts";
import { stop, stopOnSignals, type Running } from "./http/shutdown.ts";
import { Tokens } from "./auth/tokens.ts";
import { end } from "./chat/connection.ts";

/** What Bun lets wait for a reader before it cuts it off. The hub dismisses one earlier, and with a close code. */
const MAX_UNREAD_BYTES = 4 * 1024 * 1024;
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

async function serve(options: Options): Promise<Running> {
  const { publicUrl, allowHost, allowOrigin, openMetrics, secretFile, maxMessageBytes } = options;
  const tokens = secretFile === undefined ? undefined : new Tokens(secretFile);
  const door = new Door({
    publicUrl,
    allowHost,
    allowOrigin,
    openMetrics,
    tokens,
    machineName: () => os().hostname(),
  });
  const descriptors = maxDescriptors();
  const possible = connectionsFor(descriptors);
  const { maxConnections = possible } = options;
  if (possible > 0 && maxConnections > possible)
    console.error(
      `--max-connections: ${maxConnections} need more file descriptors than there are, which is ${descriptors} (ulimit -n)`,
    );
  const connections = new Connections({ ...options, maxConnections });
  const makeStore = await stores.get(options.store.protocol)?.(options.store)?.();
  if (!makeStore) throw new Error(`no such store: ${options.store.protocol}`);
  const hub = new Hub(
    (follower) => makeStore(options, follower),
    (topic, message) => server.publish(topic, message, false),
    options,
  );
  const promise = await hub.start();

  const entrance = new Entrance(() => server, door, connections, hub, options);
  const asks = preflight(door, "GET");
  const chatRoute = {
    GET: entrance.chat,
    OPTIONS: (request: Request) => asks(request) ?? nothingHere(request),
    // Of what a page may ask its own site, only this tells its Origin.
    POST(request: Request) {
      const refused = door.refuse(request.headers);
      return refused ? entrance.refuse(request, refused) : nothingHere(request);
    },
  };
  const intake = new Intake((socket, message) => {
    if (socket.data.visitor) hub.hear(socket.data.visitor, message);
    else echo(socket, message, maxMessageBytes);
  });
  const server: Bun.Server<Connection> = Bun.serve<Connection>({
    hostname: options.host,
    port: options.port,
    ...(options.tlsCert && options.tlsKey ? { tls: { cert: options.tlsCert, key: options.tlsKey } } : {}),
    // Bun's own 413 has no sentence, no code, and is not readable for pages: bodies are bounded where they are read.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    development: false,
    reusePort: false, // without development mode Bun shares the port: a second server would start, and split the room

    routes: {
      "/": { GET: toClient },
      "/client": { GET: page },
      "/hubbub.js": { GET: clientModule },
      "/websocket": { GET: (request: Request) => entrance.letIn(request) },
      "/ws/:id": chatRoute,
      "/websocket/:id": chatRoute,
      ...roomRoutes(door, hub, entrance, options),
      "/healthz": { GET: forAnyone(() => answer(200, "It runs.")) },
      "/readyz": { GET: forAnyone(ready) },
      "/metrics": { GET: metrics },
    },
    fetch: nothingHere,
    error(error) {
      report("A request failed", error);
      return failed();
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
        note("joined", factsOf(socket));
        if (socket.data.visitor) hub.enter(socket.data.visitor, socket);
      }),
      message: guarded((socket, message: string | Buffer<ArrayBuffer>) => {
        socket.data.unansweredPings = 0;
        intake.take(socket, message);
      }),
      ping: guarded(showsLife),
      pong: guarded((socket) => {
        showsLife(socket);
        if (socket.data.visitor?.socket) hub.showLife(socket.data.visitor);
      }),
      drain: guarded((socket) => {
        socket.data.unansweredPings = 0; // it reads
        if (socket.data.visitor) hub.catchUp(socket.data.visitor);
        intake.goOn(socket);
      }),
      close: guarded((socket, code: number, reason: string) => {
        intake.closed(socket);
        connections.closed(socket);
        const { ended } = socket.data;
        // A client may close with any code; of those few are told apart, and none that is ours.
        disconnects.count(ended || CLIENT_CODES.includes(code) ? code : "other");
        const said = reason || undefined;
        const why = ended === "silent" ? "no sign of life" : said;
        note("left", { ...factsOf(socket), code, ...(ended ? { why } : { said }) });
        if (socket.data.visitor) hub.leave(socket.data.visitor);
      }),
    },
  });
  setInterval(() => connections.sweep(performance.now()), connections.sweepMs).unref();
  watchEventLoop();
  watchDescriptors(server, descriptors);
  gauge("hubbub_build_info", "1, with the version of this server.", () => 1, { version });
  watchProcess(descriptors);
  gauge("hubbub_connections", "Open WebSockets.", () => connections.size);
  gauge("hubbub_rooms", "Rooms with somebody in them.", () => hub.roomCount);
  gauge("hubbub_buffered_bytes", "Bytes that wait for slow readers.", () => connections.bufferedBytes);
  gauge("hubbub_store_ready", "1 if messages are kept just now.", () => Number(hub.isReady));

  /** But for pages of other sites. */
  function forAnyone(give: () => Response) {
    return (request: Request): Response => {
      const foreign = door.refuseMarked(request.headers);
      return foreign ? entrance.refuse(request, foreign) : give();
    };
  }

  function ready(): Response {
    return hub.isReady
      ? answer(200, "Messages are taken, and kept.")
      : answer(503, "No messages are taken just now.");
  }

  function metrics(request: Request): Response {
    const refused = door.admitObserver(request, server.requestIP(request)?.address ?? "", Date.now());
    return refused
      ? entrance.refuse(request, refused)
      : answer(200, metricsText(), { "Content-Type": METRICS_TYPE });
  }

  function showsLife(socket: Socket): void {
    socket.data.unansweredPings = 0;
    if (socket.data.visitor?.allowance.bear(performance.now()) === false) end(socket, "abuse");
  }

  return { server, promise, stop: () => stop(server, hub, connections, options.drainSeconds) };
}

function factsOf({ data: { visitor, network } }: Socket): Record<string, string> {
  if (!visitor) return { path: "/websocket", address: network };
  return { client: visitor.client, room: visitor.room.name, wire: visitor.wire, address: network };
}

/** A handler that throws has lost its place: its connection ends, and no other. */
function guarded<Rest extends unknown[]>(handle: (socket: Socket, ...rest: Rest) => void) {
  return (socket: Socket, ...rest: Rest): void => {
    try {
      handle(socket, ...rest);
    } catch (error) {
      report("A socket's handler failed", error);
      end(socket, "failed");
    }
  };
}

async function listen(options: Options): Promise<Running> {
  try {
    return await serve(options);
  } catch (error) {
    const sentence = describeStartError(error, options);
    if (sentence) console.error(sentence);
    else report("The start failed", error);
    process.exit(startExitCode(error));
  }
}

const command = readCommand(process.argv.slice(2), process.env);
switch (command.do) {
  case "help":
    console.log((await import("./cli/help.ts")).helpText(command.about));
    break;
  case "version":
    console.log(version);
    break;
  case "join":
    process.exit(
      await (
        await import("./cli/join.ts")
      ).join(command.address, command.token, {
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
  case "serve": {
    process.on("uncaughtException", (error) => report("Something failed", error));
    process.on("unhandledRejection", (error) => report("Something failed", error));
    const { options, warnings } = command;
    for (const warning of warnings) console.error(warning);
    startLog(options.log);
    const running = await listen(options);
    greet(version, running.server, running.promise, options, isTerminal());
    stopOnSignals(running, isOnTerminal());
    break;
  }
  default:
    command satisfies never;
}
