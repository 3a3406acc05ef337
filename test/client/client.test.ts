/** The client library. That it loses and duplicates nothing is tested in test/chaos. */

import { expect, setDefaultTimeout, setSystemTime, spyOn, test } from "bun:test";
import { createServer } from "node:http";
import { connect, type Client, type ConnectionState } from "../../src/client/client.ts";
import { openPage, skipped as withoutBrowser } from "../support/browser.ts";
import { becomes, emitted } from "../support/client-events.ts";
import { withDeadline, eventually } from "../support/deadline.ts";
import { serveHttp } from "../support/http.ts";
import { SECRET, SECURED, tokenOf } from "../support/keys.ts";
import { startServer } from "../support/server.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

test("the documented example runs as it stands, with the module that the server serves", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob", { room: "tea" });
  const lines = codeBlock("src/client/README.md", "js");
  const [, address = ""] = /from "(.*?)"/.exec(lines) ?? [];
  expect(address).toBe("http://localhost:8000/hubbub.js");
  const module = await server.get("/hubbub.js");
  expect(module.headers.get("access-control-allow-origin")).toBe("*");
  const code = await module.text();
  expect(Bun.gzipSync(code).byteLength).toBeLessThan(4608);

  // Bun does not import over HTTP: the module's text is loaded instead, with its address in it.
  const source = code.replaceAll("import.meta.url", JSON.stringify(`${server.origin}/hubbub.js`));
  const data = `data:text/javascript;base64,${new TextEncoder().encode(source).toBase64()}`;
  await using run = Bun.spawn([process.execPath, "--eval", lines.replace(address, data)], { stdout: "pipe" });
  await bob.hears("Client #ann says: hi");
  bob.says("ho");
  let out = "";
  for await (const chunk of run.stdout.pipeThrough(new TextDecoderStream()))
    if ((out += chunk).includes("bob")) break;
  expect(out).toBe("connecting \nopen \nann: hi\nbob: ho\n");
  run.kill();
});

test("a copy of the module works in Bun as documented; without `server` it throws an error that says so", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob", { room: "tea" });
  using folder = new TempFolder();
  const here = { "http://localhost:8000": server.origin };
  const [, url = ""] =
    /^curl -fsSO (\S+)$/.exec(
      substitute(codeBlock("src/client/README.md", "sh", "hubbub.js"), here).trim(),
    ) ?? [];
  const module = folder.write("hubbub.js", await (await fetch(url)).text());
  const lines = substitute(codeBlock("src/client/README.md", "js", "./hubbub.js"), here);
  folder.write("ann.js", `${lines}room.send("hi");`);
  await using ann = Bun.spawn([process.execPath, "ann.js"], { cwd: folder.path });
  await bob.hears("Client #ann says: hi");
  ann.kill();

  folder.write("eve.js", 'import { connect } from "./hubbub.js"; connect({ id: "eve", token: "a.b.c" });');
  const eve = Bun.spawn([process.execPath, "eve.js"], { cwd: folder.path, stderr: "pipe" });
  expect(await new Response(eve.stderr).text()).toContain(
    `error: server: expected an address such as "http://localhost:8000", got "file://${module}", which is where this module was loaded from\n`,
  );
  expect(await eve.exited).toBe(1);
  for (const server of ["localhost:8000", "file:///tmp", "not an address", "http://", ""])
    expect(() => connect({ server, id: "ann" })).toThrow();
  expect(() => connect({ server: "localhost:8000", id: "ann" })).toThrow(
    'server: expected an address such as "http://localhost:8000", got "localhost:8000"',
  );
});

test("it detects a frozen server within two pings, and reconnects when the server runs again", async () => {
  await using frozen = await startServer();
  const states: ConnectionState[] = [];
  const ann = connect({ server: frozen.origin, id: "ann" }).on("state", (state) => states.push(state));
  await emitted(ann, "welcome");
  frozen.process.kill("SIGSTOP");
  // What the timer does every 25 s: sends a ping, and finds it unanswered at the time of the next one.
  ann.checkAlive();
  expect(states.at(-1)).toEqual({ status: "open" });
  ann.checkAlive();
  expect(states.at(-1)).toMatchObject({ status: "reconnecting", reason: "The server does not respond." });
  frozen.process.kill("SIGCONT");
  await becomes(ann, "open");
  ann.close();
});

test("a rejection by the server is final and has a reason; a server that is down is tried again", async () => {
  await using server = await startServer();
  const bad = connect({ server: server.origin, id: "a b" });
  expect(await becomes(bad, "closed")).toEqual({
    status: "closed",
    statusCode: 400,
    code: "bad-name",
    reason: 'A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.',
  });
  await server.stop();
  const away = connect({ server: server.origin, id: "ann" });
  await becomes(away, "reconnecting");
  away.close();
});

