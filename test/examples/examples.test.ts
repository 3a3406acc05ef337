/** Each example, run as it stands, with this test's server in place of `http://localhost:8000`. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { copyFile, mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";
import { openPage, skipped as withoutBrowser } from "../support/browser.ts";
import { eventually } from "../support/deadline.ts";
import { codeBlock, readDoc, ROOT, substitute } from "../support/docs.ts";
import { freePort, serveHttp } from "../support/http.ts";
import { findPython } from "../support/programs.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const EXAMPLES = join(ROOT, "test/examples");
const python = findPython("python3-websockets", "websockets");
const ADDRESS = "http://localhost:8000";

/** A temporary folder, and processes in it, which end with it. */
async function startFolder() {
  const folder = new TempFolder();
  const running: Bun.Subprocess[] = [];
  return {
    path: folder.path,
    start(cmd: string[], env: Record<string, string | undefined> = {}) {
      const started = Bun.spawn(cmd, {
        cwd: folder.path,
        // Its own process group, so that all programs of a script end with it.
        detached: true,
        env: { ...process.env, ...env },
        stdout: "ignore",
        stderr: "ignore",
      });
      running.push(started);
      return started;
    },
    async [Symbol.asyncDispose]() {
      for (const { pid, exitCode, signalCode } of running)
        if (exitCode === null && signalCode === null) process.kill(-pid, "SIGKILL");
      await Promise.all(running.map(({ exited }) => exited));
      folder[Symbol.dispose]();
    },
  };
}

test("each example has 10 to 40 lines", () => {
  const sizes = ["page.html", "bot.ts", "bot.py", "notify.sh", "tail.sh"].map((name) => ({
    name,
    lines: readDoc(`test/examples/${name}`).trimEnd().split("\n").length,
  }));
  expect(sizes.filter(({ lines }) => lines < 10 || lines > 40)).toEqual([]);
});

test.skipIf(withoutBrowser !== "")(`a page of another origin${withoutBrowser}`, async () => {
  let origin = "";
  await using site = serveHttp(
    () =>
      new Response(substitute(readDoc("test/examples/page.html"), { [ADDRESS]: origin }), {
        headers: { "Content-Type": "text/html" },
      }),
  );
  await using server = await startServer({ args: ["--allow-origin", site.url.origin] });
  origin = server.origin;
  await using bob = await server.join("bob", { room: "support" });
  using page = await openPage({ origin: site.url.origin }, "/?id=ann");
  const status = "document.querySelector('#status').textContent";
  const messages = "[...document.querySelectorAll('li')].map((item) => item.textContent)";
  await page.shows(status, "open");
  bob.says("<b>hi</b>");
  await page.shows(messages, ["bob: <b>hi</b>"]);
  await page.run("document.querySelector('input').focus()");
  await page.type("hello");
  await page.press("Enter");
  await bob.hearsUpTo("Client #ann says: hello");
  await page.shows(messages, ["bob: <b>hi</b>", "ann: hello"]);
});

test("a bot for Bun, with the documented types", async () => {
  await using server = await startServer();
  await using folder = await startFolder();
  await copyFile(join(EXAMPLES, "bot.ts"), join(folder.path, "bot.ts"));
  for (const name of ["hubbub.js", "hubbub.d.ts"])
    await Bun.write(join(folder.path, name), await server.get(`/${name}`));
  const tsc = [
    "--ignoreConfig",
    "--noEmit",
    "--strict",
    "--target",
    "es2022",
    "--module",
    "preserve",
    "--types",
    "bun",
  ];
  const typeRoots = ["--typeRoots", join(ROOT, "node_modules/@types")];
  const checked =
    await Bun.$`${process.execPath} ${join(ROOT, "node_modules/typescript/bin/tsc")} ${tsc} ${typeRoots} bot.ts`
      .cwd(folder.path)
      .quiet()
      .nothrow();
  expect(`${checked.stdout}`).toBe("");

  await using ann = await server.join("ann", { room: "tea" });
  ann.says("sum 1 1");
  await ann.hearsUpTo("Client #ann says: sum 1 1");
  folder.start([process.execPath, "bot.ts", server.origin, "tea"]);
  await eventually(
    async () => (await server.answer("/rooms/tea/members")).body.includes("adder"),
    "it joins",
  );
  for (const text of ["sum 1 2 3", "sum", "sum x", "sum 2 -3"]) ann.says(text);
  await ann.hearsUpTo("Client #adder says: 6");
  await ann.hearsUpTo("Client #adder says: -1");
});

