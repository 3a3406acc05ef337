/** The rooms API: the same access control, limits and sessions as on sockets. */

import { describe, expect, test } from "bun:test";
import type { ChatMessage } from "../../src/protocol/events.ts";
import { ERROR_MESSAGES } from "../../src/protocol/codes.ts";
import { TestClock } from "../support/clock.ts";
import { bearer, SECURED } from "../support/keys.ts";
import { RawClient, request } from "../support/raw-websocket.ts";
import { COVERING_STORES, startServer, type TestServer } from "../support/server.ts";

/** The fields of all responses; each has some of them. */
interface Body {
  readonly id?: string;
  readonly messages: readonly ChatMessage[];
  readonly more?: boolean;
  readonly recovered?: boolean;
}

async function call(server: TestServer, path: string, body?: unknown, headers: Record<string, string> = {}) {
  const response = await server.get(`/rooms/${path}`, {
    headers,
    ...(body === undefined
      ? {}
      : { method: "POST", body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
  const answered: Body = JSON.parse(await response.text());
  return { status: response.status, type: response.headers.get("content-type"), body: answered };
}

/** Problem details (RFC 9457). */
function problem(status: number, title: string, code: string, detail: string) {
  return { status, type: "application/problem+json", body: { title, status, detail, code } };
}

/** A connection's events without the welcome. */
const HTTP_ONLY = {
  Upgrade: undefined,
  Connection: undefined,
  "Sec-WebSocket-Key": undefined,
  "Sec-WebSocket-Version": undefined,
};
const JSON_TYPE = "application/json;charset=utf-8";

for (const store of COVERING_STORES)
  describe(`on ${store.name}`, () => {
    test("a posted message is broadcast on both wires and appears in the history", async () => {
      await using server = await startServer({ store });
      await using ann = await server.join("ann", { room: "tea" });
      await using bob = await server.joinJson("bob", { room: "tea" });
      const { status, type, body } = await call(server, "tea/messages", { text: "hi \ud800", from: "ci" });
      expect<unknown[]>([status, type, body]).toEqual([201, JSON_TYPE, { id: expect.any(String) }]);
      await ann.hears("Client #ci says: hi \ufffd");
      await bob.hears({ type: "message", id: body.id, from: "ci", text: "hi \ufffd" });
      ann.says(new Uint8Array([1, 2, 3]));
      await bob.hears({ type: "message", from: "ann", data: "AQID" });
      const posted = await call(server, "tea/messages", { data: "AQI=", from: "ci", session: "s", seq: 1 });
      const again = await call(server, "tea/messages", { data: "AQI=", from: "ci", session: "s", seq: 1 });
      expect([posted.status, again.status]).toEqual([201, 200]);
      expect(again.body).toEqual(posted.body);
      const dataId = bob.after;
      await bob.hears({ type: "message", from: "ci", data: "AQI=" });
      expect<unknown>((await call(server, "tea/messages")).body).toEqual({
        messages: [
          { id: body.id, time: expect.any(Number), from: "ci", text: "hi \ufffd" },
          { id: dataId, time: expect.any(Number), from: "ann", data: "AQID" },
          { id: bob.after, time: expect.any(Number), from: "ci", data: "AQI=" },
        ],
        more: false,
      });
      expect<unknown>((await call(server, "tea/members")).body).toEqual({
        count: 2,
        members: ["ann", "bob"],
      });
      expect((await call(server, "coffee/messages")).body).toEqual({ messages: [], more: false });
      expect<unknown>((await call(server, "coffee/members")).body).toEqual({ count: 0, members: [] });
    });

    test("within a session each seq is stored once, whether it comes over HTTP or a socket", async () => {
      await using server = await startServer({ store });
      await using bob = await server.join("bob");
      const say = (text: string, seq: number) =>
        call(server, "lobby/messages", { text, from: "ci", session: "s", seq });
      const first = await say("one", 1);
      expect(first.status).toBe(201);
      expect(await say("one", 1)).toMatchObject({ status: 200, body: first.body });
      expect((await say("three", 3)).status).toBe(201);
      expect(await say("two, too late", 2)).toMatchObject({ status: 200, body: { id: null } });
      await using ci = await server.joinJson("ci", { session: "s", history: 0 });
      expect(ci.welcome.sent).toBe(3);
      ci.says("three", { seq: 3 });
      await ci.hears({ type: "ack", seq: 3 });
      await bob.hears("Client #ci says: one", "Client #ci says: three");
      await bob.hearsNothing();
    });

    test("a retry that overtakes its original, from a socket to HTTP and back, is stored once", async () => {
      await using server = await startServer({ store });
      await using bob = await server.joinJson("bob");
      await using ci = await server.joinJson("ci", { session: "s", history: 0 });
      const COUNT = 40;
      const ids = new Map<number, Set<unknown>>();
      for (let seq = 1; seq <= COUNT; seq++) {
        const text = `${seq}`;
        const post = () => call(server, "lobby/messages", { text, from: "ci", session: "s", seq });
        let posted;
        // Which one arrives first, and whether both are pending at once, varies.
        if (seq % 4 === 0) posted = await post();
        if (seq % 4 === 1) posted = post();
        ci.says(text, { seq });
        if (seq % 4 === 2) posted = post();
        let id: unknown;
        while (id === undefined) {
          const event = await ci.next();
          if (event.type === "ack" && event.seq === seq) id = event.id;
        }
        const { status, body } = await (posted ?? post());
        expect([200, 201]).toContain(status);
        ids.set(seq, new Set([id, body.id]));
      }
      for (let seq = 1; seq <= COUNT; seq++) {
        await bob.hears({ type: "message", from: "ci", text: `${seq}` });
        expect(ids.get(seq)).toEqual(new Set([bob.after]));
      }
      await ci.leaves();
      await using back = await server.joinJson("ci", { session: "s", history: 0 });
      expect(back.welcome.sent).toBe(COUNT);
      back.says("again", { seq: COUNT });
      back.says("new", { seq: COUNT + 1 });
      await bob.hears({ type: "message", from: "ci", text: "new" });
    });

    test("a long history is read page by page, in both directions", async () => {
      await using server = await startServer({ store });
      await using ann = await server.joinJson("ann");
      const ids: string[] = [];
      for (let i = 0; i < 25; i++) {
        ann.says(`${i}`);
        ids.push(String((await ann.next()).id));
      }
      const page = async (query: string) => {
        const { messages, ...rest } = (await call(server, `lobby/messages?${query}`)).body;
        return { texts: messages.map(({ text }) => text).join(" "), ...rest };
      };
      expect(await page("limit=3")).toEqual({ texts: "22 23 24", more: true });
      expect(await page(`limit=3&before=${ids[22]}`)).toEqual({ texts: "19 20 21", more: true });
      expect(await page(`limit=3&before=${ids[3]}`)).toEqual({ texts: "0 1 2", more: false });
      expect(await page(`before=${ids[0]}`)).toEqual({ texts: "", more: false });
      expect(await page(`limit=3&after=${ids[0]}`)).toEqual({ texts: "1 2 3", more: true, recovered: true });
      expect(await page(`limit=3&after=${ids[21]}`)).toEqual({
        texts: "22 23 24",
        more: false,
        recovered: true,
      });
      expect(await page(`after=${ids[24]}`)).toEqual({ texts: "", more: false, recovered: true });
      expect(await page(`limit=1&after=${ann.welcome.last}`)).toEqual({
        texts: "0",
        more: true,
        recovered: true,
      });
      expect(await page("limit=1&after=1-0")).toEqual({ texts: "0", more: true, recovered: false });
      expect(await page("limit=1&before=1-0")).toEqual({ texts: "", more: false });
      expect(await page("limit=1&before=999999999999999-0")).toEqual({ texts: "24", more: true });
    });
  });

test("a page holds 100 messages by default", async () => {
  await using server = await startServer({ args: ["--history", "1000"] });
  await using ann = await server.join("ann");
  for (let i = 1; i <= 101; i++) ann.says(`${i}`);
  await ann.hearsUpTo("Client #ann says: 101");
  const { messages, more } = (await call(server, "lobby/messages")).body;
  expect([messages.length, messages[0]?.text, more]).toEqual([100, "2", true]);
});

test("a page holds at most 1 MiB, whatever the limit", async () => {
  await using server = await startServer();
  await using ann = await server.join("ann");
  for (let i = 0; i < 40; i++) ann.says(`${i} `.padEnd(60_000, "x"));
  await ann.hearsUpTo(`Client #ann says: ${"39 ".padEnd(60_000, "x")}`);
  const { messages, more } = (await call(server, "lobby/messages?limit=1000")).body;
  expect(JSON.stringify(messages).length).toBeLessThan(1024 * 1024);
  expect([messages.length > 5, messages.at(-1)?.text?.split(" ")[0], more]).toEqual([true, "39", true]);
  const earlier = (await call(server, `lobby/messages?limit=1000&before=${messages[0]?.id}`)).body;
  expect(Number(earlier.messages.at(-1)?.text?.split(" ")[0])).toBe(39 - messages.length);
});

test("malformed requests are rejected, and nothing is broadcast", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const notAName = (what: string) =>
    `A ${what} is 1 to 64 letters, digits, "_", "-" or ".": choose another one.`;
  const cases: [unknown, ReturnType<typeof problem>][] = [
    ["", problem(400, "Bad Request", "not-json", ERROR_MESSAGES["not-json"])],
    ["text=hi&from=ci", problem(400, "Bad Request", "not-json", ERROR_MESSAGES["not-json"])],
    ["null", problem(400, "Bad Request", "not-json", ERROR_MESSAGES["not-json"])],
    [[], problem(400, "Bad Request", "no-text", ERROR_MESSAGES["no-text"])],
    [{ from: "ci" }, problem(400, "Bad Request", "no-text", ERROR_MESSAGES["no-text"])],
    [{ text: 7, from: "ci" }, problem(400, "Bad Request", "no-text", ERROR_MESSAGES["no-text"])],
    [{ data: 7, from: "ci" }, problem(400, "Bad Request", "no-text", ERROR_MESSAGES["no-text"])],
    [
      { text: "hi", data: "aGk=", from: "ci" },
      problem(400, "Bad Request", "no-text", ERROR_MESSAGES["no-text"]),
    ],
    [{ data: "aGk*", from: "ci" }, problem(400, "Bad Request", "bad-data", ERROR_MESSAGES["bad-data"])],
    [
      { data: new Uint8Array(65_537).toBase64(), from: "ci" },
      problem(413, "Content Too Large", "message-too-big", ERROR_MESSAGES["message-too-big"]),
    ],
    [{ text: "hi" }, problem(400, "Bad Request", "bad-name", `from: ${notAName("client id")}`)],
    [{ text: "hi", from: "a b" }, problem(400, "Bad Request", "bad-name", `from: ${notAName("client id")}`)],
    [
      { text: "hi", from: 7 },
      problem(400, "Bad Request", "bad-name", "from and session must be strings, if given."),
    ],
    [{ text: "hi", from: "ci", seq: "1" }, problem(400, "Bad Request", "bad-seq", ERROR_MESSAGES["bad-seq"])],
    [
      { text: "hi", from: "ci", session: "a b" },
      problem(400, "Bad Request", "bad-name", notAName("session")),
    ],
    ...[{}, 5, true].map((session): [unknown, ReturnType<typeof problem>] => [
      { text: "hi", from: "ci", session },
      problem(400, "Bad Request", "bad-name", "from and session must be strings, if given."),
    ]),
    [
      { text: "x".repeat(65_537), from: "ci" },
      problem(413, "Content Too Large", "message-too-big", ERROR_MESSAGES["message-too-big"]),
    ],
    [
      "x".repeat(1_000_000),
      problem(413, "Content Too Large", "message-too-big", ERROR_MESSAGES["message-too-big"]),
    ],
  ];
  for (const [body, expected] of cases)
    expect<unknown>(await call(server, "lobby/messages", body)).toEqual(expected);
  expect<unknown>(await call(server, "a%20b/messages", {})).toEqual(
    problem(400, "Bad Request", "bad-name", notAName("room")),
  );
  for (const query of ["after=x", "before=1", "after=1-0&before=2-0", "after="])
    expect<unknown>(await call(server, `lobby/messages?${query}`)).toEqual(
      problem(400, "Bad Request", "bad-id", "after or before must be the id of a message. Give one at most."),
    );
  for (const limit of ["0", "1001", "-1", "x", "1.5"])
    expect<unknown>(await call(server, `lobby/messages?limit=${limit}`)).toEqual(
      problem(400, "Bad Request", "bad-limit", "limit must be a whole number from 1 to 1000."),
    );
  for (const [path, method, allow] of [
    ["lobby/messages", "PUT", "GET, HEAD, POST, DELETE, OPTIONS"],
    ["lobby/members", "PUT", "GET, HEAD, OPTIONS"],
    ["lobby/members", "POST", "GET, HEAD, OPTIONS"],
  ] as const) {
    const response = await server.get(`/rooms/${path}`, { method });
    expect([response.status, response.headers.get("allow")]).toEqual([405, allow]);
    expect(await response.json()).toEqual(
      problem(405, "Method Not Allowed", "no-such-method", `Only ${allow} are allowed here.`).body,
    );
  }
  const options = await server.get("/rooms/lobby/messages", { method: "OPTIONS" });
  expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, HEAD, POST, DELETE, OPTIONS"]);
  const foreign = { method: "OPTIONS", headers: { Origin: "https://evil.example" } };
  expect((await server.get("/rooms/lobby/messages", foreign)).status).toBe(403);
  await bob.hearsNothing();
});

test("an address that does not exist gets a problem, which a page of another origin may not read", async () => {
  await using server = await startServer();
  const detail =
    "Not found. The API has /rooms, /rooms/:room/messages, /rooms/:room/messages/:id, /rooms/:room/events, /rooms/:room/members.";
  expect<unknown>(await call(server, "tea")).toEqual(problem(404, "Not Found", "not-found", detail));
  for (const method of ["POST", "DELETE", "OPTIONS"]) {
    const response = await server.get("/rooms/tea/message", { method });
    expect([response.status, await response.json()]).toEqual([
      404,
      problem(404, "Not Found", "not-found", detail).body,
    ]);
  }
  expect((await call(server, "tea", undefined, { Origin: "https://evil.example" })).body).toMatchObject({
    code: "origin",
  });
});

test("an internal error gets a problem that tells nothing of it, and is logged and counted", async () => {
  await using server = await startServer({ preload: "fault-injection.ts", args: ["--log", "json"] });
  const response = await server.get("/rooms/boom-members/members");
  expect([response.headers.get("hubbub-code"), response.headers.get("content-type")]).toEqual([
    "internal-error",
    "application/problem+json",
  ]);
  expect([response.status, await response.json()]).toEqual([
    500,
    problem(500, "Internal Server Error", "internal-error", "Internal error. Try again in a moment.").body,
  ]);
  expect((await server.metrics()).get('hubbub_rejected_requests_total{reason="internal-error"}')).toBe(1);
  expect((await call(server, "tea/members")).status).toBe(200);
  await server.stop("SIGTERM");
  expect((await server.output) + (await server.errors)).toContain("injected into the members");
});

test("null counts as left out", async () => {
  await using server = await startServer();
  for (const text of ["one", "two"])
    expect(
      (await call(server, "lobby/messages", { text, from: "ci", session: null, seq: null })).status,
    ).toBe(201);
});

test("a body of unknown length is read up to the size of a message; a truncated one is rejected", async () => {
  await using server = await startServer({ args: ["--log", "text"] });
  const post = (body: ReadableStream) => server.get("/rooms/lobby/messages", { method: "POST", body });
  const chunk = new Uint8Array(65_536).fill(120);
  let sent = 0;
  const endless = new ReadableStream({
    pull(controller) {
      sent += chunk.length;
      controller.enqueue(chunk);
    },
  });
  const answered = await post(endless).catch((error: Error) => error);
  if (answered instanceof Response) expect(answered.status).toBe(413);
  expect(sent).toBeLessThan(64 * 1024 * 1024);
  const client = new RawClient(server.port);
  client.sends(
    Buffer.from("POST /rooms/lobby/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"),
  );
  await server.answer("/healthz");
  client.vanishes();
  await server.answer("/healthz");
  const { body } = await server.answer("/metrics");
  expect(body).not.toContain('reason="message-too-big"} 2');
});

test("a body that is too large is rejected before it has arrived, with or without a length", async () => {
  await using server = await startServer();
  for (const framing of ["Content-Length: 99999999", "Transfer-Encoding: chunked"]) {
    await using client = new RawClient(server.port);
    client.sends(Buffer.from(`POST /rooms/lobby/messages HTTP/1.1\r\nHost: localhost\r\n${framing}\r\n\r\n`));
    const bytes = 1_000_000; // far from all that it announces
    if (framing.includes("chunked"))
      client.sends(Buffer.from(`${bytes.toString(16)}\r\n${"x".repeat(bytes)}\r\n`));
    const head = await client.head();
    expect([
      framing,
      head?.status,
      ...["hubbub-code", "content-type", "connection"].map((name) => head?.headers.get(name)),
    ]).toEqual([framing, 413, "message-too-big", "application/problem+json", "close"]);
  }
});

test("a slow body is accepted while it keeps arriving", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const body = Buffer.from(JSON.stringify({ text: "slowly", from: "ci" }));
  await using client = new RawClient(server.port);
  client.sends(
    Buffer.from(
      `POST /rooms/lobby/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n`,
    ),
  );
  // Longer than the 12 s after which Bun would cut it off by default.
  for (const byte of body) {
    client.sends(Uint8Array.of(byte));
    await Bun.sleep(15_000 / body.length);
  }
  expect((await client.head())?.status).toBe(201);
  await bob.hears("Client #ci says: slowly");
}, 240_000);

test("a body larger than any message could make it is rejected, with or without a length, whatever fills it", async () => {
  await using server = await startServer({ args: ["--max-message-bytes", "1000"] });
  const most = 6 * 1000 + 1024;
  const post = async (bytes: number, isChunked: boolean) => {
    const body = `${'{"text":"hi","from":"ci","_":"'.padEnd(bytes - 2)}"}`;
    const framing = isChunked ? { "Transfer-Encoding": "chunked" } : { "Content-Length": `${bytes}` };
    await using client = new RawClient(server.port);
    client.sends(
      request("", { ...HTTP_ONLY, ...framing }, "POST /rooms/tea/messages HTTP/1.1"),
      Buffer.from(isChunked ? `${bytes.toString(16)}\r\n${body}\r\n0\r\n\r\n` : body),
    );
    return (await client.head())?.status;
  };
  for (const isChunked of [false, true])
    expect([await post(most, isChunked), await post(most + 1, isChunked)]).toEqual([201, 413]);
});

test("a body that is not UTF-8, or has too much besides its strings, is not parsed", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob");
  const latin1 = await server.get("/rooms/lobby/messages", {
    method: "POST",
    body: Buffer.from('{"text":"caf\u00e9","from":"ci"}', "latin1"),
  });
  expect([latin1.status, await latin1.json()]).toEqual([
    400,
    problem(400, "Bad Request", "not-utf8", "The body must be UTF-8.").body,
  ]);
  expect<unknown>(await call(server, "lobby/messages", "[".repeat(380_000))).toEqual(
    problem(413, "Content Too Large", "message-too-big", ERROR_MESSAGES["message-too-big"]),
  );
  await bob.hearsNothing();
});

test("a rate-limited request is rejected before its body is read; malformed bodies cost by their size", async () => {
  using clock = new TestClock();
  const args = ["--message-rate", "1", "--message-burst", "10"];
  await using server = await startServer({ ...clock.setup, args });
  expect((await call(server, "lobby/messages", { text: 7, _: "x".repeat(50_000) })).status).toBe(400);
  await using client = new RawClient(server.port);
  client.sends(request("", { ...HTTP_ONLY, "Content-Length": "100" }, "POST /rooms/tea/messages HTTP/1.1"));
  expect((await client.head())?.status).toBe(429);
});

test("access control is that of sockets: Host, Origin, and pages of allowed origins can read responses", async () => {
  await using server = await startServer({ args: ["--allow-origin", "https://a.example"] });
  const message = { text: "hi", from: "ci" };
  expect((await call(server, "lobby/messages", message, { Host: "evil.example" })).body).toMatchObject({
    code: "host",
  });
  expect(
    (await call(server, "lobby/messages", message, { Origin: "https://evil.example" })).body,
  ).toMatchObject({
    code: "origin",
  });
  expect((await call(server, "lobby/members", undefined, { Origin: "null" })).status).toBe(403);
  const allowed = await server.get("/rooms/lobby/messages", { headers: { Origin: "https://a.example" } });
  expect([allowed.status, allowed.headers.get("access-control-allow-origin")]).toEqual([
    200,
    "https://a.example",
  ]);
  const asked = await server.get("/rooms/lobby/messages", {
    method: "OPTIONS",
    headers: { Origin: "https://a.example", "Access-Control-Request-Method": "POST" },
  });
  expect([asked.status, asked.headers.get("access-control-allow-methods")]).toEqual([
    204,
    "GET, POST, DELETE",
  ]);
});

test("with tokens, messages are from the token's client, in its rooms", async () => {
  await using server = await startServer(SECURED);
  const headers = bearer("ci", { rooms: ["tea"] });
  expect((await call(server, "tea/messages", { text: "hi" }, headers)).status).toBe(201);
  expect((await call(server, "tea/messages", { text: "hi", from: "ci" }, headers)).status).toBe(201);
  expect(await call(server, "tea/messages", { text: "hi", from: "eve" }, headers)).toMatchObject({
    status: 403,
    body: { code: "not-for-client" },
  });
  for (const path of ["coffee/messages", "coffee/members"])
    expect(await call(server, path, undefined, headers)).toMatchObject({
      status: 403,
      body: { code: "not-for-room" },
    });
  const without = await server.get("/rooms/tea/messages");
  expect([without.status, without.headers.get("www-authenticate")]).toEqual([401, "Bearer"]);
  expect((await call(server, "tea/messages", undefined, headers)).body.messages).toMatchObject([
    { from: "ci", text: "hi" },
    { from: "ci", text: "hi" },
  ]);
});

test("the rate limit is per address, with Retry-After", async () => {
  using clock = new TestClock();
  const args = ["--message-rate", "1", "--message-burst", "2", "--trust-proxy"];
  await using server = await startServer({ ...clock.setup, args });
  const from = (address: string) => ({ "X-Forwarded-For": address });
  const say = (address: string) => call(server, "lobby/messages", { text: "hi", from: "ci" }, from(address));
  expect([(await say("192.0.2.1")).status, (await say("192.0.2.1")).status]).toEqual([201, 201]);
  const limited = await server.get("/rooms/lobby/messages", {
    method: "POST",
    body: '{"text":"hi","from":"ci"}',
    headers: from("192.0.2.1"),
  });
  expect([limited.status, limited.headers.get("retry-after")]).toEqual([429, "1"]);
  expect(JSON.parse(await limited.text())).toEqual({
    title: "Too Many Requests",
    status: 429,
    detail: ERROR_MESSAGES["rate-limited"],
    code: "rate-limited",
    retryAfterSeconds: 1,
  });
  expect((await say("192.0.2.2")).status).toBe(201);
  // Reads have their own limit; each costs as much as one message.
  for (const path of ["lobby/members", "lobby/messages"]) {
    const read = () => call(server, path, undefined, from("192.0.2.1"));
    expect([(await read()).status, (await read()).status, (await read()).status]).toEqual([200, 200, 429]);
    clock.advance(2000);
  }
  // Large messages cost more, as on a socket.
  const large = { text: "x".repeat(65_536), from: "ci" };
  const post = () => call(server, "lobby/messages", large, from("192.0.2.3"));
  expect([(await post()).status, (await post()).status]).toEqual([201, 429]);
});

test("a body whose message must cost more than the rate limit allows is rejected before it is parsed", async () => {
  using clock = new TestClock();
  const args = ["--message-rate", "1", "--message-burst", "10"];
  await using server = await startServer({ ...clock.setup, args });
  // Had it been parsed, only its text would count.
  const large = { text: "hi", from: "ci", ignored: "\u0001".repeat(60_000) };
  expect((await call(server, "lobby/messages", large)).status).toBe(201);
  expect((await call(server, "lobby/messages", large)).status).toBe(429);
  expect((await call(server, "lobby/messages", { text: "hi", from: "ci" })).status).toBe(201);
});
