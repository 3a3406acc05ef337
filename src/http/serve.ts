/** Starts the HTTP server: its routes, its sockets and what the operator can watch. */

import { version } from "../../package.json";
import { AccessControl } from "./access-control.ts";
import { ClientAddresses } from "./client-address.ts";
import { maxConnectionsFor, maxDescriptors, watchDescriptors } from "./descriptors.ts";
import { Bans } from "./bans.ts";
import { EventStreams } from "./event-streams.ts";
import type { ServerOptions } from "./options.ts";
import { clientModuleResponse, clientTypesResponse, pageResponse } from "./page.ts";
import { internalError, noSuchRoute, textProblem } from "./problem.ts";
import { moderationRoutes } from "./moderation-api.ts";
import { BodyReader } from "./request-body.ts";
import { redirectToClient, textResponse } from "./responses.ts";
import { roomRoutes } from "./rooms-api.ts";
import { Router } from "./router.ts";
import { ownOrigins, sharedOrigin } from "./server-address.ts";
import { shutDown, type RunningServer } from "./shutdown.ts";
import { socketHandlers } from "./socket-handlers.ts";
import { SocketRegistry, type SocketData } from "./socket-registry.ts";
import { StreamTopics } from "./stream-socket.ts";
import { Upgrader } from "./upgrade.ts";
import type { PublishToTopic } from "../chat/broadcaster.ts";
import { Hub } from "../chat/hub.ts";
import { logError } from "../ops/log.ts";
import { monitorEventLoop, register, renderMetrics, watchProcess } from "../ops/metrics.ts";
import { maxFrameBytes } from "../protocol/codec.ts";
import type { Backend, StoreListener } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import type { Random } from "../util/random.ts";

/** Bytes that wait for a slow consumer before Bun cuts it off. slow-consumer.ts has the lower limit, which gives a close code. */
const HARD_BACKPRESSURE_LIMIT = 4 * 1024 * 1024;
/**
 * Bun's maximum, which pings keep from being reached. It also decides how long a closed socket has for reading its close
 * frame: 12 to 16 s from 32 on, but 0 to 4 s with 0, so that slow consumers would miss their close code.
 */