/** Dispatches an event of the browser. */
function happens(event: Event): void {
  EventTarget.prototype.dispatchEvent.call(globalThis, event);
}

test("an error page of a proxy is never final, whatever its status", async () => {
  const statuses = [400, 401, 403, 404, 410, 451, 502, 503, 200];
  const clients: Client[] = [];
  const port = await (async () => {
    await using proxy = serveHttp(({ url }) => {
      const status = Number(new URL(url).pathname.split("-").at(-1));
      return new Response("<h1>404 page not found</h1>", {
        status,
        headers: { "Content-Type": "text/html" },
      });
    });
    for (const status of statuses) {
      const client = connect({ server: proxy.url.origin, id: `ann-${status}` });
      clients.push(client);
      const reason = `The chat server did not answer; something in between returned HTTP ${status}.`;
      await becomes(client, (state) => state.status === "reconnecting" && state.reason === reason);
    }
    return proxy.port;
  })();
  await using server = await startServer({ args: ["--port", `${port}`] });
  for (const client of clients) {
    client.on("state", ({ status }) => status === "reconnecting" && client.retryNow());
    client.retryNow();
    await becomes(client, "open");
    client.close();
  }
  expect(server.port).toBe(Number(port));
});

test("only a 4xx with the server's code is final, except 408, 425, 426 and 429", async () => {
  await using server = serveHttp(({ url }) => {
    const status = Number(new URL(url).pathname.split("-").at(-1));
    return new Response("Because.\n", { status, headers: { "Hubbub-Code": "some-code" } });
  });
  const ends = async (status: number) => {
    const client = connect({ server: server.url.origin, id: `ann-${status}` });
    const state = await becomes(
      client,
      (state) =>
        (state.status === "reconnecting" || state.status === "closed") && state.reason === "Because.",
    );
    client.close();
    return state;
  };
  for (const statusCode of [400, 401, 403, 404, 405, 410])
    expect(await ends(statusCode)).toEqual({
      status: "closed",
      reason: "Because.",
      statusCode,
      code: "some-code",
    });
  for (const status of [408, 425, 429, 500, 503]) expect((await ends(status)).status).toBe("reconnecting");
});

test("a failed attempt counts once in the back-off, also with Retry-After; both are bounded", async () => {
  let retryAfter = "0.4";
  await using server = serveHttp(
    () =>
      new Response("full", { status: 503, headers: { "Hubbub-Code": "full", "Retry-After": retryAfter } }),
  );
  using _half = spyOn(Math, "random").mockReturnValue(0.5);
  using _now = spyOn(Date, "now").mockReturnValue(0);
  const waitsAfter = async (attempts: number) => {
    const waits: number[] = [];
    const ann = connect({ server: server.url.origin, id: "ann" });
    const done = Promise.withResolvers<void>();
    ann.on("state", (state) => {
      if (state.status !== "reconnecting" || state.reason !== "full") return;
      waits.push(state.retryAt);
      if (waits.length === attempts) done.resolve();
      else ann.retryNow();
    });
    await withDeadline(done.promise, () => `waited ${waits}`);
    ann.close();
    return waits;
  };
  // Half of 500 ms, 1 s, 2 s and so on up to 30 s, on top of Retry-After.
  expect(await waitsAfter(8)).toEqual([650, 900, 1400, 2400, 4400, 8400, 15_400, 15_400]);
  retryAfter = "86400";
  expect(await waitsAfter(1)).toEqual([10 * 60_000 + 250]);
});

test("if the request for the reason fails with the token, only an origin rejection counts without it", async () => {
  let code = "no-token";
  const asked: string[] = [];
  // In a page that may not connect, the browser blocks the request with a token; here the connection is cut.
  const server = createServer(({ headers, socket }, response) => {
    asked.push(headers.authorization ?? "none");
    if (headers.authorization) socket.destroy();
    else response.writeHead(code === "origin" ? 403 : 401, { "Hubbub-Code": code }).end("Why.");
  });
  server.on("upgrade", (_, socket) => socket.destroy());
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" ? address?.port : 0;
  const ann = connect({ server: `http://127.0.0.1:${port}`, id: "ann", token: "a.b.c" });
  // The second request without a token follows a second attempt.
  await eventually(
    async () => asked.filter((token) => token === "none").length >= 2,
    "a second request without the token",
  );
  expect([...new Set(asked)]).toEqual(["Bearer a.b.c", "none"]); // an attempt may begin before the answer
  expect(ann.state.status).not.toBe("closed");
  code = "origin";
  expect(await becomes(ann, "closed")).toEqual({
    status: "closed",
    reason: "Why.",
    statusCode: 403,
    code: "origin",
  });
  server.close();
});

