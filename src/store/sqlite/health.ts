/** Whether the SQLite store's files do their part: what fails makes the store not ready, until it works again. */

import { SQLiteError } from "bun:sqlite";
import { lazyFs } from "../../util/lazy-node.ts";
import { StoreUnavailable } from "../store.ts";
import { logEvent, logError } from "../../ops/log.ts";

/** How often it is tried whether a file that has failed works again. */
const RETRY_MS = 1000;

/** What a file was when this process had last written to it. */
interface State {
  readonly identity: string;
  readonly size: number;
  readonly changedMs: number;
}

export class DatabaseHealth {
  isReady = true;
  readonly #files: readonly string[];
  #states: readonly State[];
  /** This process has written while a file was missing. */
  #hasMissed = false;

  /**
   * @param probeWrite writes to the file, and changes nothing
   * @param saveLog what the write-ahead log holds is saved to the main file, and a new one begun
   */
  constructor(
    path: string,
    private readonly probeWrite: () => unknown,
    private readonly saveLog: () => unknown,
  ) {
    this.#files = [path, `${path}-wal`];
    this.#states = this.#files.map(stateOf);
  }

  /** Undefined when the file does not do its part; then it is tried again, with and without anything to do. */
  attempt<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      if (error instanceof SQLiteError) this.#markUnavailable(error.message);
      else logError("The store failed", error);
      return undefined;
    }
  }

  /** {@link attempt} for a read. @throws StoreUnavailable */
  read<T>(work: () => T): T {
    const result = this.attempt(() => ({ value: work() }));
    if (!result) throw new StoreUnavailable();
    return result.value;
  }

  /** {@link attempt} for what writes, into files that are what they were. `isSure` unless they changed meanwhile. */
  write<T>(work: () => T): { readonly done: T; readonly isSure: boolean } | undefined {
    if (!this.look()) return undefined;
    const done = this.attempt(() => ({ value: work() }));
    const isSure = this.#record();
    return done && { done: done.value, isSure };
  }

  /** Files that were removed, truncated or replaced go on taking what nobody will ever find. Two system calls. */
  look(): boolean {
    if (this.#hasMissed) return this.#record();
    const isSame = this.#files.every((file, i) => {
      const { identity, size, changedMs } = stateOf(file);
      const known = this.#states[i];
      return identity === known?.identity && size === known.size && changedMs === known.changedMs;
    });
    if (!isSame) this.#markUnavailable("its files were removed, or changed by something else");
    return isSame;
  }

  /** After this process has written. @returns whether nothing but that has happened, as far as can be seen */
  #record(): boolean {
    const states = this.#files.map(stateOf);
    const isPlausible = states.every(({ identity, size }, i) => {
      const known = this.#states[i];
      return identity === known?.identity && size >= known.size;
    });
    this.#hasMissed = !isPlausible;
    if (isPlausible) this.#states = states;
    else this.#markUnavailable("its files were removed, or changed by something else");
    return isPlausible;
  }

  #markUnavailable(reason: string): void {
    if (this.isReady) {
      logEvent("store unavailable", { reason });
      this.#retryLater();
    }
    this.isReady = false;
  }

  #retryLater(): void {
    setTimeout(() => {
      this.#saveRemovedLog();
      if (!this.write(this.probeWrite)?.isSure) return this.#retryLater();
      this.isReady = true;
      logEvent("store available");
    }, RETRY_MS).unref();
  }

  /** What is in a log that was removed is still there for as long as this process has it open. */
  #saveRemovedLog(): void {
    const [main, log] = this.#files.map(stateOf);
    const [known] = this.#states;
    if (!main || !known || main.identity !== known.identity || main.size < known.size) return;
    if (log?.identity !== MISSING || !this.attempt(() => ({ saved: this.saveLog() }))) return;
    this.#states = this.#files.map(stateOf);
    this.#hasMissed = false;
  }
}

const MISSING = "";

function stateOf(path: string): State {
  try {
    const { dev, ino, size, mtimeMs } = lazyFs().statSync(path);
    return { identity: `${dev} ${ino}`, size, changedMs: mtimeMs };
  } catch {
    return { identity: MISSING, size: 0, changedMs: 0 };
  }
}
