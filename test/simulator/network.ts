/**
 * The network: links between clients and the server, with delay, cuts, half-open peers and bounded buffers. The sockets
 * at both ends behave as test/bun/bun-sockets.test.ts shows that Bun's do.
 */

import { drainMicrotasks } from "bun:jsc";
import type { socketHandlers } from "../../src/http/socket-handlers.ts";
import type { ServerSocket, SocketData } from "../../src/http/socket-registry.ts";
import type { Content } from "../../src/protocol/codec.ts";
import type { Dice, Owner, World } from "./world.ts";

/** Bun's own limit, as src/http/serve.ts sets it: beyond it a frame is dropped, and the socket closed without a close frame. */
const HARD_BACKPRESSURE_LIMIT = 4 * 1024 * 1024;

/** The close code of a connection that a newer one of its session replaces. */
const REPLACED = 4001;

/** What a link is like. */
export interface LinkProfile {
  readonly delayMs: number;
  /** Up to this much is added to each delay. */
  readonly jitterMs: number;
  /** What the kernels on both sides take before backpressure shows. */
  readonly kernelBytes: number;
  /** Each character counts as this many bytes, so that short texts fill buffers. */
  readonly bytesPerCharacter: number;
}

/** Besides frames: the end of a connection, and control frames. */
type Signal =
  | { readonly kind: "request" | "open" | "ping" | "pong" | "reset" }
  | { readonly kind: "close"; readonly code: number; readonly reason: string };

const REQUEST: Signal = { kind: "request" };
const OPEN: Signal = { kind: "open" };
const PING: Signal = { kind: "ping" };
const PONG: Signal = { kind: "pong" };
const RESET: Signal = { kind: "reset" };

type Item = Content | Signal;

function isSignal(item: Item): item is Signal {
  return typeof item !== "string" && "kind" in item;
}

/** What is under way on a {@link Pipe}. */
interface Transfer {
  readonly item: Item;
  readonly sentAt: number;
  readonly arrivesAt: number;
}

/** One direction of a link: first in, first out. */
class Pipe {
  readonly #transfers: Transfer[] = [];
  #lastArrival = 0;
  #isScheduled = false;
  isPaused = false;
  isDead = false;

  constructor(
    private readonly world: World,
    public receiver: Owner,
    private readonly delay: () => number,
    private readonly deliver: (item: Item, sentAt: number) => void,
    private readonly onIdle: () => void,
  ) {}

