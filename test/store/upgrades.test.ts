/** Data that another version of Hubbub wrote: it is read, or refused with a sentence that says what to do. */

import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { sharedRedis, skipped } from "../support/redis.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

let folder: TempFolder;
beforeEach(() => {
  folder = new TempFolder();
});
afterEach(() => folder[Symbol.dispose]());

/** Runs a command that is expected to fail. @returns what it says */
async function refusal(...args: readonly string[]): Promise<string> {
  const command = [serverExecutable(), ...args];
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

describe.skipIf(skipped !== "")(`Redis${skipped}`, () => {
  const newer =
    "its keys were written by a newer version of Hubbub. Start that version, or choose another ?prefix=.";

  test("keys of a newer version are refused by the server, by an export and by an import, and stay as they are", async () => {
    const redis = await sharedRedis();
    const url = redis.url("newer");
    await redis.send("HSET", "newer:meta", "version", "99");
    const sentence = `Redis at 127.0.0.1:${redis.port} cannot be used: ${newer}\n`;
    expect(await refusal("--store", url, "--port", "0")).toBe(sentence);
    expect(await refusal("export", "--store", url)).toBe(sentence);
    expect(await refusal("import", "--store", url)).toBe(sentence);
    expect(await redis.send("KEYS", "newer:*")).toEqual(["newer:meta"]);
    expect(await redis.send("HGETALL", "newer:meta")).toEqual({ version: "99" });
  });

  test("a server neither reads nor writes keys that a newer version takes over while it runs", async () => {
    const redis = await sharedRedis();
    await using server = await startServer({ store: { name: "Redis", url: redis.url("taken-over") } });
    const post = () => server.post("lobby", { from: "ann", text: "hi" });
    expect((await post()).status).toBe(201);
    await redis.send("HSET", "taken-over:meta", "version", "99");
    const records = await redis.send("XLEN", "taken-over:log");
    expect((await post()).status).toBe(503);
    await server.becomesUnready();
    expect((await server.get("/rooms/tea/messages")).status).toBe(503);
    expect(await redis.send("XLEN", "taken-over:log")).toBe(records);
    await redis.send("HSET", "taken-over:meta", "version", "1");
    await server.becomesReady();
    expect((await post()).status).toBe(201);
  });

  test("keys from before versions are read, and get one", async () => {
    const redis = await sharedRedis();
    const store = { name: "Redis", url: redis.url("unversioned") };
    const first = await startServer({ store });
    expect((await first.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
    await first.stop("SIGTERM");
    await redis.send("HDEL", "unversioned:meta", "version");
    await using second = await startServer({ store });
    expect(await second.texts()).toEqual(["hi"]);
    expect(await redis.send("HGET", "unversioned:meta", "version")).toBe("1");
  });

  test("imported keys have a version", async () => {
    const redis = await sharedRedis();
    const command = [serverExecutable(), "import", "--store", redis.url("imported")];
    await Bun.$`${command} < ${new Response(EXPORT)}`.quiet();
    expect(await redis.send("HGET", "imported:meta", "version")).toBe("1");
  });
});
