/** Event streams: formats, resuming, access, limits, slow consumers, shutdown. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect } from "node:net";
import { eventually, withDeadline } from "../support/deadline.ts";
import { subscribe } from "../support/event-stream.ts";
import { bearer, tokenOf, SECURED } from "../support/keys.ts";
import { sharedServer, newRoom } from "../support/shared-server.ts";
import { COVERING_STORES, startServer, STORES, type TestServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const FORMATS = ["sse", "ndjson"] as const;

const says = (from: string, text: string) => ({ from, text });

for (const store of COVERING_STORES)
  describe(`on ${store.name}`, () => {
    test("subscribers receive what is posted and sent from then on, in both formats and in one order", async () => {
      await using server = await startServer({ store, args: ["--history", "5"] });
      await using ann = await server.joinJson("ann", { room: "tea" });
      await ann.saysAndHears("before");
      await using sse = await subscribe(server.next(), "tea");
      await using ndjson = await subscribe(server.next(), "tea", { format: "ndjson" });
      await using elsewhere = await subscribe(server.next(), "coffee");
      for (const { welcome } of [sse, ndjson]) expect(welcome).toEqual({ room: "tea", last: ann.after });
      await ann.saysAndHears("語 \u2028\r\n");
      await server.post("tea", { data: "AQID", from: "ci" });
      await server.post("coffee", says("ci", "black"));
      for (const each of [sse, ndjson])
        await each.hears(says("ann", "語 \u2028\r\n"), { from: "ci", data: "AQID" });
      await elsewhere.hears(says("ci", "black"));
    });

    test("a stream resumes without gaps or duplicates; one that cannot says so and receives the latest messages", async () => {
      await using server = await startServer({ store, args: ["--history", "5"] });
      const last = (count: number) => Array.from({ length: count }, (_, i) => says("ci", `${8 - count + i}`));
      for (const format of FORMATS) {
        const ids: string[] = [];
        for (let i = 0; i < 8; i++) {
          const response = await server.post(format, says("ci", `${i}`));
          ids.push(JSON.parse(await response.text()).id);
        }
        const open = (query: string, headers: Record<string, string> = {}) =>
          subscribe(server.next(), format, { query, format, headers });
        await using after = await open(`?after=${ids[5]}`);
        expect(after.welcome).toEqual({ room: format, last: ids[5] ?? "", recovered: true });
        await after.hears(...last(2));

        await using header = await open("?after=1-1&history=0", { "Last-Event-ID": ids[4] ?? "" });
        expect(header.welcome).toEqual({ room: format, last: ids[4] ?? "", recovered: true });
        await header.hears(...last(3));

        await using unknown = await open("?history=2", { "Last-Event-ID": "1-1" });
        expect(unknown.welcome).toEqual({ room: format, last: ids[2] ?? "", recovered: false });
        await unknown.hears(...last(5));

        await using few = await open("?after=nonsense&history=2");
        expect(few.welcome).toEqual({ room: format, last: ids[5] ?? "", recovered: false });
        await few.hears(...last(2));

        const all = store.keepsEverything ? 8 : 5;
        await using history = await open("?history=1000");
        expect(history.welcome.recovered).toBeUndefined();
        await history.hears(...last(all));

        await server.post(format, says("ci", "live"));
        for (const each of [after, header, unknown, few, history]) await each.hears(says("ci", "live"));
      }
    });

    test("a long replay and what is posted meanwhile arrive in order, once", async () => {
      await using server = await startServer({ store, args: ["--history", "400"] });
      await using ann = await server.joinJson("ann", { room: "tea" });
      const start = ann.after;
      const texts = Array.from({ length: 300 }, (_, i) => `${i} `.padEnd(8192, "x"));
      for (const text of texts.slice(0, 200)) ann.says(text);
      for (const _ of texts.slice(0, 200)) await ann.next();
      const posting = (async () => {
        for (const text of texts.slice(200)) await ann.saysAndHears(text);
      })();
      await using stream = await subscribe(server.next(), "tea", { query: `?after=${start}` });
      expect(stream.welcome.recovered).toBe(true);
      await stream.hears(...texts.map((text) => says("ann", text)));
      await posting;
    });
  });

describe("one server", () => {
  const server = sharedServer({ args: ["--open-metrics"] });

  test("the response is neither stored, buffered nor sniffed, and the client is asked to wait 1 to 3 seconds", async () => {
    const room = newRoom();
    for (const [accept, type] of [
      ["*/*", "text/event-stream"],
      ["application/x-ndjson", "application/x-ndjson"],
      ["Application/X-NDJSON ; q=0.5, */*", "application/x-ndjson"],
      ["text/event-stream, application/x-ndjson", "application/x-ndjson"],
      ["text/event-stream;q=0.9, application/x-ndjson;q=0.1", "text/event-stream"],
      ["application/x-ndjson;q=0, */*", "text/event-stream"],
      ["application/x-ndjson-seq", "text/event-stream"],
    ] as const) {
      const aborter = new AbortController();
      const init = { headers: { Accept: accept }, signal: aborter.signal };
      const { status, headers } = await server().get(`/rooms/${room}/events`, init);
      expect([status, headers.get("content-type")]).toEqual([200, `${type}; charset=utf-8`]);
      expect(headers.get("cache-control")).toBe("no-store");
      expect(headers.get("x-accel-buffering")).toBe("no");
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      aborter.abort();
    }
    const waits: (number | undefined)[] = [];
    for (let i = 0; i < 5; i++) {
      await using stream = await subscribe(server(), room);
      waits.push(stream.retryMs);
    }
    for (const ms of waits) expect(ms).toBeWithin(1000, 3000);
    expect(new Set(waits).size).toBeGreaterThan(1);
  });

  test("subscribers are no members: nobody sees them, and they see no presence", async () => {
    const room = newRoom();
    await using stream = await subscribe(server(), room);
    await using ann = await server().joinJson("ann", { room });
    await using bob = await server().join("bob", { room });
    expect([ann.welcome.count, ann.welcome.members]).toEqual([1, ["ann"]]);
    await ann.hearsPresence({ joined: ["ann", "bob"], left: [], count: 2 });
    expect(JSON.parse((await server().answer(`/rooms/${room}/members`)).body).count).toBe(2);
    await bob.leaves();
    await ann.hearsPresence({ joined: [], left: ["bob"], count: 1 });
    ann.says("hi");
    await stream.hears(says("ann", "hi"));
  });

  test("an empty ?after=, with which a script may start, is not recovered: the latest messages follow", async () => {
    const room = newRoom();
    await using ann = await server().joinJson("ann", { room });
    await ann.saysAndHears("before");
    await using stream = await subscribe(server(), room, { query: "?after=" });
    expect(stream.welcome.recovered).toBe(false);
    await stream.hears(says("ann", "before"));
    await using none = await subscribe(server(), room, { headers: { "Last-Event-ID": "" } });
    expect(none.welcome).toEqual({ room, last: ann.after });
    await using bob = await server().joinJson("bob", { room, after: "" });
    expect(bob.welcome).toMatchObject({ recovered: false });
  });

  test("HEAD has the headers and opens nothing; other methods are 405; a page of another site is 403", async () => {
    const path = `/rooms/${newRoom()}/events`;
    const head = await server().get(path, { method: "HEAD" });
    expect([head.status, head.headers.get("content-type"), await head.text()]).toEqual([
      200,
      "text/event-stream; charset=utf-8",
      "",
    ]);
    // That of a GET has no length, and HEAD must not claim one (RFC 9110, section 8.6).
    expect(head.headers.get("content-length")).toBe(null);
    for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
      const { status, headers } = await server().get(path, { method });
      expect([status, headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
    }
    for (const headers of [
      { Origin: "https://evil.example" },
      { "Sec-Fetch-Site": "cross-site" },
      { Host: "evil.example" },
    ])
      expect(
        (await server().get(path, { headers: { Accept: "text/event-stream", ...headers } })).status,
      ).toBe(403);
    for (const [query, code] of [
      ["?history=x", "bad-history"],
      ["?history=-1", "bad-history"],
    ] as const) {
      const { status, headers } = await server().get(path + query);
      expect([status, headers.get("hubbub-code")]).toEqual([400, code]);
    }
    expect((await server().get("/rooms/a%20b/events")).status).toBe(400);
    expect((await server().metrics()).get("hubbub_event_streams")).toBe(0);
  });

  test("streams are counted while they are open, and a client that goes away leaves nothing behind", async () => {
    const room = newRoom();
    const count = async (name: string) => (await server().metrics()).get(name);
    await eventually(async () => (await count("hubbub_rooms")) === 0, "no room is open");
    const streams = await Promise.all(FORMATS.map((format) => subscribe(server(), room, { format })));
    expect([
      await count("hubbub_event_streams"),
      await count("hubbub_connections"),
      await count("hubbub_rooms"),
    ]).toEqual([2, 0, 1]);
    for (const stream of streams) await stream[Symbol.asyncDispose]();
    await eventually(async () => (await count("hubbub_event_streams")) === 0, "no stream is open");
    expect(await count("hubbub_rooms")).toBe(0);
  });
});

