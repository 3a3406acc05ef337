/** The tests' hands: a real server process, real sockets, and clients that say and hear. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { sharedRedis, skipped } from "./redis.ts";
import { withDeadline } from "./deadline.ts";
import { JsonPeer, Peer } from "./peer.ts";

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