test.skipIf(withoutBrowser !== "")(
  `a page of another origin learns why it is rejected, with a token and without${withoutBrowser}`,
  async () => {
    await using server = await startServer(SECURED);
    const token = tokenOf("ann");
    await using other = serveHttp(
      () => new Response("<title>another site</title>", { headers: { "Content-Type": "text/html" } }),
    );
    using page = await openPage({ origin: other.url.origin }, "/");
    for (const options of [{}, { token }]) {
      await page.run(`import("${server.origin}/hubbub.js").then(({ connect }) => {
        window.room = connect(${JSON.stringify({ id: "ann", ...options })});
      })`);
      await page.shows("[room.state.status, room.state.statusCode, room.state.code]", [
        "closed",
        403,
        "origin",
      ]);
    }
  },
);

test.skipIf(withoutBrowser !== "")(
  `a page probes its connection when the network is back, and reconnects at once when shown or unfrozen${withoutBrowser}`,
  async () => {
    await using server = await startServer();
    using page = await openPage(server, "/healthz");
    await page.run(`import("/hubbub.js").then(({ connect }) => {
      window.received = [];
      window.reasons = [];
      window.room = connect({ id: "ann" });
      for (const type of ["replayed", "presence"]) room.on(type, () => received.push(type));
      room.on("state", ({ reason }) => reasons.push(reason));
    })`);
    // The presence event of its own join is the last: from here on nothing is under way that would count as a response.
    await page.shows("window.received", ["replayed", "presence"]);
    server.process.kill("SIGSTOP");
    await page.run("void window.dispatchEvent(new Event('online'))");
    // Not the state: the next attempt may follow too soon for it to be seen.
    await page.shows("reasons.includes('The server does not respond.')", true);
    server.process.kill("SIGCONT");
    await page.shows("room.state.status", "open");

    await server.stop();
    /** The status of a reconnecting client after the document has dispatched an event. */
    const then = (type: string, isHidden = false) =>
      page.run<string>(`new Promise((resolve) => {
        Object.defineProperty(document, "hidden", { value: ${isHidden}, configurable: true });
        let isTold = false;
        const tell = () => {
          if (isTold || room.state.status !== "reconnecting") return;
          isTold = true;
          document.dispatchEvent(new Event("${type}"));
          resolve(room.state.status);
        };
        room.on("state", () => setTimeout(tell));
        tell();
      })`);
    expect([
      await then("visibilitychange", true),
      await then("visibilitychange"),
      await then("resume"),
    ]).toEqual(["reconnecting", "connecting", "connecting"]);
  },
);

test("browser events make reconnecting clients retry, but not closed ones", async () => {
  await using server = await startServer();
  const [one, two] = ["s", "s"].map((session) => connect({ server: server.origin, id: "ann", session }));
  if (!one || !two) throw new Error("no clients");
  await becomes(one, "closed");
  await becomes(two, "open");
  const states: ConnectionState[] = [];
  for (const client of [one, two]) client.on("state", (state) => states.push(state));
  for (const type of ["online", "visibilitychange", "resume"]) happens(new Event(type));
  happens(Object.assign(new Event("pageshow"), { persisted: true }));
  // An acknowledgement of a later message proves that the events changed nothing.
  const acknowledged = emitted(two, "acknowledged");
  two.send("still here");
  await acknowledged;
  expect(states).toEqual([]);
  await server.stop();
  for (const wake of [
    new Event("online"),
    new Event("visibilitychange"),
    new Event("resume"),
    Object.assign(new Event("pageshow"), { persisted: true }),
  ]) {
    await becomes(two, "reconnecting");
    happens(Object.assign(new Event("pageshow"), { persisted: false })); // a new page
    expect(two.state.status).toBe("reconnecting");
    happens(wake);
    expect([one.state.status, two.state.status]).toEqual(["closed", "connecting"]);
  }
  for (const client of [one, two]) client.close();
});

test("an open connection is probed when the network is back: a dead one is dropped within seconds", async () => {
  await using server = await startServer();
  const [ann, bob] = ["ann", "bob"].map((id) => connect({ server: server.origin, id, room: id }));
  if (!ann || !bob) throw new Error("no clients");
  // The presence event of its own join is a client's last: from here on nothing is under way that would count as a response.
  await Promise.all(
    [ann, bob].flatMap((client) => [emitted(client, "replayed"), emitted(client, "presence")]),
  );
  server.process.kill("SIGSTOP");
  const timers = spyOn(globalThis, "setTimeout");
  happens(new Event("online"));
  happens(new Event("visibilitychange")); // does not restart the probe
  const waits = timers.mock.calls.map(([, ms]) => ms);
  timers.mockRestore();
  expect([waits, ann.state.status, bob.state.status]).toEqual([[3000, 3000], "open", "open"]);
  // Less than the ping interval.
  const silent = (state: ConnectionState) =>
    state.status === "reconnecting" && state.reason === "The server does not respond.";
  await Promise.all([ann, bob].map((client) => becomes(client, silent, 20_000)));
  for (const client of [ann, bob]) client.close();
});

