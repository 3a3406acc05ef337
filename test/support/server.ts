/** The tests' hands: a real server process, real sockets, and clients that say and hear. */

import { deepEquals } from "bun";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { sharedRedis, skipped } from "./redis.ts";
import { eventually, withDeadline } from "./deadline.ts";

export { eventually, withDeadline };

const SOURCE = [process.execPath, `${import.meta.dir}/../../src/server.ts`];

/** Stands for a part of the Redis that the tests share, of its own for each folder. */
const SHARED_REDIS = "redis:";

interface Store {
  /** For titles, where the URL says too little. */
  readonly name: string;
  /** A file's name without a folder lies in one of its own, which goes with the server. */
  readonly url: string;
  /** So many servers, whose clients are with each in turn. */
  readonly nodes?: 2;
  /** Its history goes back to the beginning, and not only as far as `--history`. */
  readonly keepsEverything?: true;
  readonly preload?: string;
}

/** What rooms, wires and resuming are tested on: the same tests, each store. */
export const STORES: readonly Store[] = [
  { name: "memory", url: "memory:" },
  { name: "SQLite", url: "sqlite:chat.db", keepsEverything: true },
  { name: "a late store", url: "late:?delay=10&seed=1", preload: "delayed-store.ts" },
  ...(skipped
    ? []
    : ([
        { name: "Redis", url: SHARED_REDIS },
        { name: "Redis, two nodes", url: SHARED_REDIS, nodes: 2 },
      ] as const)),
];

interface Setup {
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  /** One of {@link STORES}; the server's default if not said. */
  readonly store?: Store;
  /** A module that runs before the server's own, to break something on purpose. */
  readonly preload?: string;
  /** What to start instead of the source: an executable. */
  readonly command?: readonly string[];
  readonly cwd?: string;
  /** How much of its stdout is read; then the pipe is closed. */
  readonly reads?: "all" | "first line";
}

/** Starts a server on a free port of 127.0.0.1, or two; disposing it ends the processes. */
export async function startServer(setup: Setup = {}): Promise<TestServer> {
  const { store, cwd } = setup;
  const folder = store && cwd === undefined ? await mkdtemp(join(tmpdir(), "hubbub-")) : undefined;
  const place = cwd ?? folder;
  const url =
    store?.url === SHARED_REDIS ? (await sharedRedis()).url(Bun.hash(place ?? "").toString(36)) : store?.url;
  const start = () => startNode({ ...setup, ...(place ? { cwd: place } : {}) }, url, folder);
  const first = await start();
  if (store?.nodes === 2) first.other = await start();
  return first;
}