  /** @param sentAt when it was given to the sender's socket */
  send(item: Item, sentAt = this.world.time): void {
    if (this.isDead) return;
    const arrivesAt = Math.max(this.#lastArrival, this.world.time + this.delay());
    this.#lastArrival = arrivesAt;
    this.#transfers.push({ item, sentAt, arrivesAt });
    this.#schedule();
  }

  /** The receiver stops or starts reading. */
  setPaused(isPaused: boolean): void {
    this.isPaused = isPaused;
    this.#schedule();
  }

  /** Nothing arrives any more, and neither end is told. */
  kill(): void {
    this.isDead = true;
    this.truncate(0);
  }

  /** Loses all but the first items. */
  truncate(count: number): void {
    this.#transfers.length = Math.min(count, this.length);
  }

  get length(): number {
    return this.#transfers.length;
  }

  #schedule(): void {
    if (this.#isScheduled || this.isPaused) return;
    const next = this.#transfers[0];
    if (next === undefined) return;
    this.#isScheduled = true;
    this.world.schedule(this.receiver, Math.max(next.arrivesAt, this.world.time), this.#run);
  }

  readonly #run = () => {
    this.#isScheduled = false;
    if (this.isPaused) return;
    const { now } = this.world;
    // Frames that have been read already are delivered even if the receiver pauses.
    let count = 0;
    while ((this.#transfers[count]?.arrivesAt ?? Infinity) <= now) count++;
    for (; count > 0 && !this.isDead; count--) {
      const transfer = this.#transfers.shift();
      if (transfer === undefined) break;
      this.deliver(transfer.item, transfer.sentAt);
      drainMicrotasks();
    }
    this.onIdle();
    this.#schedule();
  };
}

/** One connection, from the attempt on. */
export class Link {
  readonly up: Pipe;
  readonly down: Pipe;
  server: ServerEnd | undefined;
  /** The process that has accepted it. */
  host: Host | undefined;
  /** Sent by the server and not yet read by the client: what the kernels hold. */
  inFlightBytes = 0;
  /** When a fault first affected it, its server or its client; from then on, the rules for healthy links do not apply. */
  touchedAt = Infinity;
  /** The client is gone, although the server may not know. */
  isAbandoned = false;
  /** The client has had it open. */
  wasOpen = false;
  /** Further delay of everything, for a while. */
  extraDelayMs = 0;
  readonly connectedAt: number;
  /** When the server sent what is being delivered. */
  sentAt = 0;

  constructor(
    private readonly network: Network,
    readonly client: ClientSocket,
    readonly profile: LinkProfile,
    readonly clientOwner: Owner,
    readonly number: number,
  ) {
    const { world } = network;
    const delay = () => profile.delayMs + this.extraDelayMs + world.dice.next() * profile.jitterMs;
    this.connectedAt = world.time;
    this.up = new Pipe(
      world,
      network.owner,
      delay,
      (item) => this.#deliverUp(item),
      () => {},
    );
    this.down = new Pipe(
      world,
      clientOwner,
      delay,
      (item, sentAt) => this.#deliverDown(item, sentAt),
      () => this.server?.refillSoon(),
    );
  }

  sizeOf(frame: Content): number {
    return frame.length * this.profile.bytesPerCharacter;
  }

  #deliverUp(item: Item): void {
    const { server } = this;
    if (isSignal(item)) {
      this.network.world.trace?.(`${this.number} > ${item.kind}`);
      switch (item.kind) {
        case "request":
          return this.network.accept(this);
        case "pong":
          if (!server?.isOpen) return;
          server.host.handlers.pong(server);
          return this.network.observer.onPongRead(server);
        case "reset":
          this.isAbandoned = true;
          return server?.end(1006, "");
        case "close":
          this.isAbandoned = true;
          return server?.end(item.code, item.reason);
        default:
          return;
      }
    }
    this.network.world.trace?.(`${this.number} > ${item}`);
    if (!server?.isOpen) return;
    this.network.observer.onFrameRead(this, item);
    server.host.handlers.message(server, item);
  }

  #deliverDown(item: Item, sentAt: number): void {
    const { client } = this;
    this.network.world.trace?.(`${this.number} < ${isSignal(item) ? item.kind : item}`);
    this.sentAt = sentAt;
    if (isSignal(item)) {
      switch (item.kind) {
        case "open":
          if (client.readyState !== WebSocketState.CONNECTING) return;
          client.readyState = WebSocketState.OPEN;
          this.wasOpen = true;
          return;
        case "ping":
          return void (client.readyState === WebSocketState.OPEN && this.up.send(PONG));
        case "reset":
          return client.end(1006, "");
        case "close":
          return client.end(item.code, item.reason);
        default:
          return;
      }
    }
    this.inFlightBytes -= this.sizeOf(item);
    if (client.readyState !== WebSocketState.OPEN) return;
    this.network.observer.onFrameReceived(this, item);
    client.onmessage?.({ data: item });
  }

  overflow(): void {
    this.network.observer.onOverflow(this);
  }

  touch(): void {
    this.touchedAt = Math.min(this.touchedAt, this.network.world.time);
  }

  get isTouched(): boolean {
    return this.touchedAt !== Infinity;
  }

  /** Whether both ends can reach each other. */
  get isAlive(): boolean {
    return this.server?.isOpen === true && !this.up.isDead && !this.down.isDead;
  }

  /** The connection breaks: both ends learn of it, and what was under way is lost from some point on. */
  cut(dice: Dice): void {
    this.touch();
    if (this.server) this.server.dropBuffer();
    for (const pipe of [this.up, this.down]) {
      pipe.truncate(dice.whole(0, pipe.length));
      pipe.send(RESET);
    }
  }

  /** Nothing arrives any more in one direction or both, and neither end is told. */
  goDark(direction: "up" | "down" | "both"): void {
    this.touch();
    if (direction !== "down") this.up.kill();
    if (direction !== "up") this.down.kill();
  }

  /** The server's process is gone. */
  loseServer(dice: Dice, isSilent: boolean): void {
    this.touch();
    this.server?.vanish();
    this.up.kill();
    if (isSilent) return this.down.kill();
    this.down.truncate(dice.whole(0, this.down.length));
    this.down.send(RESET);
  }

  /** The client reads nothing until then. */
  stall(ms: number): void {
    this.touch();
    this.down.setPaused(true);
    const { world, owner } = this.network;
    world.schedule(owner, world.time + ms, () => this.down.setPaused(false));
  }

  slowDown(delayMs: number, ms: number): void {
    this.touch();
    this.extraDelayMs = delayMs;
    const { world, owner } = this.network;
    world.schedule(owner, world.time + ms, () => (this.extraDelayMs = 0));
  }
}

const WebSocketState = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };

