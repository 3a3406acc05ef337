/** Real server processes, on free ports of 127.0.0.1. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import type { Right } from "../../src/protocol/events.ts";
import { sharedPostgres, skipped as withoutPostgres } from "./postgres.ts";
import { sharedRedis, skipped as withoutRedis } from "./redis.ts";
import { eventually, withDeadline } from "./deadline.ts";
import { serverExecutable } from "./server-executable.ts";
import { bearer } from "./keys.ts";
import { JsonPeer, Peer } from "./peer.ts";

/** Stand for the Redis and the Postgres that all tests share; each server, or pair of servers, gets its own prefix or schema. */
const SHARED = new Map([
  ["redis:", async (name: string) => (await sharedRedis()).url(name)],
  ["postgres:", async (name: string) => (await sharedPostgres()).url(name)],
]);

interface Store {
  /** For test titles. */
  readonly name: string;
  /** A relative path lies in a temporary folder, which is removed with the server. */
  readonly url: string;
  /** Two servers, which clients connect to in turn. */
  readonly nodes?: 2;
  /** Its history is not limited by `--history`. */
  readonly keepsEverything?: true;
  readonly preload?: string;
}

/** The stores that the tests of both wires, rooms, presence and resuming run on. */
export const STORES: readonly Store[] = [
  { name: "memory", url: "memory:" },
  { name: "SQLite", url: "sqlite:chat.db", keepsEverything: true },
  { name: "a delayed store", url: "delayed:?delay=10&seed=1", preload: "delayed-store.ts" },
  ...(withoutRedis
    ? []
    : ([
        { name: "Redis", url: "redis:" },
        { name: "Redis, two nodes", url: "redis:", nodes: 2 },
      ] as const)),
  ...(withoutPostgres
    ? []
    : ([
        { name: "Postgres", url: "postgres:", keepsEverything: true },
        { name: "Postgres, two nodes", url: "postgres:", keepsEverything: true, nodes: 2 },
      ] as const)),
];

/** For the other tests: two nodes also cover one, and stores that answer late. */
export const COVERING_STORES = STORES.filter(
  ({ name, nodes }) => nodes === 2 || ["memory", "SQLite"].includes(name),
);

interface Setup {
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  /** Tokens are required; clients that join, and markers, have them. */
  readonly secret?: string;
  /** By default the server's own default. */
  readonly store?: Store;
  /** A module of test-server.ts that runs before the server, to inject a fault or a clock. */
  readonly preload?: string;
  /** What to start instead of the tests' executable. */
  readonly command?: readonly string[];
  readonly cwd?: string;
  /** How much of its stdout is read before the pipe is closed. */
  readonly reads?: "all" | "first line";
}

/** Starts one server, or the two of the store; disposing it kills them. */
export async function startServer(setup: Setup = {}): Promise<TestServer> {
  const { store, cwd } = setup;
  const folder = store && cwd === undefined ? await mkdtemp(join(tmpdir(), "hubbub-")) : undefined;
  const place = cwd ?? folder;
  const shared = SHARED.get(store?.url ?? "");
  const url = shared ? await shared(`s${Bun.hash(place ?? "").toString(36)}`) : store?.url;
  const start = () => startNode({ ...setup, ...(place ? { cwd: place } : {}) }, url, folder);
  const first = await start();
  if (store?.nodes === 2) first.other = await start();
  return first;
}

async function startNode(
  { args = [], env = {}, secret, store, preload = store?.preload, command, cwd, reads = "all" }: Setup,
  url: string | undefined,
  folder: string | undefined,
): Promise<TestServer> {
  const server = Bun.spawn({
    cmd: [
      ...(command ?? [serverExecutable()]),
      ...(url ? ["--store", url] : []),
      ...(args.includes("--port") ? [] : ["--port", "0"]),
      // Broadcasts are not delayed, which keeps the tests fast.
      ...(args.includes("--flush-ms") ? [] : ["--flush-ms", "0"]),
      // The log is not read.
      ...(args.includes("--log") ? [] : ["--log", "off"]),
      ...args,
    ],
    env: command
      ? env
      : {
          ...process.env,
          ...(preload && { TEST_PRELOAD: preload }),
          ...(secret && { HUBBUB_SECRET: secret }),
          ...env,
        },
    stdout: "pipe",
    stderr: "pipe",
    cwd: cwd ?? import.meta.dir,
  });
  const errors = new Response(server.stderr).text();
  const { greeting, log, output } = await readOutput(server.stdout, reads);
  const port = Number(/(?::|port )(\d+)(?:\/client|,)/.exec(greeting)?.[1]);
  if (!port) throw new Error(`the server did not start: ${greeting}${await errors}`);
  return new TestServer(server, port, greeting, log, output, errors, folder, secret);
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
  return { greeting: text.slice(0, end), log: () => text.slice(end), output: rest() };
}

export class TestServer implements AsyncDisposable {
  readonly #peers: Peer[] = [];
  /** The second node of a store with two. */
  other: TestServer | undefined;
  #turns = 0;

