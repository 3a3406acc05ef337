/** Whether the SQLite store's file does its part: what fails makes the store not ready, until it works again. */

import { SQLiteError } from "bun:sqlite";
import { fs } from "./node.ts";
import { note, report } from "./log.ts";

/** How often it is tried whether a file that has failed works again. */
const RETRY_MS = 1000;

export class FileHealth {
  isReady = true;
  /** The file was removed or replaced. */
  isGone = false;
  readonly #identity: string;

  /** @param touch writes to the file, and changes nothing */
  constructor(
    private readonly path: string,
    private readonly touch: () => unknown,
  ) {
    this.#identity = identify(path);
  }

  /** Undefined when the file does not do its part; then it is tried again, with and without anything to do. */
  try<T>(work: () => T): T | undefined {
    try {
      return work();
    } catch (error) {
      if (error instanceof SQLiteError) this.#lose(error.message);
      else report("The store failed", error);
      return undefined;
    }
  }

  /** A file that is no longer where it was goes on taking what nobody will ever find. */
  lookForFile(): void {
    this.isGone = identify(this.path) !== this.#identity;
    if (this.isGone) this.#lose("the file is no longer where it was");
  }

  #lose(why: string): void {
    if (this.isReady) {
      note("store lost", { why });
      this.#retryLater();
    }
    this.isReady = false;
  }

  #retryLater(): void {
    setTimeout(() => {
      if (this.isGone || !this.try(this.touch)) return this.#retryLater();
      this.isReady = true;
      note("store found");
    }, RETRY_MS).unref();
  }
}

/** Which file it is, wherever it lies; nothing if there is none. */
function identify(path: string): string {
  const { dev, ino } = fs().statSync(path, { throwIfNoEntry: false }) ?? {};
  return `${dev} ${ino}`;
}
