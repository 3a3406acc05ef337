/**
 * The Hubbub client: one connection to a room that reconnects by itself. It runs in browsers and in Bun and imports
 * nothing at run time, so that the server can serve it as it is.
 *
 *     import { connect } from "https://chat.example/hubbub.js";
 *     const room = connect({ id: "ann", room: "tea" });
 *     room.on("message", ({ from, text }) => console.log(from, text));
 *     room.send("hi");
 *
 * Bun does not import over HTTP: there, use a copy of the file and set `server`.
 *
 * Sent messages stay in the outbox until the server has acknowledged them, across any number of connections, and are
 * stored exactly once. Messages are received once each, in the room's order; `welcome` says if some are missing.
 */

import type { ServerEvent, ChatMessage, PresenceChange, Removal, Welcome } from "../protocol/events.ts";

export interface ConnectOptions {
  /** Origin of the server, such as `http://localhost:8000`. Default: where this module was loaded from. */
  readonly server?: string;
  /** The client id: 1 to 64 letters, digits, `_`, `-` or `.`. */
  readonly id: string;
  /** Default: `lobby`. */
  readonly room?: string;
  /**
   * A token, if the server requires one, or a function that gets one. Its `sub` must be the id. The function is called
   * before the first connection, and again after the server has rejected the token, as it does once it has expired.
   */
  readonly token?: string | (() => string | Promise<string>);
  /** Name of this sender's numbered stream of messages. Default: a random one. To continue one, pass its `outbox` too. */
  readonly session?: string;
  /** Unacknowledged messages of the session, as an earlier {@link Client} left them. */
  readonly outbox?: readonly OutboxItem[];
  /** Id of the last message received earlier: the server resumes after it. */
  readonly after?: string;
  /**
   * What to do with messages in flight when the server has forgotten the session: true resends them, which may
   * duplicate some; false (the default) drops them and emits `unconfirmed`.
   */
  readonly resendUnknown?: boolean;
  /** How many of the latest messages to replay first. Default: the server's `--history`. */
  readonly history?: number;
}

/** A message that is not acknowledged yet. Plain data: it can be stored, and passed to a later client as `outbox`. */
export interface OutboxItem {
  readonly text?: string;
  /** Of a binary message, instead of a text: its bytes in base64. */
  readonly data?: string;
  /** Its number in the session, set when it is first sent. */
  seq?: number;
  /** When it was first sent; Unix time in milliseconds. */
  firstSentAt?: number;
}

/**
 * - `connecting`: an attempt is under way, or about to start.
 * - `open`: the server has sent its welcome.
 * - `reconnecting`: the connection was lost or refused; the next attempt is at `retryAt` (Unix time in milliseconds).
 * - `closed`: by {@link Client.close}, or for good by the server. Then `statusCode` is the HTTP status or the
 *   WebSocket close code, and `code` the `Hubbub-Code` of a rejection, such as `bad-name`.
 *
 * `reason` is a sentence that can be shown to users.
 */
export type ConnectionState =
  | { readonly status: "connecting" | "open"; readonly reason?: undefined }
  | { readonly status: "reconnecting"; readonly retryAt: number; readonly reason: string }
  | ClosedState;

export interface ClosedState {
  readonly status: "closed";
  readonly reason: string;
  readonly statusCode?: number;
  readonly code?: string;
}

/** A message of the room. A binary one has `data`, and the same as `bytes`, instead of a text; a removed one has neither. */
export interface ReceivedMessage extends ChatMessage {
  readonly bytes?: Uint8Array<ArrayBuffer> | undefined;
}

export interface ClientEvents {
  state: ConnectionState;
  /** A connection is established; the replay follows. `recovered: false` means that messages may be missing. */
  welcome: Welcome;
  /** A message of the room, replayed or live, one's own included. */
  message: ReceivedMessage;
  /** The replay of a new connection is complete: `count` messages of it. What follows is live. */
  replayed: { readonly count: number };
  presence: PresenceChange;
  /** A moderator has removed messages that were received earlier: one, or all of a client up to an id. */
  removed: Removal;
  /** The message is stored. `id` is its message id, or undefined if it was acknowledged through a later connection. */
  acknowledged: { readonly item: OutboxItem; readonly id?: string | undefined };
  /** The message was not stored and is not resent. `code` is an error code of the protocol, `message` a sentence. */
  rejected: { readonly item: OutboxItem; readonly code: string; readonly message: string };
  /** The server has forgotten the session, so the message may or may not have been stored. It is not resent. */
  unconfirmed: OutboxItem;
}