  constructor(
    readonly process: Bun.Subprocess,
    readonly port: number,
    /** The first line of its output. */
    readonly greeting: string,
    /** The rest of its output so far. */
    readonly log: () => string,
    /** The rest of its output, once it has exited. */
    readonly output: Promise<string>,
    /** Its stderr, once it has exited. */
    readonly errors: Promise<string>,
    /** Removed when the server is disposed. */
    private readonly folder: string | undefined,
    private readonly secret: string | undefined,
  ) {}

  /** The header with a token for ten minutes; none if no tokens are required. */
  authorization(
    client: string,
    can?: readonly Right[],
    rooms: readonly string[] = [],
  ): Record<string, string> {
    const { secret } = this;
    return secret === undefined ? {} : bearer(client, { rooms, secret, ...(can && { can }) });
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Joins a room on the text wire. */
  join(id: string, query: Query = {}): Promise<Peer> {
    return this.open(pathOf(id, query), this.authorization(id));
  }

  /** Joins a room on the JSON wire; resolves after the welcome. */
  async joinJson(id: string, query: Query = {}): Promise<JsonPeer> {
    const peer = await this.open(pathOf(id, query), {
      "Sec-WebSocket-Protocol": SUBPROTOCOL,
      ...this.authorization(id),
    });
    return JsonPeer.over(peer);
  }

  async open(path: string, headers: Record<string, string> = {}): Promise<Peer> {
    const url = new URL(path, this.origin);
    const room = (url.searchParams.get("room") ?? "lobby").normalize();
    // Over each node, so that the markers follow everything that either of them has accepted before.
    const nodes = url.pathname === "/websocket" ? [] : [this, ...(this.other ? [this.other] : [])];
    const posts = nodes.map((node) => (marker: string) => node.#post(room, marker));
    const peer = new Peer(this.next().origin.replace("http", "ws") + path, headers, undefined, posts);
    this.#peers.push(peer);
    await peer.opened;
    if (this.other) await this.#isSeenByBoth(url);
    return peer;
  }

  /** Again while the database of a busy machine answers too late: then the marker was not stored. */
  async #post(room: string, marker: string): Promise<void> {
    const post = async () => {
      const response = await fetch(`${this.origin}/rooms/${encodeURIComponent(room)}/messages`, {
        method: "POST",
        body: JSON.stringify({ from: "marker", text: marker }),
        headers: this.authorization("marker"),
      });
      if (response.status === 201) return true;
      const problem = await response.text();
      if (response.status === 503 && problem.includes('"code":"unavailable"')) return false;
      throw new Error(`a marker: ${response.status} ${problem}`);
    };
    await eventually(post, "a marker is stored");
  }

  /** The node for the next client or request. */
  next(): TestServer {
    return this.other && this.#turns++ % 2 === 1 ? this.other : this;
  }

  /** The other node learns of a join a moment later. */
  async #isSeenByBoth({ pathname, searchParams }: URL): Promise<void> {
    const id = decodeURIComponent(pathname.split("/").at(-1) ?? "").normalize();
    const room = encodeURIComponent((searchParams.get("room") ?? "lobby").normalize());
    const look = async (node: TestServer | undefined): Promise<{ count: number; members: string[] }> => {
      const path = `${node?.origin}/rooms/${room}/members`;
      const response = await fetch(path, { headers: this.authorization("marker") });
      // Looking too often may be rejected.
      return response.ok ? JSON.parse(await response.text()) : { count: 0, members: [] };
    };
    const MANY = 100; // the limit of members that are named
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

  /** Status and body of a response, for comparisons as a whole. */
  async answer(path: string, init: RequestInit = {}): Promise<{ status: number; body: string }> {
    const response = await this.get(path, init);
    return { status: response.status, body: await response.text() };
  }

  /** Posts a message to a room over HTTP. */
  post(
    room: string,
    message: Record<string, unknown>,
    headers = this.authorization(String(message.from)),
  ): Promise<Response> {
    const body = JSON.stringify(message);
    return this.get(`/rooms/${encodeURIComponent(room)}/messages`, { method: "POST", body, headers });
  }

  /** The texts of a room's stored messages, read over HTTP. */
  async texts(room = "lobby", query = ""): Promise<string[]> {
    const { body } = await this.answer(`/rooms/${encodeURIComponent(room)}/messages${query}`);
    return JSON.parse(body).messages.map(({ text }: { text: string }) => text);
  }

  async isReady(): Promise<boolean> {
    return (await this.get("/readyz")).status === 200;
  }

  becomesReady(): Promise<void> {
    return eventually(() => this.isReady(), "it is ready");
  }

  becomesUnready(): Promise<void> {
    return eventually(async () => !(await this.isReady()), "it is not ready");
  }

  /** Waits until its log matches; by default it does not log. */
  async logs(line: RegExp): Promise<void> {
    await eventually(async () => line.test(this.log()), `it logs ${line}`);
  }

  /** The samples of /metrics by name and labels. */
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
