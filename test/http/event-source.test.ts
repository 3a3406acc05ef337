/** What programs do on their own when the server restarts: EventSource in a browser, and a loop in a shell. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openPage, skipped } from "../support/browser.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const README = "src/http/README.md";
const SQLITE = { name: "SQLite", url: "sqlite:chat.db" };

async function post(server: TestServer, ...texts: readonly string[]): Promise<void> {
  for (const text of texts) expect((await server.post("builds", { from: "ci", text })).status).toBe(201);
}

/** A server on SQLite that is killed and started again on the same port and file. */
async function startRestartable() {
  const folder = new TempFolder();
  const start = (port: number) =>
    startServer({ cwd: folder.path, store: SQLITE, args: ["--port", `${port}`] });
  let server = await start(0);
  return {
    get server() {
      return server;
    },
    async restart(whileDown: () => Promise<unknown> = async () => {}) {
      await server.stop("SIGKILL");
      await whileDown();
      server = await start(server.port);
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
}

async function* untilItBreaks(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    for await (const chunk of body) yield chunk;
  } catch {
    // The server is gone, and so the response ends.
  }
}

/** A proxy that answers 502 while the server is down. */
function startProxy(upstream: () => string) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    idleTimeout: 0,
    fetch: async ({ url, headers, signal }) => {
      const { pathname, search } = new URL(url);
      try {
        const {
          status,
          headers: sent,
          body,
        } = await fetch(upstream() + pathname + search, { headers, signal });
        return new Response(body && untilItBreaks(body), { status, headers: sent });
      } catch {
        return new Response("Bad Gateway", { status: 502 });
      }
    },
  });
}

describe.skipIf(skipped !== "")(`in a browser${skipped}`, () => {
  test("an EventSource survives restarts of the server on its own, without loss or duplicates", async () => {
    await using restartable = await startRestartable();
    using page = await openPage(restartable.server, "/healthz");
    await page.run(`(window.seen = [], window.welcomes = [], window.events = new EventSource("/rooms/builds/events"),
      events.onmessage = ({ data }) => seen.push(JSON.parse(data).text),
      events.addEventListener("welcome", ({ data }) => welcomes.push(JSON.parse(data).recovered ?? null)), 0)`);
    await page.shows("welcomes", [null]);
    await post(restartable.server, "1", "2");
    await page.shows("seen", ["1", "2"]);
    for (const [text, welcomes] of [
      ["3", [null, true]],
      ["4", [null, true, true]],
    ] as const) {
      await restartable.restart();
      await post(restartable.server, text);
      await page.shows("welcomes", welcomes);
      await post(restartable.server, `${text} again`);
    }
    await page.shows("seen", ["1", "2", "3", "3 again", "4", "4 again"]);
  });

  test("behind a proxy that answers 502 it gives up, and the documented lines start it again", async () => {
    await using restartable = await startRestartable();
    await using proxy = startProxy(() => restartable.server.origin);
    using page = await openPage({ origin: `http://127.0.0.1:${proxy.port}` }, "/healthz");
    const code = substitute(codeBlock(README, "js", "EventSource"), {
      "console.log": "seen.push",
      "new EventSource": "window.events = new EventSource",
      "3000": "200",
    });
    await page.run(`(window.seen = [], window.plain = new EventSource("/rooms/builds/events"), 0)`);
    await page.run(`(0, eval)(${JSON.stringify(code)}), 0`);
    await page.shows("[plain.readyState, events.readyState]", [1, 1]);
    await restartable.restart(() => page.shows("[plain.readyState, events.readyState]", [2, 2]));
    await post(restartable.server, "1");
    await page.shows("seen", ["1"]);
    await restartable.restart(() => page.shows("events.readyState", 2));
    await post(restartable.server, "2", "3");
    await page.shows("seen", ["1", "2", "3"]);
    expect(await page.run("plain.readyState")).toBe(2);
  });
});

test("the documented shell loop survives restarts, without loss or duplicates", async () => {
  await using restartable = await startRestartable();
  const { port } = restartable.server;
  const script = substitute(codeBlock(README, "bash", "while sleep 1"), {
    "localhost:8000": `127.0.0.1:${port}`,
    "sleep 1": "sleep 0.1",
  });
  const loop = Bun.spawn(["bash", "-c", script], { stdout: "pipe", stderr: "pipe" });
  const received: string[] = [];
  const reading = (async () => {
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of loop.stdout) {
      const lines = (text += decoder.decode(chunk, { stream: true })).split("\n");
      text = lines.pop() ?? "";
      received.push(...lines.map((line) => JSON.parse(line).text));
    }
  })();
  const isConnected = async () => (await restartable.server.metrics()).get("hubbub_event_streams") === 1;
  const has = (...texts: readonly string[]) =>
    eventually(async () => received.length >= texts.length, `${texts}`).then(() =>
      expect(received).toEqual([...texts]),
    );
  try {
    await eventually(isConnected, "curl is connected");
    await restartable.restart();
    await post(restartable.server, "1", "2");
    await has("1", "2");
    await restartable.restart();
    await post(restartable.server, "3");
    await has("1", "2", "3");
    await restartable.restart();
    await eventually(isConnected, "curl is connected");
    await post(restartable.server, "4");
    await has("1", "2", "3", "4");
  } finally {
    loop.kill();
    await restartable.server.stop();
    await withDeadline(reading, () => "curl did not end");
  }
});

test("each documented curl -N does what the document says", async () => {
  const examples = [...codeBlock(README, "sh", "curl -N").matchAll(/^(curl -N .*)\n((?:#.*\n)+)/gm)];
  expect(examples.length).toBe(2);
  for (const [, command = "", comment = ""] of examples) {
    await using server = await startServer();
    const isReplayed = command.includes("history");
    if (isReplayed) await post(server, "Build 7 is green");
    const run = Bun.spawn(
      ["sh", "-c", `exec ${command.replace("localhost:8000", `127.0.0.1:${server.port}`)}`],
      {
        stdout: "pipe",
        stderr: "ignore",
      },
    );
    const expected = comment.replace(/^# ?/gm, "").trimEnd().split("\n");
    const shape = (lines: readonly string[]) => lines.map((line) => line.replace(/\d{4,}(-\d+)?/g, "N"));
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of run.stdout) {
      text += decoder.decode(chunk, { stream: true });
      if (text.includes('"message"')) break;
      if (!isReplayed) await post(server, "Build 7 is green");
    }
    run.kill();
    expect([command, ...shape(text.trimEnd().split("\n"))]).toEqual([command, ...shape(expected)]);
  }
});
