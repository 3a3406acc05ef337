/** The tests' hands: a real server process, real sockets, and clients that say and hear. */

import { deepEquals } from "bun";

/** How long anything may take before it counts as not happening: less than a test may take, so that it can say so. */
const DEADLINE_MS = 4_500;

const SOURCE = [process.execPath, `${import.meta.dir}/../src/server.ts`];

interface Setup {
  readonly args?: readonly string[];
  readonly env?: Record<string, string>;
  /** A module that runs before the server's own, to break something on purpose. */
  readonly preload?: string;
  /** What to start instead of the source: an executable. */
  readonly command?: readonly string[];
  readonly cwd?: string;
}

/** Starts a server on a free port of 127.0.0.1; disposing it ends the process. */
export async function startHubbub({ args = [], env = {}, preload, command, cwd }: Setup = {}) {
  const [program, ...rest] = command ?? SOURCE;
  const cmd = [program ?? "", ...(preload ? ["--preload", `${import.meta.dir}/${preload}`] : []), ...rest];
  const server = Bun.spawn({
    cmd: [...cmd, ...(args.includes("--port") ? [] : ["--port", "0"]), ...args],
    env: command ? env : { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    ...(cwd ? { cwd } : {}),
  });
  const errors = new Response(server.stderr).text();
  const greeting = await firstLine(server.stdout);
  const port = Number(/:(\d+)\/client/.exec(greeting)?.[1]);
  if (!port) throw new Error(`the server did not start: ${greeting}${await errors}`);
  return new Hubbub(server, port, greeting, errors);
}

async function firstLine(stream: ReadableStream<Uint8Array>): Promise<string> {
  let text = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    text += decoder.decode(chunk, { stream: true });
    if (text.includes("\n")) break;
  }
  return text;
}

export class Hubbub implements AsyncDisposable {
  readonly #peers: Peer[] = [];

  constructor(
    readonly process: Bun.Subprocess,
    readonly port: number,
    /** What it printed first. */
    readonly greeting: string,
    /** All that the server wrote to stderr, once it has ended. */
    readonly errors: Promise<string>,
  ) {}

  get origin(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Opens the chat as a client with that id. */
  join(id: string, headers: Record<string, string> = {}): Promise<Peer> {
    return this.open(`/ws/${encodeURIComponent(id)}`, headers);
  }

  async open(path: string, headers: Record<string, string> = {}): Promise<Peer> {
    const peer = new Peer(`ws://127.0.0.1:${this.port}${path}`, headers);
    this.#peers.push(peer);
    await peer.opened;
    return peer;
  }

  get(path: string, init: RequestInit = {}): Promise<Response> {
    return fetch(this.origin + path, { redirect: "manual", ...init });
  }

  /** Status and body of a GET, for comparing whole. */
  async answer(path: string, init: RequestInit = {}): Promise<{ status: number; body: string }> {
    const response = await this.get(path, init);
    return { status: response.status, body: await response.text() };
  }

  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.process.kill(signal);
    await this.process.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers) peer.vanishes();
    await this.stop();
  }
}

type Heard = string | Uint8Array;

/** One connection. What comes in is kept in order until the test asks for it. */
export class Peer implements AsyncDisposable {
  readonly #socket: WebSocket;
  readonly #heard: Heard[] = [];
  readonly #closed = Promise.withResolvers<{ code: number; reason: string }>();
  readonly #askers: { resolve(message: Heard): void; reject(why: string): void }[] = [];
  readonly opened: Promise<void>;

  constructor(url: string, headers: Record<string, string>) {
    const socket = new WebSocket(url, { headers });
    socket.binaryType = "nodebuffer";
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.opened = within(promise, () => `${url} did not open`);
    socket.onopen = () => resolve();
    socket.onmessage = ({ data }: MessageEvent<string | Buffer>) => {
      const message = typeof data === "string" ? data : new Uint8Array(data);
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

  /** The very next messages are these, each equal as a whole. */
  async hears(...expected: Heard[]): Promise<void> {
    for (const message of expected) {
      const heard = await this.next(`expected ${show(message)}`);
      if (!deepEquals(heard, message)) throw new Error(`expected ${show(message)}, heard ${show(heard)}`);
    }
  }

  /** The next message, whatever it is. */
  async next(expectation = "expected a message"): Promise<Heard> {
    const waiting = this.#heard.shift();
    if (waiting !== undefined) return waiting;
    const { promise, resolve, reject } = Promise.withResolvers<Heard>();
    this.#askers.push({ resolve, reject: (why) => reject(new Error(`${expectation}, but ${why}`)) });
    return within(promise, () => `${expectation}, but nothing came`);
  }

  /** Nothing has been sent here: the answer to a ping comes after all that was sent before it. */
  async hearsNothing(): Promise<void> {
    const pong = Promise.withResolvers<void>();
    this.#socket.addEventListener("pong", () => pong.resolve(), { once: true });
    this.#socket.ping();
    await within(pong.promise, () => "no answer to a ping");
    if (this.#heard.length > 0)
      throw new Error(`expected silence, heard ${this.#heard.map(show).join(", ")}`);
  }

  /** Closes as a client should, and waits until that is done. */
  async leaves(): Promise<void> {
    this.#socket.close();
    await this.closes();
  }

  /** Drops the connection without a close frame. */
  vanishes(): void {
    this.#socket.terminate();
  }

  /** How the connection ended: close code and reason. */
  closes(): Promise<{ code: number; reason: string }> {
    return within(this.#closed.promise, () => `still open, heard ${this.#heard.map(show).join(", ")}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.readyState !== WebSocket.CLOSED) this.vanishes();
  }
}

function show(message: Heard): string {
  const text = typeof message === "string" ? JSON.stringify(message) : `bytes ${Bun.inspect(message)}`;
  return text.length > 200 ? `${text.slice(0, 200)}… (${message.length})` : text;
}

/** The promise's value, or after the deadline an error that says what happened instead. */
export async function within<T>(
  promise: Promise<T>,
  complain: () => string,
  deadlineMs = DEADLINE_MS,
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(complain())), deadlineMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
