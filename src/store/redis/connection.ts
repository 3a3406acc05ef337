/** A connection to Redis that is made anew when it is lost, and never waits for an answer without an end. */

import { logError } from "../../ops/log.ts";
import type { RedisScript } from "./scripts.ts";

const CONNECT_MS = 1500;
const ANSWER_MS = 2000;

/** Redis has said no: what was asked was not done. Any other error leaves that open. */
export class RedisReplyError extends Error {}

class StoreEnded extends Error {}

/** Reports what is neither a refusal nor a lost connection, but a fault of ours: each once, until it works again. */
export class Faults {
  #reported = "";

  /** @returns why it failed */
  check(what: string, error: unknown): string {
    const why = error instanceof Error ? error.message : String(error);
    const isExpected =
      error instanceof RedisReplyError || error instanceof StoreEnded || isOfConnection(error);
    if (!isExpected && why !== this.#reported) {
      this.#reported = why;
      logError(what, error);
    }
    return why;
  }

  get hasReported(): boolean {
    return this.#reported !== "";
  }

  /** It works again. */
  clear(): void {
    this.#reported = "";
  }
}

export class RedisConnection {
  #client: Bun.RedisClient | undefined;
  #connecting: Promise<Bun.RedisClient> | undefined;
  #isEnded = false;

  /** @param prefix of all keys */
  constructor(
    private readonly url: string,
    readonly prefix: string,
  ) {}

  /** Asks once. @throws {RedisReplyError}, or an error that says why there is no answer */
  async send(command: string, args: string[], waitMs = ANSWER_MS): Promise<unknown> {
    const client = await this.#connected();
    const late = setTimeout(() => this.#drop(client), waitMs);
    try {
      return await client.send(command, args);
    } catch (error) {
      if (isRefusal(error)) throw new RedisReplyError(error.message);
      this.#drop(client);
      throw error;
    } finally {
      clearTimeout(late);
    }
  }

  async run({ sha, source }: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    const rest = ["1", this.prefix, ...args.map(String)];
    try {
      return await this.send("EVALSHA", [sha, ...rest]);
    } catch (error) {
      if (!(error instanceof RedisReplyError) || !error.message.startsWith("NOSCRIPT")) throw error;
      return this.send("EVAL", [source, ...rest]);
    }
  }

  /** For what changes nothing: when a connection turns out to be lost, it is asked again over a new one. */
  async askIdempotent(script: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await this.run(script, ...args);
    } catch (error) {
      if (error instanceof RedisReplyError) throw error;
      return this.run(script, ...args);
    }
  }

  /** The next question goes over a new connection; what still waits on this one has no answer. */
  reset(): void {
    if (this.#client) this.#drop(this.#client);
  }

  close(): void {
    this.#isEnded = true;
    this.#client?.close();
  }

  async #connected(): Promise<Bun.RedisClient> {
    if (this.#isEnded) throw new StoreEnded("the store has ended");
    if (this.#client?.connected) return this.#client;
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #connect(): Promise<Bun.RedisClient> {
    // Left to itself, it would ask again later what nobody waits for any more.
    const client = new Bun.RedisClient(this.url, {
      autoReconnect: false,
      enableOfflineQueue: false,
      connectionTimeout: CONNECT_MS,
    });
    await client.connect();
    this.#client = client;
    return client;
  }

  /** All that still waits for an answer on it is told that there will be none. */
  #drop(client: Bun.RedisClient): void {
    if (this.#client === client) this.#client = undefined;
    client.close();
  }
}

/** These have a code, from Bun's client or the system; what our own code does wrong has none, or one that says so. */
function isOfConnection(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? String(error.code) : "ERR_INVALID";
  return !/^ERR_(INVALID|REDIS_INVALID_(ARGUMENT|COMMAND))/.test(code);
}

function isRefusal(error: unknown): error is Error {
  return error instanceof Error && "code" in error && error.code === "ERR_REDIS_SERVER_ERROR";
}
