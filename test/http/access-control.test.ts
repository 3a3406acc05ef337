/** Requests are rejected before the upgrade, with the proper status, a code, and one sentence that says what to do. */

import { describe, expect, spyOn, test } from "bun:test";
import { hostname } from "node:os";
import { parseJoinRequest } from "../../src/http/request.ts";
import { parseName } from "../../src/protocol/names.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { UPGRADE } from "../support/raw-websocket.ts";

const codeOf = ({ headers }: Response) => headers.get("hubbub-code");

const NOT_FOUND = "Not found. The chat is at /client.\n";
const INVALID_ID = 'A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n';
const UNKNOWN_HOST =
  "Unknown host name. Use localhost, or this machine's name or IP address, or allow this one with --allow-host.\n";
const FOREIGN_ORIGIN =
  "Pages of other sites may not connect. Use this server's own /client, or allow the site with --allow-origin.\n";

describe("client ids", () => {
  const good = [
    "7",
    "ann",
    "A_b-c.d",
    "Ámelie",
    "陳大文",
    "हिन्दी",
    "ไทย",
    "x".repeat(64),
    "語".repeat(64),
    "𠮷".repeat(64),
  ];
  for (const id of good)
    test(`${id} is valid`, () => expect(parseName("client id", id)).toEqual({ name: id.normalize("NFC") }));

  const bad = {
    "an empty one": "",
    "65 characters": "x".repeat(65),
    "a space": "a b",
    "a slash": "a/b",
    "a NUL": "a\0b",
    "a line break": "a\nb",
    "an emoji": "😀",
    markup: "<b>",
    "a bidi override": "a\u202Eb",
    "a zero-width joiner": "a\u200Db",
    "a soft hyphen": "a\u00ADb",
    "an invisible letter": "a\u3164b",
    "a variation selector": "a\uFE0Fb",
    "a combining mark without a letter": "\u0301a",
    "a single dot, which browsers remove from a path": ".",
    "two dots": "..",
    "a blank hieroglyph": "a\u{13441}",
    "half a surrogate pair": "a\uD800",
    "bytes that are not UTF-8": "\uFFFD",
  };
  for (const [kind, id] of Object.entries(bad))
    test(`${kind} is not`, () => expect(parseName("client id", id)).toHaveProperty("detail"));
});

describe("normalization, which takes quadratic time,", () => {
  test("is skipped for texts that are too long for a name, or have too many marks in a row", () => {
    using normalize = spyOn(String.prototype, "normalize");
    for (const text of ["\u0301".repeat(60_000), `a${"\u0316\u0301".repeat(30)}`, "a".repeat(400)])
      expect(parseName("session", text)).toHaveProperty("detail");
    expect(normalize).not.toHaveBeenCalled();
  });

  test("can shorten a name to a quarter", () => {
    for (const name of ["\u1f82".repeat(64), "\u01d6".repeat(64), "\u{1109a}".repeat(64), "한".repeat(64)])
      expect(parseName("room", name.normalize("NFD"))).toEqual({ name });
  });
});

test("a join request is parsed up to 32 parameters, and up to the length of an id", () => {
  const json = new Headers({ "Sec-WebSocket-Protocol": SUBPROTOCOL });
  const read = (query: string) => parseJoinRequest("ann", `http://localhost/ws/ann?${query}`, json, 100);
  expect(read(`${"a=b&".repeat(31)}room=tea&room=x`)).toMatchObject({ room: "tea" });
  expect(read(`${"a=b&".repeat(32)}room=tea`)).toMatchObject({ room: "lobby" });
  expect(read("after=1-2")).toMatchObject({ after: "1-2" });
  expect(read(`after=1-${"2".repeat(15_000)}`)).toMatchObject({ after: `1-${"2".repeat(38)}` });
});

test("unknown paths are 404", async () => {
  await using server = await startServer();
  for (const path of [
    "/nope",
    "/client/",
    "/ws",
    "/ws/",
    "/ws/a/b",
    "/websocket/a/b",
    "/index.html",
    "/favicon.ico",
  ])
    expect(await server.answer(path)).toEqual({ status: 404, body: NOT_FOUND });
});

test("an invalid id is 400, for a WebSocket and for a plain GET", async () => {
  await using server = await startServer();
  for (const headers of [{}, UPGRADE])
    for (const path of [
      "/ws/a%20b",
      "/ws/a%2Fb",
      "/ws/%00",
      "/ws/%FF",
      "/ws/%zz",
      `/ws/${"x".repeat(65)}`,
      "/websocket/%E2%80%AE",
    ])
      expect(await server.answer(path, { headers })).toEqual({ status: 400, body: INVALID_ID });
});

