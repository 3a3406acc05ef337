/** One connection to Postgres. It is replaced when it is lost, and every query has a deadline. */

import { SQL } from "bun";
import type { Clock } from "../../util/clock.ts";
import { EngineRejection, EngineUnreachable } from "../shared-log/engine.ts";
import { replyWithin } from "../shared-log/faults.ts";
import type { PostgresConfig } from "./config.ts";

/** In milliseconds. */
export const postgresTiming = {
  /** How long it may take to connect. */
  connectMs: 1500,
  /** A reply that takes longer means that the connection is lost. */
  replyMs: 2000,
  /** A notification to oneself that takes longer means that the connection is dead, although nothing says so. */
  silenceMs: 1500,
  /** The interval at which a lost connection for notifications is tried again. */
  listenRetryMs: 250,
};
/** Before the deadline, the server itself ends a query that takes too long, as one that waits for a lock. */
const STATEMENT_TIMEOUT_SHARE = 0.9;

const SETTINGS = [
  // Others would read what was there before a lock was granted.
  "default_transaction_isolation = 'read committed'",
  "lock_timeout = 0",
  "idle_in_transaction_session_timeout = 0",
  // Planning and compiling take longer than the queries, each of which has an index, also while its table is still small.
  "plan_cache_mode = force_generic_plan",
  "enable_seqscan = off",
  "jit = off",
];

export class PostgresConnection {
  #client: SQL | undefined;
  #connecting: Promise<SQL> | undefined;
  #isClosed = false;
  #isLast = false;
  /** Queries without a reply. */
  inFlight = 0;

  constructor(
    private readonly config: PostgresConfig,
    private readonly clock: Clock,
    private readonly replyMs = postgresTiming.replyMs,
  ) {}

  /**
   * Runs a query once.
   * @throws EngineRejection if Postgres rejects it, EngineUnreachable if there is no reply
   */
  async query<Row extends object>(text: string, values: readonly unknown[] = []): Promise<readonly Row[]> {
    this.inFlight++;
    let client: SQL | undefined;
    try {
      client = await this.#connected();
      return await replyWithin(this.replyMs, this.clock, client.unsafe<Row[]>(text, [...values]));
    } catch (caught) {
      const error = toEngineError(caught);
      // A connection that was closed while it was set up has called `onclose` too early. A read-only one leads to what was
      // the primary, or is so by a setting that has changed since.
      const isUseless = error instanceof EngineUnreachable || codeOf(error) === READ_ONLY;
      if (client && isUseless) this.#drop(client);
      throw error;
    } finally {
      this.inFlight--;
    }
  }

  /** For a transaction: once this connection is lost, every query fails. */
  neverReconnect(): void {
    this.#isLast = true;
  }

  /** The next query uses a new connection; queries in flight fail. */
  reset(): void {
    if (this.#client) this.#drop(this.#client);
  }

  close(): void {
    this.#isClosed = true;
    this.reset();
  }

  async #connected(): Promise<SQL> {
    if (this.#isClosed) throw new EngineUnreachable("the store is closed");
    if (this.#client) return this.#client;
    if (this.#isLast) throw new EngineUnreachable("the connection was lost");
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #connect(): Promise<SQL> {
    const client = createClient(this.config, () => this.#drop(client));
    const statementTimeoutMs = Math.round(STATEMENT_TIMEOUT_SHARE * this.replyMs);
    const setup = [...SETTINGS, `statement_timeout = ${statementTimeoutMs}`];
    try {
      const reply = client.unsafe(setup.map((setting) => `SET ${setting};`).join(" "));
      await replyWithin(postgresTiming.connectMs + this.replyMs, this.clock, reply);
    } catch (error) {
      this.#drop(client);
      throw error;
    }
    this.#client = client;
    if (this.#isClosed) this.reset();
    return client;
  }

  /** Bun would connect again by itself, without the settings above. */
  #drop(client: SQL): void {
    if (this.#client === client) this.#client = undefined;
    void client.close({ timeout: 0 });
  }
}

/** @param onclose called when its connection is lost */
export function createClient({ url }: PostgresConfig, onclose: () => void): SQL {
  return new SQL({
    url,
    max: 1,
    connectionTimeout: postgresTiming.connectMs / 1000,
    connection: { application_name: "hubbub" },
    onclose,
  });
}

/** Postgres' error code (SQLSTATE), else that of Bun's client or the system. */
export function codeOf(error: unknown): string | undefined {
  const { cause } = error instanceof Error ? error : {};
  const source: unknown =
    error instanceof EngineRejection || error instanceof EngineUnreachable ? cause : error;
  if (!(source instanceof Error)) return undefined;
  if ("errno" in source && typeof source.errno === "string") return source.errno;
  return "code" in source ? String(source.code) : undefined;
}

const READ_ONLY = "25006";
/** Of what Postgres reports, the classes of errors after which a retry may succeed, or a transaction may be committed. */
const UNCERTAIN = /^(08|40|57|53300)/;

function toEngineError(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof EngineUnreachable) return error;
  const code = codeOf(error);
  if (code === undefined || /^ERR_INVALID/.test(code)) return error; // a bug
  const isReply = /^[0-9A-Z]{5}$/.test(code);
  return isReply && !UNCERTAIN.test(code)
    ? new EngineRejection(error.message, { cause: error })
    : new EngineUnreachable(error.message, { cause: error });
}
