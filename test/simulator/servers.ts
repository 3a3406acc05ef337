/** A simulated server process: the product's upgrade path, socket handlers, hub and shutdown, on simulated sockets. */

import { AccessControl } from "../../src/http/access-control.ts";
import { ClientAddresses } from "../../src/http/client-address.ts";
import { Bans } from "../../src/http/bans.ts";
import { EventStreams } from "../../src/http/event-streams.ts";
import type { ServerOptions } from "../../src/http/options.ts";
import { noSuchRoute, textProblem } from "../../src/http/problem.ts";
import { CODE_HEADER } from "../../src/http/responses.ts";
import { Router, type Handler, type HttpServer } from "../../src/http/router.ts";
import { shutDown } from "../../src/http/shutdown.ts";
import { StreamTopics } from "../../src/http/stream-socket.ts";
import { socketHandlers } from "../../src/http/socket-handlers.ts";
import { SocketRegistry, type SocketData } from "../../src/http/socket-registry.ts";
import { Upgrader } from "../../src/http/upgrade.ts";
import { Hub } from "../../src/chat/hub.ts";
import type { Content } from "../../src/protocol/codec.ts";
import { StoreError, StoreUnavailable } from "../../src/store/store.ts";
import { measured } from "../../src/store/measured.ts";
import { ServerEnd, type Host, type Link, type Network } from "./network.ts";
import type { Disk } from "./stores.ts";
import { Owner, type World } from "./world.ts";

/** Seen as the close code of a link when an event stream ends: clients open it again. */
const STREAM_END = 1013;
const HOST = "localhost:8000";
export const SERVER_URL = `http://${HOST}`;

/** What a seed chooses of the server's options. */
export type ServerSettings = Pick<
  ServerOptions,
  "history" | "messageRate" | "messageBurst" | "pingSeconds" | "flushMs" | "drainSeconds"
>;

const OPTIONS = {
  host: "127.0.0.1",
  port: 8000,
  publicUrl: undefined,
  trustProxy: false,
  tlsCert: undefined,
  tlsKey: undefined,
  allowHost: [],
  allowOrigin: [],
  openMetrics: false,
  listRooms: false,
  secretFile: [],
  publicKeyFile: [],
  allowGuests: [],
  guests: "write",
  maxMessageBytes: 65_536,
  maxConnections: 0,
  maxConnectionsPerAddress: 0,
  connectionRate: 0,
} as const;

type StreamRequest = Request & { readonly params: { readonly room: string } };
type ChatRequest = Request & { readonly params: { readonly id: string } };

/** Called whenever a connection opens or closes at the server. */
type OpenObserver = (end: ServerEnd, isOpen: boolean) => void;

export class SimulatedServer implements Host {
  readonly owner = new Owner("server");
  readonly topics = new Map<string, Set<ServerEnd>>();
  readonly ends = new Set<ServerEnd>();
  readonly hub: Hub;
  readonly sockets: SocketRegistry;
  readonly handlers: ReturnType<typeof socketHandlers>;
  isListening = false;
  isShuttingDown = false;
  readonly startedAt: number;
  readonly #handleChat: Handler<ChatRequest>;
  readonly #handleEvents: Handler<StreamRequest>;
  readonly events: EventStreams;
  readonly bans: Bans;
  readonly #options: ServerOptions;
  /** Every connection so far. */
  readonly #connections: WeakRef<object>[] = [];
  #pendingRequests = 0;

