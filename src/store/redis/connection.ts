/** A connection to Redis. It is replaced when it is lost, and every command has a deadline. */

import { logError } from "../../ops/log.ts";
import type { RedisScript } from "./scripts.ts";
import type { RedisContext } from "../shared-log/timing.ts";

/** Redis rejected the command, so it had no effect. After any other error, it may have been executed. */
export class RedisReplyError extends Error {}

class StoreClosed extends Error {}

/** Logs errors that are neither rejections nor lost connections but bugs: each once, until {@link clear}. */
export class Faults {
  #reported = "";

  /** @returns the error's message */
  check(what: string, error: unknown): string {
    const reason = error instanceof Error ? error.message : String(error);
    const isExpected =
      error instanceof RedisReplyError || error instanceof StoreClosed || isConnectionError(error);
    if (!isExpected && reason !== this.#reported) {
      this.#reported = reason;
      logError(what, error);
    }
    return reason;
  }

  clear(): void {
    this.#reported = "";
  }
}

/** Tells an outage from what is tolerated: a single failure, and connections that are cut for `outageMs`. */
export class OutageDetector {
  #failures = 0;
  #firstFailureMs = 0;

  constructor(private readonly context: RedisContext) {}

  /** @returns whether this is an outage */
  onFailure(error: unknown): boolean {
    const nowMs = this.context.clock.elapsed();
    if (++this.#failures === 1) this.#firstFailureMs = nowMs;
    const isTolerated =
      isConnectionError(error) && nowMs - this.#firstFailureMs < this.context.timing.outageMs;
    return this.#failures > 1 && !isTolerated;
  }

  onSuccess(): void {
    this.#failures = 0;
  }
}

export class RedisConnection {
  #client: Bun.RedisClient | undefined;
  #connecting: Promise<Bun.RedisClient> | undefined;
  #isClosed = false;

  /** @param prefix of all keys, with its colon */
  constructor(
    private readonly url: string,
    readonly prefix: string,
    private readonly context: RedisContext,
  ) {}

  /** Sends a command once. @throws RedisReplyError if Redis rejects it, another error if there is no reply */
  async send(command: string, args: string[], deadlineMs = this.context.timing.replyMs): Promise<unknown> {
    const { clock } = this.context;
    const client = await this.#connected();
    const deadline = clock.setTimeout(() => this.#drop(client), deadlineMs);
    try {
      return await client.send(command, args);
    } catch (error) {
      if (isRejection(error)) throw new RedisReplyError(error.message);
      this.#drop(client);
      throw error;
    } finally {
      clock.clear(deadline);
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

  /** The next command uses a new connection; commands in flight fail. */
  reset(): void {
    if (this.#client) this.#drop(this.#client);
  }

  close(): void {
    this.#isClosed = true;
    this.#client?.close();
  }

  async #connected(): Promise<Bun.RedisClient> {
    if (this.#isClosed) throw new StoreClosed("the store is closed");
    if (this.#client?.connected) return this.#client;
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #connect(): Promise<Bun.RedisClient> {
    // Bun's own reconnecting and queueing would execute a command long after its caller has given up.
    const client = new Bun.RedisClient(this.url, {
      autoReconnect: false,
      enableOfflineQueue: false,
      connectionTimeout: this.context.timing.connectMs,
    });
    await client.connect();
    this.#client = client;
    return client;
  }

  /** Commands in flight fail at once. */
  #drop(client: Bun.RedisClient): void {
    if (this.#client === client) this.#client = undefined;
    client.close();
  }
}

/** These have a code, from Bun's client or the system; a bug of ours has none, or one that says invalid. */
function isConnectionError(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? String(error.code) : "ERR_INVALID";
  return !/^ERR_(INVALID|REDIS_INVALID_(ARGUMENT|COMMAND))/.test(code);
}

function isRejection(error: unknown): error is Error {
  return error instanceof Error && "code" in error && error.code === "ERR_REDIS_SERVER_ERROR";
}
