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

import { version } from "../../package.json";
import { textResponse, failed, notFound, corsPreflight, redirectToClient } from "./responses.ts";
import { roomRoutes } from "./rooms-api.ts";
import { SocketRegistry, type SocketData, type ServerSocket } from "./sockets.ts";
import {
  describeStartError,
  printBanner,
  isOnTerminal,
  isTerminal,
  tokenUrl,
  startExitCode,
} from "../cli/banner.ts";
import { connectionsFor, maxDescriptors, watchDescriptors } from "./descriptors.ts";
import { AccessControl } from "./access.ts";
import { echo } from "./echo.ts";
import { Upgrader } from "./upgrade.ts";
import { Hub } from "../chat/hub.ts";
import { Intake } from "./intake.ts";
import { logEvent, logError, configureLog } from "../ops/log.ts";
import {
  CLIENT_CODES,
  disconnectsTotal,
  registerGauge,
  renderMetrics,
  monitorEventLoop,
  watchProcess,
} from "../ops/metrics.ts";
import { systemClock } from "../util/clock.ts";
import { lazyOs } from "../util/lazy-node.ts";
import { parseCommand, type ServerOptions } from "../cli/command.ts";
import { clientModuleResponse, pageResponse } from "./page.ts";
import { maxFrameBytes } from "../protocol/codec.ts";
import { storeFactories } from "../store/open.ts";
import { shutDown, installSignalHandlers, type RunningServer } from "./shutdown.ts";
import { TokenSigner } from "../auth/tokens.ts";
import { closeSocket } from "../chat/connection.ts";

/** What Bun lets wait for a reader before it cuts it off. The hub dismisses one earlier, and with a close code. */
const HARD_BACKPRESSURE_LIMIT = 4 * 1024 * 1024;
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

async function serve(options: ServerOptions): Promise<RunningServer> {
  const { publicUrl, allowHost, allowOrigin, openMetrics, secretFile, maxMessageBytes } = options;
  const tokens = secretFile === undefined ? undefined : new TokenSigner(secretFile);
  const access = new AccessControl({
    publicUrl,
    allowHost,
    allowOrigin,
    openMetrics,
    tokens,
    machineName: () => lazyOs().hostname(),
  });
  const descriptors = maxDescriptors();
  const possible = connectionsFor(descriptors);
  const { maxConnections = possible } = options;
  if (possible > 0 && maxConnections > possible)
    console.error(
      `--max-connections: ${maxConnections} need more file descriptors than there are, which is ${descriptors} (ulimit -n)`,
    );
  const sockets = new SocketRegistry({ ...options, maxConnections });
  const createStore = await storeFactories.get(options.store.protocol)?.(options.store)?.();
  if (!createStore) throw new Error(`no such store: ${options.store.protocol}`);
  const hub = new Hub(
    (listener) => createStore(options, listener),
    (topic, message) => server.publish(topic, message, false),
    options,
  );
  const durability = await hub.start();

  const upgrader = new Upgrader(() => server, access, sockets, hub, options);
  const asks = corsPreflight(access, "GET");
  const chatRoute = {
    GET: upgrader.handleChat,
    OPTIONS: (request: Request) => asks(request) ?? notFound(request),
    // Of what a page may ask its own site, only this tells its Origin.
    POST(request: Request) {
      const refused = access.refuse(request.headers);
      return refused ? upgrader.reject(request, refused) : notFound(request);
    },
  };
  const intake = new Intake((socket, message) => {
    if (socket.data.connection) hub.receive(socket.data.connection, message);
    else echo(socket, message, maxMessageBytes);
  });
  const server: Bun.Server<SocketData> = Bun.serve<SocketData>({
    hostname: options.host,
    port: options.port,
    ...(options.tlsCert && options.tlsKey ? { tls: { cert: options.tlsCert, key: options.tlsKey } } : {}),
    // Bun's own 413 has no sentence, no code, and is not readable for pages: bodies are bounded where they are read.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    development: false,
    reusePort: false, // without development mode Bun shares the port: a second server would start, and split the room

    routes: {
      "/": { GET: redirectToClient },
      "/client": { GET: pageResponse },
      "/hubbub.js": { GET: clientModuleResponse },
      "/websocket": { GET: (request: Request) => upgrader.upgrade(request) },
      "/ws/:id": chatRoute,
      "/websocket/:id": chatRoute,
      ...roomRoutes(access, hub, upgrader, options),
      "/healthz": { GET: forAnyone(() => textResponse(200, "It runs.")) },
      "/readyz": { GET: forAnyone(ready) },
      "/metrics": { GET: metrics },
    },
    fetch: notFound,
    error(error) {
      logError("A request failed", error);
      return failed();
    },

    websocket: {
      maxPayloadLength: maxFrameBytes(maxMessageBytes),
      backpressureLimit: HARD_BACKPRESSURE_LIMIT,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
      idleTimeout: 0, // the sweep does it
      sendPings: false,

      open: isolateErrors((socket) => {
        sockets.add(socket, performance.now());
        logEvent("joined", connectionFields(socket));
        if (socket.data.connection) hub.join(socket.data.connection, socket);
      }),
      message: isolateErrors((socket, message: string | Buffer<ArrayBuffer>) => {
        socket.data.missedPongs = 0;
        intake.take(socket, message);
      }),
      ping: isolateErrors(onAlive),
      pong: isolateErrors((socket) => {
        onAlive(socket);
        if (socket.data.connection?.socket) hub.onPong(socket.data.connection);
      }),
      drain: isolateErrors((socket) => {
        socket.data.missedPongs = 0; // it reads
        if (socket.data.connection) hub.catchUp(socket.data.connection);
        intake.goOn(socket);
      }),
      close: isolateErrors((socket, code: number, reason: string) => {
        intake.closed(socket);
        sockets.remove(socket);
        const { disconnectReason } = socket.data;
        // A client may close with any code; of those few are told apart, and none that is ours.
        disconnectsTotal.count(disconnectReason || CLIENT_CODES.includes(code) ? code : "other");
        const said = reason || undefined;
        const why = disconnectReason === "silent" ? "no sign of life" : said;
        logEvent("left", { ...connectionFields(socket), code, ...(disconnectReason ? { why } : { said }) });
        if (socket.data.connection) hub.leave(socket.data.connection);
      }),
    },
  });
  setInterval(() => sockets.pingAndReap(performance.now()), sockets.sweepMs).unref();
  monitorEventLoop();
  watchDescriptors(server, descriptors);
  registerGauge("hubbub_build_info", "1, with the version of this server.", () => 1, { version });
  watchProcess(descriptors);
  registerGauge("hubbub_connections", "Open WebSockets.", () => sockets.size);
  registerGauge("hubbub_rooms", "Rooms with somebody in them.", () => hub.roomCount);
  registerGauge("hubbub_buffered_bytes", "Bytes that wait for slow readers.", () => sockets.bufferedBytes);
  registerGauge("hubbub_store_ready", "1 if messages are kept just now.", () => Number(hub.isReady));

  /** But for pages of other sites. */
  function forAnyone(give: () => Response) {
    return (request: Request): Response => {
      const foreign = access.refuseMarked(request.headers);
      return foreign ? upgrader.reject(request, foreign) : give();
    };
  }

  function ready(): Response {
    return hub.isReady
      ? textResponse(200, "Messages are taken, and kept.")
      : textResponse(503, "No messages are taken just now.");
  }

  function metrics(request: Request): Response {
    const refused = access.authorizeMetrics(request, server.requestIP(request)?.address ?? "", Date.now());
    return refused
      ? upgrader.reject(request, refused)
      : textResponse(200, renderMetrics(), { "Content-Type": METRICS_TYPE });
  }

  function onAlive(socket: ServerSocket): void {
    socket.data.missedPongs = 0;
    if (socket.data.connection?.bucket.chargeAbuse(performance.now()) === false) closeSocket(socket, "abuse");
  }

  return { server, durability, shutDown: () => shutDown(server, hub, sockets, options.drainSeconds) };
}

