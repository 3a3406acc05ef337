/** A clock for a server, which moves only when the test says so; the server reads it from a file. */

import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class Clock implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "hubbub-clock-"));
  readonly #file = join(this.#folder, "now");
  #nowMs = Date.now();
  /** What a server is started with. */
  readonly setup = { preload: "set-clock.ts", env: { CLOCK_FILE: this.#file } };

  constructor() {
    this.passes(0);
  }

  passes(ms: number): void {
    this.#nowMs += ms;
    // Renamed, so that nobody reads half of it.
    writeFileSync(`${this.#file}.new`, `${this.#nowMs}`);
    renameSync(`${this.#file}.new`, this.#file);
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true });
  }
}