/** Accepts connections, and never answers. */
function listenSilently(open: () => void) {
  return Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { open, data() {} } });
}

test("an attempt that has just begun when the network is back, and is not answered, is repeated within seconds", async () => {
  let attempts = 0;
  const second = Promise.withResolvers<void>();
  using silent = listenSilently(() => {
    if (++attempts === 1) happens(new Event("online"));
    else second.resolve();
  });
  const ann = connect({ server: `http://127.0.0.1:${silent.port}`, id: "ann" });
  // Otherwise it would be given up after two ping intervals, 50 s.
  await withDeadline(second.promise, () => "no second attempt");
  ann.close();
});

test("an older attempt is repeated at once when the network is back, one that has just begun is not", async () => {
  let attempts = 0;
  let came = Promise.withResolvers<void>();
  using silent = listenSilently(() => {
    attempts++;
    came.resolve();
  });
  const ann = connect({ server: `http://127.0.0.1:${silent.port}`, id: "ann" });
  await withDeadline(came.promise, () => "no attempt");
  came = Promise.withResolvers<void>();
  const states: ConnectionState[] = [];
  ann.on("state", (state) => states.push(state));
  happens(new Event("online"));
  expect(states).toEqual([]);
  setSystemTime(Date.now() + 10_000);
  try {
    happens(new Event("online"));
  } finally {
    setSystemTime();
  }
  expect(states).toEqual([{ status: "connecting" }]);
  await withDeadline(came.promise, () => "no second attempt");
  expect(attempts).toBe(2);
  ann.close();
});

test("an unanswered ping from before a suspension proves nothing: the connection is probed again", async () => {
  await using server = await startServer();
  const ann = connect({ server: server.origin, id: "ann" });
  await becomes(ann, "open");
  const states: ConnectionState[] = [];
  ann.on("state", (state) => states.push(state));
  ann.checkAlive(); // the pong is unread when the computer wakes up
  setSystemTime(Date.now() + 60 * 60 * 1000);
  try {
    ann.checkAlive();
  } finally {
    setSystemTime();
  }
  const acknowledged = emitted(ann, "acknowledged");
  ann.send("hi");
  await acknowledged;
  expect(states).toEqual([]);
  ann.close();
});

test("historyBefore throws an error that says so if a proxy answers instead of the server", async () => {
  await using server = await startServer();
  const bodies = ["<html>Bad gateway</html>", "null", '{"detail":"a proxy\'s"}', "{}"];
  await using proxy = serveHttp(
    () => new Response(bodies.shift(), { status: 502, headers: { "Content-Type": "text/html" } }),
  );
  const ann = connect({ server: server.origin, id: "ann" });
  expect(await ann.historyBefore("1-0")).toEqual({ messages: [], more: false });
  await expect(ann.historyBefore("none")).rejects.toThrow("after or before must be the id of a message");
  ann.close();
  const bob = connect({ server: proxy.url.origin, id: "bob" });
  const count = bodies.length;
  bob.close();
  for (let i = 0; i < count; i++)
    await expect(bob.historyBefore("1-0")).rejects.toThrow(
      "The chat server did not answer; something in between returned HTTP 502.",
    );
});

test("frames before a welcome, from a server that is not Hubbub, are ignored", async () => {
  const closed = Promise.withResolvers<void>();
  await using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no WebSocket")),
    websocket: {
      open(socket) {
        for (const frame of ["hello", "null", "[]", '{"type":"message","id":"1-0","from":"x","text":"x"}'])
          socket.send(frame);
        socket.close(1000);
      },
      message() {},
      close: () => closed.resolve(),
    },
  });
  const received: object[] = [];
  const ann = connect({ server: server.url.origin, id: "ann" }).on("message", (message) =>
    received.push(message),
  );
  await becomes(ann, "reconnecting");
  await closed.promise;
  expect(received).toEqual([]);
  ann.close();
});