async function startNode(
  { args = [], env = {}, store, preload = store?.preload, command, cwd, reads = "all" }: Setup,
  url: string | undefined,
  folder: string | undefined,
): Promise<TestServer> {
  const [program, ...rest] = command ?? SOURCE;
  const cmd = [program ?? "", ...(preload ? ["--preload", `${import.meta.dir}/${preload}`] : []), ...rest];
  const server = Bun.spawn({
    cmd: [
      ...cmd,
      ...(url ? ["--store", url] : []),
      ...(args.includes("--port") ? [] : ["--port", "0"]),
      // What a test says is heard at once, so that silence can be proven.
      ...(args.includes("--flush-ms") ? [] : ["--flush-ms", "0"]),
      // Nobody reads it here.
      ...(args.includes("--log") ? [] : ["--log", "off"]),
      ...args,
    ],
    env: command ? env : { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    cwd: cwd ?? import.meta.dir,
  });
  const errors = new Response(server.stderr).text();
  const { greeting, output } = await readOutput(server.stdout, reads);
  const port = Number(/(?::|port )(\d+)(?:\/client|,)/.exec(greeting)?.[1]);
  if (!port) throw new Error(`the server did not start: ${greeting}${await errors}`);
  return new TestServer(server, port, greeting, output, errors, folder);
}

async function readOutput(stream: ReadableStream<Uint8Array>, reads: "all" | "first line") {
  let text = "";
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  const read = async () => {
    const { done, value } = await reader.read();
    text += decoder.decode(value, { stream: !done });
    return !done;
  };
  while (!text.includes("\n") && (await read()));
  const end = text.indexOf("\n") + 1 || text.length;
  const rest = async () => {
    if (reads === "first line") await reader.cancel();
    else while (await read());
    return text.slice(end);
  };
  return { greeting: text.slice(0, end), output: rest() };
}

export class TestServer implements AsyncDisposable {
  readonly #peers: Peer[] = [];
  /** A second node: clients and requests come to each in turn. */
  other: TestServer | undefined;
  #turns = 0;

  constructor(
    readonly process: Bun.Subprocess,
    readonly port: number,
    /** What it printed first. */
    readonly greeting: string,
    /** All that it printed after that, once it has ended. */
    readonly output: Promise<string>,
    /** All that the server wrote to stderr, once it has ended. */
    readonly errors: Promise<string>,
    /** Made for it alone, and removed when it is disposed. */
    private readonly folder: string | undefined,
  ) {}

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Opens the chat as a client with that id, on the tutorial's wire. */
  join(id: string, query: Query = {}): Promise<Peer> {
    return this.open(pathOf(id, query));
  }

  /** Opens the chat on the JSON wire, and has heard the welcome. */
  async joinJson(id: string, query: Query = {}): Promise<JsonPeer> {
    const peer = await this.open(pathOf(id, query), { "Sec-WebSocket-Protocol": SUBPROTOCOL });
    return JsonPeer.over(peer);
  }

  async open(path: string, headers: Record<string, string> = {}): Promise<Peer> {
    const url = new URL(path, this.origin);
    const room = (url.searchParams.get("room") ?? "lobby").normalize();
    // By way of each node, so that a marker comes after all that either has accepted before.
    const nodes = url.pathname === "/websocket" ? [] : [this, ...(this.other ? [this.other] : [])];
    const posts = nodes.map((node) => (marker: string) => node.#post(room, marker));
    const peer = new Peer(this.next().origin.replace("http", "ws") + path, headers, undefined, posts);
    this.#peers.push(peer);
    await peer.opened;
    if (this.other) await this.#isSeenByBoth(url);
    return peer;
  }

  async #post(room: string, marker: string): Promise<void> {
    const body = JSON.stringify({ from: "marker", text: marker });
    const response = await fetch(`${this.origin}/rooms/${encodeURIComponent(room)}/messages`, {
      method: "POST",
      body,
    });
    if (response.status !== 201) throw new Error(`a marker: ${response.status} ${await response.text()}`);
  }

  /** Who comes next comes to this one. */
  next(): TestServer {
    return this.other && this.#turns++ % 2 === 1 ? this.other : this;
  }

  /** A node learns a moment later than one's own of who has come. */
  async #isSeenByBoth({ pathname, searchParams }: URL): Promise<void> {
    const id = decodeURIComponent(pathname.split("/").at(-1) ?? "").normalize();
    const room = encodeURIComponent((searchParams.get("room") ?? "lobby").normalize());
    const look = async (node: TestServer | undefined): Promise<{ count: number; members: string[] }> =>
      JSON.parse(await (await fetch(`${node?.origin}/rooms/${room}/members`)).text());
    const MANY = 100; // of whom not all are named
    const seen = (async () => {
      for (;;) {
        const [one, other] = await Promise.all([look(this), look(this.other)]);
        if (one.count > MANY && other.count > MANY) return;
        if (one.members.includes(id) && other.members.includes(id)) return;
        await Bun.sleep(2);
      }
    })();
    await withDeadline(seen, () => `${id} is not seen by both nodes`);
  }

  get(path: string, init: RequestInit = {}): Promise<Response> {
    return fetch(this.next().origin + path, { redirect: "manual", ...init });
  }

  /** Status and body of a GET, for comparing whole. */
  async answer(path: string, init: RequestInit = {}): Promise<{ status: number; body: string }> {
    const response = await this.get(path, init);
    return { status: response.status, body: await response.text() };
  }

  /** The samples of /metrics, by name and labels. */
  async metrics(init: RequestInit = {}): Promise<Map<string, number>> {
    const { status, body } = await this.answer("/metrics", init);
    if (status !== 200) throw new Error(`/metrics is ${status}: ${body}`);
    return new Map(
      [...body.matchAll(/^([^#\s]\S*) (\S+)$/gm)].map(([, name = "", value]) => [name, Number(value)]),
    );
  }

  freeze(): void {
    this.process.kill("SIGSTOP");
    this.other?.freeze();
  }

  thaw(): void {
    this.process.kill("SIGCONT");
    this.other?.thaw();
  }

  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.process.kill(signal);
    await Promise.all([this.process.exited, this.other?.stop(signal)]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers) peer.vanishes();
    await this.stop();
    if (this.folder) await rm(this.folder, { recursive: true });
  }
}

type Query = Record<string, string | number | undefined>;

function pathOf(id: string, query: Query): string {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value !== undefined) given.set(name, `${value}`);
  return `/ws/${encodeURIComponent(id)}?${given}`;
}

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
