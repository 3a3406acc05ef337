/** `hubbub join URL` in a pipe, across restarts of the server. */

import { expect, test } from "bun:test";
import { withDeadline } from "../support/deadline.ts";
import { serveHttp } from "../support/http.ts";
import { startServer, type TestServer } from "../support/server.ts";

function join(server: Pick<TestServer, "origin">, query: string, more: Record<string, string> = {}) {
  const command = [
    process.execPath,
    `${import.meta.dir}/../../src/server.ts`,
    "join",
    `${server.origin}/client?${query}`,
  ];
  const run = Bun.spawn(command, {
    stdin: "pipe",
    stdout: "pipe",
    stderr: "pipe",
    env: { ...process.env, ...more },
  });
  let errors = "";
  let hasErrors = Promise.withResolvers<void>();
  const allErrors = (async () => {
    for await (const text of run.stderr.pipeThrough(new TextDecoderStream())) {
      errors += text;
      hasErrors.resolve();
      hasErrors = Promise.withResolvers();
    }
    return errors;
  })();
  return {
    says: (line: string) => {
      run.stdin.write(`${line}\n`);
      void run.stdin.flush();
    },
    /** Writes text without a line break. */
    writes: (text: string) => void run.stdin.write(text),
    /** Waits until stderr contains the text. */
    async complains(text: string, deadlineMs?: number) {
      while (!errors.includes(text))
        await withDeadline(hasErrors.promise, () => `expected ${text}, read ${errors}`, deadlineMs);
    },
    interrupts: () => run.kill("SIGINT"),
    /** Waits for the exit. @returns the whole output and the exit code */
    async exits() {
      const [out, allOfThem, exitCode] = await Promise.all([
        new Response(run.stdout).text(),
        allErrors,
        run.exited,
      ]);
      return { out, errors: allOfThem, exitCode };
    },
    /** Ends the input and waits for the exit. */
    ends() {
      void run.stdin.end();
      return this.exits();
    },
    [Symbol.dispose]: () => run.kill("SIGKILL"),
  };
}

test("sends lines, prints messages, and exits once everything is acknowledged after the end of the input", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob", { room: "builds" });
  const ann = join(server, "room=builds&id=ann");
  for (let i = 0; i < 500; i++) ann.says(`line ${i}`);
  for (let i = 0; i < 500; i++) await bob.hears(`Client #ann says: line ${i}`);
  bob.says("tab\there \x1b[31mred\x1b[0m\nsecond \u202eline");
  await bob.hearsUpTo("You wrote: tab\there \x1b[31mred\x1b[0m\nsecond \u202eline");
  ann.says("last");
  const { out, errors, exitCode } = await ann.ends();
  expect({ errors, exitCode }).toEqual({ errors: "", exitCode: 0 });
  const lines = out.split("\n");
  expect(lines.slice(0, 500)).toEqual(Array.from({ length: 500 }, (_, i) => `ann: line ${i}`));
  expect(out).toEndWith("bob: tab\there \\u001b[31mred\\u001b[0m\n    second \\u202eline\nann: last\n");
});

test("lines end at a line feed only, and the last one needs none", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const ann = join(server, "id=ann");
  ann.writes("one\u2028still one\r\n\ntwo");
  const { out, exitCode } = await ann.ends();
  expect([out, exitCode]).toEqual(["ann: one\\u2028still one\nann: \nann: two\n", 0]);
  for (const text of ["one\u2028still one", "", "two"]) await bob.hears(`Client #ann says: ${text}`);
});

test("survives a restart of the server and sends what was typed meanwhile", async () => {
  const first = await startServer();
  const ann = join(first, "id=ann");
  await using bob = await first.join("bob");
  ann.says("before");
  await bob.hears("Client #ann says: before");
  await first.stop();
  for (let i = 0; i < 100; i++) ann.says(`meanwhile ${i}`);
  await using second = await startServer({ args: ["--port", `${first.port}`] });
  await using eve = await second.join("eve");
  for (let i = 0; i < 100; i++) await eve.hears(`Client #ann says: meanwhile ${i}`);
  const { out, errors, exitCode } = await ann.ends();
  // An interruption is reported if the restart takes more than two seconds.
  const interruption = /^(Connection lost, retrying\.|Connected\.).*\n/gm;
  expect({ errors: errors.replace(interruption, ""), exitCode }).toEqual({
    errors: "Some messages may be missing here.\n",
    exitCode: 0,
  });
  expect(out.split("\n")[0]).toBe("ann: before");
});

test("reports what the server rejects, and exits with 1", async () => {
  await using server = await startServer();
  expect(await join(server, "id=a%20b").ends()).toEqual({
    out: "",
    errors: 'A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n',
    exitCode: 1,
  });
  await using bob = await server.join("bob");
  const ann = join(server, "id=ann");
  ann.says("x".repeat(65_537));
  ann.says("the next line is sent all the same");
  const { errors, exitCode } = await ann.ends();
  expect(exitCode).toBe(1);
  await bob.hears("Client #ann says: the next line is sent all the same");
  expect(errors).toBe(`Not sent: ${"x".repeat(65_537)}\nThe message is too large for this server.\n`);
});