test("events whose fields have the wrong type or are missing are ignored, also in a page of the history", async () => {
  const welcome = {
    type: "welcome",
    last: "1-0",
    count: 1,
    members: [],
    can: ["read", "write"],
    pingSeconds: 25,
    maxMessageBytes: 9,
  };
  const message = { type: "message", id: "1-1", time: 1, from: "bob", text: "hi" };
  const wrongMessages = [
    ...[{ text: 5 }, { text: null }, { from: ["bob"] }, { from: undefined }, { id: {} }, { data: 1 }],
    ...[{ time: "1" }, { time: 1e300 }, { time: undefined }],
  ].map((fields) => ({ ...message, ...fields }));
  const presence = { type: "presence", joined: [], left: [], count: 1 };
  const error = { type: "error", seq: 1, code: "bad-text", message: "no" };
  const wrong = [
    ...wrongMessages,
    ...[{ type: "toString" }, { type: 1 }].map((fields) => ({ ...message, ...fields })),
    ...[{ joined: "bob" }, { joined: [1] }, { left: undefined }, { count: "1" }].map((fields) => ({
      ...presence,
      ...fields,
    })),
    ...[{ members: 1 }, { last: 1 }, { maxMessageBytes: "9" }].map((fields) => ({ ...welcome, ...fields })),
    ...[{ seq: "1" }, { seq: 1, id: 1 }, {}].map((fields) => ({ type: "ack", ...fields })),
    ...[{ code: 1 }, { message: undefined }].map((fields) => ({ ...error, ...fields })),
    ...[null, [], 5, { type: "message" }],
  ];
  await using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) =>
      server.upgrade(request)
        ? undefined
        : Response.json({ messages: [...wrongMessages, null, message], more: false }),
    websocket: {
      open(socket) {
        for (const event of [welcome, ...wrong, message]) socket.send(JSON.stringify(event));
      },
      message() {},
    },
  });
  using errors = spyOn(console, "error").mockImplementation(() => {});
  const received: unknown[] = [];
  const ann = connect({ server: server.url.origin, id: "ann" });
  for (const event of ["welcome", "message", "presence", "acknowledged", "rejected"] as const)
    ann.on(event, (value) => received.push(value));
  ann.send("hi");
  await emitted(ann, "message");
  expect(received).toEqual([welcome, message]);
  expect(await ann.historyBefore("2-0")).toEqual({ messages: [message], more: false });
  expect(errors).not.toHaveBeenCalled();
  ann.close();
});

test("a rejected message does not hold up the others; after a transient error it is resent in its place", async () => {
  const store = {
    name: "a delayed store",
    url: "delayed:?delay=2&reject=0.3&seed=3",
    preload: "delayed-store.ts",
  };
  await using server = await startServer({ store });
  await using bob = await server.join("bob");
  const ann = connect({ server: server.origin, id: "ann" });
  const rejected = emitted(ann, "rejected");
  for (let i = 0; i < 10; i++) ann.send(`${i}`);
  ann.send("x".repeat(65_537));
  for (let i = 10; i < 20; i++) ann.send(`${i}`);
  for (let i = 0; i < 20; i++) await bob.hears(`Client #ann says: ${i}`);
  expect((await rejected).code).toBe("message-too-big");
  ann.close();
});

test("a rejected message is sent again once the others in flight have been answered, not before", async () => {
  const seqs: (number | undefined)[] = [];
  const opened = Promise.withResolvers<Bun.ServerWebSocket<undefined>>();
  const closed = Promise.withResolvers<void>();
  const third = Promise.withResolvers<void>();
  await using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no WebSocket")),
    websocket: {
      open(socket) {
        opened.resolve(socket);
        const rest = { last: "1-0", sent: null, count: 1, members: ["ann"], can: ["write"], connections: 1 };
        socket.send(JSON.stringify({ type: "welcome", ...rest, pingSeconds: 25, maxMessageBytes: 9 }));
      },
      message(_, frame) {
        const { type, seq } = JSON.parse(String(frame));
        if (type !== "message") return;
        seqs.push(seq);
        if (seq === 3) third.resolve();
      },
      close: () => closed.resolve(),
    },
  });
  using random = spyOn(Math, "random").mockReturnValue(0);
  const ann = connect({ server: server.url.origin, id: "ann" });
  for (const text of ["1", "2", "3"]) ann.send(text);
  const socket = await opened.promise;
  await withDeadline(third.promise, () => "no third message");
  const presence = emitted(ann, "presence");
  const answers = [
    { type: "error", code: "rate-limited", message: "because", seq: 1, retryAfterSeconds: 0 },
    { type: "presence", joined: [], left: [], count: 1 },
  ];
  for (const answer of answers) socket.send(JSON.stringify(answer));
  await presence;
  await Bun.sleep(1); // the client's timer of 0 ms was set earlier
  ann.close();
  await withDeadline(closed.promise, () => "not closed");
  expect(random).toHaveBeenCalled();
  expect(seqs).toEqual([1, 2, 3]);
});

