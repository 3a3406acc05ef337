/** Reads the documentation, so that tests can hold its tables and commands to the code. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

/** The top of the repository. */
export const ROOT = join(import.meta.dir, "../..");

/** A document's text. @param path from the top of the repository */
export function readDoc(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

/** A document's text with every run of blanks as one: `bun fmt` pads the columns of tables. */
export function unpadded(path: string): string {
  return readDoc(path).replace(/ +/g, " ");
}

/** The document's first code block in this language, or the first one that contains `word`. */
export function codeBlock(path: string, language: string, word = ""): string {
  const blocks = readDoc(path).matchAll(/^```(\w+)\n(.*?)^```$/gms);
  for (const [, name, code = ""] of blocks) if (name === language && code.includes(word)) return code;
  throw new Error(`${path} has no code block in ${language} with "${word}"`);
}

/** Replaces in a code block what differs on this machine. @throws if it does not contain one of the keys */
export function substitute(code: string, changes: Readonly<Record<string, string>>): string {
  let result = code;
  for (const [from, to] of Object.entries(changes)) {
    if (!result.includes(from)) throw new Error(`the code block does not contain "${from}"`);
    result = result.replaceAll(from, to);
  }
  return result;
}