/** Bounds of the exponential back-off between attempts. */
const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 30_000;
/** Upper bound of `Retry-After`: a proxy may ask for a day. */
const MAX_RETRY_AFTER_MS = 10 * 60 * 1000;
/**
 * Servers remember sessions for at least a day. A message first sent within this time cannot have been stored in a
 * session that has expired since.
 */
const SESSION_CERTAIN_MS = 60 * 60 * 1000;
/** Statuses of rejections that are temporary, although they are 4xx. */
const RETRYABLE_STATUSES = [408, 425, 426, 429];
/** How long a suspect connection has to answer a ping. */
const PROBE_MS = 3000;
/** Browser events after which the connection may be dead unnoticed: network back, page shown, restored or unfrozen. */
const WAKE_EVENTS = ["online", "visibilitychange", "pageshow", "resume"];
const MAX_REASON_CHARACTERS = 500;
const NO_RESPONSE = "The server does not respond.";
/** The ping interval until a welcome sets it. */
const PING_SECONDS = 25;
/** Close codes after which the client does not reconnect: replaced by a newer connection, banned, policy violation. */
const TERMINAL_CLOSE_CODES = [4001, 4003, 1008];
const TOKEN_EXPIRED = 4002;
/** How long the function that gets tokens may take. */
const TOKEN_WAIT_MS = 30_000;
/** A token that is rejected so soon after it was got has not expired meanwhile. */
const FRESH_TOKEN_MS = 60_000;
/** Error codes after which the message is resent. */
const TRANSIENT_ERRORS = ["unavailable", "unconfirmed", "rate-limited", "out-of-order"];
const MAX_RESEND_DELAY_MS = 200;
/** The browser refuses to send such a token in a header. */
const MALFORMED_TOKEN = "This token is malformed: it contains characters that tokens cannot have.";
const TOO_BIG = "The message is too large for this server.";
/** Messages in flight; below the burst that a server accepts, unless it is configured very low. */
const MAX_WINDOW = 32;

/**
 * Connects to a room. Returns at once; the first attempt starts after the current task, so that handlers can be added.
 * @throws if the server's address is not an http or https URL
 */
export function connect(options: ConnectOptions): Client {
  return new Client(options);
}

/** A connection to a room, made by {@link connect}. */
export class Client {
  /** Name of the session: the one given, or a random one. */
  readonly session: string;
  /** Messages that are not acknowledged yet, in the order of sending. Read it, do not change it. */
  outbox: OutboxItem[];
  state: ConnectionState = { status: "connecting" };