function connectionFields({ data: { connection, addressGroup } }: ServerSocket): Record<string, string> {
  if (!connection) return { path: "/websocket", address: addressGroup };
  return {
    client: connection.client,
    room: connection.room.name,
    wire: connection.wire,
    address: addressGroup,
  };
}

/** A handler that throws has lost its place: its connection ends, and no other. */
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

async function listen(options: ServerOptions): Promise<RunningServer> {
  try {
    return await serve(options);
  } catch (error) {
    const sentence = describeStartError(error, options);
    if (sentence) console.error(sentence);
    else logError("The start failed", error);
    process.exit(startExitCode(error));
  }
}

const command = parseCommand(process.argv.slice(2), process.env);
switch (command.kind) {
  case "help":
    console.log((await import("../cli/help.ts")).helpText(command.about));
    break;
  case "version":
    console.log(version);
    break;
  case "join":
    process.exit(
      await (
        await import("../cli/join.ts")
      ).runJoin(command.address, command.token, {
        input: process.stdin,
        output: process.stdout,
        errors: process.stderr,
        user: process.env.USER,
      }),
    );
    break;
  case "token":
    console.log(tokenUrl(command));
    break;
  case "refuse":
    for (const mistake of command.errors) console.error(mistake);
    process.exit(2);
    break;
  case "serve": {
    process.on("uncaughtException", (error) => logError("Something failed", error));
    process.on("unhandledRejection", (error) => logError("Something failed", error));
    const { options, warnings } = command;
    for (const warning of warnings) console.error(warning);
    configureLog(options.log, systemClock);
    const running = await listen(options);
    printBanner(version, running.server, running.durability, options, isTerminal());
    installSignalHandlers(running, isOnTerminal());
    break;
  }
  default:
    command satisfies never;
}
