/**
 * The client: one connection to a room that mends itself. For browsers and for Bun, without any import, so that
 * the server can hand it out as it is.
 *
 *     import { connect } from "https://chat.example/hubbub.js";
 *     const room = connect({ id: "ann", room: "tea" });
 *     room.on("message", ({ from, text }) => console.log(from, text));
 *     room.send("hi");
 *
 * Bun does not import over HTTP: there it is a copy of the file, and `server` says where the server is.
 *
 * What is sent waits in the outbox until the server has acknowledged it, through any number of connections, and
 * is said exactly once. What is heard is heard once, in the room's order; `welcome` tells if something is missing.
 */

import type { ServerEvent, ChatMessage, PresenceChange, Welcome } from "../protocol/events.ts";

export interface ConnectOptions {
  /** Where the server is, as in `http://localhost:8000`; the one that this module was imported from if not said. */
  readonly server?: string;
  readonly id: string;
  readonly room?: string;
  /** Where the server asks for one; its `sub` has to be the id. */
  readonly token?: string;
  /** The name of this sender's stream of messages; a random one if not said. With `outbox`, what an earlier page kept. */
  readonly session?: string;
  readonly outbox?: readonly OutboxItem[];
  /** The last message heard before, to go on from there. */
  readonly after?: string;
  /** Says again what the server has forgotten, in its order, instead of `unsure`: nothing is lost, some may be repeated. */
  readonly resendUnknown?: boolean;
  /** How many of the latest messages to hear first; all that the server keeps ready if not said. */
  readonly history?: number;
}

/** A message of one's own, until it is acknowledged. Plain data: it can be kept, and given to another page's {@link ConnectOptions}. */
export interface OutboxItem {
  readonly text: string;
  /** Its number in the session, once it was given to a connection and the server may have it. */
  seq?: number;
  /** When it was first given to one; Unix time in milliseconds. */
  firstSentAt?: number;
}

/**
 * `waiting` comes back by itself, at `retryAt` (Unix time in milliseconds); `closed` does not, for `reason`: `status` is
 * the HTTP status or the close code, unless one closed it oneself, and `code` the server's `Hubbub-Code`, such as `bad-name`.
 */
export type ConnectionState =
  | { readonly status: "connecting" | "open" }
  | { readonly status: "reconnecting"; readonly retryAt: number; readonly reason: string }
  | {
      readonly status: "closed";
      readonly reason: string;
      readonly statusCode?: number;
      readonly code?: string;
    };

export interface ClientEvents {
  state: ConnectionState;
  welcome: Welcome;
  message: ChatMessage;
  /** All that was said before is heard, so many messages; what comes from here on is new. */
  replayed: { readonly count: number };
  presence: PresenceChange;
  /** Kept, and said to everyone as the message of that id, which follows; without one it was before. */
  acknowledged: { readonly item: OutboxItem; readonly id?: string | undefined };
  /** Not said, and it will not be: `message` says why. */
  rejected: { readonly item: OutboxItem; readonly code: string; readonly message: string };
  /** The server has forgotten this session: whether this was said, nobody knows. */
  unconfirmed: OutboxItem;
}

const FIRST_WAIT_MS = 500;
/** A session that is not known was never known, as long as the server cannot have forgotten it for its age. */
const SESSION_CERTAIN_MS = 60 * 60 * 1000;
/** Rejections that pass, although they are a 4xx of the server's. */
const PASSING_STATUS = [408, 425, 426, 429];
const MAX_WAIT_MS = 30_000;
/** A proxy may ask for a day. */
const MAX_RETRY_AFTER_MS = 10 * 60 * 1000;
/** How long a connection in doubt has to answer: a suspended computer, another network, a page that was frozen. */
const PROBE_MS = 3000;
/** What may have cost the connection without a word: the network is back, the page is shown, restored or thawed. */
const WAKING = ["online", "visibilitychange", "pageshow", "resume"];
const MAX_REASON_CHARACTERS = 500;
const SILENT = "no sign of life";
/** Until the first welcome has said how often to ask. */
const PING_SECONDS = 25;
/** Close codes after which coming back by itself is wrong: replaced by another connection; not allowed any more. */
const FINAL = [4001, 1008];
/** Refusals that pass: what they refuse is sent again, by itself. */
const PASSING = ["unavailable", "unconfirmed", "rate-limited", "out-of-order"];
const SEND_AGAIN_MS = 200;
/** What no header can hold, no browser sends. */
const NO_TOKEN = "This token is none: it has characters that no token has.";
const TOO_BIG = "It is bigger than this server takes: send less at a time.";
/** Messages on their way at once: less than a server takes in one burst, unless it is set to take very little. */
const MAX_WINDOW = 32;