test("a rejected message is skipped only once all before it are stored, since skip drops what the server holds back", async () => {
  const frames: { type: string; seq?: number; skip?: boolean }[] = [];
  const came = { count: 0, next: Promise.withResolvers<void>() };
  let socket: Bun.ServerWebSocket<undefined> | undefined;
  await using server = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no WebSocket")),
    websocket: {
      open(opened) {
        socket = opened;
        const rest = { last: "1-0", sent: null, count: 1, members: ["ann"], can: ["write"], connections: 1 };
        opened.send(JSON.stringify({ type: "welcome", ...rest, pingSeconds: 25, maxMessageBytes: 9 }));
      },
      message(_, frame) {
        const { type, seq, skip } = JSON.parse(String(frame));
        if (type !== "message") return;
        frames.push({ type, seq, ...(skip ? { skip } : {}) });
        came.next.resolve();
      },
    },
  });
  const hears = async (...seqs: number[]) => {
    while (frames.length < seqs.length) {
      await withDeadline(came.next.promise, () => `received ${JSON.stringify(frames)}`);
      came.next = Promise.withResolvers<void>();
    }
    expect(frames.splice(0).map(({ seq, skip }) => (skip ? -(seq ?? 0) : seq))).toEqual(seqs);
  };
  const answers = (...events: object[]) => {
    for (const event of events) socket?.send(JSON.stringify(event));
  };
  const ann = connect({ server: server.url.origin, id: "ann" });
  for (const text of ["1", "too big", "3"]) ann.send(text);
  await hears(1, 2, 3);
  const rejection = { type: "error", message: "because" };
  answers(
    { ...rejection, code: "unavailable", seq: 1 },
    { ...rejection, code: "message-too-big", seq: 2 },
    { ...rejection, code: "out-of-order", seq: 3 },
  );
  await hears(1); // once: 3 has been answered, and the rejected message no longer blocks it
  answers({ type: "ack", seq: 1, id: "2-0" });
  await hears(-3);
  ann.close();
});

test("a handler of a rejection may send a message that is too big: it does not hold up the next one", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const ann = connect({ server: server.origin, id: "ann" });
  let isFirst = true;
  ann.on("rejected", () => {
    if (isFirst) for (const text of ["x".repeat(65_537), "after it"]) ann.send(text);
    isFirst = false;
  });
  ann.send("x".repeat(65_537)); // rejected by the client as soon as the welcome says the limit
  await bob.hears("Client #ann says: after it");
  await eventually(async () => ann.outbox.length === 0, "an empty outbox");
  ann.close();
});

test("a message above the server's limit is rejected without being sent, and does not hold up the others", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const ann = connect({ server: server.origin, id: "ann" });
  const rejected: number[] = [];
  ann.on(
    "rejected",
    ({ item, code }) => void (code === "message-too-big" && rejected.push(item.text?.length ?? 0)),
  );
  ann.send("x".repeat(500_000)); // before the limit is known
  ann.send("a");
  await bob.hears("Client #ann says: a");
  let isKnown = false;
  ann.on("rejected", () => (isKnown = true));
  ann.send("語".repeat(30_000));
  expect(isKnown).toBe(false);
  ann.send("b");
  await bob.hears("Client #ann says: b");
  expect(rejected).toEqual([500_000, 30_000]);
  await eventually(async () => ann.outbox.length === 0, "an empty outbox");
  ann.close();
});

test("bytes are sent like a text: kept in the outbox, resent, acknowledged, and received as bytes", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  await using _tab = await server.joinJson("ann"); // ann is present all the time, so no leave is announced
  const photo = crypto.getRandomValues(new Uint8Array(65_536)); // the limit
  const tooBig = new Uint8Array(65_537);
  const first = connect({ server: server.origin, id: "ann", session: "s" });
  expect(first.send(photo)).toEqual({ data: photo.toBase64() });
  first.send(Uint8Array.of(9, 1, 2, 9).subarray(1, 3));
  const sent = first.send(tooBig);
  first.send(Uint8Array.of(3).buffer);
  const [{ item, code }] = await Promise.all([emitted(first, "rejected"), emitted(first, "acknowledged")]);
  expect([item, code]).toEqual([sent, "message-too-big"]);
  await eventually(async () => first.outbox.length === 0, "an empty outbox");
  await bob.hears(photo, Uint8Array.of(1, 2), Uint8Array.of(3));
  first.close();
  first.send(new Uint8Array());
  first.send(Uint8Array.of(4));

  // As plain data, it can be stored, and sent by a later client.
  const outbox = JSON.parse(JSON.stringify(first.outbox));
  const again = connect({ server: server.origin, id: "ann", session: "s", outbox, history: 0 });
  const received: unknown[] = [];
  again.on("message", ({ text, data, bytes }) => received.push({ text, data, bytes }));
  await bob.hears(new Uint8Array(), Uint8Array.of(4));
  bob.says("hi");
  await eventually(async () => received.length === 3, "three messages");
  expect(received).toEqual([
    { data: "", bytes: new Uint8Array() },
    { data: "BA==", bytes: Uint8Array.of(4) },
    { text: "hi" },
  ]);
  expect(again.outbox).toEqual([]);
  const { messages } = await again.historyBefore("9999999999999-0");
  expect(messages.map(({ bytes }) => bytes?.length)).toEqual([65_536, 2, 1, 0, 1, undefined]);
  expect(messages[0]?.bytes).toEqual(photo);
  again.close();
});

