/** Clients over real WebSockets. What they receive is kept in order until the test asks for it. */

import { deepEquals } from "bun";
import { withDeadline } from "./deadline.ts";

type Payload = string | Uint8Array;

/** Messages that prove silence; tests do not see them. */
const MARKER = /(?:^Client #marker says: |"from":"marker","text":")(marker \d+)"?\}?$/;
let markers = 0;

/** One connection. */
export class Peer implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #received: Payload[] = [];
  readonly #closed = Promise.withResolvers<{ code: number; reason: string }>();
  readonly #waiting: { resolve(message: Payload): void; reject(why: string): void }[] = [];
  /** The marker that is being waited for. */
  #awaited: { readonly marker: string; arrived(): void } | undefined;
  readonly opened: Promise<void>;

  /**
   * @param ca the CA certificate to trust, for TLS
   * @param posts post a marker to its room, once over each node; empty where nothing can be posted
   */
  constructor(
    url: string,
    headers: Record<string, string> = {},
    ca?: string,
    private readonly posts: readonly ((marker: string) => Promise<void>)[] = [],
  ) {
    const socket = new WebSocket(url, { headers, ...(ca === undefined ? {} : { tls: { ca } }) });
    socket.binaryType = "nodebuffer";
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.opened = withDeadline(promise, () => `${url} did not open`);
    socket.onopen = () => resolve();
    socket.onmessage = ({ data }: MessageEvent<string | Buffer>) => {
      const message = typeof data === "string" ? data : new Uint8Array(data);
      const marker = typeof message === "string" ? MARKER.exec(message)?.[1] : undefined;
      if (marker !== undefined) {
        if (marker === this.#awaited?.marker) this.#awaited.arrived();
        return;
      }
      const reader = this.#waiting.shift();
      if (reader) reader.resolve(message);
      else this.#received.push(message);
    };
    socket.onclose = ({ code, reason }) => {
      reject(new Error(`${url} was refused: ${code} ${reason}`));
      this.#closed.resolve({ code, reason });
      for (const reader of this.#waiting) reader.reject(`the connection closed (${code})`);
    };
    this.#socket = socket;
  }

  says(message: string | Uint8Array<ArrayBuffer>): void {
    this.#socket.send(message);
  }

  /** Sends a ping frame. */
  pings(): void {
    this.#socket.ping();
  }

  /** Expects exactly these messages next. */
  async hears(...expected: Payload[]): Promise<void> {
    for (const message of expected) {
      const received = await this.next(() => `expected ${show(message)}`);
      if (!deepEquals(received, message))
        throw new Error(`expected ${show(message)}, received ${show(received)}`);
    }
  }

  /** Skips messages up to this one. */
  async hearsUpTo(message: string): Promise<void> {
    while ((await this.next(() => `expected ${show(message)}`)) !== message);
  }

  /** The next message. @param expectation for the error if none arrives */
  async next(expectation = () => "expected a message"): Promise<Payload> {
    const received = this.#received.shift();
    if (received !== undefined) return received;
    const { promise, resolve, reject } = Promise.withResolvers<Payload>();
    this.#waiting.push({ resolve, reject: (why) => reject(new Error(`${expectation()}, but ${why}`)) });
    return withDeadline(promise, () => `${expectation()}, but nothing came`);
  }

  /**
   * Expects that nothing was sent and nothing is in flight: a marker posted to the room now is the next message, with any
   * store and any number of nodes. On the echo, the pong is.
   */
  async hearsNothing(): Promise<void> {
    expectSilence(await this.receivedBeforeMarker());
  }

  /**
   * Expects that this node has sent nothing so far. Messages still in the store or on another node are not excluded, so
   * this is for servers whose store is unavailable, or which reject a marker.
   */
  async hearsNothingBeforePong(): Promise<void> {
    expectSilence(await this.#receivedBeforePong());
  }

  /** What has not been read yet, up to a marker posted now. */
  async receivedBeforeMarker(): Promise<Payload[]> {
    if (this.posts.length === 0) return this.#receivedBeforePong();
    const received: Payload[] = [];
    for (const post of this.posts) {
      const marker = `marker ${++markers}`;
      const { promise, resolve } = Promise.withResolvers<Payload[]>();
      this.#awaited = { marker, arrived: () => resolve(this.#received.splice(0)) };
      await post(marker);
      received.push(
        ...(await withDeadline(
          promise,
          () => `no ${marker}, but ${this.#received.map(show).join(", ") || "nothing"}`,
        )),
      );
    }
    return received;
  }

  async #receivedBeforePong(): Promise<Payload[]> {
    const pong = Promise.withResolvers<Payload[]>();
    this.#socket.addEventListener("pong", () => pong.resolve(this.#received.splice(0)), { once: true });
    this.#socket.ping();
    return withDeadline(pong.promise, () => "no answer to a ping");
  }

  /** Closes properly, and waits for the server's close frame. */
  async leaves(): Promise<void> {
    this.#socket.close();
    await this.closes();
  }

  /** Stops reading from the socket. */
  pauses(): void {
    this.#socket.pause();
  }

  resumes(): void {
    this.#socket.resume();
  }

  /** Bytes not yet taken by the network. */
  get unsent(): number {
    return this.#socket.bufferedAmount;
  }

  /** What has been received but not read by the test. */
  unread(): Payload[] {
    return this.#received.splice(0);
  }

  /** Drops the connection without a close frame. */
  vanishes(): void {
    this.#socket.terminate();
  }

  /** Waits for the end of the connection. */
  closes(): Promise<{ code: number; reason: string }> {
    return withDeadline(
      this.#closed.promise,
      () => `still open, received ${this.#received.map(show).join(", ")}`,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState !== WebSocket.CLOSED) this.vanishes();
  }
}

/** An event on the JSON wire. */
export type Event = { readonly type: string } & Record<string, unknown>;

/** A connection on the JSON wire. Presence events, which arrive at their own pace, are kept apart. */
export class JsonPeer implements AsyncDisposable {
  /** The id of the last message received, for resuming. */
  after: string;
  readonly #presence: Event[] = [];

  private constructor(
    readonly peer: Peer,
    readonly welcome: Event,
  ) {
    this.after = String(welcome.last);
  }

  static async over(peer: Peer): Promise<JsonPeer> {
    return new JsonPeer(peer, eventOf(await peer.next(() => "expected a welcome")));
  }

  says(text: string, more: { seq?: number; skip?: boolean } = {}): void {
    this.sends({ type: "message", text, ...more });
  }

  /** Resolves once the message has been stored and broadcast back. */
  async saysAndHears(text: string, more: { seq?: number } = {}): Promise<void> {
    this.says(text, more);
    while ((await this.next(() => `expected its own ${show(text)}`)).text !== text);
  }

  sends(frame: object | string | Uint8Array<ArrayBuffer>): void {
    this.peer.says(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  /** The next event other than presence. */
  async next(expectation?: () => string): Promise<Event> {
    for (;;) {
      const event = eventOf(await this.peer.next(expectation));
      if (event.type === "presence") this.#presence.push(event);
      else {
        if (event.type === "message" || event.type === "removed") this.after = String(event.id);
        return event;
      }
    }
  }

  /** Expects exactly these events next. The id and time of a message, and the id of an ack, are compared only if given. */
  async hears(...expected: Event[]): Promise<void> {
    for (const event of expected) {
      const { ...received } = await this.next(() => `expected ${JSON.stringify(event)}`);
      if (received.type === "message" && !("time" in event) && !isRecent(received.time))
        throw new Error(`time is not the store's clock: ${JSON.stringify(received)}`);
      for (const name of ["id", "time"]) if (!(name in event)) delete received[name];
      if (!deepEquals(received, event))
        throw new Error(`expected ${JSON.stringify(event)}, received ${JSON.stringify(received)}`);
    }
  }

  /** The next presence event, including those received earlier. */
  async nextPresence(expectation = () => "expected presence"): Promise<Event> {
    return this.#presence.shift() ?? eventOf(await this.peer.next(expectation));
  }

  async hearsPresence(expected: Omit<Event, "type">): Promise<void> {
    const event = { type: "presence", ...expected };
    const received = await this.nextPresence(() => `expected ${JSON.stringify(event)}`);
    if (!deepEquals(received, event))
      throw new Error(`expected ${JSON.stringify(event)}, received ${JSON.stringify(received)}`);
  }

  /** As {@link Peer.hearsNothing}, presence aside. */
  async hearsNothing(): Promise<void> {
    const events = (await this.peer.receivedBeforeMarker()).map(eventOf);
    this.#presence.push(...events.filter(({ type }) => type === "presence"));
    expectSilence(events.filter(({ type }) => type !== "presence").map((event) => JSON.stringify(event)));
  }

  /** As {@link Peer.hearsNothingBeforePong}. */
  async hearsNothingBeforePong(): Promise<void> {
    this.sends({ type: "ping" });
    await this.hears({ type: "pong" });
  }

  leaves(): Promise<void> {
    return this.peer.leaves();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
  }
}

/** Longer than a test runs. */
const MAX_AGE_MS = 2 * 60 * 1000;

export function isRecent(time: unknown): boolean {
  return typeof time === "number" && Number.isInteger(time) && Math.abs(Date.now() - time) < MAX_AGE_MS;
}

function expectSilence(received: readonly Payload[]): void {
  if (received.length > 0) throw new Error(`expected silence, received ${received.map(show).join(", ")}`);
}

function eventOf(message: Payload): Event {
  if (typeof message !== "string") throw new Error(`a binary message on the JSON wire: ${show(message)}`);
  return JSON.parse(message);
}

function show(message: Payload): string {
  const text = typeof message === "string" ? JSON.stringify(message) : `bytes ${Bun.inspect(message)}`;
  return text.length > 200 ? `${text.slice(0, 200)}… (${message.length})` : text;
}