  constructor(
    private readonly world: World,
    private readonly network: Network,
    settings: ServerSettings,
    disk: Disk,
    readonly generation: number,
    readonly onOpenChange: OpenObserver,
  ) {
    this.startedAt = world.time;
    const clock = world.clockOf(this.owner);
    const options: ServerOptions = { ...OPTIONS, ...settings };
    this.#options = options;
    const access = new AccessControl(options, clock);
    const router = new Router(access, new ClientAddresses(options.trustProxy));
    this.sockets = new SocketRegistry({ ...options, maxConnections: 0 }, clock, access.keyring);
    const streamTopics = new StreamTopics();
    this.hub = new Hub(
      (listener) => measured(disk.open(listener, this.owner), clock),
      (topic, frame) => streamTopics.publish(topic, frame) ?? this.#publish(topic, frame),
      options,
      clock,
    );
    const bans = (this.bans = new Bans(this.hub, clock));
    const upgrader = new Upgrader(router, this.sockets, this.hub, bans, options, clock);
    this.#handleChat = router.route(upgrader.handleChat);
    const random = world.randomOf();
    this.events = new EventStreams(router, this.sockets, this.hub, bans, streamTopics, options, random);
    this.#handleEvents = router.api({ GET: this.events.handle }, this.events.rejection);
    this.handlers = socketHandlers(this.hub, this.sockets, options, clock);
  }

  /** Starts it as a process, which answers once its store is open; without its store, it ends. */
  start(onFailed: () => void): void {
    this.world.as(this.owner, () => {
      const open = async () => {
        await this.hub.store.open?.();
        await this.bans.load();
      };
      const listen = () => {
        this.sockets.startPinging();
        this.isListening = true;
      };
      void open().then(listen, (error: unknown) => {
        const isExpected = error instanceof StoreError || error instanceof StoreUnavailable;
        if (isExpected) onFailed();
        else this.world.fail(`the server does not start: ${error}`);
      });
    });
  }

  /** As on SIGTERM; the process ends afterwards. */
  shutDown(onStopped: () => void): void {
    this.isShuttingDown = true;
    for (const { link } of this.ends) link.touch();
    const { drainSeconds } = this.#options;
    const { ends } = this;
    const pendingRequests = () => this.#pendingRequests;
    const server = {
      stop: async () => void (this.isListening = false),
      get pendingWebSockets() {
        return ends.size;
      },
      get pendingRequests() {
        return pendingRequests();
      },
    };
    // As an event of the server: what follows an `await` runs as the process whose event it is, and takes its time.
    this.world.schedule(this.owner, this.world.time, () => {
      const clock = this.world.clockOf(this.owner);
      void shutDown(server, this.hub, this.sockets, drainSeconds, clock).then((hasSucceeded) => {
        if (!hasSucceeded) this.world.fail("a step of the shutdown failed");
        onStopped();
      });
    });
  }

  /** Ends the process at once. @param isSilent the clients are not told, as when the machine loses its power */
  kill(isSilent: boolean): void {
    this.owner.isAlive = false;
    this.isListening = false;
    for (const link of this.network.links) if (link.host === this) link.loseServer(this.world.dice, isSilent);
    this.topics.clear();
  }