/** The client's end: what `new WebSocket` returns. */
class ClientSocket {
  readyState = WebSocketState.CONNECTING;
  onmessage: ((event: { readonly data: Content }) => void) | null = null;
  onclose: ((event: { readonly code: number; readonly reason: string }) => void) | null = null;
  readonly link: Link;

  constructor(
    private readonly network: Network,
    readonly url: string,
    readonly protocols: readonly string[],
  ) {
    this.link = network.connect(this);
  }

  send(frame: Content): void {
    if (this.readyState !== WebSocketState.OPEN) return;
    this.network.observer.onFrameSent(this.link, frame);
    this.link.up.send(frame);
  }

  close(): void {
    if (this.readyState > WebSocketState.OPEN) return;
    this.readyState = WebSocketState.CLOSING;
    this.link.touch();
    this.link.up.send({ kind: "close", code: 1005, reason: "" });
  }

  end(code: number, reason: string): void {
    if (this.readyState === WebSocketState.CLOSED) return;
    const isReplaced = code === REPLACED && this.network.hasNewer(this.link);
    if (!this.link.isTouched && !isReplaced) this.network.observer.onUntouchedClosed(this.link, code, reason);
    // One that closes by itself reads nothing more.
    if (this.readyState !== WebSocketState.CLOSING) this.network.observer.onClosed(this.link, code);
    this.readyState = WebSocketState.CLOSED;
    this.link.isAbandoned = true;
    this.onclose?.({ code, reason });
  }
}

/** Only {@link Network} fetches, and it ignores signals: the client looks at them itself. */
class SimulatedAbortController {
  readonly signal = { aborted: false };

  abort(): void {
    this.signal.aborted = true;
  }
}

/** What a server's process provides for its sockets. */
export interface SocketHost {
  readonly owner: Owner;
  readonly handlers: ReturnType<typeof socketHandlers>;
  readonly topics: Map<string, Set<ServerEnd>>;
  readonly ends: Set<ServerEnd>;
  /** Counts up with every server whose store starts empty. */
  readonly generation: number;
  onOpenChange(end: ServerEnd, isOpen: boolean): void;
}

/** A server's process. */
export interface Host extends SocketHost {
  readonly isListening: boolean;
  upgrade(link: Link): void;
  fetch(url: URL, method: string): Promise<Response>;
}

/** The server's end, as Bun passes it to the socket handlers. */
export class ServerEnd implements ServerSocket {
  isOpen = true;
  readonly #topics = new Set<string>();
  readonly #buffer: { readonly frame: Content; readonly sentAt: number }[] = [];
  #bufferedBytes = 0;
  #isRefilling = false;
  #finalSignal: Signal | undefined;

  constructor(
    readonly link: Link,
    readonly host: SocketHost,
    readonly data: SocketData,
    private readonly world: World,
    private readonly observer: WireObserver,
    private readonly maxBufferedBytes = HARD_BACKPRESSURE_LIMIT,
  ) {
    host.ends.add(this);
    link.server = this;
    link.up.receiver = host.owner;
  }

  send(frame: Content): number {
    if (!this.isOpen) return 0;
    this.observer.onServerSent(this, frame);
    const size = this.link.sizeOf(frame);
    if (this.#buffer.length === 0 && this.#hasRoomFor(size)) {
      this.#transmit(frame, size, this.world.time);
      return frame.length;
    }
    if (this.#bufferedBytes + size > this.maxBufferedBytes) {
      this.link.overflow();
      this.world.schedule(this.host.owner, this.world.time, () => this.terminate());
      return 0;
    }
    this.#buffer.push({ frame, sentAt: this.world.time });
    this.#bufferedBytes += size;
    return -1;
  }

