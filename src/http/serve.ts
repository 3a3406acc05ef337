/** Starts the HTTP server: its routes, its sockets and what the operator can watch. */

import { version } from "../../package.json";
import { AccessControl } from "./access.ts";
import { connectionsFor, maxDescriptors, watchDescriptors } from "./descriptors.ts";
import type { ServerOptions } from "./options.ts";
import { clientModuleResponse, pageResponse } from "./page.ts";
import { corsPreflight, failed, notFound, redirectToClient, textResponse } from "./responses.ts";
import { roomRoutes } from "./rooms-api.ts";
import { shutDown, type RunningServer } from "./shutdown.ts";
import { socketHandlers } from "./socket-handlers.ts";
import { SocketRegistry, type SocketData } from "./sockets.ts";
import { Upgrader } from "./upgrade.ts";
import { TokenSigner } from "../auth/tokens.ts";
import { Hub } from "../chat/hub.ts";
import { logError } from "../ops/log.ts";
import { monitorEventLoop, registerGauge, renderMetrics, watchProcess } from "../ops/metrics.ts";
import { maxFrameBytes } from "../protocol/codec.ts";
import type { Backend, StoreListener } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import { lazyOs } from "../util/lazy-node.ts";
import type { Random } from "../util/random.ts";

/** Bytes that wait for a slow consumer before Bun cuts it off. The hub closes it earlier, and with a close code. */
const HARD_BACKPRESSURE_LIMIT = 4 * 1024 * 1024;
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** @throws StoreError, or Bun's error with a `code` when it cannot listen or use the certificate */
export async function serve(
  options: ServerOptions,
  createStore: (listener: StoreListener) => Backend,
  clock: Clock,
  _random: Random,
): Promise<RunningServer> {
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
  const hub = new Hub(createStore, (topic, message) => server.publish(topic, message, false), options);
  const durability = await hub.start();

  const upgrader = new Upgrader(() => server, access, sockets, hub, options);
  const preflight = corsPreflight(access, "GET");
  const chatRoute = {
    GET: upgrader.handleChat,
    OPTIONS: (request: Request) => preflight(request) ?? notFound(request),
    // Of what a page may ask its own site, only this tells its Origin.
    POST(request: Request) {
      const refused = access.refuse(request.headers);
      return refused ? upgrader.reject(request, refused) : notFound(request);
    },
  };
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
      ...socketHandlers(hub, sockets, options, clock),
      maxPayloadLength: maxFrameBytes(maxMessageBytes),
      backpressureLimit: HARD_BACKPRESSURE_LIMIT,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
      idleTimeout: 0, // SocketRegistry.pingAndReap detects dead connections
      sendPings: false,
    },
  });
  clock.setInterval(() => sockets.pingAndReap(clock.elapsed()), sockets.sweepMs).unref();
  monitorEventLoop();
  watchDescriptors(server, descriptors);
  registerGauge("hubbub_build_info", "1, with the version of this server.", () => 1, { version });
  watchProcess(descriptors);
  registerGauge("hubbub_connections", "Open WebSockets.", () => sockets.size);
  registerGauge("hubbub_rooms", "Rooms with somebody in them.", () => hub.roomCount);
  registerGauge("hubbub_buffered_bytes", "Bytes that wait for slow readers.", () => sockets.bufferedBytes);
  registerGauge("hubbub_store_ready", "1 if messages are kept just now.", () => Number(hub.isReady));

  /** Except pages of other sites. */
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
    const refused = access.authorizeMetrics(request, server.requestIP(request)?.address ?? "", clock.now());
    return refused
      ? upgrader.reject(request, refused)
      : textResponse(200, renderMetrics(), { "Content-Type": METRICS_TYPE });
  }

  return { server, durability, shutDown: () => shutDown(server, hub, sockets, options.drainSeconds) };
}