  readonly #options: ConnectOptions;
  readonly #handlers: { [E in keyof ClientEvents]: ((event: ClientEvents[E]) => void)[] } = {
    state: [],
    welcome: [],
    message: [],
    replayed: [],
    presence: [],
    removed: [],
    acknowledged: [],
    rejected: [],
    unconfirmed: [],
  };
  #after: string | undefined;
  #nextSeq = 1;
  /** Whether the server has ever acknowledged a message of this session. */
  #isSessionKnown = false;
  /** Seqs rejected for good on this connection: the next higher message must say `skip`. */
  #rejectedSeqs: number[] = [];
  /** Messages received since the welcome; undefined once the pong that ends the replay is here. */
  #replayed: number | undefined;
  #socket: WebSocket | undefined;
  /** How many messages at the start of the outbox are in flight, and how many may be: fewer after `rate-limited`. */
  #inFlight = 0;
  #window = MAX_WINDOW;
  /** Numbered messages sent on this connection whose result has not arrived. */
  #awaited = 0;
  /**
   * The outbox is to be sent again from its start, once every result is here: results of older copies would cause
   * further copies, and a slow connection or a rate limit would never recover.
   */
  #goesBack = false;
  #maxBytes = Infinity;
  #attempts = 0;
  #pingMs = PING_SECONDS * 1000;
  /** A ping was sent, and nothing received since. */
  #pingOutstanding = false;
  #checkedAt = 0;
  #probe: ReturnType<typeof setTimeout> | undefined;
  #isEnded = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #resend: ReturnType<typeof setTimeout> | undefined;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** Aborts what is awaited: a token, or the response that says why the upgrade was rejected. */
  #waiting = new AbortController();
  /** What the function that gets tokens has returned, or will. */
  #tokenPromise: Promise<string> | undefined;
  #tokenAt = 0;
  /** The token of the last attempt. */
  #token: string | undefined;
  /** A rejected token, until there is a connection with another one, and the state if that one is no better. */
  #rejected: { readonly token: string | undefined; readonly state: ClosedState } | undefined;
  readonly #wake = ({ type, target, persisted }: Event & { readonly persisted?: boolean }) => {
    if (type === "pageshow" && !persisted) return; // a new page, not a restored one
    if (target && "hidden" in target && target.hidden) return;
    if (this.state.status === "reconnecting") this.#open();
    else this.#probeConnection();
  };

  constructor(options: ConnectOptions) {
    this.#options = options;
    this.session = options.session ?? randomName();
    this.outbox = (options.outbox ?? []).map((item) => ({ ...item }));
    this.#after = options.after;
    void this.#url; // throws here, where the caller can catch it
    for (const type of WAKE_EVENTS) globalThis.addEventListener?.(type, this.#wake, true);
    // After the current task: the caller adds its handlers first.
    this.#timer = setTimeout(() => this.#open());
  }

  /** Adds a handler. What a handler throws is logged and does not affect the others. @returns this client */
  on<E extends keyof ClientEvents>(event: E, handler: (event: ClientEvents[E]) => void): this {
    this.#handlers[event].push(handler);
    return this;
  }

  /**
   * Adds a message to the outbox and sends it as soon as the connection is open. The result is emitted as
   * `acknowledged`, `rejected` or `unconfirmed`, with the returned item.
   * @param content a text, or the bytes of a binary message
   */
  send(content: string | Uint8Array | ArrayBuffer): OutboxItem {
    const item: OutboxItem =
      typeof content === "string"
        ? { text: content.toWellFormed() }
        : { data: toBase64(new Uint8Array(content)) };
    this.outbox.push(item);
    const sendMore = () => void (this.state.status === "open" && this.#fillWindow());
    // The caller gets the item before it can be rejected.
    if (this.#isTooBig(item)) queueMicrotask(() => (this.#rejectTooBig(), sendMore()));
    else sendMore();
    return item;
  }

  /**
   * Reads a page of the room's history over HTTP: up to 100 messages before the given one, oldest first.
   * @param before a message id
   * @returns the messages, and whether there are older ones
   * @throws an Error with the server's sentence, or one saying that a proxy answered instead; the error of `fetch` if
   *   there is no connection
   */
  async historyBefore(before: string): Promise<{ messages: ReceivedMessage[]; more: boolean }> {
    const { room = "lobby" } = this.#options;
    const url = new URL(`/rooms/${encodeURIComponent(room)}/messages`, this.#server);
    url.searchParams.set("before", before);
    const response = await fetch(url, this.#request(await this.#getToken()));
    let body: { messages?: ChatMessage[]; more?: boolean; detail?: string } | null = null;
    try {
      body = JSON.parse(await response.text());
    } catch {
      // an error page of a proxy
    }
    if (response.ok && Array.isArray(body?.messages)) {
      const messages = body.messages.filter((message) => isServerEvent({ ...message, type: "message" }));
      return { messages: messages.map(withBytes), more: body.more === true };
    }
    throw new Error((codeOf(response) && body?.detail) || proxyAnswered(response));
  }

  /** Concurrent callers share one call of the function that gets tokens. @throws what the function throws */
  async #getToken(): Promise<string | undefined> {
    const { token } = this.#options;
    if (typeof token !== "function") return token?.trim();
    const promise = (this.#tokenPromise ??= (async () => {
      const got: unknown = await token();
      if (typeof got !== "string") throw new Error(`expected a string, got ${got}`);
      this.#tokenAt = Date.now();
      return got.trim();
    })());
    try {
      return await promise;
    } catch (error) {
      if (this.#tokenPromise === promise) this.#tokenPromise = undefined;
      throw error;
    }
  }

  /** Bun's fetch would use the proxy of the environment, its WebSocket does not: both must take the same route. */
  #request(token: string | undefined) {
    return {
      proxy: false as const,
      headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
    };
  }

  /** @throws if the server's address is not an http or https URL */
  get #server(): string {
    const { server } = this.#options;
    const address = server ?? import.meta.url;
    if (/^https?:\/\//i.test(address)) return address;
    const own = server === undefined ? ", which is where this module was loaded from" : "";
    throw new Error(
      `server: expected an address such as "http://localhost:8000", got ${JSON.stringify(address.slice(0, 100))}${own}`,
    );
  }

  /** Connects now instead of at `retryAt`; also after the server has closed the connection for good. */
  retryNow(): void {
    if (this.#isEnded) return;
    if (this.state.status === "reconnecting" || this.state.status === "closed") this.#open();
  }

  /** Closes the connection for good. The outbox stays readable, so that it can be stored. */
  close(reason = "closed"): void {
    this.#isEnded = true;
    this.#dropSocket();
    for (const type of WAKE_EVENTS) globalThis.removeEventListener?.(type, this.#wake, true);
    this.#setState({ status: "closed", reason });
  }

  get #url(): URL {
    const { id, room, history } = this.#options;
    const url = new URL(`/ws/${encodeURIComponent(id)}`, this.#server);
    const query = { room, history, session: this.session, after: this.#after };
    for (const [name, value] of Object.entries(query))
      if (value !== undefined) url.searchParams.set(name, `${value}`);
    return url;
  }

  #open(): void {
    this.#dropSocket();
    this.#setState({ status: "connecting" });
    if (this.#isEnded) return; // a handler has closed it
    if (typeof this.#options.token === "function") void this.#openWithToken();
    else this.#openSocket(this.#options.token?.trim());
  }

  async #openWithToken(): Promise<void> {
    const { signal } = this.#waiting;
    const fail = (error: unknown) => {
      this.#tokenPromise = undefined;
      this.#scheduleReconnect(`No token: ${error instanceof Error ? error.message : error}`);
    };
    this.#timer = setTimeout(() => fail("it takes too long"), TOKEN_WAIT_MS);
    try {
      const token = await this.#getToken();
      if (signal.aborted) return;
      clearTimeout(this.#timer);
      if (this.#rejected && this.#rejected.token === token) this.#giveUp(this.#rejected.state);
      else this.#openSocket(token);
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
  }

  #openSocket(token: string | undefined): void {
    this.#token = token;
    const url = this.#url;
    const offers = token === undefined ? ["hubbub.v1"] : ["hubbub.v1", `token.${token}`];
    let socket: WebSocket;
    try {
      socket = new WebSocket(url.href.replace(/^http/, "ws"), offers);
    } catch (error) {
      // The address is valid, so a SyntaxError is about the token; other errors say what is wrong.
      const isToken = token !== undefined && error instanceof Error && error.name === "SyntaxError";
      return this.#giveUp({ status: "closed", reason: isToken ? MALFORMED_TOKEN : `${error}` });
    }
    this.#socket = socket;
    let welcomed = false;
    socket.onmessage = ({ data }) => {
      this.#pingOutstanding = false;
      clearTimeout(this.#probe);
      this.#probe = undefined;
      let event: unknown;
      try {
        event = JSON.parse(data);
      } catch {
        return; // not a Hubbub server
      }
      if (!isServerEvent(event)) return;
      welcomed ||= event.type === "welcome";
      if (welcomed) this.#onEvent(event);
    };
    socket.onclose = ({ code, reason }) => {
      if (code === TOKEN_EXPIRED) {
        this.#attempts++;
        return this.#onTokenRejected({ status: "closed", reason, statusCode: code });
      }
      if (TERMINAL_CLOSE_CODES.includes(code)) {
        this.#dropSocket();
        return this.#setState({ status: "closed", reason, statusCode: code });
      }
      this.#scheduleReconnect(reason);
      if (!welcomed && this.state.status === "reconnecting") void this.#fetchRejection(url);
    };
    this.#pingOutstanding = false;
    this.#startHeartbeat();
  }

  #startHeartbeat(): void {
    clearInterval(this.#heartbeat);
    this.#checkedAt = Date.now();
    this.#heartbeat = setInterval(() => this.checkAlive(), this.#pingMs);
  }

  /** Runs at every ping interval: reconnects if the last ping is unanswered, otherwise pings again. */
  checkAlive(): void {
    const sinceMs = Date.now() - this.#checkedAt;
    this.#checkedAt += sinceMs;
    // After a suspension the pong may be unread, or the connection long dead: probe it.
    if (sinceMs > 2 * this.#pingMs) return this.#probeConnection();
    if (this.#pingOutstanding) return this.#scheduleReconnect(NO_RESPONSE);
    this.#ping();
  }

  #ping(): void {
    this.#pingOutstanding = true;
    this.#write({ type: "ping" });
  }

  /** Detects a dead connection within seconds. An attempt under way has that long from its start. */
  #probeConnection(): void {
    if (this.#socket === undefined) return;
    const { readyState } = this.#socket;
    if (readyState === WebSocket.CONNECTING) {
      const leftMs = PROBE_MS - (Date.now() - this.#checkedAt);
      if (leftMs <= 0) this.#open();
      else this.#probe ??= setTimeout(() => this.#open(), leftMs);
      return;
    }
    if (this.#probe !== undefined) return;
    if (readyState !== WebSocket.OPEN) return this.#open();
    this.#ping();
    this.#probe = setTimeout(() => this.#scheduleReconnect(NO_RESPONSE), PROBE_MS);
  }

  #dropSocket(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#resend);
    clearTimeout(this.#probe);
    clearInterval(this.#heartbeat);
    this.#resend = this.#probe = undefined;
    this.#waiting.abort();
    this.#waiting = new AbortController();
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    socket.close();
  }

  #scheduleReconnect(reason: string): void {
    this.#dropSocket();
    this.#attempts++;
    this.#wait(reason);
  }

  /** Reconnects with a new token; gives up if none can be got, or if this one replaced a rejected one just now. */
  #onTokenRejected(state: ClosedState): void {
    const isFresh = Date.now() - this.#tokenAt < FRESH_TOKEN_MS;
    if (typeof this.#options.token !== "function" || (this.#rejected && isFresh)) return this.#giveUp(state);
    this.#rejected = { token: this.#token, state };
    this.#tokenPromise = undefined;
    this.#dropSocket();
    this.#wait(state.reason);
  }

  #giveUp(state: ClosedState): void {
    this.#dropSocket();
    this.#rejected = this.#tokenPromise = undefined; // for retryNow
    this.#setState(state);
  }

  /** Full jitter: clients that lose their server together reconnect spread out. */
  #wait(reason: string, atLeastMs = 0): void {
    clearTimeout(this.#timer);
    const waitMs =
      atLeastMs + Math.random() * Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.#attempts - 1));
    this.#timer = setTimeout(() => this.#open(), waitMs);
    this.#setState({ status: "reconnecting", retryAt: Date.now() + waitMs, reason });
  }

  /** Browsers hide why an upgrade was rejected; a plain GET of the same address returns the reason. */
  async #fetchRejection(url: URL): Promise<void> {
    const { signal } = this.#waiting;
    const request = (token: string | undefined, method = "GET") =>
      fetch(url, { ...this.#request(token), method, signal }).catch(() => undefined);
    let response = await request(this.#token);
    // In a page whose origin is not allowed, the browser blocks a request with a token.
    const isTokenless = !response && this.#token !== undefined;
    if (isTokenless) response = await request(undefined);
    // A same-origin GET carries no Origin, the WebSocket does, and behind a proxy that changes Host it is rejected: a
    // POST carries one, too.
    if (response?.status === 426) {
      const posted = await request(undefined, "POST");
      if (posted && codeOf(posted) === "origin") response = posted;
    }
    if (!response) return;
    const { status: statusCode, headers } = response;
    const code = codeOf(response);
    const text = code ? await response.text().catch(() => "") : proxyAnswered(response);
    // The state may have changed meanwhile. Of the rejections without the token, only `origin` holds with it, too.
    if (signal.aborted || this.state.status !== "reconnecting" || (isTokenless && code !== "origin")) return;
    const reason = text.trim().slice(0, MAX_REASON_CHARACTERS);
    if (code && statusCode >= 400 && statusCode < 500 && !RETRYABLE_STATUSES.includes(statusCode)) {
      const state = { status: "closed", reason, statusCode, code } as const;
      if (statusCode === 401) return this.#onTokenRejected(state);
      this.#dropSocket();
      return this.#setState(state);
    }
    const retryAfterMs = Number(headers.get("retry-after")) * 1000;
    if (retryAfterMs > 0) this.#wait(reason, Math.min(retryAfterMs, MAX_RETRY_AFTER_MS));
    else if (statusCode !== 426) this.#setState({ ...this.state, reason });
  }

  #onEvent(event: ServerEvent): void {
    switch (event.type) {
      case "welcome":
        this.#onWelcome(event);
        break;
      case "message":
        this.#attempts = 0; // a welcome alone is not enough: the server may close again at once
        this.#after = event.id;
        if (this.#replayed !== undefined) this.#replayed++;
        this.#emit("message", withBytes(event));
        break;
      case "removed": {
        this.#attempts = 0;
        this.#after = event.id;
        const { type: _, ...removal } = event;
        this.#emit("removed", removal);
        break;
      }
      case "pong":
        this.#attempts = 0;
        this.#onReplayDone();
        break;
      case "presence":
        this.#emit("presence", event);
        break;
      case "ack": {
        this.#attempts = 0;
        this.#isSessionKnown = true;
        this.#awaited--;
        const item = this.#take(event.seq);
        if (this.#window < MAX_WINDOW) this.#window++;
        this.#fillWindow();
        if (item) this.#emit("acknowledged", { item, id: event.id });
        break;
      }
      case "error": {
        if (event.seq === undefined) break;
        this.#awaited--;
        if (TRANSIENT_ERRORS.includes(event.code)) {
          // Behind a rejected message, the others in flight are out of order.
          if (event.code === "out-of-order" && this.#goesBack) {
            this.#fillWindow();
            break;
          }
          // To a store that is unavailable, resending the whole window would soon exceed the rate limit.
          if (event.code === "rate-limited" || event.code === "unavailable") this.#window = 1;
          const { retryAfterSeconds } = event;
          const waitMs =
            retryAfterSeconds === undefined
              ? Math.random() * MAX_RESEND_DELAY_MS
              : retryAfterSeconds * 1000 + (Math.random() * MAX_RESEND_DELAY_MS) / 10;
          this.#resend ??= setTimeout(() => this.#retransmit(), waitMs);
          break;
        }
        const item = this.#take(event.seq);
        if (item) this.#rejectedSeqs.push(event.seq);
        if (item) this.#retransmit();
        else this.#fillWindow();
        if (!item) break;
        this.#emit("rejected", { item, code: event.code, message: event.message });
        break;
      }
    }
  }

  #onWelcome(welcome: Welcome): void {
    const { sent = null, recovered, last, pingSeconds, maxMessageBytes } = welcome;
    this.#rejected = undefined;
    this.#pingMs = pingSeconds * 1000;
    this.#maxBytes = maxMessageBytes;
    this.#startHeartbeat();
    // A store that still has the last message received has lost nothing, so a session unknown to it is new: its
    // messages were never stored, unless the session has expired.
    const mayBeStored = ({ firstSentAt = 0 }: OutboxItem) =>
      sent === null &&
      (this.#isSessionKnown || recovered !== true || Date.now() - firstSentAt > SESSION_CERTAIN_MS);
    // With their old seqs, resent messages are still not duplicated by those that are only late.
    const isDoubtful = this.#options.resendUnknown ? () => false : mayBeStored;
    const settled = this.#removeItems(
      (item) => item.seq !== undefined && (item.seq <= (sent ?? 0) || isDoubtful(item)),
    );
    if (recovered !== true) this.#after = last;
    this.#rejectedSeqs = [];
    this.#isSessionKnown ||= sent !== null;
    const seqs = [...settled, ...this.outbox].map(({ seq = 0 }) => seq);
    this.#nextSeq = Math.max(this.#nextSeq, 1 + Math.max(sent ?? 0, ...seqs));
    this.#rejectTooBig(); // the server's limit may be another than before
    // Before any handler runs: what a handler sends must follow what was sent before.
    this.#awaited = 0;
    this.#retransmit();
    this.#replayed = 0;
    this.#write({ type: "ping" });
    this.#setState({ status: "open" });
    this.#emit("welcome", welcome);
    for (const item of settled)
      if (sent === null) this.#emit("unconfirmed", item);
      else this.#emit("acknowledged", { item });
  }

  #onReplayDone(): void {
    const count = this.#replayed;
    this.#replayed = undefined;
    if (count !== undefined) this.#emit("replayed", { count });
  }

  /** Takes the message with that number, most often the first, out of the outbox. */
  #take(seq: number): OutboxItem | undefined {
    const index = this.outbox.findIndex((item) => item.seq === seq);
    if (index < 0) return undefined;
    if (index < this.#inFlight) this.#inFlight--;
    return this.outbox.splice(index, 1)[0];
  }

  #removeItems(which: (item: OutboxItem) => boolean): OutboxItem[] {
    const taken = this.outbox.filter(which);
    if (taken.length === 0) return taken;
    this.#inFlight -= this.outbox.slice(0, this.#inFlight).filter(which).length;
    this.outbox = this.outbox.filter((item) => !which(item));
    return taken;
  }

  /** Sends the outbox again from its start, once no result is awaited. */
  #retransmit(): void {
    clearTimeout(this.#resend);
    this.#resend = undefined;
    this.#inFlight = 0;
    this.#goesBack = true;
    this.#fillWindow();
  }

  #fillWindow(): void {
    if (this.#resend !== undefined || (this.#goesBack && this.#awaited > 0)) return;
    this.#goesBack = false;
    for (; this.#inFlight < this.#window; this.#inFlight++) {
      const item = this.outbox[this.#inFlight];
      // A message that is too big here was sent by a handler just now: its rejection is queued.
      if (!item || this.#isTooBig(item) || (this.#inFlight > 0 && this.#needsSkip(item))) return;
      this.#transmit(item);
    }
  }

  #transmit(item: OutboxItem): void {
    item.seq ??= this.#nextSeq++;
    item.firstSentAt ??= Date.now();
    const skip = this.#needsSkip(item);
    const { seq, text, data } = item;
    if (skip) this.#rejectedSeqs = this.#rejectedSeqs.filter((rejected) => rejected > seq);
    this.#awaited++;
    this.#write({ type: "message", text, data, seq, ...(skip ? { skip } : {}) });
  }

  /** The server closes the connection on a frame above its limit, so such a message must never be sent. */
  #rejectTooBig(): void {
    for (const item of this.#removeItems((item) => this.#isTooBig(item)))
      this.#emit("rejected", { item, code: "message-too-big", message: TOO_BIG });
  }

  #isTooBig({ text = "", data = "" }: OutboxItem): boolean {
    const padding = data.slice(-2).split("=").length - 1;
    if ((data.length * 3) / 4 - padding > this.#maxBytes) return true;
    return text.length * 3 > this.#maxBytes && new TextEncoder().encode(text).length > this.#maxBytes;
  }

  /** Whether the message must skip a rejected seq. The server then drops all it holds back, so it must be the first in flight. */
  #needsSkip({ seq = Infinity }: OutboxItem): boolean {
    return this.#rejectedSeqs.some((rejected) => rejected < seq);
  }

  #write(frame: object): void {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #setState(state: ConnectionState): void {
    this.state = state;
    this.#emit("state", state);
  }

  #emit<E extends keyof ClientEvents>(event: E, value: ClientEvents[E]): void {
    for (const handler of this.#handlers[event])
      try {
        handler(value);
      } catch (error) {
        // One handler must not keep the event from the others.
        console.error(error);
      }
  }
}

/** Characters per call of `String.fromCharCode`, which takes them as arguments. */
const CHUNK = 0x8000;

function toBase64(bytes: Uint8Array): string {
  let characters = "";
  for (let i = 0; i < bytes.length; i += CHUNK)
    characters += String.fromCharCode(...bytes.subarray(i, i + CHUNK));
  return btoa(characters);
}

/** @returns undefined if it is not base64 */
function fromBase64(data: string): Uint8Array<ArrayBuffer> | undefined {
  let characters: string;
  try {
    characters = atob(data);
  } catch {
    return undefined;
  }
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

function withBytes(message: ChatMessage): ReceivedMessage {
  return message.data === undefined ? message : { ...message, bytes: fromBase64(message.data) };
}

/** What a Date can hold (ECMA-262, section 21.4.1.1). */
const MAX_DATE_MS = 8_640_000_000_000_000;

type Check = (value: unknown) => boolean;
const isString: Check = (value) => typeof value === "string";
const isNumber: Check = (value) => typeof value === "number";
const isNames: Check = (value) => Array.isArray(value) && value.every(isString);
const isTime: Check = (value) => typeof value === "number" && Math.abs(value) <= MAX_DATE_MS;

/** The types of the fields, the same in every event. */
const FIELD_TYPES = new Map<string, Check>([
  ["id", isString],
  ["from", isString],
  ["text", isString],
  ["data", isString],
  ["removed", (value) => value === true],
  ["upTo", isString],
  ["last", isString],
  ["code", isString],
  ["message", isString],
  ["time", isTime],
  ["seq", isNumber],
  ["sent", (value) => value === null || isNumber(value)],
  ["count", isNumber],
  ["retryAfterSeconds", isNumber],
  ["pingSeconds", isNumber],
  ["maxMessageBytes", isNumber],
  ["members", isNames],
  ["can", isNames],
  ["joined", isNames],
  ["left", isNames],
]);

const REQUIRED_FIELDS = new Map<unknown, readonly string[]>([
  ["welcome", ["last", "count", "members", "can", "pingSeconds", "maxMessageBytes"]],
  ["message", ["id", "time", "from"]],
  ["presence", ["joined", "left", "count"]],
  ["removed", ["id"]],
  ["ack", ["seq"]],
  ["error", ["code", "message"]],
  ["pong", []],
]);

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}

/** Events of an unknown type, or whose fields have the wrong types, are ignored. */
function isServerEvent(value: unknown): value is ServerEvent {
  if (!isObject(value)) return false;
  if (REQUIRED_FIELDS.get(value.type)?.every((name) => Object.hasOwn(value, name)) !== true) return false;
  // No array of entries for each message: some clients receive thousands per second.
  for (const name in value) if (FIELD_TYPES.get(name)?.(value[name]) === false) return false;
  return true;
}

/** The server's code of a rejection; error pages of proxies have none. */
function codeOf({ headers }: Response): string | undefined {
  return headers.get("hubbub-code") ?? undefined;
}

function proxyAnswered({ status }: Response): string {
  return `The chat server did not answer; something in between returned HTTP ${status}.`;
}

/** The client id (`sub`) that a token names, without verifying it; undefined if it is not a token. */
export function tokenSubject(token: string): string | undefined {
  try {
    const claims = token.split(".")[1]?.replaceAll("-", "+").replaceAll("_", "/") ?? "";
    const json = new TextDecoder().decode(Uint8Array.from(atob(claims), (byte) => byte.charCodeAt(0)));
    const { sub }: { sub?: unknown } = JSON.parse(json);
    return typeof sub === "string" ? sub : undefined;
  } catch {
    return undefined;
  }
}

/** Works outside secure contexts, where `crypto.randomUUID` does not. */
function randomName(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) =>
    byte.toString(36).padStart(2, "0"),
  ).join("");
}
