/**
 * A server's clock that moves only when the test says so. The test writes the time into a file; this module, preloaded
 * into the server, reads it from there.
 */

import { mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FILE_VARIABLE = "TEST_CLOCK_FILE";

export class TestClock implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "hubbub-clock-"));
  readonly #file = join(this.#folder, "now");
  #now = Date.now();
  /** Whole, so that differences are exact. */
  #elapsed = Math.ceil(performance.now());
  /** For {@link startServer}. */
  readonly setup = { preload: "clock.ts", env: { [FILE_VARIABLE]: this.#file } };

  constructor() {
    this.#write();
  }

  advance(ms: number): void {
    this.#elapsed += ms;
    this.adjust(ms);
  }

  /** Sets the time of day forward or back, as an administrator would; no time passes. */
  adjust(ms: number): void {
    this.#now += ms;
    this.#write();
  }

  #write(): void {
    // Renamed into place, so that the server never reads half of it.
    writeFileSync(`${this.#file}.new`, `${this.#now} ${this.#elapsed}`);
    renameSync(`${this.#file}.new`, this.#file);
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true });
  }
}

const file = process.env[FILE_VARIABLE];
if (file !== undefined) {
  const read = (position: 0 | 1) => Number(readFileSync(file, "utf8").split(" ")[position]);
  Date.now = () => read(0);
  performance.now = () => read(1);
}