export function connect(options: ConnectOptions): Client {
  return new Client(options);
}

export class Client {
  readonly session: string;
  /** What is not acknowledged yet, in its order. */
  outbox: OutboxItem[];
  state: ConnectionState = { status: "connecting" };

  readonly #options: ConnectOptions;
  readonly #handlers: { [E in keyof ClientEvents]: ((event: ClientEvents[E]) => void)[] } = {
    state: [],
    welcome: [],
    message: [],
    replayed: [],
    presence: [],
    acknowledged: [],
    rejected: [],
    unconfirmed: [],
  };
  #after: string | undefined;
  #nextSeq = 1;
  /** Whether the server has ever acknowledged anything of this session. */
  #isSessionKnown = false;
  /** Numbers that this connection has refused for good: the next one above has to say that it goes on without them. */
  #rejectedSeqs: number[] = [];
  /** Messages heard since the welcome, until the answer to the ping that follows it. */
  #replayed: number | undefined;
  #socket: WebSocket | undefined;
  /** How many of the outbox, from its start, are on their way, and how many may be: fewer after a "not so fast". */
  #inFlight = 0;
  #window = MAX_WINDOW;
  #maxBytes = Infinity;
  #attempts = 0;
  #pingMs = PING_SECONDS * 1000;
  /** A ping is out, and nothing was heard since. */
  #pingOutstanding = false;
  #checkedAt = 0;
  #probe: ReturnType<typeof setTimeout> | undefined;
  #isEnded = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #resend: ReturnType<typeof setTimeout> | undefined;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** Asks why it was rejected. */
  #inquiry: AbortController | undefined;
  readonly #wake = ({ type, target, persisted }: Event & { readonly persisted?: boolean }) => {
    if (type === "pageshow" && !persisted) return; // the page is new
    if (target && "hidden" in target && target.hidden) return;
    if (this.state.status === "reconnecting") this.#open();
    else this.#test();
  };

  constructor(options: ConnectOptions) {
    this.#options = options;
    this.session = options.session ?? randomName();
    this.outbox = (options.outbox ?? []).map((item) => ({ ...item }));
    this.#after = options.after;
    void this.#url; // throws here, where it can be caught, if the server's address is none
    for (const type of WAKING) globalThis.addEventListener?.(type, this.#wake, true);
    // Later, so that whoever called has its handlers on.
    this.#timer = setTimeout(() => this.#open());
  }

  on<E extends keyof ClientEvents>(event: E, handler: (event: ClientEvents[E]) => void): this {
    this.#handlers[event].push(handler);
    return this;
  }

  /** Puts a text into the outbox, and sends it as soon as there is a connection. */
  send(text: string): OutboxItem {
    const item: OutboxItem = { text: text.toWellFormed() };
    this.outbox.push(item);
    const giveMore = () => void (this.state.status === "open" && this.#fillWindow());
    // Whoever sends has the item before it is refused.
    if (this.#isTooBig(item.text)) queueMicrotask(() => (this.#refuseTooBig(), giveMore()));
    else giveMore();
    return item;
  }

  /**
   * What was said before a message, oldest first: a page of it, and whether there is more.
   * @throws an error with the server's sentence, or one that says that it was not the server that answered
   */
  async historyBefore(before: string): Promise<{ messages: ChatMessage[]; more: boolean }> {
    const { room = "lobby" } = this.#options;
    const url = new URL(`/rooms/${encodeURIComponent(room)}/messages`, this.#server);
    url.searchParams.set("before", before);
    const response = await fetch(url, this.#request(this.#token));
    let body: { messages?: ChatMessage[]; more?: boolean; detail?: string } | null = null;
    try {
      body = JSON.parse(await response.text());
    } catch {
      // A proxy's page.
    }
    if (response.ok && body?.messages) return { messages: body.messages, more: body.more === true };
    throw new Error((codeOf(response) && body?.detail) || notOurs(response));
  }

  get #token(): string | undefined {
    return this.#options.token?.trim();
  }

  /** Bun would take the proxy that its environment names, and a WebSocket does not: both take the same way. */
  #request(token: string | undefined) {
    return {
      proxy: false as const,
      headers: token === undefined ? {} : { Authorization: `Bearer ${token}` },
    };
  }

  /** @throws if the server's address is none */
  get #server(): string {
    const { server } = this.#options;
    const address = server ?? import.meta.url;
    if (/^https?:\/\//i.test(address)) return address;
    const own = server === undefined ? ", which is where this module was loaded from" : "";
    throw new Error(
      `server: expected an address such as "http://localhost:8000", got ${JSON.stringify(address.slice(0, 100))}${own}`,
    );
  }

  /** Does not wait any longer for the next attempt; also brings back what the server has closed. */
  retryNow(): void {
    if (this.#isEnded) return;
    if (this.state.status === "reconnecting" || this.state.status === "closed") this.#open();
  }

  /** Ends it for good. The outbox stays, for whoever wants to keep it. */
  close(reason = "closed"): void {
    this.#isEnded = true;
    this.#dropSocket();
    for (const type of WAKING) globalThis.removeEventListener?.(type, this.#wake, true);
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
    if (this.#isEnded) return; // by a handler
    const url = this.#url;
    const token = this.#token;
    const offers = token === undefined ? ["hubbub.v1"] : ["hubbub.v1", `token.${token}`];
    let socket: WebSocket;
    try {
      socket = new WebSocket(url.href.replace(/^http/, "ws"), offers);
    } catch (error) {
      // The address is one; what else a browser may object to, it says itself.
      const isToken = token !== undefined && error instanceof Error && error.name === "SyntaxError";
      return this.#setState({ status: "closed", reason: isToken ? NO_TOKEN : `${error}` });
    }
    this.#socket = socket;
    let welcomed = false;
    socket.onmessage = ({ data }) => {
      this.#pingOutstanding = false;
      clearTimeout(this.#probe);
      this.#probe = undefined;
      let event: ServerEvent | null;
      try {
        event = JSON.parse(data);
      } catch {
        return; // it is another server
      }
      welcomed ||= event?.type === "welcome";
      if (event && welcomed) this.#onEvent(event);
    };
    socket.onclose = ({ code, reason }) => {
      if (FINAL.includes(code)) {
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

  /** A ping that has no answer by the time of the next one: the connection is dead, whatever TCP says. */
  checkAlive(): void {
    const sinceMs = Date.now() - this.#checkedAt;
    this.#checkedAt += sinceMs;
    // Suspended, or frozen: the answer may be here and not read yet, or the connection long gone.
    if (sinceMs > 2 * this.#pingMs) return this.#test();
    if (this.#pingOutstanding) return this.#scheduleReconnect(SILENT);
    this.#ask();
  }

  #ask(): void {
    this.#pingOutstanding = true;
    this.#write({ type: "ping" });
  }

  /** A dead connection shows within seconds; one that is only just being made has its time. */
  #test(): void {
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
    this.#ask();
    this.#probe = setTimeout(() => this.#scheduleReconnect(SILENT), PROBE_MS);
  }

  #dropSocket(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#resend);
    clearTimeout(this.#probe);
    clearInterval(this.#heartbeat);
    this.#resend = this.#probe = undefined;
    this.#inquiry?.abort();
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

  /** Full jitter: a thousand clients that lose their server together come back spread out. */
  #wait(reason: string, atLeastMs = 0): void {
    clearTimeout(this.#timer);
    const waitMs =
      atLeastMs + Math.random() * Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.#attempts - 1));
    this.#timer = setTimeout(() => this.#open(), waitMs);
    this.#setState({ status: "reconnecting", retryAt: Date.now() + waitMs, reason });
  }

  /** A WebSocket does not say why it was rejected; a plain GET of the same address does, in a sentence. */
  async #fetchRejection(url: URL): Promise<void> {
    const { signal } = (this.#inquiry = new AbortController());
    const ask = (token: string | undefined, method = "GET") =>
      fetch(url, { ...this.#request(token), method, signal }).catch(() => undefined);
    let response = await ask(this.#token);
    // The browser of a page that may not connect does not let it show a token.
    const isTokenless = !response && this.#token !== undefined;
    if (isTokenless) response = await ask(undefined);
    // A page's GET of its own site has no Origin, and its WebSocket has one: a proxy that changes Host makes it foreign.
    if (response?.status === 426) {
      const posted = await ask(undefined, "POST");
      if (posted && codeOf(posted) === "origin") response = posted;
    }
    if (!response) return;
    const { status: statusCode, headers } = response;
    const code = codeOf(response);
    const text = code ? await response.text().catch(() => "") : notOurs(response);
    // By now it may be closed, or on its way again. Without the token, only this one also holds with it.
    if (signal.aborted || this.state.status !== "reconnecting" || (isTokenless && code !== "origin")) return;
    const reason = text.trim().slice(0, MAX_REASON_CHARACTERS);
    if (code && statusCode >= 400 && statusCode < 500 && !PASSING_STATUS.includes(statusCode)) {
      this.#dropSocket();
      return this.#setState({ status: "closed", reason, statusCode, code });
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
        this.#attempts = 0; // a connection that got anywhere was a good one
        this.#after = event.id;
        if (this.#replayed !== undefined) this.#replayed++;
        this.#emit("message", event);
        break;
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
        const [item] = this.#removeItems(({ seq }) => seq === event.seq);
        if (this.#window < MAX_WINDOW) this.#window++;
        this.#fillWindow();
        if (item) this.#emit("acknowledged", { item, id: event.id });
        break;
      }
      case "error": {
        if (event.seq === undefined) break;
        if (PASSING.includes(event.code)) {
          if (event.code === "rate-limited") this.#window = 1;
          const { retryAfterSeconds } = event;
          const waitMs =
            retryAfterSeconds === undefined
              ? Math.random() * SEND_AGAIN_MS
              : retryAfterSeconds * 1000 + (Math.random() * SEND_AGAIN_MS) / 10;
          this.#resend ??= setTimeout(() => this.#retransmit(), waitMs);
          break;
        }
        const [item] = this.#removeItems(({ seq }) => seq === event.seq);
        if (!item) break;
        this.#rejectedSeqs.push(event.seq);
        this.#retransmit();
        this.#emit("rejected", { item, code: event.code, message: event.message });
        break;
      }
    }
  }

  #onWelcome(welcome: Welcome): void {
    const { sent = null, recovered, last, pingSeconds, maxMessageBytes } = welcome;
    this.#pingMs = pingSeconds * 1000;
    this.#maxBytes = maxMessageBytes;
    this.#startHeartbeat();
    // A store that still has the last message heard has lost nothing: what it does not know was never said.
    const isForgotten = ({ firstSentAt = 0 }: OutboxItem) =>
      sent === null &&
      (this.#isSessionKnown || recovered !== true || Date.now() - firstSentAt > SESSION_CERTAIN_MS);
    // Under its old number what was forgotten is said again, and what is only late is not said twice.
    const isDoubtful = this.#options.resendUnknown ? () => false : isForgotten;
    const settled = this.#removeItems(
      (item) => item.seq !== undefined && (item.seq <= (sent ?? 0) || isDoubtful(item)),
    );
    if (recovered !== true) this.#after = last;
    this.#rejectedSeqs = [];
    this.#isSessionKnown ||= sent !== null;
    this.#nextSeq = Math.max(this.#nextSeq, (sent ?? 0) + 1, ...this.outbox.map(({ seq = 0 }) => seq + 1));
    // Before anyone is told: what a handler sends now has to come after what was sent before.
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

  #removeItems(which: (item: OutboxItem) => boolean): OutboxItem[] {
    const taken = this.outbox.filter(which);
    if (taken.length === 0) return taken;
    this.#inFlight -= this.outbox.slice(0, this.#inFlight).filter(which).length;
    this.outbox = this.outbox.filter((item) => !which(item));
    return taken;
  }

  /** All that is not acknowledged is given again, from the start. */
  #retransmit(): void {
    clearTimeout(this.#resend);
    this.#resend = undefined;
    this.#inFlight = 0;
    this.#fillWindow();
  }

  #fillWindow(): void {
    if (this.#resend !== undefined) return; // what is refused goes first
    this.#refuseTooBig();
    for (; this.#inFlight < this.#window; this.#inFlight++) {
      const item = this.outbox[this.#inFlight];
      // One that is too big was sent just now, by whoever heard of the last: it is refused in a moment.
      if (!item || this.#isTooBig(item.text) || (this.#inFlight > 0 && this.#skips(item))) return;
      this.#give(item);
    }
  }

  #give(item: OutboxItem): void {
    item.seq ??= this.#nextSeq++;
    item.firstSentAt ??= Date.now();
    const skip = this.#skips(item);
    const { seq } = item;
    if (skip) this.#rejectedSeqs = this.#rejectedSeqs.filter((refused) => refused > seq);
    this.#write({ type: "message", text: item.text, seq, ...(skip ? { skip } : {}) });
  }

  /** A frame larger than the server reads would end the connection, again and again. */
  #refuseTooBig(): void {
    for (const item of this.#removeItems(({ text }) => this.#isTooBig(text)))
      this.#emit("rejected", { item, code: "message-too-big", message: TOO_BIG });
  }

  #isTooBig(text: string): boolean {
    return text.length * 3 > this.#maxBytes && new TextEncoder().encode(text).length > this.#maxBytes;
  }

  /** Goes on without a refused one; which gives up all that is held back, and so nothing before it may be left. */
  #skips({ seq = Infinity }: OutboxItem): boolean {
    return this.#rejectedSeqs.some((refused) => refused < seq);
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
        // A fault of whoever listens is not to cost them a message.
        console.error(error);
      }
  }
}

/** What the server names a rejection; no proxy's error page has one. */
function codeOf({ headers }: Response): string | undefined {
  return headers.get("hubbub-code") ?? undefined;
}

function notOurs({ status }: Response): string {
  return `No answer from the chat server, but HTTP ${status} from something on the way.`;
}

/** Whom a token is for; what it is worth only the server knows. */
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
