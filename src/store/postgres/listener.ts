/** Receives Postgres' notifications, which say that the log has a new record. */

import type { SQL } from "bun";
import { logEvent } from "../../ops/log.ts";
import type { Clock } from "../../util/clock.ts";
import type { Random } from "../../util/random.ts";
import { compareIds, isMessageId } from "../message-id.ts";
import type { PostgresConfig } from "./config.ts";
import { createClient, postgresTiming } from "./connection.ts";
import { toId } from "./rows.ts";

/** How long the start waits for a notification to itself; a busy machine takes a while. */
const FIRST_ECHO_MS = 5000;

export class NotificationListener {
  #client: SQL | undefined;
  #isListening = false;
  #reconnect: Timer | undefined;
  #isClosed = false;
  /** There may be records of which no notification was received. */
  #isBehind = true;
  /** The newest record that was notified since the last {@link startReading}. */
  #newestId: string | undefined;
  #wake: (() => void) | undefined;
  #echo: { readonly payload: string; readonly sentMs: number; readonly onArrival: () => void } | undefined;

  constructor(
    private readonly config: PostgresConfig,
    private readonly clock: Clock,
    private readonly random: Random,
  ) {}

  get channel(): string {
    return `hubbub ${this.config.schema}`;
  }

  /** @throws what Bun's client throws if it cannot connect */
  async listen(): Promise<void> {
    const client = createClient(this.config, () => this.#onLost(client));
    this.#client = client;
    const { connectMs, replyMs } = postgresTiming;
    const deadline = this.clock.setTimeout(() => this.#onLost(client), connectMs + replyMs);
    try {
      await client.listen(this.channel, (payload) => this.#onNotification(payload));
    } catch (error) {
      this.#onLost(client);
      throw error;
    } finally {
      this.clock.clear(deadline);
    }
    this.#isListening = this.#client === client;
    if (this.#isClosed) this.reset();
    this.#isBehind = true;
    this.#wake?.();
  }

  /** Whether a notification to oneself arrives. @param notify sends it, with the given payload */
  async hearsItself(notify: (payload: string) => Promise<unknown>): Promise<boolean> {
    const { promise, resolve } = Promise.withResolvers<void>();
    await notify(this.nextEcho(resolve));
    const deadline = this.clock.setTimeout(resolve, FIRST_ECHO_MS);
    await promise;
    this.clock.clear(deadline);
    return this.#isListening && this.#echo === undefined;
  }

  /** The payload of a notification to oneself. If the one before has not arrived in time, the connection is replaced. */
  nextEcho(onArrival = () => {}): string {
    const sentMs = this.clock.elapsed();
    if (this.#echo && sentMs - this.#echo.sentMs > postgresTiming.silenceMs) {
      logEvent("no notifications", { action: "connecting again" });
      this.reset();
    }
    const payload = this.#echo?.payload ?? `echo ${this.random.uuid()}`;
    if (this.#isListening) this.#echo ??= { payload, sentMs, onArrival };
    return payload;
  }

  /** Waits until there may be a record after this one, at most that long. */
  async waitForNews(after: string, maxMs: number): Promise<void> {
    if (this.#isBehind || this.#isClosed) return;
    if (this.#newestId !== undefined && compareIds(this.#newestId, after) > 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = this.clock.setTimeout(resolve, maxMs);
    this.#wake = resolve;
    await promise;
    this.#wake = undefined;
    this.clock.clear(timer);
  }

  /** What is notified from now on may be missing in the result. */
  startReading(): void {
    this.#isBehind = false;
    this.#newestId = undefined;
  }

  /** The last read did not reach the end of the log. */
  expectMore(): void {
    this.#isBehind = true;
  }

  /** Listens over a new connection. */
  reset(): void {
    if (this.#client) this.#onLost(this.#client);
  }

  close(): void {
    this.#isClosed = true;
    this.clock.clear(this.#reconnect);
    this.reset();
  }

  /** Bun would listen again by itself, ever more slowly, and print each failure. */
  #onLost(client: SQL): void {
    if (this.#client !== client) return;
    this.#client = undefined;
    this.#isListening = false;
    this.#echo = undefined;
    void client.close({ timeout: 0 });
    this.#isBehind = true;
    this.#wake?.();
    if (this.#isClosed) return;
    this.clock.clear(this.#reconnect);
    this.#reconnect = this.clock.setTimeout(
      () => void this.listen().catch(() => {}),
      postgresTiming.listenRetryMs,
    );
  }

  #onNotification(payload: string): void {
    if (payload === this.#echo?.payload) {
      const { onArrival } = this.#echo;
      this.#echo = undefined;
      return onArrival();
    }
    const id = toId(payload);
    if (!isMessageId(id)) return; // another node's echo
    if (this.#newestId === undefined || compareIds(id, this.#newestId) > 0) this.#newestId = id;
    this.#wake?.();
  }
}
