/** Reads the log that all nodes follow: every record once, in order. Gaps are detected. */

import { logEvent, logError } from "../../ops/log.ts";
import { Faults, OutageDetector, type RedisConnection } from "../redis/connection.ts";
import { rowId, parseRecord, streamRows } from "../redis/records.ts";
import type { LogRecord } from "./log-record.ts";
import type { RedisContext } from "./timing.ts";

const MAX_RECORDS = 20;

export interface LogListener {
  onRecord(record: LogRecord): void;
  /** Records are missing before this one, for which {@link onRecord} follows. */
  onGap(recordId: string): void;
  onUnreadable(reason: string): void;
  onReadable(): void;
}

export class LogReader {
  /** The id of the last record read. */
  lastId = "0-0";
  /** Where the next read begins, which is after `lastId` if foreign records follow it. */
  #position = "0-0";
  readonly #key: string;
  #isClosed = false;
  #isUnreadable = false;
  readonly #faults = new Faults();
  readonly #outage: OutageDetector;

  /** @param connection for this reader alone, because a read blocks it */
  constructor(
    private readonly connection: RedisConnection,
    private readonly context: RedisContext,
    private readonly listener: LogListener,
  ) {
    this.#key = `${connection.prefix}log`;
    this.#outage = new OutageDetector(context);
  }

  /** The next record read is the one after this. */
  seek(recordId: string): void {
    this.#position = this.lastId = recordId;
  }

  /** Reads until {@link close}. */
  async run(): Promise<void> {
    const { clock, timing } = this.context;
    const { blockMs, replyMs, readRetryMs } = timing;
    while (!this.#isClosed) {
      const position = this.#position;
      // While it is unreadable, a read that does not block shows at once when that is over.
      const block = this.#isUnreadable ? [] : ["BLOCK", `${blockMs}`];
      const args = ["COUNT", `${MAX_RECORDS}`, ...block, "STREAMS", this.#key, position];
      try {
        const reply = await this.connection.send("XREAD", args, blockMs + replyMs);
        // After a seek meanwhile, these rows are not wanted.
        if (position === this.#position) this.#onRows(streamRows(reply, this.#key));
        this.#onSuccess();
      } catch (error) {
        this.#onFailure(error);
        await clock.sleep(readRetryMs);
      }
    }
  }

  /** Continues over a new connection. */
  reset(): void {
    this.connection.reset();
  }

  close(): void {
    this.#isClosed = true;
    this.connection.close();
  }

  #onSuccess(): void {
    this.#outage.onSuccess();
    if (!this.#isUnreadable) return;
    this.#isUnreadable = false;
    this.#faults.clear();
    this.listener.onReadable();
  }

  #onFailure(error: unknown): void {
    if (this.#isClosed) return;
    const reason = this.#faults.check("The log cannot be read", error);
    const isOutage = this.#outage.onFailure(error);
    if (this.#isUnreadable || !isOutage) return;
    this.#isUnreadable = true;
    this.listener.onUnreadable(`the log cannot be read: ${reason}`);
  }

  #onRows(rows: readonly unknown[]): void {
    const records = rows.map(parseRecord);
    for (const [i, record] of records.entries()) {
      const next = records.find((other, at) => at > i && other !== undefined);
      // Whether this record is orphaned shows only in the next one: read it again together with that.
      if (!next && i > 0 && rows.length === MAX_RECORDS) return;
      this.#position = rowId(rows[i]) ?? this.#position;
      if (!record) logEvent("foreign record", { key: this.#key, id: this.#position });
      // Redis lost it in a crash, wrote the next record without it, and restored it later (README.md).
      else if (record.prev === next?.prev) logEvent("orphaned record", { key: this.#key, id: record.id });
      else this.#onRecord(record);
    }
  }

  #onRecord(record: LogRecord): void {
    const isGap = record.prev !== this.lastId;
    this.lastId = record.id;
    try {
      if (isGap) this.listener.onGap(record.id);
      this.listener.onRecord(record);
    } catch (error) {
      logError("A record could not be processed", error);
    }
  }
}
