/** The headers of every kind of response, compared as a whole. */

import { describe, expect, test } from "bun:test";
import { SECURED } from "../support/keys.ts";
import { startServer, type TestServer } from "../support/server.ts";

/** Status and headers, without those that Bun adds to every response. */
async function headersOf(
  server: TestServer,
  path: string,
  init: RequestInit = {},
): Promise<Record<string, unknown>> {
  const { status, headers } = await server.get(path, init);
  const { date: _, "content-length": __, etag, ...rest } = Object.fromEntries(headers);
  return { status, ...rest, ...(etag === undefined ? {} : { etag: "an ETag" }) };
}

const TEXT = { "content-type": "text/plain; charset=utf-8", "x-content-type-options": "nosniff" };
const JSON_TYPE = { "content-type": "application/json;charset=utf-8" };
const PROBLEM = { "content-type": "application/problem+json" };

describe("the page and the client library", () => {
  test("the page runs only its own script and style, cannot be framed, and is revalidated", async () => {
    await using server = await startServer();
    const { "content-security-policy": policy = "", ...page } = await headersOf(server, "/client");
    expect(page).toEqual({
      status: 200,
      "content-type": "text/html; charset=utf-8",
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
      etag: "an ETag",
    });
    expect(
      String(policy)
        .replace(/'sha256-[\w+/]{43}='/g, "HASH")
        .split("; "),
    ).toEqual([
      "default-src 'none'",
      "script-src HASH",
      "style-src HASH",
      "connect-src 'self'",
      "img-src blob: data:",
      "worker-src blob:",
      "base-uri 'none'",
      "form-action 'none'",
      "frame-ancestors 'none'",
    ]);
  });

  test("any page may import the library", async () => {
    await using server = await startServer();
    expect(await headersOf(server, "/hubbub.js")).toEqual({
      status: 200,
      "content-type": "text/javascript; charset=utf-8",
      "access-control-allow-origin": "*",
      "x-content-type-options": "nosniff",
      "cache-control": "no-cache",
      etag: "an ETag",
    });
  });

  test("any site may read the library's types", async () => {
    await using server = await startServer();
    expect(await headersOf(server, "/hubbub.d.ts")).toEqual({
      status: 200,
      "content-type": "application/typescript; charset=utf-8",
      "access-control-allow-origin": "*",
      "x-content-type-options": "nosniff",
      "cache-control": "no-cache",
      etag: "an ETag",
    });
  });

  test("/ redirects to the page and keeps the query", async () => {
    await using server = await startServer();
    expect(await headersOf(server, "/?room=tea&id=ann")).toEqual({
      status: 302,
      location: "/client?room=tea&id=ann",
      ...TEXT,
    });
  });
});

test("404, 405 and 426", async () => {
  await using server = await startServer();
  const gone = { status: 404, "hubbub-code": "not-found" };
  expect(await headersOf(server, "/nope")).toEqual({ ...gone, ...TEXT, connection: "close" });
  expect(await headersOf(server, "/ws/ann")).toEqual({
    status: 426,
    "hubbub-code": "not-websocket",
    connection: "Upgrade",
    upgrade: "websocket",
    ...TEXT,
  });
  for (const path of [
    "/rooms/",
    "/rooms/tea",
    "/rooms/tea/messages/",
    "/rooms//messages",
    "/rooms/a/b/c/d?e",
  ])
    expect([path, await headersOf(server, path)]).toEqual([path, { ...gone, ...PROBLEM }]);
  expect(await headersOf(server, "/ws/ann", { method: "POST" })).toEqual({
    status: 405,
    "hubbub-code": "no-such-method",
    allow: "GET, HEAD",
    connection: "close",
    ...TEXT,
  });
  expect(await headersOf(server, "/rooms/tea/messages", { method: "PUT" })).toEqual({
    status: 405,
    "hubbub-code": "no-such-method",
    allow: "GET, HEAD, POST, DELETE, OPTIONS",
    ...PROBLEM,
  });
});

test("responses of the rooms API are not cached", async () => {
  await using server = await startServer();
  const fresh = { ...JSON_TYPE, "cache-control": "no-store", "x-content-type-options": "nosniff" };
  const body = JSON.stringify({ text: "hi", from: "ci" });
  expect(await headersOf(server, "/rooms/tea/messages", { method: "POST", body })).toEqual({
    status: 201,
    ...fresh,
  });
  expect(await headersOf(server, "/rooms/tea/messages")).toEqual({ status: 200, ...fresh });
  expect(await headersOf(server, "/rooms/tea/members")).toEqual({ status: 200, ...fresh });
  expect(await headersOf(server, "/rooms/a%20b/members")).toEqual({
    status: 400,
    "hubbub-code": "bad-name",
    ...PROBLEM,
  });
});

test("401 names the scheme: Bearer", async () => {
  await using server = await startServer(SECURED);
  const rejected = { status: 401, "hubbub-code": "no-token", "www-authenticate": "Bearer" };
  expect(await headersOf(server, "/ws/ann")).toEqual({ ...rejected, ...TEXT, connection: "close" });
  expect(await headersOf(server, "/rooms/tea/members")).toEqual({ ...rejected, ...PROBLEM });
});

describe("pages of an allowed origin", () => {
  const args = ["--allow-origin", "https://a.example"];
  const headers = { Origin: "https://a.example" };
  const readable = {
    "access-control-allow-origin": "https://a.example",
    "access-control-expose-headers": "Hubbub-Code, Retry-After",
    vary: "Origin",
  };

  test("can read responses and rejections, and Vary keeps caches from mixing them up", async () => {
    await using server = await startServer({ args });
    for (const path of ["/ws/a%20b", "/rooms/tea/members", "/rooms/a%20b/members"])
      expect(await headersOf(server, path, { headers })).toMatchObject(readable);
  });

  test("can send a token and JSON after a preflight, which browsers may cache for a day", async () => {
    await using server = await startServer({ args });
    for (const [path, methods] of [
      ["/ws/ann", "GET"],
      ["/rooms/tea/members", "GET"],
      ["/rooms/tea/messages", "GET, POST, DELETE"],
    ] as const)
      expect(await headersOf(server, path, { method: "OPTIONS", headers })).toEqual({
        status: 204,
        ...readable,
        "access-control-allow-methods": methods,
        "access-control-allow-headers": "Authorization, Content-Type, Last-Event-ID",
        "access-control-max-age": "86400",
      });
  });
});