test("a token with characters that no header can hold is malformed; white space around a token is ignored", async () => {
  await using server = await startServer(SECURED);
  const token = tokenOf("ann");
  const stateOf = (token: string, status: ConnectionState["status"]) => {
    const client = connect({ server: server.origin, id: "ann", token });
    return becomes(client, status).finally(() => client.close());
  };
  expect(await stateOf(` ${token}\n`, "open")).toEqual({ status: "open" });
  for (const bad of [`${token},`, `${token} x`, "‹"])
    expect(await stateOf(bad, "closed")).toMatchObject({
      status: "closed",
      reason: expect.stringContaining("oken"),
    });
});

/** A server that welcomes each connection and closes it at once with the given code. */
function serverThatCloses(code: number) {
  const welcome = { type: "welcome", client: "ann", room: "lobby", last: "1-0", sent: null, count: 1 };
  const more = { members: ["ann"], can: ["write"], connections: 1, pingSeconds: 25, maxMessageBytes: 65_536 };
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) =>
      server.upgrade(request, { headers: { "Sec-WebSocket-Protocol": "hubbub.v1" } })
        ? undefined
        : new Response("no WebSocket"),
    websocket: {
      open(socket) {
        socket.send(JSON.stringify({ ...welcome, ...more }));
        socket.close(code, "because");
      },
      message() {},
    },
  });
}

for (const code of [1008, 4001])
  test(`close code ${code} is final`, async () => {
    await using server = serverThatCloses(code);
    const ann = connect({ server: server.url.origin, id: "ann" });
    const over = ({ status }: ConnectionState) => status === "closed" || status === "reconnecting";
    expect(await becomes(ann, over)).toEqual({
      status: "closed",
      reason: "because",
      statusCode: code,
    });
    ann.close();
  });

for (const code of [1000, 1001, 1009, 1011, 1012, 1013])
  test(`after close code ${code} it reconnects with a growing delay, since a welcome alone does not reset the back-off`, async () => {
    await using server = serverThatCloses(code);
    using _half = spyOn(Math, "random").mockReturnValue(0.5);
    using _now = spyOn(Date, "now").mockReturnValue(0);
    const ann = connect({ server: server.url.origin, id: "ann" });
    const waits: number[] = [];
    const third = Promise.withResolvers<void>();
    ann.on("state", (state) => {
      if (state.status === "closed") third.reject(new Error(`closed: ${state.reason}`));
      if (state.status !== "reconnecting") return;
      waits.push(state.retryAt);
      if (waits.length === 3) third.resolve();
      else ann.retryNow();
    });
    await withDeadline(third.promise, () => `waited ${waits}`);
    ann.close();
    expect(waits).toEqual([250, 500, 1000]);
  });

test("a message in flight for more than an hour is unconfirmed, since its session may have expired", async () => {
  await using server = await startServer();
  await using bob = await server.joinJson("bob");
  const HOUR_MS = 60 * 60 * 1000;
  const ann = connect({
    server: server.origin,
    id: "ann",
    after: String(bob.welcome.last),
    outbox: [
      { text: "old", seq: 1, firstSentAt: Date.now() - HOUR_MS - 1 },
      { text: "new", seq: 2, firstSentAt: Date.now() - HOUR_MS / 2 },
      { text: "never sent" },
    ],
  });
  const unconfirmed: string[] = [];
  ann.on("unconfirmed", ({ text = "" }) => unconfirmed.push(text));
  for (const text of ["new", "never sent"]) await bob.hears({ type: "message", from: "ann", text });
  expect(unconfirmed).toEqual(["old"]);
  ann.close();
});

test("a seq is not used again after an unconfirmed message: a late copy of that one would take the place of another", async () => {
  await using server = await startServer();
  await using bob = await server.joinJson("bob");
  const old = { text: "old", seq: 5, firstSentAt: 0 };
  const ann = connect({ server: server.origin, id: "ann", session: "s", outbox: [old] });
  expect((await emitted(ann, "unconfirmed")).text).toBe("old");
  const body = JSON.stringify({ text: "old", from: "ann", session: "s", seq: 5 });
  const headers = { "content-type": "application/json" };
  const { status } = await fetch(`${server.origin}/rooms/lobby/messages`, { method: "POST", headers, body });
  expect(status).toBe(201);
  await bob.hears({ type: "message", from: "ann", text: "old" });
  ann.send("new");
  await bob.hears({ type: "message", from: "ann", text: "new" });
  ann.close();
});

