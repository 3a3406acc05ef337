/** The log that every node follows: each record once, in its order, and a gap where one is missing. */

import { logEvent, logError } from "../../ops/log.ts";
import { Faults, RedisConnection, RedisReplyError } from "./connection.ts";
import { rowId, parseRecord, streamRows, type LogRecord } from "./records.ts";

/** It is asked for more so often, and so much at once. */
const BLOCK_MS = 1000;
const MAX_RECORDS = 20;
const ANSWER_MS = 2000;
const RETRY_MS = 100;
/** A connection may be cut, and a read refused once where Redis changes its role; after so long it is more than that. */
const DEAF_MS = 2000;

export interface LogEvents {
  heard(record: LogRecord): void;
  /** Something is missing before the record with that id, which is heard next. */
  skipped(record: string): void;
  /** It cannot be read for now. */
  deaf(why: string): void;
  /** It can be read again. */
  reading(): void;
}

export class LogReader {
  /** Of its own, since it waits most of the time. */
  readonly #line: RedisConnection;
  readonly #key: string;
  /** How far it is read, which may be beyond the last record if somebody else has written there. */
  #position = "0-0";
  /** The last record: the next one has to follow it. */
  last = "0-0";
  #isEnded = false;
  #isDeaf = false;
  #failures = 0;
  #failedFirstMs = 0;
  readonly #faults = new Faults();

  constructor(
    url: string,
    prefix: string,
    private readonly events: LogEvents,
  ) {
    this.#line = new RedisConnection(url, prefix);
    this.#key = `${prefix}log`;
  }

  /** What comes after that record is heard next. */
  seek(record: string): void {
    this.#position = this.last = record;
  }

  /** Reads it for as long as the process runs. */
  async run(): Promise<void> {
    while (!this.#isEnded) {
      const position = this.#position;
      // Where it could not be read, whether it can be shows at once.
      const wait = this.#isDeaf ? [] : ["BLOCK", `${BLOCK_MS}`];
      const args = ["COUNT", `${MAX_RECORDS}`, ...wait, "STREAMS", this.#key, position];
      try {
        const reply = await this.#line.send("XREAD", args, BLOCK_MS + ANSWER_MS);
        // Otherwise it was read from where nothing is known any more.
        if (position === this.#position) this.#hearAll(streamRows(reply, this.#key));
        this.#hasRead();
      } catch (error) {
        this.#fail(error);
        await Bun.sleep(RETRY_MS);
      }
    }
  }

  #hasRead(): void {
    this.#failures = 0;
    if (!this.#isDeaf) return;
    this.#isDeaf = false;
    this.#faults.clear();
    this.events.reading();
  }

  #fail(error: unknown): void {
    if (this.#isEnded) return;
    const why = this.#faults.check("The log cannot be read", error);
    const isCut = !this.#faults.hasReported && !(error instanceof RedisReplyError);
    if (++this.#failures === 1) this.#failedFirstMs = performance.now();
    const isShort = isCut && performance.now() - this.#failedFirstMs < DEAF_MS;
    if (this.#isDeaf || this.#failures < 2 || isShort) return;
    this.#isDeaf = true;
    this.events.deaf(`the log cannot be read: ${why}`);
  }

  #hearAll(rows: readonly unknown[]): void {
    const records = rows.map(parseRecord);
    for (const [i, record] of records.entries()) {
      const next = records.find((other, at) => at > i && other !== undefined);
      // What follows another one than this has to be known, too: it is read again with that.
      if (!next && i > 0 && rows.length === MAX_RECORDS) return;
      this.#position = rowId(rows[i]) ?? this.#position;
      if (!record) logEvent("not ours", { key: this.#key, id: this.#position });
      // A Redis that was killed while it wrote this had lost it when it wrote the next, and found it again later.
      else if (record.prev === next?.prev) logEvent("lost and found", { key: this.#key, id: record.id });
      else this.#hear(record);
    }
  }

  #hear(record: LogRecord): void {
    const isGap = record.prev !== this.last;
    this.last = record.id;
    try {
      if (isGap) this.events.skipped(record.id);
      this.events.heard(record);
    } catch (error) {
      logError("A record could not be told", error);
    }
  }

  /** Goes on over a new connection. */
  drop(): void {
    this.#line.reset();
  }

  end(): void {
    this.#isEnded = true;
    this.#line.close();
  }
}
