/** A connection to Redis. It is replaced when it is lost, and every command has a deadline. */

import type { Clock } from "../../util/clock.ts";
import { EngineRejection, EngineUnreachable } from "../shared-log/engine.ts";
import { replyWithin } from "../shared-log/faults.ts";
import type { RedisScript } from "./scripts.ts";

/** Deadlines in milliseconds. */
export const redisTiming = {
  connectMs: 1500,
  /** A reply that takes longer means that the connection is lost. */
  replyMs: 2000,
};

export class RedisConnection {
  #client: Bun.RedisClient | undefined;
  #connecting: Promise<Bun.RedisClient> | undefined;
  #isClosed = false;

  /** @param prefix of all keys, with its colon */
  constructor(
    private readonly url: string,
    readonly prefix: string,
    private readonly clock: Clock,
    private readonly timing: Readonly<typeof redisTiming> = redisTiming,
  ) {}

  /** Sends a command once. @throws EngineRejection @throws EngineUnreachable if there is no reply */
  async send(command: string, args: string[], deadlineMs = this.timing.replyMs): Promise<unknown> {
    const client = await this.#connected();
    try {
      return await replyWithin(deadlineMs, this.clock, client.send(command, args));
    } catch (error) {
      if (isRejection(error)) throw new EngineRejection(error.message);
      this.#drop(client);
      throw unreachableUnlessBug(error);
    }
  }

  async run({ sha, source }: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    const rest = ["1", this.prefix, ...args.map(String)];
    try {
      return await this.send("EVALSHA", [sha, ...rest]);
    } catch (error) {
      if (!(error instanceof EngineRejection) || !error.message.startsWith("NOSCRIPT")) throw error;
      return this.send("EVAL", [source, ...rest]);
    }
  }

  /** The next command uses a new connection; commands in flight fail. */
  reset(): void {
    if (this.#client) this.#drop(this.#client);
  }

  close(): void {
    this.#isClosed = true;
    this.reset();
  }

  async #connected(): Promise<Bun.RedisClient> {
    if (this.#isClosed) throw new EngineUnreachable("the store is closed");
    if (this.#client?.connected) return this.#client;
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #connect(): Promise<Bun.RedisClient> {
    // Bun's own reconnecting and queueing would execute a command long after its caller has given up.
    const client = new Bun.RedisClient(this.url, {
      autoReconnect: false,
      enableOfflineQueue: false,
      connectionTimeout: this.timing.connectMs,
    });
    try {
      await replyWithin(this.timing.connectMs, this.clock, client.connect());
    } catch (error) {
      client.close();
      throw unreachableUnlessBug(error);
    }
    this.#client = client;
    if (this.#isClosed) this.reset();
    return client;
  }

  /** Commands in flight fail at once. */
  #drop(client: Bun.RedisClient): void {
    if (this.#client === client) this.#client = undefined;
    client.close();
  }
}

/** Connection errors have a code, from Bun's client or the system; a bug of ours has none, or one that says invalid. */
function unreachableUnlessBug(error: unknown): unknown {
  if (error instanceof EngineUnreachable) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "ERR_INVALID";
  const isBug = /^ERR_(INVALID|REDIS_INVALID_(ARGUMENT|COMMAND))/.test(code);
  return error instanceof Error && !isBug ? new EngineUnreachable(error.message) : error;
}

function isRejection(error: unknown): error is Error {
  return error instanceof Error && "code" in error && error.code === "ERR_REDIS_SERVER_ERROR";
}