test("when the server has forgotten the session, messages in flight are unconfirmed, and later ones are sent", async () => {
  const first = await startServer();
  const ann = connect({ server: first.origin, id: "ann" });
  const acknowledged = emitted(ann, "acknowledged");
  ann.send("one");
  await acknowledged;
  first.process.kill("SIGSTOP");
  ann.send("two");
  const unconfirmed = emitted(ann, "unconfirmed");
  const waiting = becomes(ann, "reconnecting");
  await first.stop();
  await waiting;
  ann.send("three");
  await using second = await startServer({ args: ["--port", `${first.port}`] });
  await using bob = await second.join("bob");
  expect((await unconfirmed).text).toBe("two");
  await bob.hears("Client #ann says: three");
  expect(ann.outbox).toEqual([]);
  ann.close();
});

test("a newer connection of the session replaces the older one, which does not reconnect", async () => {
  await using server = await startServer();
  const one = connect({ server: server.origin, id: "ann", session: "s" });
  await emitted(one, "welcome");
  const two = connect({ server: server.origin, id: "ann", session: "s" });
  expect(await becomes(one, "closed")).toEqual({
    status: "closed",
    reason: "Replaced by a newer connection of this session.",
    statusCode: 4001,
  });
  two.close();
});

test("messages sent while it was disconnected are received, even if none was before", async () => {
  await using server = await startServer();
  const ann = connect({ server: server.origin, id: "ann", session: "s", history: 0 });
  const received = emitted(ann, "message");
  await becomes(ann, "open");
  await using newer = await server.joinJson("ann", { session: "s" });
  await becomes(ann, "closed");
  await newer.saysAndHears("missed");
  ann.retryNow();
  expect((await received).text).toBe("missed");
  ann.close();
});

test("`replayed` follows the last replayed message, even for a slow reader", async () => {
  await using server = await startServer({ args: ["--history", "300"] });
  await using bob = await server.joinJson("bob");
  for (let i = 0; i < 300; i++) await bob.saysAndHears(`${i} `.padEnd(60_000, "x"));
  let received = 0;
  const ann = connect({ server: server.origin, id: "ann" }).on("message", () => {
    received++;
    Bun.sleepSync(1); // reads slowly
  });
  const live = await emitted(ann, "replayed");
  expect([live.count, received]).toEqual([300, 300]);
  ann.close();
});

test("a handler that throws costs no message; a closed client stays closed", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const error = console.error;
  console.error = () => {};
  const ann = connect({ server: server.origin, id: "ann" });
  for (const event of ["state", "welcome", "message", "replayed"] as const)
    ann.on(event, () => {
      throw new Error("an error in a handler");
    });
  ann.send("hi");
  await bob.hears("Client #ann says: hi");
  ann.close();
  ann.retryNow();
  await bob.hears("Client #ann left the chat");
  const eve = connect({ server: server.origin, id: "eve" });
  eve.on("state", ({ status }) => status === "connecting" && eve.close());
  await becomes(eve, "closed");
  await bob.hearsNothing();
  console.error = error;
  expect(() => connect({ server: "not an address", id: "ann" })).toThrow();
});

test("a removal is an event, also for a client that was away; a removed message has no text", async () => {
  await using server = await startServer({ secret: SECRET });
  const { Authorization = "" } = server.authorization("ann", ["read", "write", "moderate"]);
  const token = Authorization.slice("Bearer ".length);
  const remove = (path: string) =>
    server.get(`/rooms/lobby/messages${path}`, { method: "DELETE", headers: { Authorization } });
  const options = { server: server.origin, id: "ann", token };
  const first = connect(options);
  const acknowledged = emitted(first, "acknowledged");
  first.send("one");
  const { id = "" } = await acknowledged;
  const removed = emitted(first, "removed");
  await remove(`/${id}`);
  const removal = await removed;
  expect(removal).toEqual({ id: expect.any(String), message: id });
  first.close();

  const back = connect({ ...options, after: id });
  expect(await emitted(back, "removed")).toEqual(removal);
  const next = emitted(back, "acknowledged");
  back.send("two");
  await next;
  const all = emitted(back, "removed");
  await remove("?from=ann");
  expect(await all).toMatchObject({ from: "ann", upTo: expect.any(String) });
  back.close();

  const late = connect(options);
  const messages = emitted(late, "message");
  const { time: _, ...message } = await messages;
  expect(message).toMatchObject({ id, from: "ann", removed: true });
  late.close();
});
