/**
 * The newest acknowledged id, in a small file beside the database. SQLite silently drops a write-ahead log from its first
 * damaged byte on; comparing the database with this mark shows what is missing. The mark is written after each commit and
 * never flushed: it is exact after a crash of the process, and may be seconds old after a power failure. It is never ahead.
 */

import { lazyFs } from "../../util/lazy-node.ts";
import { StoreError } from "../store.ts";
import { besideDatabase } from "./database.ts";

const FILE_BYTES = 64;

export class NewestMark {
  readonly #file: number;
  readonly #buffer = Buffer.alloc(FILE_BYTES);

  /** @throws StoreError when the file cannot be used */
  constructor(path: string) {
    const { openSync, constants } = lazyFs();
    try {
      this.#file = openSync(besideDatabase(path, "-newest"), constants.O_RDWR | constants.O_CREAT, 0o600);
    } catch (error) {
      const reason = error instanceof Error ? error.message : error;
      throw new StoreError(`${path}-newest cannot be used: ${reason}.`);
    }
  }

  /** @returns the newest key, 0 if unknown; `isOther` if it belongs to a database with another origin */
  read(origin: number): { readonly key: number; readonly isOther: boolean } {
    const length = lazyFs().readSync(this.#file, this.#buffer, 0, FILE_BYTES, 0);
    const marked = parseMark(this.#buffer.toString("latin1", 0, length));
    return { key: marked?.key ?? 0, isOther: marked !== undefined && marked.origin !== origin };
  }

  /** A failure is ignored: an older mark only detects less. */
  write(origin: number, key: number): void {
    try {
      this.#buffer.write(formatMark(origin, key).padEnd(FILE_BYTES), "latin1");
      lazyFs().writeSync(this.#file, this.#buffer, 0, FILE_BYTES, 0);
    } catch {}
  }

  close(): void {
    lazyFs().closeSync(this.#file);
  }
}

interface Mark {
  readonly origin: number;
  readonly key: number;
}

/** The mark of a database that another process may have open. @returns undefined if there is none */
export function readMark(path: string): Mark | undefined {
  try {
    return parseMark(lazyFs().readFileSync(besideDatabase(path, "-newest"), "latin1"));
  } catch {
    return undefined;
  }
}

function parseMark(text: string): Mark | undefined {
  const [origin = 0, key = 0] = text.split(" ").map(Number);
  return text.trimEnd() === formatMark(origin, key) ? { origin, key } : undefined;
}

/** With a checksum. */
function formatMark(origin: number, key: number): string {
  const numbers = `${origin} ${key}`;
  return `${numbers} ${Bun.hash.crc32(numbers)}`;
}