  upgrade(link: Link): void {
    if (link.isAbandoned) return;
    link.host = this;
    if (!this.isListening) return this.network.refuse(link);
    const { client } = link;
    if (client.url.includes("/events?")) return this.#startStream(link);
    const request = this.#request(new URL(client.url.replace(/^ws/, "http")), "GET", {
      upgrade: "websocket",
      ...(client.protocols.length > 0 ? { "sec-websocket-protocol": client.protocols.join(", ") } : {}),
    });
    this.#pendingRequests++;
    void Promise.resolve(this.#handleChat(request, this.#httpServer(link))).then((response) => {
      this.#pendingRequests--;
      if (!response) return;
      this.#observeBan(request, response);
      this.network.refuse(link);
    });
  }

  #observeBan({ params }: ChatRequest, { headers }: Response): void {
    if (headers.get(CODE_HEADER) === "banned") this.network.observer.onBanned(params.id, this);
  }

  /** A request that arrives now, and that a shutdown waits for. */
  async request(handle: () => Promise<void>): Promise<void> {
    this.#pendingRequests++;
    try {
      await handle();
    } finally {
      this.#pendingRequests--;
    }
  }

  #httpServer(link: Link): HttpServer {
    return {
      requestIP: () => ({ address: `192.0.2.${link.clientOwner.name.length}`, port: 1, family: "IPv4" }),
      timeout() {},
      upgrade: (_request, { data }: { data: SocketData }) => this.#open(link, data),
    };
  }

  /** An event stream: the chunks of the response are the frames of the link. */
  #startStream(link: Link): void {
    const { href, pathname } = new URL(link.client.url);
    const headers = { host: HOST, accept: "application/x-ndjson" };
    const room = decodeURIComponent(pathname.split("/").at(-2) ?? "");
    const request = Object.assign(new Request(href, { headers }), { params: { room } });
    this.#pendingRequests++;
    void Promise.resolve(this.#handleEvents(request, this.#httpServer(link))).then((response) => {
      const reader = response?.status === 200 ? response.body?.getReader() : undefined;
      if (!reader || link.isAbandoned) {
        this.#pendingRequests--;
        void reader?.cancel();
        return this.network.refuse(link);
      }
      if (this.isShuttingDown) link.touch();
      let onDrain = () => {};
      const handlers = {
        ...this.handlers,
        message() {},
        pong() {},
        drain: () => onDrain(),
        close: () => {
          this.#pendingRequests--;
          void reader.cancel().catch(() => {});
        },
      };
      const { world, network, owner, topics, ends, generation, onOpenChange } = this;
      const host = { owner, topics, ends, generation, onOpenChange, handlers };
      const data = {
        connection: undefined,
        addressGroup: "",
        key: undefined,
        expiresMs: Infinity,
        missedPongs: 0,
        pingedMs: 0,
      };
      const end = new ServerEnd(link, host, data, world, network.observer, Infinity);
      network.open(link);
      onOpenChange(end, true);
      const decoder = new TextDecoder();
      const pump = async () => {
        for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
          // TCP gives up on what is not acknowledged.
          if (link.up.isDead || link.down.isDead)
            world.schedule(owner, world.time + 2000 * this.#options.pingSeconds, () => end.terminate());
          if (end.send(decoder.decode(chunk.value)) < 0)
            await new Promise<void>((resolve) => (onDrain = resolve));
        }
        end.close(STREAM_END, "");
      };
      void pump().catch(() => end.terminate());
    });
  }

  #open(link: Link, data: SocketData): boolean {
    if (link.isAbandoned || !this.owner.isAlive) return false;
    if (this.isShuttingDown) link.touch();
    if (data.connection) this.#connections.push(new WeakRef(data.connection));
    const end = new ServerEnd(link, this, data, this.world, this.network.observer);
    this.network.open(link);
    this.onOpenChange(end, true);
    this.handlers.open(end);
    return true;
  }

  /** Connections that something still refers to. Call it in a turn of the event loop without garbage. */
  get liveConnections(): number {
    return this.#connections.filter((connection) => connection.deref() !== undefined).length;
  }

  async fetch(url: URL, method: string): Promise<Response> {
    const request = this.#request(url, method);
    const server: HttpServer = {
      requestIP: () => ({ address: "192.0.2.1", port: 1, family: "IPv4" }),
      timeout() {},
      upgrade: () => false,
    };
    const response =
      (method === "GET" && (await this.#handleChat(request, server))) || textProblem(noSuchRoute(request));
    this.#observeBan(request, response);
    return response;
  }

  #request(url: URL, method: string, headers: Record<string, string> = {}): ChatRequest {
    const request = new Request(url.href, { method, headers: { host: HOST, ...headers } });
    const id = decodeURIComponent(url.pathname.split("/").at(-1) ?? "");
    return Object.assign(request, { params: { id } });
  }

  #publish(topic: string, frame: Content): number {
    let result = 0;
    for (const end of this.topics.get(topic) ?? []) {
      const sent = end.send(frame);
      result = result < 0 || sent < 0 ? -1 : sent;
    }
    return result;
  }
}