test("the page of an allowed origin may subscribe, and send Last-Event-ID itself", async () => {
  const origin = "https://news.example";
  await using server = await startServer({ args: ["--allow-origin", origin] });
  const preflight = await server.get("/rooms/tea/events", { method: "OPTIONS", headers: { Origin: origin } });
  expect([preflight.status, preflight.headers.get("access-control-allow-headers")]).toEqual([
    204,
    "Authorization, Content-Type, Last-Event-ID",
  ]);
  const aborter = new AbortController();
  const { status, headers } = await server.get("/rooms/tea/events", {
    headers: { Origin: origin, "Sec-Fetch-Site": "cross-site" },
    signal: aborter.signal,
  });
  expect([status, headers.get("access-control-allow-origin")]).toEqual([200, origin]);
  aborter.abort();
});

test("a quiet stream has a heartbeat", async () => {
  await using server = await startServer({ args: ["--ping-seconds", "1"] });
  for (const format of FORMATS) {
    await using stream = await subscribe(server, "tea", { format });
    for (let i = 0; i < 2; i++) await stream.hearsHeartbeat();
    await server.post("tea", says("ci", "hi"));
    await stream.hears(says("ci", "hi"));
  }
});

describe("limits", () => {
  const get = (server: TestServer, accept: string) =>
    server.get("/rooms/tea/events", { headers: { Accept: accept } });

  test("a full server tells an EventSource to wait, and a program 503; sockets and streams share the limit", async () => {
    await using server = await startServer({ args: ["--max-connections", "2"] });
    await using _ann = await server.join("ann");
    const stream = await subscribe(server, "tea");
    const program = await get(server, "*/*");
    expect([program.status, program.headers.get("hubbub-code"), program.headers.get("retry-after")]).toEqual([
      503,
      "full",
      "5",
    ]);
    const browser = await get(server, "text/event-stream");
    expect([browser.status, browser.headers.get("hubbub-code"), browser.headers.get("content-type")]).toEqual(
      [200, "full", "text/event-stream"],
    );
    expect(await browser.text()).toMatch(/^retry: [123]\d\d\d\n: The server is full\. .*\n\n$/);
    await expect(server.join("bob")).rejects.toThrow();
    await stream[Symbol.asyncDispose]();
    await eventually(async () => (await get(server, "*/*")).status === 200, "there is room");
  });

  test("streams of one address are limited in number and in rate", async () => {
    await using few = await startServer({ args: ["--max-connections-per-address", "1"] });
    await using _stream = await subscribe(few, "tea");
    expect((await get(few, "*/*")).headers.get("hubbub-code")).toBe("too-many-from-address");

    await using slow = await startServer({ args: ["--connection-rate", "1"] });
    const codes: (string | null)[] = [];
    for (let i = 0; i < 40; i++)
      codes.push((await slow.get("/rooms/tea/events", { method: "HEAD" })).headers.get("hubbub-code"));
    expect([codes[0], codes[24], codes.at(-1)]).toEqual([null, null, "connection-rate"]);
    const waiting = await (await get(slow, "text/event-stream")).text();
    expect(Number(/^retry: (\d+)\n/.exec(waiting)?.[1])).toBeWithin(1000, 4001);
  });

  test("with tokens, a stream needs one that may read the room, and ends when it expires", async () => {
    await using server = await startServer(SECURED);
    for (const [token, status, code] of [
      ["", 401, "no-token"],
      ["x", 401, "bad-token"],
      [tokenOf("ann", { rooms: ["coffee"] }), 403, "not-for-room"],
      [tokenOf("ann", { can: ["metrics"] }), 403, "not-for-room"],
    ] as const) {
      const response = await server.get("/rooms/tea/events", {
        headers: { Accept: "text/event-stream", ...(token && { Authorization: `Bearer ${token}` }) },
      });
      expect([response.status, response.headers.get("hubbub-code")]).toEqual([status, code]);
    }
    const short = tokenOf("ann", { seconds: 2 });
    await using stream = await subscribe(server, "tea", { query: `?token=${short}` });
    await server.post("tea", { text: "hi" }, bearer("ann"));
    await stream.hears(says("ann", "hi"));
    expect(await stream.ends()).toEqual({ unread: [], isComplete: true });
    expect((await server.get(`/rooms/tea/events?token=${short}`)).status).toBe(401);
  });
});

