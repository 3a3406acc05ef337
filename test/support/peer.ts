/** Clients over real sockets: what a test says, and what it receives, in order. */

import { deepEquals } from "bun";
import { withDeadline } from "./deadline.ts";

type Heard = string | Uint8Array;

/** A message that proves silence, and which no test hears as one. */
const MARKER = /(?:^Client #marker says: |"from":"marker","text":")(marker \d+)"?\}?$/;
let markers = 0;

/** One connection. What comes in is kept in order until the test asks for it. */
export class Peer implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #heard: Heard[] = [];
  readonly #closed = Promise.withResolvers<{ code: number; reason: string }>();
  readonly #askers: { resolve(message: Heard): void; reject(why: string): void }[] = [];
  /** What waits for a marker. */
  #awaited: { readonly marker: string; arrived(): void } | undefined;
  readonly opened: Promise<void>;

  /**
   * @param ca the certificate to trust, over TLS
   * @param posts post a marker to its room; without one it has no room, or none that others may post to
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
      const asker = this.#askers.shift();
      if (asker) asker.resolve(message);
      else this.#heard.push(message);
    };
    socket.onclose = ({ code, reason }) => {
      reject(new Error(`${url} was refused: ${code} ${reason}`));
      this.#closed.resolve({ code, reason });
      for (const asker of this.#askers) asker.reject(`the connection closed (${code})`);
    };
    this.#socket = socket;
  }

  says(message: string | Uint8Array<ArrayBuffer>): void {
    this.#socket.send(message);
  }

  /** A control frame, not a message. */
  pings(): void {
    this.#socket.ping();
  }

  /** The very next messages are these, each equal as a whole. */
  async hears(...expected: Heard[]): Promise<void> {
    for (const message of expected) {
      const heard = await this.next(`expected ${show(message)}`);
      if (!deepEquals(heard, message)) throw new Error(`expected ${show(message)}, heard ${show(heard)}`);
    }
  }

  /** Everything up to that message, whatever it is. */
  async hearsUpTo(message: string): Promise<void> {
    while ((await this.next(`expected ${show(message)}`)) !== message);
  }

  /** The next message, whatever it is. */
  async next(expectation = "expected a message"): Promise<Heard> {
    const waiting = this.#heard.shift();
    if (waiting !== undefined) return waiting;
    const { promise, resolve, reject } = Promise.withResolvers<Heard>();
    this.#askers.push({ resolve, reject: (why) => reject(new Error(`${expectation}, but ${why}`)) });
    return withDeadline(promise, () => `${expectation}, but nothing came`);
  }

  /**
   * Nothing was sent here, and nothing is on its way: a marker that is posted to the room now is the very next thing,
   * with any store and on any number of nodes. On the echo, the answer to a ping is.
   */
  async hearsNothing(): Promise<void> {
    expectSilence(await this.heardBeforeMarker());
  }

  /**
   * Nothing was sent here by this node so far. What the store, or another node, has not passed on yet is not excluded:
   * for servers whose store is away, or which do not let a marker in.
   */
  async hearsNothingBeforePong(): Promise<void> {
    expectSilence(await this.#heardBeforePong());
  }

  /** What was not asked for yet, up to a marker that is posted now. */
  async heardBeforeMarker(): Promise<Heard[]> {
    if (this.posts.length === 0) return this.#heardBeforePong();
    const heard: Heard[] = [];
    for (const post of this.posts) {
      const marker = `marker ${++markers}`;
      const { promise, resolve } = Promise.withResolvers<Heard[]>();
      this.#awaited = { marker, arrived: () => resolve(this.#heard.splice(0)) };
      await post(marker);
      heard.push(
        ...(await withDeadline(
          promise,
          () => `no ${marker}, but ${this.#heard.map(show).join(", ") || "nothing"}`,
        )),
      );
    }
    return heard;
  }

  async #heardBeforePong(): Promise<Heard[]> {
    const pong = Promise.withResolvers<Heard[]>();
    this.#socket.addEventListener("pong", () => pong.resolve(this.#heard.splice(0)), { once: true });
    this.#socket.ping();
    return withDeadline(pong.promise, () => "no answer to a ping");
  }

  /** Closes as a client should, and waits until that is done. */
  async leaves(): Promise<void> {
    this.#socket.close();
    await this.closes();
  }

  /** Stops reading, and goes on. */
  pauses(): void {
    this.#socket.pause();
  }

  resumes(): void {
    this.#socket.resume();
  }

  /** Bytes that the server has not taken yet. */
  get unsent(): number {
    return this.#socket.bufferedAmount;
  }

  /** What has come in and was not asked for. */
  unread(): Heard[] {
    return this.#heard.splice(0);
  }

  /** Drops the connection without a close frame. */
  vanishes(): void {
    this.#socket.terminate();
  }

  /** How the connection ended: close code and reason. */
  closes(): Promise<{ code: number; reason: string }> {
    return withDeadline(this.#closed.promise, () => `still open, heard ${this.#heard.map(show).join(", ")}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState !== WebSocket.CLOSED) this.vanishes();
  }
}

/** An event of the JSON wire. */
export type Event = { readonly type: string } & Record<string, unknown>;

/** A connection on the JSON wire. Presence comes when it comes, and is kept apart from the rest. */
export class JsonPeer implements AsyncDisposable {
  /** The id of the last message heard: where to go on. */
  after: string;
  readonly #presence: Event[] = [];

  private constructor(
    readonly peer: Peer,
    readonly welcome: Event,
  ) {
    this.after = String(welcome.last);
  }

  static async over(peer: Peer): Promise<JsonPeer> {
    return new JsonPeer(peer, eventOf(await peer.next("expected a welcome")));
  }

  says(text: string, more: { seq?: number; skip?: boolean } = {}): void {
    this.sends({ type: "message", text, ...more });
  }

  /** Says it, and goes on when it has heard it itself: then it is stored, and broadcast. */
  async saysAndHears(text: string, more: { seq?: number } = {}): Promise<void> {
    this.says(text, more);
    while ((await this.next(`expected its own ${show(text)}`)).text !== text);
  }

  sends(frame: object | string | Uint8Array<ArrayBuffer>): void {
    this.peer.says(typeof frame === "string" || frame instanceof Uint8Array ? frame : JSON.stringify(frame));
  }

  /** The next event that is no presence. */
  async next(expectation?: string): Promise<Event> {
    for (;;) {
      const event = eventOf(await this.peer.next(expectation));
      if (event.type === "presence") this.#presence.push(event);
      else {
        if (event.type === "message") this.after = String(event.id);
        return event;
      }
    }
  }

  /** The very next events are these; a message's id and time, and an ack's id, are checked only where they are given. */
  async hears(...expected: Event[]): Promise<void> {
    for (const event of expected) {
      const { ...heard } = await this.next(`expected ${JSON.stringify(event)}`);
      if (heard.type === "message" && !("time" in event) && !isRecent(heard.time))
        throw new Error(`time is not the store's clock: ${JSON.stringify(heard)}`);
      for (const name of ["id", "time"]) if (!(name in event)) delete heard[name];
      if (!deepEquals(heard, event))
        throw new Error(`expected ${JSON.stringify(event)}, heard ${JSON.stringify(heard)}`);
    }
  }

  /** The next presence event, heard already or not. */
  async nextPresence(expectation = "expected presence"): Promise<Event> {
    return this.#presence.shift() ?? eventOf(await this.peer.next(expectation));
  }

  async hearsPresence(expected: Omit<Event, "type">): Promise<void> {
    const event = { type: "presence", ...expected };
    const heard = await this.nextPresence(`expected ${JSON.stringify(event)}`);
    if (!deepEquals(heard, event))
      throw new Error(`expected ${JSON.stringify(event)}, heard ${JSON.stringify(heard)}`);
  }

  /** As {@link Peer.hearsNothing}; presence comes when it comes. */
  async hearsNothing(): Promise<void> {
    const events = (await this.peer.heardBeforeMarker()).map(eventOf);
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

/** What a test stores is stored while it runs. */
const MAX_AGE_MS = 2 * 60 * 1000;

export function isRecent(time: unknown): boolean {
  return typeof time === "number" && Number.isInteger(time) && Math.abs(Date.now() - time) < MAX_AGE_MS;
}

function expectSilence(heard: readonly Heard[]): void {
  if (heard.length > 0) throw new Error(`expected silence, heard ${heard.map(show).join(", ")}`);
}

function eventOf(message: Heard): Event {
  if (typeof message !== "string") throw new Error(`a binary message on the JSON wire: ${show(message)}`);
  return JSON.parse(message);
}

function show(message: Heard): string {
  const text = typeof message === "string" ? JSON.stringify(message) : `bytes ${Bun.inspect(message)}`;
  return text.length > 200 ? `${text.slice(0, 200)}… (${message.length})` : text;
}
