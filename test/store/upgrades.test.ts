/** Data that another version of Hubbub wrote: it is read, or refused with a sentence that says what to do. */

import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { bundledServer } from "../support/bundle.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

let folder: TempFolder;
beforeEach(() => {
  folder = new TempFolder();
});
afterEach(() => folder[Symbol.dispose]());

/** Runs a command that is expected to fail. @returns what it says */
async function refusal(...args: readonly string[]): Promise<string> {
  const command = [...bundledServer(), ...args];
  const { exitCode, stdout, stderr } = await Bun.$`${command} < ${new Response(EXPORT)}`
    .cwd(folder.path)
    .quiet()
    .nothrow();
  expect([exitCode, `${stdout}`]).toEqual([1, ""]);
  return `${stderr}`;
}

const EXPORT = [
  { format: "hubbub-export", version: 1, origin: "1700000000000-5" },
  { type: "end", messages: 0, rooms: 0, sessions: 0 },
]
  .map((value) => `${JSON.stringify(value)}\n`)
  .join("");

describe("SQLite", () => {
  const STORE = { name: "SQLite", url: "sqlite:chat.db" };
  /** Sets the version of a file that this version has written. */
  async function writeVersion(version: number): Promise<void> {
    await using server = await startServer({ store: STORE, cwd: folder.path });
    await server.stop("SIGTERM");
    using db = new Database(join(folder.path, "chat.db"));
    db.run(`PRAGMA user_version = ${version}`);
  }

  test("a file of a newer version is refused by the server, by an export and by an import, and stays as it is", async () => {
    await writeVersion(99);
    const newer =
      "chat.db was written by a newer version of Hubbub. Start that version, or choose another file.";
    const read = () => Bun.file(join(folder.path, "chat.db")).bytes();
    const before = await read();
    expect(await refusal("--store", STORE.url, "--port", "0")).toBe(`${newer}\n`);
    expect(await refusal("export", "--store", STORE.url)).toBe(`${newer}\n`);
    expect(await refusal("import", "--store", STORE.url)).toContain(newer);
    expect(await read()).toEqual(before);
  });

  test("a file of an older version is not exported, which would change it, before the server has run on it", async () => {
    await writeVersion(3);
    expect(await refusal("export", "--store", STORE.url)).toBe(
      "chat.db was written by an older version of Hubbub. Start this version on it once.\n",
    );
  });
});