describe("a bot for Python", () => {
  test.skipIf(python.skipped !== "")(
    `answers exactly once while it and the server are killed and started again${python.skipped}`,
    async () => {
      await using folder = await startFolder();
      const port = freePort();
      const startAgain = () =>
        startServer({
          args: ["--port", `${port}`],
          store: { name: "SQLite", url: "sqlite:chat.db" },
          cwd: folder.path,
        });
      await using latest = {
        server: await startAgain(),
        async [Symbol.asyncDispose]() {
          await this.server.stop();
        },
      };
      const startBot = () =>
        folder.start([python.path ?? "python3", join(EXAMPLES, "bot.py"), `http://127.0.0.1:${port}`, "tea"]);
      let bot = startBot();
      const isPresent = async () =>
        (await latest.server.answer("/rooms/tea/members")).body.includes("parrot");
      await eventually(isPresent, "the bot joins");

      let count = 0;
      /** Each is sent again until it is stored. */
      const write = async (messages: number) => {
        for (const end = count + messages; count < end; count++) {
          const query = `from=ann&session=s&seq=${count + 1}`;
          const init = {
            method: "POST",
            body: `echo ${count + 1}`,
            headers: { "Content-Type": "text/plain" },
          };
          const post = () => fetch(`http://127.0.0.1:${port}/rooms/tea/messages?${query}`, init);
          await eventually(async () => (await post().catch(() => undefined))?.ok === true, "it is stored");
        }
      };
      const answers = async () => {
        const { messages } = JSON.parse((await latest.server.answer("/rooms/tea/messages?limit=1000")).body);
        return messages.flatMap(({ from, text }: { from: string; text: string }) =>
          from === "parrot" ? [text] : [],
        );
      };
      for (const killed of ["bot", "server", "both", "bot", "both"]) {
        const before = count;
        const writing = write(60);
        await eventually(async () => (await answers()).length > before + 10, "the bot answers");
        if (killed !== "server") {
          bot.kill("SIGKILL");
          await bot.exited;
        }
        if (killed !== "bot") {
          await latest.server.stop();
          latest.server = await startAgain();
        }
        if (killed !== "server") bot = startBot();
        await writing;
      }
      await eventually(async () => (await answers()).length >= count, "each message is answered");
      expect(await answers()).toEqual(Array.from({ length: count }, (_, i) => `${i + 1}`));
    },
  );
});

describe("a shell script with curl", () => {
  /** Passes requests on, but the response to the first is lost. */
  function startLossyProxy(server: TestServer) {
    let isFirst = true;
    return Bun.serve({
      hostname: "127.0.0.1",
      port: 0,
      async fetch(request) {
        const { pathname, search } = new URL(request.url);
        const { method, headers } = request;
        const response = await fetch(server.origin + pathname + search, {
          method,
          headers,
          body: await request.bytes(),
        });
        if (!isFirst) return response;
        isFirst = false;
        return new Response("bad gateway", { status: 502 });
      },
    });
  }

  test("tells how a command ended, once, although the first response is lost", async () => {
    await using server = await startServer();
    await using proxy = startLossyProxy(server);
    await using folder = await startFolder();
    await using bob = await server.join("bob", { room: "builds" });
    const script = folder.start([join(EXAMPLES, "notify.sh"), "sh", "-c", "exit 3"], {
      CHAT: proxy.url.origin,
    });
    expect(await script.exited).toBe(3);
    const [said = ""] = await server.texts("builds");
    expect(said).toMatch(/^sh -c exit 3 ended with status 3 on ./);
    await bob.hears(`Client #ci says: ${said}`);
    await bob.hearsNothing();
  });
});

test("tail -f and hubbub join publish each new line of a log, also after it is rotated", async () => {
  await using server = await startServer();
  await using folder = await startFolder();
  await using bob = await server.join("bob", { room: "builds" });
  await symlink(serverExecutable(), join(folder.path, "hubbub"));
  const log = join(folder.path, "build.log");
  await Bun.write(log, "old\n");
  const env = { CHAT: server.origin, PATH: `${folder.path}:${process.env.PATH}` };
  folder.start([join(EXAMPLES, "tail.sh"), "build.log"], env);
  await eventually(
    async () => (await server.answer("/rooms/builds/members")).body.includes('"ci"'),
    "it joins",
  );
  const write = (text: string) => Bun.$`echo ${text} >> ${log}`.quiet();
  for (const text of ["compiling", "testing"]) await write(text);
  await bob.hears("Client #ci says: compiling", "Client #ci says: testing");
  await Bun.$`mv ${log} ${log}.1`.quiet();
  await write("again");
  await bob.hears("Client #ci says: again");
});

describe("the main README", () => {
  test("the commands for a shell", async () => {
    await using server = await startServer();
    await using folder = await startFolder();
    await mkdir(join(folder.path, "dist"));
    await symlink(serverExecutable(), join(folder.path, "dist/hubbub"));
    await Bun.write(join(folder.path, "build.log"), "from a log\n");
    await Bun.write(join(folder.path, "events"), "");
    const commands = substitute(codeBlock("README.md", "sh", "curl"), { [ADDRESS]: server.origin });
    const [post = "", pipe = "", stream = "", tail = "", ...more] = commands.trimEnd().split("\n");
    expect(more).toEqual([]);
    const events = () => Bun.file(join(folder.path, "events")).text();
    folder.start(["sh", "-c", `${stream} > events`]);
    await eventually(async () => (await events()).includes("event: welcome"), "the stream has begun");
    folder.start(["sh", "-c", tail]);
    for (const command of [post, pipe]) expect(await folder.start(["sh", "-c", command]).exited).toBe(0);
    // `make` finds nothing to make, or is not installed, and says so.
    for (const text of ["from a log", "Build 7 is green", "make: "]) {
      const isStored = async () => (await server.texts("builds")).some((stored) => stored.includes(text));
      await eventually(isStored, `"${text}" is stored`);
      await eventually(async () => (await events()).includes(text), `"${text}" is streamed`);
    }
  });

  test("the module", async () => {
    await using server = await startServer();
    await using folder = await startFolder();
    const module = `${server.origin}/hubbub.js`;
    await Bun.write(join(folder.path, "hubbub.js"), await fetch(module));
    const example = substitute(codeBlock("README.md", "js"), {
      [`${ADDRESS}/hubbub.js`]: "./hubbub.js",
      'id: "ann"': `server: "${server.origin}", id: "ann"`,
    });
    await Bun.write(join(folder.path, "example.js"), example);
    await Bun.write(join(folder.path, "output"), "");
    const output = () => Bun.file(join(folder.path, "output")).text();
    folder.start(["sh", "-c", `"${process.execPath}" example.js > output`]);
    await eventually(async () => (await output()).includes("ann: hi\n"), "the message comes back");
  });
});