  #hasRoomFor(size: number): boolean {
    const { inFlightBytes, profile } = this.link;
    return inFlightBytes === 0 || inFlightBytes + size <= profile.kernelBytes;
  }

  #transmit(frame: Content, size: number, sentAt: number): void {
    this.link.inFlightBytes += size;
    this.link.down.send(frame, sentAt);
  }

  /** The client has read something. */
  refillSoon(): void {
    if (this.#isRefilling || this.#buffer.length === 0) return;
    this.#isRefilling = true;
    this.world.schedule(this.host.owner, this.world.time + this.link.profile.delayMs, () => this.#refill());
  }

  #refill(): void {
    this.#isRefilling = false;
    let sent = 0;
    for (const { frame, sentAt } of this.#buffer) {
      const size = this.link.sizeOf(frame);
      if (!this.#hasRoomFor(size)) break;
      sent++;
      this.#bufferedBytes -= size;
      this.#transmit(frame, size, sentAt);
    }
    this.#buffer.splice(0, sent);
    if (this.isOpen && sent > 0) this.host.handlers.drain(this);
    if (this.#finalSignal && this.#buffer.length === 0) this.link.down.send(this.#finalSignal);
  }

  getBufferedAmount(): number {
    return this.#bufferedBytes;
  }

  cork(sends: () => void): void {
    sends();
  }

  ping(): number {
    if (this.isOpen) this.link.down.send(PING);
    return this.isOpen ? 1 : 0;
  }

  subscribe(topic: string): boolean {
    if (!this.isOpen) return false;
    const { topics } = this.host;
    let members = topics.get(topic);
    if (!members) topics.set(topic, (members = new Set()));
    members.add(this);
    this.#topics.add(topic);
    return true;
  }

  unsubscribe(topic: string): boolean {
    if (!this.isOpen) return false;
    const members = this.host.topics.get(topic);
    members?.delete(this);
    if (members?.size === 0) this.host.topics.delete(topic);
    return this.#topics.delete(topic);
  }

  pause(): void {
    this.link.up.setPaused(true);
  }

  resume(): void {
    this.link.up.setPaused(false);
  }

  close(code: number, reason: string): void {
    if (!this.isOpen) return;
    this.observer.onServerClosed(this, code);
    const signal: Signal = { kind: "close", code, reason };
    if (this.#buffer.length > 0) this.#finalSignal = signal;
    else this.link.down.send(signal);
    this.end(code, reason);
  }

  terminate(): void {
    if (!this.isOpen) return;
    this.dropBuffer();
    this.link.down.send(RESET);
    this.end(1006, "");
  }

  /** The handler is called before this returns. */
  end(code: number, reason: string): void {
    if (!this.isOpen) return;
    this.#leave();
    this.host.handlers.close(this, code, reason);
  }

  /** The process is gone: no handler is called. */
  vanish(): void {
    if (this.isOpen) this.#leave();
    this.dropBuffer();
  }

  dropBuffer(): void {
    this.#buffer.length = 0;
    this.#bufferedBytes = 0;
  }

  #leave(): void {
    for (const topic of this.#topics) this.unsubscribe(topic);
    this.isOpen = false;
    this.host.ends.delete(this);
    this.host.onOpenChange(this, false);
  }
}

/** What the rules see of the wire. */
export interface WireObserver {
  onFrameSent(link: Link, frame: Content): void;
  /** At the server. */
  onFrameRead(link: Link, frame: Content): void;
  onFrameReceived(link: Link, frame: Content): void;
  onServerSent(end: ServerEnd, frame: Content): void;
  /** The server has read the answer to a ping. */
  onPongRead(end: ServerEnd): void;
  /** The server closes the connection. */
  onServerClosed(end: ServerEnd, code: number): void;
  /** The server does not let the client in because it is banned. */
  onBanned(client: string, host: SocketHost): void;
  /** A link that no fault has affected was closed all the same. */
  onUntouchedClosed(link: Link, code: number, reason: string): void;
  /** The client learns that the server has closed the connection. */
  onClosed(link: Link, code: number): void;
  /** A frame was dropped because too much waited for the client. */
  onOverflow(link: Link): void;
}

export class Network {
  /** The servers that answer. */
  hosts: readonly Host[] = [];
  /** Whether connection attempts get no answer at all. */
  isBlackHole = false;
  readonly links = new Set<Link>();
  readonly #profiles = new Map<Owner, LinkProfile>();
  readonly #lastLinks = new Map<Owner, Link>();
  /** How long the next request of a client is under way, in addition. */
  readonly #requestDelays = new Map<Owner, number>();
  #lastNumber = 0;

  constructor(
    readonly world: World,
    /** Of what happens between the processes. */
    readonly owner: Owner,
    readonly observer: WireObserver,
  ) {}

  setProfile(client: Owner, profile: LinkProfile): void {
    this.#profiles.set(client, profile);
  }

  profileOf(client: Owner): LinkProfile {
    const profile = this.#profiles.get(client);
    if (!profile) throw new Error(`${client.name} has no network`);
    return profile;
  }

  /** The connection that a process opened last. */
  linkOf(client: Owner): Link | undefined {
    return this.#lastLinks.get(client);
  }

  connect(client: ClientSocket): Link {
    const { current } = this.world;
    const link = new Link(this, client, this.profileOf(current), current, ++this.#lastNumber);
    this.world.trace?.(`${link.number} connects: ${current.name} ${client.url}`);
    this.links.add(link);
    this.#lastLinks.set(current, link);
    const delayMs = this.#requestDelays.get(current);
    this.#requestDelays.delete(current);
    if (delayMs !== undefined) link.touch();
    link.extraDelayMs = delayMs ?? 0;
    link.up.send(REQUEST);
    link.extraDelayMs = 0;
    return link;
  }

  /** The next request may arrive after the one that follows when its client has given it up. */
  delayNextRequest(client: Owner, ms: number): void {
    this.#requestDelays.set(client, ms);
  }

  /** A connection attempt arrives. */
  accept(link: Link): void {
    const { host } = this;
    if (this.isBlackHole) link.goDark("both");
    else if (host?.isListening) this.world.schedule(host.owner, this.world.time, () => host.upgrade(link));
    else this.refuse(link);
  }

  /** Any of them, as behind a load balancer. */
  get host(): Host | undefined {
    const listening = this.hosts.filter(({ isListening }) => isListening);
    return listening.length > 1 ? this.world.dice.pick(listening) : (listening[0] ?? this.hosts[0]);
  }

  refuse(link: Link): void {
    link.touch();
    link.down.send(RESET);
  }

  open(link: Link): void {
    link.down.send(OPEN);
  }

  /** Whether the same client has connected again since. */
  hasNewer(link: Link): boolean {
    for (const other of this.links)
      if (other.number > link.number && other.clientOwner.name === link.clientOwner.name) return true;
    return false;
  }

  /** Forgets what the server had for connections that it has closed, so that only the server itself can hold it. */
  sweep(): void {
    for (const link of this.links) if (!link.server?.isOpen) link.server = undefined;
  }

  globals(): Record<string, unknown> {
    const network = this;
    class SimulatedWebSocket extends ClientSocket {
      static readonly CONNECTING = WebSocketState.CONNECTING;
      static readonly OPEN = WebSocketState.OPEN;
      static readonly CLOSING = WebSocketState.CLOSING;
      static readonly CLOSED = WebSocketState.CLOSED;
      constructor(url: string, protocols: readonly string[] = []) {
        super(network, url, protocols);
      }
    }
    return {
      WebSocket: SimulatedWebSocket,
      AbortController: SimulatedAbortController,
      fetch: (url: URL, init: RequestInit) => this.#fetch(url, init),
    };
  }

  /** A plain request from the running process. */
  #fetch(url: URL, { method = "GET" }: RequestInit): Promise<Response> {
    const { world, host } = this;
    const client = world.current;
    const { delayMs } = this.profileOf(client);
    return new Promise((resolve, reject) => {
      const answer = (settle: () => void) => world.schedule(client, world.time + delayMs, settle);
      if (this.isBlackHole) return;
      if (!host?.isListening) return void answer(() => reject(new TypeError("connection refused")));
      world.schedule(host.owner, world.time + delayMs, () => {
        void host.fetch(url, method).then((response) => answer(() => resolve(response)));
      });
    });
  }
}
