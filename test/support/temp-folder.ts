/** Temporary folders, which are removed with what is in them. */

import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

export class TempFolder implements Disposable {
  readonly path: string;

  constructor(prefix = "hubbub-") {
    this.path = mkdtempSync(join(tmpdir(), prefix));
  }

  /** Creates a file, or replaces it at once, as a careful operator does. @returns its path */
  write(name: string, text: string): string {
    const file = join(this.path, name);
    writeFileSync(`${file}.new`, text);
    renameSync(`${file}.new`, file);
    return file;
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true });
  }
}
