/**
 * The newest id that was acknowledged, in a small file beside the database. SQLite drops a write-ahead log from its first
 * damaged byte on, without a word: what was in it can only be missed by somebody who knows of it. The mark is written after
 * each commit and never flushed: a killed process leaves it exact, a power failure a few seconds old. It never claims too much.
 */

import { lazyFs } from "../../util/lazy-node.ts";
import { StoreError } from "../store.ts";

const BYTES = 64;

export class NewestMark {
  readonly #file: number;
  readonly #buffer = Buffer.alloc(BYTES);

  /** @throws StoreError when the file cannot be used */
  constructor(path: string) {
    const { openSync, constants } = lazyFs();
    try {
      this.#file = openSync(`${path}-newest`, constants.O_RDWR | constants.O_CREAT, 0o600);
    } catch (error) {
      const why = error instanceof Error ? error.message : error;
      throw new StoreError(`${path}-newest cannot be used: ${why}.`);
    }
  }

  /** The key of the newest id of the database with that origin; 0 if nothing is known. `isOther`: it was written beside another one. */
  read(origin: number): { readonly key: number; readonly isOther: boolean } {
    const length = lazyFs().readSync(this.#file, this.#buffer, 0, BYTES, 0);
    const [itsOrigin, key, sum] = this.#buffer.toString("latin1", 0, length).trim().split(" ").map(Number);
    if (itsOrigin === undefined || key === undefined || sum !== sumOf(itsOrigin, key))
      return { key: 0, isOther: false };
    return { key, isOther: itsOrigin !== origin };
  }

  /** As far as it can: an older mark claims less. */
  write(origin: number, key: number): void {
    try {
      this.#buffer.fill(" ").write(`${origin} ${key} ${sumOf(origin, key)}`, "latin1");
      lazyFs().writeSync(this.#file, this.#buffer, 0, BYTES, 0);
    } catch {}
  }

  close(): void {
    lazyFs().closeSync(this.#file);
  }
}

function sumOf(origin: number, key: number): number {
  return Bun.hash.crc32(`${origin} ${key}`);
}
