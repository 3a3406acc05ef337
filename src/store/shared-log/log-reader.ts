/** Reads the log that all nodes follow: every record once, in order. Gaps are detected. */

import { logError } from "../../ops/log.ts";
import type { Engine } from "./engine.ts";
import { Faults, OutageDetector } from "./faults.ts";
import type { LogRecord } from "./log-record.ts";
import type { SharedLogContext } from "./timing.ts";

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
  /** Where the next read begins, which is after `lastId` if rows that are not records follow it. */
  #position = "0-0";
  #isClosed = false;
  #isUnreadable = false;
  readonly #faults = new Faults();
  readonly #outage: OutageDetector;

  constructor(
    private readonly engine: Pick<Engine, "readLog">,
    private readonly context: SharedLogContext,
    private readonly listener: LogListener,
  ) {
    this.#outage = new OutageDetector(context);
  }

  /** The next record read is the one after this. */
  seek(recordId: string): void {
    this.#position = this.lastId = recordId;
  }

  /** Reads until {@link close}. */
  async run(): Promise<void> {
    const { clock, timing } = this.context;
    while (!this.#isClosed) {
      const position = this.#position;
      // While it is unreadable, a read that does not wait shows at once when that is over.
      const waitMs = this.#isUnreadable ? 0 : timing.blockMs;
      try {
        const page = await this.engine.readLog(position, waitMs);
        // After a seek meanwhile, these records are not wanted.
        if (position === this.#position) {
          this.#position = page.position;
          for (const record of page.records) this.#onRecord(record);
        }
        this.#onSuccess();
      } catch (error) {
        this.#onFailure(error);
        await clock.sleep(timing.readRetryMs);
      }
    }
  }

  close(): void {
    this.#isClosed = true;
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