const IDLE_SECONDS = 960;
const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** @throws StoreError, or Bun's error with a `code` when it cannot listen or use the certificate */
export async function serve(
  options: ServerOptions,
  createStore: (listener: StoreListener) => Backend,
  clock: Clock,
  random: Random,
): Promise<RunningServer> {
  const { trustProxy, maxMessageBytes, drainSeconds } = options;
  const access = new AccessControl(options, clock);
  const router = new Router(access, new ClientAddresses(trustProxy));
  const descriptors = maxDescriptors();
  const possible = maxConnectionsFor(descriptors);
  const { maxConnections = possible } = options;
  if (possible > 0 && maxConnections > possible)
    console.error(
      `--max-connections: ${maxConnections} is more than the file descriptor limit of ${descriptors} allows, which is ${possible} (ulimit -n)`,
    );
  const sockets = new SocketRegistry({ ...options, maxConnections }, clock, access.keyring);
  const topics = new StreamTopics();
  const publish: PublishToTopic = (topic, frame) =>
    topics.publish(topic, frame) ?? server.publish(topic, frame, false);
  const hub = new Hub(createStore, publish, options, clock);
  await hub.store.open?.();
  const bans = new Bans(hub, clock);
  await bans.load();

  const bodies = new BodyReader(maxFrameBytes(maxMessageBytes), clock);
  const upgrader = new Upgrader(router, sockets, hub, bans, options, clock);
  const events = new EventStreams(router, sockets, hub, bans, topics, options, random);
  const chatRoute = {
    GET: router.route(upgrader.handleChat),
    OPTIONS: router.route((request) => {
      const preflight = router.preflight(request, "GET");
      if (preflight) return preflight;
      throw noSuchRoute(request);
    }),
    // Browsers send `Origin` with a POST to the page's own site, but not with a GET: it tells the page why it was rejected.
    POST: router.route((request) => {
      access.checkHostAndOrigin(request.headers);
      throw noSuchRoute(request);
    }),
  };
  const server: Bun.Server<SocketData> = Bun.serve<SocketData>({
    hostname: options.host,
    port: options.port,
    ...(options.tlsCert && options.tlsKey ? { tls: { cert: options.tlsCert, key: options.tlsKey } } : {}),
    // BodyReader limits bodies: Bun's own 413 has no sentence and no code, and pages cannot read it.
    maxRequestBodySize: Number.MAX_SAFE_INTEGER,
    development: false,
    reusePort: false, // otherwise Bun lets a second server listen on the port, and each gets half of the clients

    routes: {
      "/": { GET: redirectToClient },
      "/client": { GET: pageResponse },
      "/hubbub.js": { GET: clientModuleResponse },
      "/hubbub.d.ts": { GET: clientTypesResponse },
      "/websocket": { GET: router.route(upgrader.handleEcho) },
      "/ws/:id": chatRoute,
      "/websocket/:id": chatRoute,
      ...roomRoutes(router, hub, bodies, events, bans, options, clock),
      ...moderationRoutes(router, bans, bodies, clock),
      "/address": router.api({ GET: address }),
      "/healthz": { GET: router.route(healthz) },
      "/readyz": { GET: router.route(readyz) },
      "/metrics": { GET: router.route(metrics) },
    },
    fetch: router.route((request) => {
      throw noSuchRoute(request);
    }),
    error(error) {
      logError("A request failed", error);
      return textProblem(internalError());
    },

    websocket: {
      ...socketHandlers(hub, sockets, options, clock),
      maxPayloadLength: maxFrameBytes(maxMessageBytes),
      backpressureLimit: HARD_BACKPRESSURE_LIMIT,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
      idleTimeout: IDLE_SECONDS,
      sendPings: false, // SocketRegistry.pingAndReap detects dead connections
    },
  });
  sockets.startPinging();
  access.keyring.watch(clock, () => sockets.closeRevoked());
  monitorEventLoop(clock);
  watchDescriptors(server, bodies, descriptors, clock);
  register("gauge", "hubbub_build_info", "Always 1; the label has the version.", () => 1, { version });
  watchProcess(descriptors);
  register("gauge", "hubbub_connections", "Open WebSocket connections.", () => sockets.size - events.size);
  register("gauge", "hubbub_event_streams", "Open event streams.", () => events.size);
  register("gauge", "hubbub_rooms", "Rooms with connections.", () => hub.roomCount);
  const buffered = "Bytes sent that clients have not read yet.";
  register("gauge", "hubbub_buffered_bytes", buffered, () => sockets.bufferedBytes);
  register("gauge", "hubbub_store_ready", "1 while messages can be stored.", () => Number(hub.isReady));

  /** For invitations. It is looked up each time, because a laptop changes networks. */
  async function address(): Promise<Response> {
    const listener = [options, server.hostname ?? "localhost", server.port] as const;
    const origin = (await sharedOrigin(...listener)) ?? ownOrigins(...listener)[0];
    return Response.json({ origin }, { headers: { "Cache-Control": "no-store" } });
  }

  function healthz({ headers }: Request): Response {
    access.checkFetchSite(headers);
    return textResponse(200, "OK");
  }

  function readyz({ headers }: Request): Response {
    access.checkFetchSite(headers);
    return hub.isReady
      ? textResponse(200, "Ready.")
      : textResponse(503, "Not ready: messages cannot be stored right now.");
  }

  function metrics(request: Request): Response {
    access.authorizeMetrics(request, server.requestIP(request)?.address ?? "");
    return textResponse(200, renderMetrics(), { "Content-Type": METRICS_TYPE });
  }

  return {
    server,
    durability: hub.store.durability,
    ...(access.keyring.hasFiles && { reloadKeys: () => access.keyring.reload() && sockets.closeRevoked() }),
    shutDown: () => shutDown(server, hub, sockets, drainSeconds, clock),
  };
}