describe("a client that stops reading", () => {
  const openStreams = async (server: TestServer) => (await server.metrics()).get("hubbub_event_streams");

  /** A `curl` that the test can freeze. */
  function curl(server: TestServer, query = "") {
    const url = `${server.origin}/rooms/tea/events${query}`;
    return Bun.spawn(["curl", "-sN", "-H", "Accept: application/x-ndjson", url], { stdout: "pipe" });
  }

  test("is cut off at 1 MiB, resumes without a gap, and does not hold up the others", async () => {
    await using server = await startServer({ args: ["--history", "1000"] });
    await using ann = await server.joinJson("ann", { room: "tea" });
    const slow = curl(server);
    await eventually(async () => (await openStreams(server)) === 1, "curl is connected");
    await using bob = await subscribe(server, "tea");
    slow.kill("SIGSTOP");
    const texts = Array.from({ length: 120 }, (_, i) => `${i} `.padEnd(65_000, "x"));
    for (let first = 0; first < texts.length; first += 10) {
      const batch = texts.slice(first, first + 10);
      for (const text of batch) ann.says(text);
      await bob.hears(...batch.map((text) => says("ann", text)));
    }
    expect(await openStreams(server)).toBe(1);
    expect((await server.metrics()).get("hubbub_buffered_bytes")).toBe(0);
    slow.kill("SIGCONT");
    const output = await new Response(slow.stdout).text();
    expect(await slow.exited).not.toBe(0);
    const events = output
      .split("\n")
      .slice(0, -1)
      .map((line) => JSON.parse(line));
    const received = events.filter(({ type }) => type === "message");
    expect(received.map(({ text }) => text)).toEqual(texts.slice(0, received.length));
    expect(received.length).toBeWithin(1, texts.length);
    await using back = await subscribe(server, "tea", { query: `?after=${received.at(-1).id}` });
    expect(back.welcome.recovered).toBe(true);
    await back.hears(...texts.slice(received.length).map((text) => says("ann", text)));
    await server.stop();
    expect(await server.errors).toBe("");
  });

  test("with less than that unread, is cut off after two heartbeats", async () => {
    await using server = await startServer({ args: ["--ping-seconds", "1"] });
    const frozen = curl(server);
    await eventually(async () => (await openStreams(server)) === 1, "curl is connected");
    frozen.kill("SIGSTOP");
    const buffered = async () => (await server.metrics()).get("hubbub_buffered_bytes") ?? 0;
    while ((await buffered()) === 0) await server.post("tea", says("ann", "x".repeat(60_000)));
    expect(await buffered()).toBeLessThan(1024 * 1024);
    await eventually(async () => (await openStreams(server)) === 0, "it is cut off");
    frozen.kill("SIGKILL");
    await frozen.exited;
  });

  test("does not fail a long replay, which waits for it", async () => {
    await using server = await startServer({ args: ["--history", "300"] });
    await using ann = await server.joinJson("ann", { room: "tea" });
    const texts = Array.from({ length: 120 }, (_, i) => `${i} `.padEnd(65_000, "x"));
    for (const text of texts) ann.says(text);
    for (const _ of texts) await ann.next();
    const slow = curl(server, "?history=120");
    await eventually(async () => (await openStreams(server)) === 1, "curl is connected");
    slow.kill("SIGSTOP");
    await ann.saysAndHears("live");
    expect(await openStreams(server)).toBe(1);
    slow.kill("SIGCONT");
    const received: unknown[] = [];
    const decoder = new TextDecoder();
    let text = "";
    for await (const chunk of slow.stdout) {
      text += decoder.decode(chunk, { stream: true });
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) {
        const event = JSON.parse(line);
        if (event.type === "message") received.push(event.text);
      }
      if (received.at(-1) === "live") break;
    }
    expect(received).toEqual([...texts, "live"]);
    slow.kill();
    await slow.exited;
  });

  test("on its sending side, or before the response, leaves nothing behind", async () => {
    const store = STORES.find(({ name }) => name === "a delayed store");
    await using server = await startServer(store ? { store } : {});
    for (const act of ["ends", "destroys"] as const)
      for (let i = 0; i < 20; i++) {
        const socket = connect({ port: server.port, host: "127.0.0.1" });
        socket.on("error", () => {});
        socket.write(`GET /rooms/tea/events HTTP/1.1\r\nHost: localhost\r\n\r\n`, () => {
          if (act === "ends") socket.end();
          else setImmediate(() => socket.destroy());
        });
      }
    await using stream = await subscribe(server, "tea");
    await eventually(async () => (await openStreams(server)) === 1, "only one stream is open");
    await stream[Symbol.asyncDispose]();
    await eventually(async () => (await openStreams(server)) === 0, "no stream is open");
    // A request that was abandoned before its response may still hold its room for a moment.
    await eventually(async () => (await server.metrics()).get("hubbub_rooms") === 0, "no room is open");
  });
});

test("a thousand streams end with the server, complete; exit code 0", async () => {
  const server = await startServer({ args: ["--drain-seconds", "2"] });
  const all = Promise.withResolvers<void>();
  let ended = 0;
  let complete = 0;
  let welcomed = 0;
  const count = 1000;
  for (let i = 0; i < count; i++) {
    let text = "";
    await Bun.connect({
      hostname: "127.0.0.1",
      port: server.port,
      socket: {
        open: (socket) =>
          void socket.write("GET /rooms/tea/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
        data: (socket, bytes) => {
          const before = text;
          text = (text + bytes.toString("latin1")).slice(-4000);
          if (!before.includes("welcome") && text.includes("welcome")) welcomed++;
          if (!text.endsWith("\r\n0\r\n\r\n")) return;
          if (text.includes('"last one"')) complete++;
          if (++ended === count) all.resolve();
          socket.end();
        },
      },
    });
  }
  await eventually(async () => welcomed === count, "all streams are open");
  await server.post("tea", says("ci", "last one"));
  server.process.kill("SIGTERM");
  await withDeadline(all.promise, () => `${ended} streams ended`);
  expect(complete).toBe(count);
  expect(await server.process.exited).toBe(0);
  expect(await server.errors).toBe("");
});