test("a plain GET of a WebSocket address is 426 if nothing else is wrong", async () => {
  await using server = await startServer();
  for (const path of ["/websocket", "/ws/7", "/websocket/7"]) {
    const response = await server.get(path);
    expect(response.status).toBe(426);
    expect(response.headers.get("upgrade")).toBe("websocket");
    expect(await response.text()).toBe("This address expects a WebSocket. The chat is at /client.\n");
  }
});

test("methods other than GET and HEAD are 405", async () => {
  await using server = await startServer();
  for (const path of ["/", "/client", "/websocket", "/ws/7", "/websocket/7"])
    for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"]) {
      const response = await server.get(path, { method, headers: UPGRADE });
      expect([response.status, response.headers.get("allow")]).toEqual([405, "GET, HEAD"]);
      expect(await response.text()).toBe("Only GET and HEAD are allowed here.\n");
    }
});

test("a Host that DNS could point here is rejected", async () => {
  await using server = await startServer();
  const foreign = [
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "a@localhost",
    "127.1",
    "a, localhost",
  ];
  for (const headers of [{}, UPGRADE])
    for (const host of foreign)
      for (const path of ["/ws/7", "/websocket"])
        expect(await server.answer(path, { headers: { ...headers, Host: host } })).toEqual({
          status: 403,
          body: UNKNOWN_HOST,
        });
});

test("a Host that can only mean this machine is accepted", async () => {
  await using server = await startServer();
  const accepted = [
    "localhost",
    "LOCALHOST:8000",
    "localhost.",
    "chat.localhost",
    "127.0.0.1",
    "192.168.1.20:8000",
    "[::1]:8000",
    hostname(),
    `${hostname()}.local`,
  ];
  for (const host of accepted) {
    await using ann = await server.open("/websocket", { Host: host });
    ann.says(host);
    await ann.hears(`Message text was: ${host}`);
  }
});

test("pages of other sites are rejected", async () => {
  await using server = await startServer();
  const foreign = [
    "http://evil.example",
    "http://localhost:1",
    `https://127.0.0.1:${server.port}.evil.example`,
    "null",
    "",
    "file://",
    `http://127.0.0.1:${server.port}/evil`,
    `ws://127.0.0.1:${server.port}`,
    `http://evil.example@127.0.0.1:${server.port}`,
  ];
  for (const origin of foreign)
    expect(await server.answer("/ws/7", { headers: { ...UPGRADE, Origin: origin } })).toEqual({
      status: 403,
      body: FOREIGN_ORIGIN,
    });
});

test("requests of other sites' pages without an Origin, such as for an image, are rejected", async () => {
  await using server = await startServer({ args: ["--allow-origin", "https://a.example"] });
  const paths = [
    "/ws/7",
    "/websocket",
    "/rooms/tea/members",
    "/rooms/tea/messages",
    "/metrics",
    "/healthz",
    "/readyz",
  ];
  for (const site of ["cross-site", "same-site"]) {
    const headers = { "Sec-Fetch-Site": site };
    for (const path of paths) expect(await server.answer(path, { headers })).toHaveProperty("status", 403);
    expect(await server.answer("/ws/7", { headers: { ...UPGRADE, ...headers } })).toEqual({
      status: 403,
      body: FOREIGN_ORIGIN,
    });
    for (const path of ["/client", "/hubbub.js"])
      expect(await server.answer(path, { headers })).toHaveProperty("status", 200);
    expect(await server.answer("/", { headers })).toHaveProperty("status", 302);
    // If there is an Origin, it decides.
    for (const origin of ["https://a.example", server.origin]) {
      const response = await server.answer("/rooms/tea/members", { headers: { ...headers, Origin: origin } });
      expect(response.status).toBe(200);
    }
  }
  for (const site of ["same-origin", "none"])
    for (const path of paths.slice(2))
      expect(await server.answer(path, { headers: { "Sec-Fetch-Site": site } })).toHaveProperty(
        "status",
        200,
      );
});

test("the server's own page is accepted, also behind a proxy with TLS, and so are programs, which send no Origin", async () => {
  await using server = await startServer();
  for (const headers of [
    { Host: `localhost:${server.port}`, Origin: `http://localhost:${server.port}` },
    { Host: "localhost", Origin: "https://localhost" },
    { Host: "localhost:443", Origin: "https://localhost" },
    { Host: "LOCALHOST:80", Origin: "http://localhost" },
    { Host: "[::1]:8000", Origin: "http://[::1]:8000" },
    {},
  ]) {
    await using ann = await server.open("/websocket", headers);
    await ann.hearsNothing();
  }
});

test("an unknown subprotocol is not accepted", async () => {
  await using server = await startServer();
  const response = await server.get("/websocket", {
    headers: { ...UPGRADE, "Sec-WebSocket-Protocol": "chat, token.secret" },
  });
  expect([response.status, response.headers.get("sec-websocket-protocol")]).toEqual([101, null]);
});