test("the client id is the user name if the address has none", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const ann = join(server, "", { USER: "ann" });
  ann.says("hi");
  await bob.hears("Client #ann says: hi");
  expect((await ann.ends()).exitCode).toBe(0);
});

const EVIL = "\x1b[2J\x1b]0;pwned\x07\x9b31m\u202e";
const SHOWN = "\\u001b[2J\\u001b]0;pwned\\u0007\\u009b31m\\u202e";

test("text from the server is escaped and cut: rejections, close reasons, names", async () => {
  await using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
      if (server.upgrade(request)) return undefined;
      return new Response(`${EVIL} ${"x".repeat(100_000)}`, {
        status: 403,
        headers: { "Hubbub-Code": "some-code" },
      });
    },
    websocket: {
      open(socket) {
        const welcome = {
          client: "ann",
          last: "1-0",
          sent: null,
          count: 1,
          members: [],
          can: [],
          connections: 1,
        };
        socket.send(JSON.stringify({ type: "welcome", ...welcome, pingSeconds: 25, maxMessageBytes: 99 }));
        socket.send(
          JSON.stringify({ type: "message", id: "1-1", time: 1, from: EVIL, text: `${EVIL}\n${EVIL}` }),
        );
        socket.send(
          JSON.stringify({ type: "message", id: "1-2", time: 1, from: "x".repeat(9999), text: "hi" }),
        );
        socket.send(JSON.stringify({ type: "message", id: "1-3", time: 1, from: "bob", removed: true }));
      },
      message(socket, frame) {
        const { type, seq } = JSON.parse(String(frame));
        if (type !== "message") return;
        socket.send(JSON.stringify({ type: "error", seq, code: "bad", message: EVIL.repeat(1000) }));
        socket.close(1008, EVIL);
      },
    },
  });
  const name = "x".repeat(500);
  using ann = join({ origin: server.url.origin }, "id=ann");
  ann.says(`my own ${EVIL}`);
  const rejected = `Not sent: my own ${SHOWN}\n${SHOWN.repeat(1000)}`;
  const { out, errors, exitCode } = await ann.exits();
  expect({ out, exitCode }).toEqual({
    out: `${SHOWN}: ${SHOWN}\n    ${SHOWN}\n${name}…: hi\nbob: (removed)\n`,
    exitCode: 1,
  });
  const [first, second = "", third] = errors.split("\n");
  expect([first, third]).toEqual([rejected.split("\n")[0], SHOWN]);
  expect([second.startsWith(SHOWN), second.endsWith("…"), second.length < 4000]).toEqual([true, true, true]);
});

test("so is the sentence of a rejected upgrade", async () => {
  await using server = serveHttp(
    () =>
      new Response(`${EVIL} ${"x".repeat(100_000)}`, {
        status: 403,
        headers: { "Hubbub-Code": "some-code" },
      }),
  );
  using ann = join({ origin: server.url.origin }, "id=ann");
  const { out, errors, exitCode } = await ann.exits();
  expect({ out, exitCode }).toEqual({ out: "", exitCode: 1 });
  expect(errors).toMatch(/^\\u001b\[2J\\u001b\]0;pwned\\u0007\\u009b31m\\u202e x{400,500}…?\n$/);
});

test("keeps retrying behind a proxy that answers with an error page, which it does not print", async () => {
  const port = await (async () => {
    await using proxy = serveHttp(() => new Response(`<h1>Not here</h1>${EVIL}`, { status: 404 }));
    using ann = join({ origin: proxy.url.origin }, "id=ann");
    await ann.complains(
      `Cannot connect to ${proxy.url.origin}, retrying. (The chat server did not answer; something in between returned HTTP 404.)\n`,
    );
    ann.interrupts();
    const { errors, exitCode } = await ann.exits();
    expect([exitCode, errors.includes("h1")]).toEqual([130, false]);
    return proxy.port;
  })();
  // Now nothing listens on the port.
  const origin = `http://127.0.0.1:${port}`;
  using ann = join({ origin }, "id=ann");
  ann.says("hi");
  await ann.complains(`Cannot connect to ${origin}, retrying.`);
  await using server = await startServer({ args: ["--port", `${port}`] });
  await using bob = await server.join("bob", { history: 1 });
  await ann.complains("Connected.\n", 120_000); // the back-off may have grown long by now
  await bob.hears("Client #ann says: hi");
  expect(await ann.ends()).toMatchObject({ out: "ann: hi\n", exitCode: 0 });
}, 240_000);

test("ignores the proxy of the environment for the connection and for the reason of a rejection", async () => {
  let count = 0;
  await using proxy = serveHttp(
    () => (count++, new Response("no such host", { status: 404, headers: { "Hubbub-Code": "proxy" } })),
  );
  const names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"];
  const env = Object.fromEntries(names.map((name) => [name, proxy.url.origin]));
  await using server = await startServer();
  const direct = { ...env, NO_PROXY: "", no_proxy: "" };
  using bad = join(server, "id=a%20b", direct);
  expect(await bad.ends()).toEqual({
    out: "",
    errors: 'A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n',
    exitCode: 1,
  });
  using ann = join(server, "id=ann", direct);
  ann.says("hi");
  expect(await ann.ends()).toEqual({ out: "ann: hi\n", errors: "", exitCode: 0 });
  expect(count).toBe(0);
});
