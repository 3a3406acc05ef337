/** Data that another version of Hubbub wrote: it is read, or refused with a sentence that says what to do. */

import { SQL } from "bun";
import { Database } from "bun:sqlite";
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { join } from "node:path";
import { SCHEMA_VERSION } from "../../src/store/postgres/schema.ts";
import { eventually } from "../support/deadline.ts";
import { readDoc } from "../support/docs.ts";
import { sharedRedis, skipped as withoutRedis } from "../support/redis.ts";
import { sharedPostgres, skipped as withoutPostgres } from "../support/postgres.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { startServer, type TestServer } from "../support/server.ts";
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

interface SharedDatabase {
  readonly name: string;
  readonly skipped: string;
  url(space: string): Promise<string>;
  setVersion(space: string, version: number): Promise<unknown>;
  /** What this version writes. */
  readonly version: number;
  /** How many the log has. */
  records(space: string): Promise<unknown>;
  readonly sentence: string;
}

const DATABASES: readonly SharedDatabase[] = [
  {
    name: "Redis",
    skipped: withoutRedis,
    url: async (space) => (await sharedRedis()).url(space),
    setVersion: async (space, version) =>
      (await sharedRedis()).send("HSET", `${space}:meta`, "version", `${version}`),
    version: 1,
    records: async (space) => (await sharedRedis()).send("XLEN", `${space}:log`),
    sentence:
      "its keys were written by a newer version of Hubbub. Start that version, or choose another ?prefix=.",
  },
  {
    name: "Postgres",
    skipped: withoutPostgres,
    url: async (space) => (await sharedPostgres()).url(space),
    setVersion: async (space, version) =>
      (await sharedPostgres()).query(`UPDATE "${space}".version SET version = ${version}`),
    version: 2,
    records: async (space) => (await sharedPostgres()).query(`SELECT count(*) FROM "${space}".log`),
    sentence:
      "its tables were written by a newer version of Hubbub. Start that version, or choose another ?schema=.",
  },
];

for (const { name, skipped, url, setVersion, version, records, sentence } of DATABASES)
  describe.skipIf(skipped !== "")(`${name}${skipped}`, () => {
    const post = (server: TestServer) => server.post("lobby", { from: "ann", text: "hi" });

    test("data of a newer version is refused by the server, by an export and by an import, and stays as it is", async () => {
      const store = { name, url: await url("newer") };
      const server = await startServer({ store });
      expect((await post(server)).status).toBe(201);
      await server.stop("SIGTERM");
      await setVersion("newer", 99);
      const before = await records("newer");
      const expected = `${name} at ${new URL(store.url).host} cannot be used: ${sentence}\n`;
      expect(await refusal("--store", store.url, "--port", "0")).toBe(expected);
      expect(await refusal("export", "--store", store.url)).toBe(expected);
      expect(await refusal("import", "--store", store.url)).toBe(expected);
      expect(await records("newer")).toEqual(before);
    });

    test.skipIf(skipped !== "")(
      "a server does not write data that a newer version takes over while it runs",
      async () => {
        await using server = await startServer({ store: { name, url: await url("taken_over") } });
        expect((await post(server)).status).toBe(201);
        await setVersion("taken_over", 99);
        const before = await records("taken_over");
        expect((await post(server)).status).toBe(503);
        await server.becomesUnready();
        expect(await records("taken_over")).toEqual(before);
        await setVersion("taken_over", version);
        await server.becomesReady();
        expect((await post(server)).status).toBe(201);
      },
    );
  });

test.skipIf(withoutPostgres !== "")(
  `a server brings Postgres tables of version 1 up to date; its messages stay, and so do other functions${withoutPostgres}`,
  async () => {
    const postgres = await sharedPostgres();
    const store = { name: "Postgres", url: postgres.url("version_1") };
    {
      await using server = await startServer({ store });
      expect((await server.post("lobby", { from: "ann", text: "old" })).status).toBe(201);
    }
    await postgres.query(`SET search_path = version_1;
      UPDATE version SET version = 1;
      DROP FUNCTION lock_log(integer), append;
      CREATE FUNCTION lock_log() RETURNS numeric LANGUAGE sql AS 'SELECT 1::numeric';
      CREATE FUNCTION lock_log(theirs text) RETURNS numeric LANGUAGE sql AS 'SELECT 1::numeric'`);
    expect(await refusal("export", "--store", store.url)).toContain("Start this version on it once.");
    await using server = await startServer({ store });
    expect((await server.post("lobby", { from: "ann", text: "new" })).status).toBe(201);
    expect(await server.texts()).toEqual(["old", "new"]);
    const locks = `SELECT pg_get_function_arguments(oid) AS parameters FROM pg_proc
      WHERE proname = 'lock_log' AND pronamespace = 'version_1'::regnamespace ORDER BY 1`;
    expect((await postgres.query(locks)).map(({ parameters }) => parameters)).toEqual([
      "known integer",
      "theirs text",
    ]);
  },
);

test.skipIf(withoutPostgres !== "")(
  `a server does not write to Postgres while a newer version changes the tables, nor after it${withoutPostgres}`,
  async () => {
    const postgres = await sharedPostgres();
    await using server = await startServer({ store: { name: "Postgres", url: postgres.url("changing") } });
    expect((await server.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
    const records = () => postgres.query("SELECT count(*) FROM changing.log");
    const before = await records();
    const sql = new SQL({ url: postgres.url("changing").replace(/\?.*/, ""), max: 1 });
    await sql.unsafe("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('hubbub log of changing', 0))");
    const late = server.post("lobby", { from: "ann", text: "late" });
    const waiting = `SELECT FROM pg_locks AS held JOIN pg_locks AS awaited USING (locktype, classid, objid)
      WHERE locktype = 'advisory' AND held.pid = pg_backend_pid() AND NOT awaited.granted`;
    await eventually(async () => (await sql.unsafe(waiting)).length > 0, "the message waits for the lock");
    await sql.unsafe("UPDATE changing.version SET version = 99; COMMIT");
    await sql.close({ timeout: 0 });
    expect((await late).status).toBe(503);
    expect(await records()).toEqual(before);
  },
);

describe.skipIf(withoutRedis !== "")(`the version of Redis' keys${withoutRedis}`, () => {
  test("is set where there is none", async () => {
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

  test("is set by an import", async () => {
    const redis = await sharedRedis();
    const command = [serverExecutable(), "import", "--store", redis.url("imported")];
    await Bun.$`${command} < ${new Response(EXPORT)}`.quiet();
    expect(await redis.send("HGET", "imported:meta", "version")).toBe("1");
  });
});

test("the documentation of the stored data names the current versions", () => {
  const documented = (store: string) =>
    Number(/the version of all this, now (\d+)/.exec(readDoc(`src/store/${store}/README.md`))?.[1]);
  const script = readDoc("src/store/redis/lua/common.lua");
  expect(documented("redis")).toBe(Number(/^local VERSION = (\d+)$/m.exec(script)?.[1]));
  expect(documented("postgres")).toBe(SCHEMA_VERSION);
});