describe("with --public-url", () => {
  const PUBLIC = "Unknown host name. Use https://chat.example, or allow this one with --allow-host.\n";
  const args = ["--public-url", "https://chat.example"];

  test("its host is accepted, with or without its default port, and its origin is the only own one", async () => {
    await using server = await startServer({ args });
    expect(server.greeting).toEndWith(
      ` is listening on port ${server.port}, reached as https://chat.example/client; who can join: anyone who can reach it, under any name\n`,
    );
    for (const host of ["chat.example", "CHAT.example:443", "localhost", "10.1.2.3:8000"]) {
      await using ann = await server.open("/websocket", { Host: host, Origin: "https://chat.example" });
      await ann.hearsNothing();
    }
    for (const host of ["chat.example:8000", "evil@chat.example", "chat.example/x", "hubbub:8000"])
      expect(await server.answer("/ws/7", { headers: { Host: host } })).toEqual({
        status: 403,
        body: PUBLIC,
      });
    for (const [host, origin] of [
      ["chat.example", "https://evil.example"],
      ["chat.example", "http://chat.example"],
      ["chat.example", "https://chat.example:444"],
      ["localhost:8000", "http://localhost:8000"],
      ["10.1.2.3:8000", "http://10.1.2.3:8000"],
    ] as const)
      expect(await server.answer("/ws/7", { headers: { Host: host, Origin: origin } })).toEqual({
        status: 403,
        body: FOREIGN_ORIGIN,
      });
  });

  test("programs on this machine and network can still connect directly", async () => {
    await using server = await startServer({ args });
    for (const host of [`localhost:${server.port}`, "127.0.0.1", "[::1]:8000", "10.1.2.3:8000", hostname()]) {
      await using ann = await server.open("/websocket", { Host: host });
      await ann.hearsNothing();
      expect(await server.answer("/rooms/tea/members", { headers: { Host: host } })).toHaveProperty(
        "status",
        200,
      );
    }
  });
});

test("--allow-host accepts a name on any port, and no subdomains", async () => {
  const names = ["--allow-host", "Hubbub", "--allow-host", "hubbub.chat.svc.cluster.local"];
  for (const args of [names, [...names, "--public-url", "https://chat.example"]]) {
    await using server = await startServer({ args });
    for (const host of ["hubbub:8000", "HUBBUB", "hubbub.", "hubbub.chat.svc.cluster.local:8000"]) {
      await using ann = await server.open("/websocket", { Host: host });
      await ann.hearsNothing();
      expect(await server.answer("/rooms/tea/members", { headers: { Host: host } })).toHaveProperty(
        "status",
        200,
      );
    }
    for (const host of ["hubbub.evil.example", "x.hubbub", "hubbub.chat.svc", "hubbub@evil.example"])
      expect(await server.answer("/ws/7", { headers: { Host: host } })).toHaveProperty("status", 403);
  }
});

describe("pages of origins in --allow-origin", () => {
  const args = ["--allow-origin", "https://a.example", "--allow-origin", "http://b.example:81"];
  const cors = ({ headers }: Response) =>
    ["access-control-allow-origin", "access-control-expose-headers", "vary"].map((name) => headers.get(name));

  test("can connect; those of other origins cannot", async () => {
    await using server = await startServer({ args });
    for (const origin of ["https://a.example", "http://b.example:81"]) {
      await using ann = await server.open("/ws/ann", { Origin: origin });
      await ann.hearsNothing();
    }
    for (const origin of ["http://a.example", "https://a.example:444", "https://x.a.example", "null"])
      expect(await server.answer("/ws/7", { headers: { ...UPGRADE, Origin: origin } })).toEqual({
        status: 403,
        body: FOREIGN_ORIGIN,
      });
  });

  test("can read why they are rejected; other pages learn only that their origin is not allowed", async () => {
    await using server = await startServer({ args });
    const allowed = await server.get("/ws/a%20b", { headers: { Origin: "https://a.example" } });
    expect([allowed.status, codeOf(allowed), ...cors(allowed)]).toEqual([
      400,
      "bad-name",
      "https://a.example",
      "Hubbub-Code, Retry-After",
      "Origin",
    ]);
    // Whatever else is wrong, so that the page learns nothing about this server.
    for (const origin of ["https://evil.example", "null"])
      for (const path of ["/ws/a%20b", "/ws/ann?history=x", "/websocket", "/rooms/a%20b/messages"])
        for (const headers of [{}, { Host: "elsewhere.example" }]) {
          const foreign = await server.get(path, { headers: { ...headers, Origin: origin } });
          expect([foreign.status, codeOf(foreign), ...cors(foreign)]).toEqual([
            403,
            "origin",
            origin,
            "Hubbub-Code, Retry-After",
            "Origin",
          ]);
        }
    // Other pages can read that rejection and nothing else.
    const health = await server.get("/healthz", { headers: { Origin: "https://evil.example" } });
    expect(cors(health)).toEqual([null, null, null]);
  });

  test("can send a token after a preflight", async () => {
    await using server = await startServer({ args });
    const ask = (origin: string) =>
      server.get("/ws/ann", {
        method: "OPTIONS",
        headers: {
          Origin: origin,
          "Access-Control-Request-Method": "GET",
          "Access-Control-Request-Headers": "authorization",
        },
      });
    const allowed = await ask("https://a.example");
    expect([allowed.status, allowed.headers.get("access-control-allow-headers"), ...cors(allowed)]).toEqual([
      204,
      "Authorization, Content-Type, Last-Event-ID",
      "https://a.example",
      "Hubbub-Code, Retry-After",
      "Origin",
    ]);
    const foreign = await ask("https://evil.example");
    expect([foreign.status, ...cors(foreign)]).toEqual([405, null, null, null]);
  });
});

