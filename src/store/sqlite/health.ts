/** Whether the SQLite store's files can still be relied on. If not, the store is unavailable until they can. */

import { SQLiteError } from "bun:sqlite";
import type { Stats } from "node:fs";
import { logEvent, logError } from "../../ops/log.ts";
import type { Clock } from "../../util/clock.ts";
import { lazyFs } from "../../util/lazy-node.ts";
import { StoreUnavailable } from "../store.ts";
import { besideDatabase } from "./database.ts";

const RETRY_MS = 1000;
/** The header of a database file. It contains the file change counter (https://sqlite.org/fileformat2.html, section 1.3). */
const HEADER_BYTES = 100;
const CHANGED = "its files were removed, or changed by another program";

/** Undefined if the file is missing. */
type FileState = Pick<Stats, "dev" | "ino" | "size" | "mtimeMs"> | undefined;

export class DatabaseHealth {
  isReady = true;
  /** The database and its write-ahead log. */
  readonly #files: readonly string[];
  /** As this process last left them. */
  #states: readonly FileState[];
  /** Open as long as the database is: closing any descriptor of a file releases SQLite's locks on it (fcntl(2)). */
  readonly #headerFile: number;
  #header: string;
  /** A file was missing or replaced after this process had written to it. */
  #hasMissed = false;
  #retryTimer: Timer | undefined;
  #isClosed = false;

  /**
   * @param probeWrite writes to the database without changing anything
   * @param saveLog moves what the write-ahead log contains to the main file, and creates a new log
   */
  constructor(
    path: string,
    private readonly clock: Clock,
    private readonly probeWrite: () => unknown,
    private readonly saveLog: () => unknown,
  ) {
    this.#files = [path, besideDatabase(path, "-wal")];
    this.#states = this.#files.map(stateOf);
    this.#headerFile = lazyFs().openSync(path, "r");
    this.#header = this.#readHeader();
  }

  /** @returns undefined if the work failed, or the database is closed. If the database is to blame, the store is unavailable until a probe succeeds. */
  attempt<T>(work: () => T): { readonly value: T } | undefined {
    if (this.#isClosed) return undefined;
    try {
      return { value: work() };
    } catch (error) {
      if (error instanceof SQLiteError) this.#markUnavailable(error.message);
      else logError("The store failed", error);
      return undefined;
    }
  }

  /** @throws StoreUnavailable if {@link attempt} returns nothing */
  read<T>(work: () => T): T {
    const result = this.attempt(work);
    if (!result) throw new StoreUnavailable();
    return result.value;
  }

  /**
   * Writes only while the files are unchanged.
   * @returns undefined if nothing was written; `isSure` is false if the files changed during the write
   */
  write<T>(work: () => T): { readonly value: T; readonly isSure: boolean } | undefined {
    if (this.#isClosed || !this.checkFiles()) return undefined;
    const result = this.attempt(work);
    const isSure = this.#recordStates();
    return result && { ...result, isSure };
  }

  /** Files that were removed, truncated or replaced still accept writes, but these are lost. Takes two system calls. */
  checkFiles(): boolean {
    if (this.#hasMissed) return this.#recordStates();
    const states = this.#files.map(stateOf);
    const isUnchanged = states.every((state, i) => {
      const known = this.#states[i];
      return isSameFile(state, known) && state?.size === known?.size;
    });
    const [isSameTime, isSameLogTime] = states.map((state, i) => state?.mtimeMs === this.#states[i]?.mtimeMs);
    // Whatever writes a database changes its header; `touch` does not.
    if (isUnchanged && isSameLogTime && (isSameTime || this.#readHeader() === this.#header)) {
      this.#states = states;
      return true;
    }
    this.#markUnavailable(CHANGED);
    return false;
  }

  /** Moves what the log contains to the main file, and truncates it. @returns whether `checkpoint` could */
  emptyLog(checkpoint: () => boolean): boolean {
    if (!this.checkFiles() || !this.attempt(checkpoint)?.value) return false;
    const [main, log] = this.#states;
    if (main && log) this.#states = [main, { ...log, size: 0 }];
    return this.#recordStates();
  }

  /** Called after the database is closed: a shutdown does not wait for reads that take too long. */
  close(): void {
    this.#isClosed = true;
    this.isReady = false;
    this.clock.clear(this.#retryTimer);
    lazyFs().closeSync(this.#headerFile);
  }

  /** After a write by this process. @returns false if something else has changed the files, as far as can be seen */
  #recordStates(): boolean {
    const states = this.#files.map(stateOf);
    const isPlausible = states.every((state, i) => {
      const known = this.#states[i];
      return isSameFile(state, known) && (state?.size ?? 0) >= (known?.size ?? 0);
    });
    this.#hasMissed = !isPlausible;
    if (!isPlausible) {
      this.#markUnavailable(CHANGED);
      return false;
    }
    if (states[0]?.mtimeMs !== this.#states[0]?.mtimeMs) this.#header = this.#readHeader();
    this.#states = states;
    return true;
  }

  #readHeader(): string {
    const header = Buffer.alloc(HEADER_BYTES);
    lazyFs().readSync(this.#headerFile, header, 0, HEADER_BYTES, 0);
    return header.toString("latin1");
  }

  #markUnavailable(reason: string): void {
    if (this.isReady) {
      logEvent("store unavailable", { reason });
      this.#scheduleRetry();
    }
    this.isReady = false;
  }

  #scheduleRetry(): void {
    const retry = () => {
      this.#saveRemovedLog();
      if (!this.write(this.probeWrite)?.isSure) return this.#scheduleRetry();
      this.isReady = true;
      logEvent("store available");
    };
    this.#retryTimer = this.clock.setTimeout(retry, RETRY_MS).unref();
  }

  /** A log that was removed can be read for as long as this process has it open. */
  #saveRemovedLog(): void {
    const [main, log] = this.#files.map(stateOf);
    const [known] = this.#states;
    if (!main || !known || !isSameFile(main, known) || main.size < known.size) return;
    if (log || !this.attempt(this.saveLog)) return;
    this.#states = this.#files.map(stateOf);
    this.#header = this.#readHeader();
    this.#hasMissed = false;
  }
}

function stateOf(path: string): FileState {
  try {
    return lazyFs().statSync(path);
  } catch {
    return undefined;
  }
}

function isSameFile(a: FileState, b: FileState): boolean {
  return a?.dev === b?.dev && a?.ino === b?.ino;
}
