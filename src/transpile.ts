/** A macro: runs while the server is loaded or compiled, and leaves its result in the code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A module of this folder that imports nothing, as JavaScript for browsers, without its comments. */
export function transpile(file: string): string {
  const source = readFileSync(join(import.meta.dir, file), "utf8");
  return new Bun.Transpiler({ loader: "ts", target: "browser", minifyWhitespace: true }).transformSync(
    source,
  );
}