test("every rejection has a Hubbub-Code, which no proxy's error page has", async () => {
  await using server = await startServer({ args: ["--max-connections", "1"] });
  await using secured = await startServer(SECURED);
  const post = (body: string) => ({ method: "POST", body });
  const rejections: [TestServer, string, RequestInit, number, string][] = [
    [server, "/nope", {}, 404, "not-found"],
    [server, "/client", { method: "POST" }, 405, "no-such-method"],
    [server, "/ws/ann", { method: "DELETE" }, 405, "no-such-method"],
    [server, "/ws/ann", { method: "POST" }, 405, "no-such-method"],
    [server, "/ws/ann", { method: "POST", headers: { Origin: "https://elsewhere.example" } }, 403, "origin"],
    [server, "/rooms/tea/messages", { method: "PUT" }, 405, "no-such-method"],
    [server, "/ws/a%20b", {}, 400, "bad-name"],
    [server, "/ws/ann?room=a%20b", {}, 400, "bad-name"],
    [server, "/ws/ann?history=x", {}, 400, "bad-history"],
    [server, "/rooms/a%20b/members", {}, 400, "bad-name"],
    [server, "/rooms/tea/messages?limit=0", {}, 400, "bad-limit"],
    [server, "/rooms/tea/messages", post("x"), 400, "not-json"],
    [server, "/rooms/tea/messages", post(`"${"x".repeat(500_000)}"`), 413, "message-too-big"],
    [server, "/websocket", { headers: { Host: "elsewhere.example" } }, 403, "host"],
    [server, "/ws/ann", { headers: { Origin: "https://elsewhere.example" } }, 403, "origin"],
    [server, "/ws/ann", {}, 426, "not-websocket"],
    [server, "/websocket", {}, 426, "not-websocket"],
    [secured, "/ws/ann", {}, 401, "no-token"],
    [secured, "/rooms/tea/messages", {}, 401, "no-token"],
    [secured, "/ws/ann?token=x", {}, 401, "bad-token"],
    [secured, `/ws/ann?token=${tokenOf("ann", { seconds: -60 })}`, {}, 401, "token-expired"],
    [secured, `/ws/bob?token=${tokenOf("ann")}`, {}, 403, "not-for-client"],
    [secured, `/ws/ann?room=coffee&token=${tokenOf("ann", { rooms: ["tea"] })}`, {}, 403, "not-for-room"],
  ];
  for (const [server, path, init, status, code] of rejections) {
    const response = await server.get(path, init);
    expect([path, response.status, codeOf(response)]).toEqual([path, status, code]);
  }
  await using ann = await server.join("ann");
  const full = await server.get("/ws/bob", { headers: UPGRADE });
  expect([full.status, codeOf(full), full.headers.get("retry-after")]).toEqual([503, "full", "5"]);
  await ann.hearsNothing();
});

test("property names that are special in JavaScript are ordinary names", async () => {
  await using server = await startServer();
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf"];
  for (const name of names) {
    await using one = await server.joinJson(name, { room: name, session: name });
    await using two = await server.join("two", { room: name });
    expect(one.welcome).toMatchObject({ client: name, room: name, sent: null, count: 1 });
    one.says("hi", { seq: 1 });
    await one.hears({ type: "ack", seq: 1 }, { type: "message", from: name, text: "hi" });
    await two.hears(`Client #${name} says: hi`);
    await one.leaves();
    await two.hears(`Client #${name} left the chat`);
  }
});

test("lone surrogates in JSON escapes are replaced", async () => {
  await using server = await startServer();
  await using ann = await server.joinJson("ann");
  ann.sends('{"type":"message","text":"a\\ud800b\\udc00\\ud83d\\ude00"}');
  await ann.hears({ type: "message", from: "ann", text: "a\uFFFDb\uFFFD😀" });
});
