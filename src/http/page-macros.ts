/** Macros: they run while the server is loaded or compiled, and leave their results in the code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** A module of this folder that imports nothing, as JavaScript for browsers, without its comments. */
export function transpile(file: string): string {
  // Bun's types do not know `minify`, which also shortens names: a sixth less, compressed.
  const options = { loader: "ts", target: "browser", minify: true } as const;
  return new Bun.Transpiler(options).transformSync(read(file));
}

/**
 * An inline script or style as a content security policy names it.
 * @throws when the page has no such element: a policy that lets nothing run would be a silent failure
 */
export function cspHash(element: "script" | "style", file: string): string {
  const source = new RegExp(`<${element}>(.*?)</${element}>`, "s").exec(read(file))?.[1];
  if (source === undefined) throw new Error(`${file} has no <${element}>`);
  return `'sha256-${new Bun.CryptoHasher("sha256").update(source).digest("base64")}'`;
}

function read(file: string): string {
  return readFileSync(join(import.meta.dir, file), "utf8");
}
