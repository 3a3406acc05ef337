/** The executable in an empty folder, without the project, Bun or Node. */

import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { version } from "../../package.json";
import { ROOT } from "../support/docs.ts";
import { buildExecutable } from "../support/executable.ts";
import { startServer } from "../support/server.ts";

const built = await buildExecutable();
afterAll(() => built[Symbol.dispose]());

test("the executable serves the page and the chat, and reads no configuration files from its folder", async () => {
  await Bun.write(join(built.folder, ".env"), "HUBBUB_PORT=1\nPORT=http\nHUBBUB_HOST=nowhere.invalid\n");
  await Bun.write(join(built.folder, "bunfig.toml"), 'preload = ["./trap.ts"]\n');
  await Bun.write(join(built.folder, "trap.ts"), "process.exit(3);\n");
  await Bun.write(join(built.folder, "index.html"), "not the page");
  await using server = await startServer({ command: [built.executable], cwd: built.folder, env: {} });
  expect(server.greeting).toBe(`Hubbub ${version} is listening on http://localhost:${server.port}/client\n`);
  await using source = await startServer({ command: [process.execPath, join(ROOT, "src/server.ts")] });
  expect(await server.answer("/client")).toEqual(await source.answer("/client"));

  await using ann = await server.join("ann");
  await using bob = await server.join("bob");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  await ann.leaves();
  await bob.hears("Client #ann says: hi", "Client #ann left the chat");

  const run = await Bun.$`${built.executable} --port http`.env({}).cwd(built.folder).quiet().nothrow();
  expect([run.exitCode, `${run.stderr}`]).toEqual([2, '--port: expected 0–65535, got "http"\n']);
});

test("the executable contains the parts that are loaded on demand: help, join, export and import, the other stores", async () => {
  const run = (...args: string[]) =>
    Bun.$`${built.executable} ${args}`.env({}).cwd(built.folder).quiet().nothrow();
  const help = await run("--help");
  expect(`${help.stdout}`).toStartWith("Hubbub: a chat server");

  await using server = await startServer({
    command: [built.executable, "--store", "sqlite:chat.db"],
    cwd: built.folder,
    env: {},
  });
  await using bob = await server.join("bob");
  const { exitCode } =
    await Bun.$`echo hi | ${built.executable} join ${`${server.origin}/client?id=ann`}`.quiet();
  expect(exitCode).toBe(0);
  await bob.hears("Client #ann says: hi", "Client #ann left the chat");
  expect(await Bun.file(join(built.folder, "chat.db")).exists()).toBe(true);

  const exported = await run("export", "--store", "sqlite:chat.db", "chat.ndjson");
  const imported = await run("import", "--store", "sqlite:copy.db", "chat.ndjson");
  expect([exported, imported].map(({ exitCode, stderr }) => [exitCode, `${stderr}`])).toEqual([
    [0, ""],
    [0, ""],
  ]);
  expect(`${(await run("export", "--store", "sqlite:copy.db")).stdout}`).toContain('"text":"hi"');
  expect(`${(await run("import", "--store", "redis://127.0.0.1:1", "chat.ndjson")).stderr}`).toStartWith(
    "Redis at 127.0.0.1:1 cannot be reached",
  );

  const redis = await run("--store", "redis://127.0.0.1:1");
  expect(redis.exitCode).toBe(1);
  expect(`${redis.stderr}`).toStartWith("Redis at 127.0.0.1:1 cannot be reached");
});
