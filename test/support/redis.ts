/** Real Redis processes: one that tests share, with a prefix each, or one of their own to kill and freeze. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { withDeadline } from "./deadline.ts";
import { freePort } from "./http.ts";
import { findProgram } from "./programs.ts";

const { path: program, skipped } = findProgram("redis-server", "redis-server");
export { skipped };

/** Nothing is written to disk, or each command is before it is answered. */
const VOLATILE = ["--save", "", "--appendonly", "no"];
export const DURABLE = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"];

export class Redis implements AsyncDisposable {
  #process: Bun.Subprocess | undefined;

  private constructor(
    readonly port: number,
    private readonly folder: string,
    private readonly args: readonly string[],
  ) {}

  /** Starts a Redis on a free port of 127.0.0.1; disposing it kills it and removes its data. */
  static async start(args: readonly string[] = VOLATILE): Promise<Redis> {
    const redis = new Redis(freePort(), await mkdtemp(join(tmpdir(), "hubbub-redis-")), args);
    await redis.start();
    return redis;
  }

  /** Starts it again after {@link stop}, with its data. */
  async start(): Promise<void> {
    this.#process = Bun.spawn({
      cmd: [
        program ?? "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        `${this.port}`,
        "--dir",
        this.folder,
        ...this.args,
      ],
      stdin: "ignore",
      stdout: "ignore",
      stderr: "ignore",
    });
    const isUp = async () => (await this.send("PING").catch(() => "")) === "PONG";
    const answers = (async () => {
      while (!(await isUp())) await Bun.sleep(10);
    })();
    await withDeadline(answers, () => "Redis does not answer");
  }

  url(prefix: string): string {
    return `redis://127.0.0.1:${this.port}?prefix=${prefix}`;
  }

  async send(command: string, ...args: string[]): Promise<unknown> {
    const client = new Bun.RedisClient(`redis://127.0.0.1:${this.port}`, { autoReconnect: false });
    try {
      return await client.send(command, args);
    } finally {
      client.close();
    }
  }

  async stop(signal: NodeJS.Signals = "SIGKILL"): Promise<void> {
    this.#process?.kill(signal);
    await this.#process?.exited;
  }

  freeze(): void {
    this.#process?.kill("SIGSTOP");
  }

  thaw(): void {
    this.#process?.kill("SIGCONT");
  }

  /** The append-only file of a {@link DURABLE} Redis. */
  async appendedFile(): Promise<string> {
    const files = new Bun.Glob("appendonlydir/*.incr.aof").scan({ cwd: this.folder, absolute: true });
    return (await Array.fromAsync(files)).sort().at(-1) ?? "";
  }

  /** Kills it however this process ends: a helper waits for the end of a pipe. */
  endWithUs(): void {
    const end = `read _; kill -9 ${this.#process?.pid}; rm -r "${this.folder}"`;
    Bun.spawn({ cmd: ["sh", "-c", end], stdin: "pipe", stdout: "ignore", stderr: "ignore" }).unref();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true });
  }
}

let shared: Promise<Redis> | undefined;

/** The shared Redis, for tests that do not disturb it. */
export function sharedRedis(): Promise<Redis> {
  shared ??= Redis.start().then((redis) => {
    redis.endWithUs();
    return redis;
  });
  return shared;
}
