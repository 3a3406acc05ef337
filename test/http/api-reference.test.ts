/** The API reference in src/http/README.md is what the server does: its routes, parameters, responses and rejections. */

import { expect, test } from "bun:test";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { REJECTION_STATUS } from "../../src/protocol/codes.ts";
import { TestClock } from "../support/clock.ts";
import { readDoc, ROOT } from "../support/docs.ts";
import { bearer, tokenOf, SECURED } from "../support/keys.ts";
import { startServer, type TestServer } from "../support/server.ts";

const ALL_ROUTES = "/rooms";
/** What only a fault, too many clients or a client that is cut off lead to; other tests provoke them. */
const FAULTS = [
  "connection-rate",
  "cut-off",
  "full",
  "internal-error",
  "out-of-order",
  "too-many-from-address",
  "unavailable",
  "unconfirmed",
];

/** What only sockets and /metrics lead to. */
const ELSEWHERE = ["not-for-metrics", "not-local", "not-websocket", "unknown-type"];

interface Route {
  /** As in `GET /rooms`. */
  readonly name: string;
  readonly parameters: string[];
  /** Status and keys of a success; `more?` may be absent. */
  readonly successes: Map<number, string[]>;
  readonly codes: string[];
}

/** The section of each route: a heading that ends with it, and the tables below. */
function documentedRoutes(): Route[] {
  const sections = readDoc("src/http/README.md").split(/^##+ /m);
  return sections.flatMap((section) => {
    const name = /^[^\n]*`((?:[A-Z]+ )?\/[^`]*)`\n/.exec(section)?.[1];
    if (name === undefined) return [];
    const rows = [...section.matchAll(/^\| *(.*?) *\| *(.*?) *\|$/gm)];
    const route: Route = { name, parameters: [], successes: new Map(), codes: [] };
    for (const [, part = "", meaning = ""] of rows) {
      route.parameters.push(...[...part.matchAll(/`\?(\w+)=`/g)].map(([, parameter = ""]) => parameter));
      const status = Number(part);
      if (status < 400) route.successes.set(status, keysIn(meaning));
      for (const [, code = ""] of meaning.matchAll(/`([a-z][a-z0-9-]+)`/g)) {
        const expected: number | undefined = Object.entries(REJECTION_STATUS).find(
          ([key]) => key === code,
        )?.[1];
        if (status >= 400 && expected !== undefined) {
          expect([name, code, status]).toEqual([name, code, expected]);
          route.codes.push(code);
        }
      }
    }
    return [route];
  });
}

function keysIn(meaning: string): string[] {
  const body = /^`\{(.*?)\}`/.exec(meaning)?.[1] ?? "";
  return [...body.matchAll(/"(\w+)"(\??)/g)].map(([, key, optional]) => `${key}${optional}`);
}

const routes = documentedRoutes();

test("each rejection is documented for some route", () => {
  const documented = new Set(routes.flatMap(({ codes }) => codes));
  const missing = Object.keys(REJECTION_STATUS).filter((code) => !documented.has(code));
  expect(missing.toSorted()).toEqual(ELSEWHERE);
});

test("each route and each of its methods has a table", async () => {
  await using server = await startServer();
  const { detail } = JSON.parse((await server.answer("/rooms/tea/nope")).body);
  const paths = [...String(detail).matchAll(/\/rooms[\w/:]*/g)].map(([path]) => path);
  const served = await Promise.all(
    paths.map(async (path) => {
      const { headers } = await server.get(path.replaceAll(/:\w+/g, "tea"), { method: "PUT" });
      const methods = headers.get("allow")?.split(", ") ?? [];
      return methods
        .filter((method) => !["HEAD", "OPTIONS"].includes(method))
        .map((method) => `${method} ${path}`);
    }),
  );
  const documented = routes.map(({ name }) => name).filter((name) => name.includes(" /rooms"));
  expect(documented.toSorted()).toEqual(served.flat().toSorted());
});

test("each parameter that is read of an address is documented, and the other way round", () => {
  const read = new Set<string>();
  for (const file of readdirSync(join(ROOT, "src/http")).filter((name) => name.endsWith(".ts")))
    for (const [, name = ""] of readDoc(`src/http/${file}`).matchAll(/query\.get(?:All)?\("(\w+)"\)/g))
      read.add(name);
  const protocol = readDoc("src/protocol/README.md");
  const ofSockets = [...protocol.matchAll(/^\| `(\w+)=\w*` /gm)].map(([, name = ""]) => name);
  const documented = new Set(routes.flatMap(({ parameters }) => parameters));
  expect([...documented].filter((name) => !read.has(name))).toEqual([]);
  expect([...read].filter((name) => !documented.has(name) && !ofSockets.includes(name))).toEqual([]);
});

const post = (body: unknown, type = "application/json"): RequestInit => ({
  method: "POST",
  body: typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body),
  headers: { "Content-Type": type },
});

/** The body, or the first line of one that does not end. */
async function firstValue(response: Response): Promise<Record<string, unknown>> {
  if (!response.headers.get("content-type")?.includes("ndjson")) return JSON.parse(await response.text());
  const reader = response.body?.getReader();
  const line = new TextDecoder().decode((await reader?.read())?.value);
  await reader?.cancel();
  return JSON.parse(line.split("\n", 1)[0] ?? "");
}

test("each documented response and rejection is one that the route gives", async () => {
  await using server = await startServer({ args: ["--list-rooms"] });
  await using secured = await startServer(SECURED);
  using clock = new TestClock();
  const args = ["--message-rate", "1", "--message-burst", "1"];
  await using limited = await startServer({ ...clock.setup, args });
  const hi = { text: "hi", from: "ci", session: "s", seq: 1 };
  const at = (path: string, client: string, rooms: string[] = [], seconds = 600) =>
    `${path}?token=${tokenOf(client, { rooms, seconds })}`;
  const remove = (headers: Record<string, string>): RequestInit => ({ method: "DELETE", headers });
  const moderator = remove(bearer("mod", { can: ["moderate"] }));
  const posted = await secured.get(at("/rooms/tea/messages", "ann"), post({ text: "hi" }));
  const { id } = JSON.parse(await posted.text());
  const ban = { ...moderator, method: "POST", body: '{"forSeconds":60}' };
  expect((await secured.get("/clients/eve/disconnect", ban)).status).toBe(200);
  const requests: Record<string, [TestServer, string, RequestInit?][]> = {
    "POST /rooms/:room/messages": [
      [server, "/rooms/tea/messages", post(hi)],
      [server, "/rooms/tea/messages", post(hi)],
      [server, "/rooms/tea/messages?from=ci", post("hi", "text/plain")],
      [server, "/rooms/tea/messages", post({ ...hi, from: "a b" })],
      [server, "/rooms/tea/messages", post({ ...hi, seq: 0 })],
      [server, "/rooms/tea/messages", post({ data: "*", from: "ci" })],
      [server, "/rooms/tea/messages", post({ from: "ci" })],
      [server, "/rooms/tea/messages", post("hi")],
      [server, "/rooms/tea/messages", post(Buffer.from([0xe9]))],
      [server, "/rooms/tea/messages", post({ text: "x".repeat(70_000), from: "ci" })],
      [server, "/rooms/tea/messages", post("hi", "text/html")],
      [secured, at("/rooms/tea/messages", "bob"), post(hi)],
      [secured, `/rooms/tea/messages?token=${tokenOf("ci", { can: ["read"] })}`, post(hi)],
    ],
    "GET /rooms/:room/messages": [
      [server, "/rooms/tea/messages"],
      [server, "/rooms/tea/messages?after=1-0"],
      [server, "/rooms/tea/messages?before=x"],
      [server, "/rooms/tea/messages?limit=0"],
    ],
    "POST /clients/:id/disconnect": [
      [secured, "/clients/eve/disconnect", ban],
      [secured, "/clients/eve/disconnect", { ...ban, body: '{"forSeconds":"x"}' }],
      [secured, "/clients/a%20b/disconnect", ban],
      [secured, "/clients/eve/disconnect", { ...ban, body: "x" }],
      [secured, "/clients/eve/disconnect", { ...ban, headers: bearer("ann") }],
    ],
    "DELETE /rooms/:room/messages/:id": [
      [secured, `/rooms/tea/messages/${id}`, moderator],
      [secured, `/rooms/tea/messages/${id}`, remove(bearer("ann"))],
      [secured, "/rooms/tea/messages/1-0", moderator],
      [secured, "/rooms/tea/messages/x", moderator],
    ],
    "DELETE /rooms/:room/messages": [
      [secured, "/rooms/tea/messages?from=ann", moderator],
      [secured, "/rooms/tea/messages?from=ann", remove(bearer("ann"))],
      [secured, "/rooms/tea/messages", moderator],
    ],
    "GET /rooms/:room/events": [
      [server, "/rooms/tea/events", { headers: { Accept: "application/x-ndjson" } }],
      [server, "/rooms/tea/events?after=1-0", { headers: { Accept: "application/x-ndjson" } }],
      [server, "/rooms/tea/events?history=x"],
    ],
    "GET /rooms/:room/members": [[server, "/rooms/tea/members"]],
    "GET /rooms": [
      [server, "/rooms"],
      [server, "/rooms?room=tea"],
      [server, "/rooms?limit=0"],
      [limited, "/rooms"],
    ],
    "GET /address": [
      [server, "/address"],
      [server, "/address", { headers: { Host: "elsewhere.example" } }],
      [server, "/address", { headers: { Origin: "https://elsewhere.example" } }],
    ],
    [ALL_ROUTES]: [
      [server, "/rooms/a%20b/members"],
      [secured, "/rooms/tea/members"],
      [secured, "/rooms/tea/members?token=x"],
      [secured, at("/rooms/tea/members", "ann", [], -60)],
      [server, "/rooms", { headers: { Host: "elsewhere.example" } }],
      [server, "/rooms", { headers: { Origin: "https://elsewhere.example" } }],
      [secured, at("/rooms/tea/members", "ann", ["coffee"])],
      [secured, at("/rooms/tea/members", "eve")],
      [server, "/rooms/tea"],
      [server, "/rooms", { method: "DELETE" }],
      [limited, "/rooms?room=tea"],
    ],
  };
  expect(routes.map(({ name }) => name).toSorted()).toEqual(Object.keys(requests).toSorted());
  for (const { name, successes, codes } of routes) {
    const given = new Set<string>();
    const statuses = new Set<number>();
    for (const [to, path, init] of requests[name] ?? []) {
      const response = await to.get(path, init);
      const { status, headers } = response;
      const body = await firstValue(response);
      if (status < 400) {
        statuses.add(status);
        const keys = successes.get(status) ?? [];
        const known = keys.map((key) => key.replace("?", ""));
        expect([path, Object.keys(body).filter((key) => !known.includes(key))]).toEqual([path, []]);
        expect([path, keys.filter((key) => !key.endsWith("?") && !(key in body))]).toEqual([path, []]);
      } else {
        given.add(String(headers.get("hubbub-code")));
        expect([headers.get("content-type"), body]).toEqual([
          "application/problem+json",
          expect.objectContaining({ status, code: headers.get("hubbub-code"), detail: expect.any(String) }),
        ]);
      }
    }
    expect([name, ...[...statuses].sort()]).toEqual([name, ...[...successes.keys()].sort()]);
    expect([name, ...[...given].sort()]).toEqual([
      name,
      ...codes.filter((code) => !FAULTS.includes(code)).toSorted(),
    ]);
  }
});
