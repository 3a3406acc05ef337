/** The Postgres store: checks at startup, TLS, poolers, and what an idle server does. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { eventually, withDeadline } from "../support/deadline.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { freePort } from "../support/http.ts";
import { DURABLE, Postgres, sharedPostgres, skipped } from "../support/postgres.ts";
import { findProgram } from "../support/programs.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const TLS = join(import.meta.dir, "../support/tls");
const start = (url: string, args: readonly string[] = [], env: Record<string, string> = {}) =>
  startServer({ store: { name: "Postgres", url }, args, env });

/** What a failing start prints. */
async function startError(url: string): Promise<{ exitCode: number; stdout: string; stderr: string }> {
  await using server = Bun.spawn([serverExecutable(), "--port", "0", "--store", url], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const end = Promise.all([server.exited, server.stdout.text(), server.stderr.text()]);
  const [exitCode, stdout, stderr] = await withDeadline(end, () => `it started, with ${url}`);
  return { exitCode, stdout, stderr };
}

const failsWith = (sentence: string) => ({ exitCode: 1, stdout: "", stderr: `${sentence}\n` });

let schemas = 0;
const newSchema = () => `start_${process.pid}_${schemas++}`;

describe.skipIf(skipped !== "")(`a start with Postgres${skipped}`, () => {
  test("fails where nothing listens, or something else does", async () => {
    const port = freePort();
    expect(await startError(`postgres://127.0.0.1:${port}/chat`)).toEqual(
      failsWith(`Postgres at 127.0.0.1:${port} cannot be reached: start it, or choose another with --store.`),
    );
    using other = Bun.listen({
      hostname: "127.0.0.1",
      port: 0,
      socket: { data: (socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n") },
    });
    for (const mode of ["prefer", "disable"])
      expect(await startError(`postgres://127.0.0.1:${other.port}/chat?sslmode=${mode}`)).toEqual(
        failsWith(
          `Postgres at 127.0.0.1:${other.port} closed the connection: check host and port in --store, and that Postgres listens there.`,
        ),
      );
    using silent = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
    expect(await startError(`postgres://127.0.0.1:${silent.port}/chat`)).toEqual(
      failsWith(
        `Postgres at 127.0.0.1:${silent.port} cannot be reached: start it, or choose another with --store.`,
      ),
    );
  });

  test("fails with a wrong or no password; passwords are never printed", async () => {
    await using postgres = await Postgres.start({
      access: "host all ann 127.0.0.1/32 scram-sha-256\nhost all hubbub 127.0.0.1/32 trust\n",
    });
    await postgres.query(
      "SET password_encryption = 'scram-sha-256'; CREATE USER ann PASSWORD 'open/se:s@me #%'; GRANT CREATE ON DATABASE postgres TO ann",
    );
    const name = `127.0.0.1:${postgres.port}`;
    const sentence = `Postgres at ${name} rejected the user or the password: check both in --store, and pg_hba.conf.`;
    expect(await startError(`postgres://ann@${name}/postgres`)).toEqual(failsWith(sentence));
    expect(await startError(`postgres://ann:hush-hush@${name}/postgres`)).toEqual(failsWith(sentence));
    expect(await startError(`postgres://eve:hush-hush@${name}/postgres`)).toEqual(failsWith(sentence));
    const url = `postgres://ann:${encodeURIComponent("open/se:s@me #%")}@${name}/postgres`;
    await using server = await start(url, ["--log", "text"]);
    await using ann = await server.join("ann");
    ann.says("in");
    await ann.hears("You wrote: in", "Client #ann says: in");
    await postgres.kill();
    await server.becomesUnready();
    await server.stop("SIGTERM");
    expect(server.greeting + (await server.output) + (await server.errors)).not.toMatch(/s@me|s%40me/);
  });

  test("fails without the database, a privilege, or UTF8; a user that owns the schema needs no other privilege", async () => {
    const postgres = await sharedPostgres();
    const name = `127.0.0.1:${postgres.port}`;
    expect(await startError(`postgres://hubbub@${name}/nowhere`)).toEqual(
      failsWith(`Postgres at ${name} has no such database: create it, or choose another with --store.`),
    );
    const schema = newSchema();
    await postgres.query(`CREATE USER ${schema}`);
    const url = `postgres://${schema}@${name}/postgres?schema=${schema}`;
    const denied = (reason: string) =>
      failsWith(
        `Postgres at ${name} denies a privilege (${reason}): the user needs CREATE on the database, or has to own the schema ${schema} and what is in it.`,
      );
    expect(await startError(url)).toEqual(denied("permission denied for database postgres"));
    await postgres.query(`CREATE SCHEMA ${schema}`);
    expect(await startError(url)).toEqual(denied(`permission denied for schema ${schema}`));
    await postgres.query(`ALTER SCHEMA ${schema} OWNER TO ${schema}`);
    await using server = await start(url);
    expect((await server.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
    await postgres.query(`CREATE DATABASE ${schema}_ascii ENCODING 'SQL_ASCII' TEMPLATE template0`);
    expect(await startError(`postgres://hubbub@${name}/${schema}_ascii`)).toEqual(
      failsWith(
        `Postgres at ${name} has a database with the encoding SQL_ASCII: create one with the encoding UTF8.`,
      ),
    );
  });

  test("fails where nothing can be written: a replica, or a database that is read-only", async () => {
    await using postgres = await Postgres.start();
    const name = `127.0.0.1:${postgres.port}`;
    const url = `postgres://hubbub@${name}/postgres`;
    await postgres.query("ALTER DATABASE postgres SET default_transaction_read_only = on");
    expect(await startError(url)).toEqual(
      failsWith(
        `Postgres at ${name} is read-only (default_transaction_read_only): choose another with --store.`,
      ),
    );
    await postgres.stop();
    await postgres.addFile("data/standby.signal", "");
    await postgres.start();
    expect(await startError(url)).toEqual(
      failsWith(`Postgres at ${name} is a replica: choose its primary with --store.`),
    );
  });

  test("fails if the schema has tables of another program, which stay as they are", async () => {
    const postgres = await sharedPostgres();
    const schema = newSchema();
    await postgres.query(`CREATE SCHEMA ${schema}; CREATE TABLE ${schema}.messages (id int)`);
    const { exitCode, stderr } = await startError(postgres.url(schema));
    expect([exitCode, stderr]).toEqual([
      1,
      `Postgres at 127.0.0.1:${postgres.port} cannot be used: relation "messages" already exists.\n`,
    ]);
    const tables = await postgres.query(`SELECT tablename FROM pg_tables WHERE schemaname = '${schema}'`);
    expect(tables).toEqual([{ tablename: "messages" }]);
  });

  test.each([
    "/chat?timeout=5",
    "/chat?schema=",
    "/chat?schema=a b",
    "/chat?schema=pg_chat",
    `/chat?schema=${"a".repeat(49)}`,
    "/chat?sslmode=maybe",
    "/chat/tea",
    "/chat#top",
  ])("fails with postgres://…%s, and prints no password", async (rest) => {
    const { exitCode, stdout, stderr } = await startError(`postgres://ann:open-sesame@127.0.0.1${rest}`);
    expect([exitCode, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(/^--store: .*\n$/);
    expect(stderr).not.toContain("sesame");
  });

  test("servers that start at the same time create the tables once; schemas are apart", async () => {
    const postgres = await sharedPostgres();
    const schema = newSchema();
    const [one, two] = await Promise.all([start(postgres.url(schema)), start(postgres.url(schema))]);
    await using other = await start(postgres.url(newSchema()));
    await one.post("tea", { from: "ann", text: "hi" });
    expect([await two.texts("tea"), await other.texts("tea")]).toEqual([["hi"], []]);
    await one.stop();
    await two.stop();
  });

  test("says how durable its settings are", async () => {
    const postgres = await sharedPostgres();
    await using server = await start(postgres.url(newSchema()));
    expect(server.greeting).toContain("in Postgres at 127.0.0.1");
    expect(server.greeting).toContain("may lose everything if its machine crashes (fsync off)");
    await using durable = await Postgres.start({ settings: DURABLE });
    await using synced = await start(durable.url("hubbub"));
    expect(synced.greeting).toContain(
      "syncs every message to disk before it is acknowledged (synchronous_commit on)",
    );
    await durable.query("ALTER DATABASE postgres SET synchronous_commit = off");
    await using late = await start(durable.url("hubbub"));
    expect(late.greeting).toContain(
      "may lose the last second of messages in a crash (synchronous_commit off)",
    );
  });

  test("uses TLS if Postgres offers it, verifies the certificate if it should, and a Unix socket", async () => {
    await using postgres = await Postgres.start();
    await postgres.addFile("server.crt", await Bun.file(join(TLS, "localhost.crt")).text());
    await postgres.addFile("server.key", await Bun.file(join(TLS, "localhost.key")).text());
    await postgres.query(`ALTER SYSTEM SET ssl_cert_file = '${postgres.folder}/server.crt'`);
    await postgres.query(`ALTER SYSTEM SET ssl_key_file = '${postgres.folder}/server.key'`);
    const encrypted = async (url: string, env: Record<string, string> = {}) => {
      await using server = await start(url, [], env);
      expect((await server.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
      const rows = await postgres.query(
        "SELECT bool_and(ssl) AS all, bool_or(ssl) AS some FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'hubbub'",
      );
      return rows[0];
    };
    const url = `postgres://hubbub@localhost:${postgres.port}/postgres`;
    expect(await encrypted(url)).toEqual({ all: false, some: false });
    expect((await startError(`${url}?sslmode=require`)).stderr).toBe(
      `Postgres at localhost:${postgres.port} offers no TLS: turn it on, or choose another sslmode in --store.\n`,
    );
    await postgres.query("ALTER SYSTEM SET ssl = on");
    await postgres.query("SELECT pg_reload_conf()");
    await eventually(async () => (await postgres.query("SHOW ssl"))[0]?.ssl === "on", "TLS is on");
    const all = { all: true, some: true };
    expect(await encrypted(url)).toEqual(all);
    const env = { NODE_EXTRA_CA_CERTS: join(TLS, "localhost.crt") };
    expect(await encrypted(`${url}?sslmode=verify-full`, env)).toEqual(all);
    const { exitCode, stderr } = await startError(`${url}?sslmode=verify-full`);
    expect([exitCode, stderr]).toEqual([
      1,
      expect.stringMatching(/^Postgres at \S+ cannot be used: .*certificate.*\.\n$/),
    ]);
    expect(await encrypted(`${url}?sslmode=disable`)).toEqual({ all: false, some: false });
    expect(await encrypted(`${url}?host=${postgres.folder}`)).toEqual({ all: false, some: false });
  });
});

const { path: pgbouncer, skipped: withoutPgbouncer } = findProgram(
  "pgbouncer",
  "pgbouncer",
  "/usr/sbin/pgbouncer",
);

describe.skipIf(skipped + withoutPgbouncer !== "")(`behind PgBouncer${skipped}${withoutPgbouncer}`, () => {
  test("session mode works, transaction mode is refused at the start", async () => {
    const postgres = await sharedPostgres();
    const port = freePort();
    using folder = new TempFolder();
    const config = (mode: string) => `[databases]
postgres = host=127.0.0.1 port=${postgres.port} user=hubbub
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
auth_type = any
pool_mode = ${mode}
unix_socket_dir =
`;
    const schema = newSchema();
    const url = `postgres://hubbub@127.0.0.1:${port}/postgres?schema=${schema}`;
    for (const mode of ["transaction", "session"]) {
      const file = folder.write("pgbouncer.ini", config(mode));
      await Bun.spawn(["chmod", "-R", "a+rX", folder.path]).exited;
      const user = process.getuid?.() === 0 ? ["-u", "nobody"] : [];
      await using pooler = Bun.spawn([pgbouncer ?? "", ...user, file], {
        stdout: "ignore",
        stderr: "ignore",
      });
      const isUp = () =>
        Bun.connect({ hostname: "127.0.0.1", port, socket: { data() {} } }).then(
          (socket) => (socket.end(), true),
          () => false,
        );
      await eventually(isUp, "PgBouncer listens");
      if (mode === "session") {
        await using server = await start(url);
        expect((await server.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
      } else
        expect(await startError(url)).toEqual(
          failsWith(
            `Postgres at 127.0.0.1:${port} delivers no notifications, as behind PgBouncer in transaction mode: connect to it directly, or in session mode.`,
          ),
        );
      pooler.kill("SIGKILL");
      await pooler.exited;
    }
  });
});

describe.skipIf(skipped !== "")(`a server on Postgres${skipped}`, () => {
  test("sends at most two queries a second while nothing happens", async () => {
    await using postgres = await Postgres.start({ settings: { log_statement: "all" } });
    await using server = await start(postgres.url("idle"));
    await using ann = await server.join("ann");
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    const queries = async () =>
      (await Bun.file(join(postgres.folder, "log")).text()).match(/LOG: {2}(statement|execute)/g)?.length ??
      0;
    const beats = async () =>
      (await Bun.file(join(postgres.folder, "log")).text()).match(/heartbeat\(/g)?.length ?? 0;
    const waitForBeat = async (last: number) => {
      await eventually(async () => (await beats()) > last, "a heartbeat");
      return { beats: await beats(), queries: await queries() };
    };
    const first = await waitForBeat(await beats());
    let last = first;
    while (last.beats < first.beats + 5) last = await waitForBeat(last.beats);
    // A heartbeat is sent every two seconds.
    expect(last.queries - first.queries).toBeLessThanOrEqual(2 * 2 * (last.beats - first.beats));
  });
});

test.skipIf(skipped !== "")(`two servers, set up as documented, share a room${skipped}`, async () => {
  await using postgres = await Postgres.start();
  const block = codeBlock("src/store/postgres/README.md", "sh", "psql");
  const [setup = "", store = "", ...servers] = block.trim().split("\n");
  const connection = ["-h", "127.0.0.1", "-p", `${postgres.port}`, "-U", "hubbub", "-d", "postgres"];
  // Here, the superuser has the name hubbub.
  const own = substitute(setup, {
    "USER hubbub": "USER chat",
    "OWNER hubbub": "OWNER chat",
    psql: `psql ${connection.join(" ")}`,
  });
  await Bun.$`sh -c ${own}`.quiet();
  const url = substitute(store, {
    "export HUBBUB_STORE=": "",
    "hubbub:": "chat:",
    "@localhost": `@127.0.0.1:${postgres.port}`,
  });
  const startAs = (line = "") => {
    const args = line
      .replace(/ --port \d+/, "")
      .split(" ")
      .slice(1);
    return start(url, args);
  };
  await using one = await startAs(servers[0]);
  await using two = await startAs(servers[1]);
  await using ann = await one.join("ann");
  await using bob = await two.join("bob");
  ann.says("hi");
  await bob.hears("Client #ann says: hi");
});
