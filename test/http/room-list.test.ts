/** `GET /rooms`: named rooms, and with --list-rooms all of them. */

import { describe, expect, test } from "bun:test";
import { bearer, SECRET, SECURED } from "../support/keys.ts";
import { COVERING_STORES, startServer, type TestServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

const LISTING = ["--list-rooms"];

async function roomsOf(server: TestServer, query = "", headers: Record<string, string> = {}) {
  const response = await server.get(`/rooms${query}`, { headers });
  const body: unknown = await response.json();
  return { status: response.status, body };
}

async function post(server: TestServer, room: string, headers: Record<string, string> = {}): Promise<string> {
  const response = await server.post(room, { from: "ci", text: `to ${room}` }, headers);
  const { id }: { id?: string } = JSON.parse(await response.text());
  if (id === undefined) throw new Error(`${room}: ${response.status}`);
  return id;
}

/** What a room's entry looks like; a message's time is the store's clock. */
const entry = (room: string, count: number, lastId: string | null) => ({
  room,
  count,
  lastId,
  lastTime: lastId === null ? null : expect.any(Number),
});

describe.each(COVERING_STORES)("with the store $name", (store) => {
  test("named rooms have their clients and their latest message, in the order of the request", async () => {
    await using server = await startServer({ store });
    await post(server, "a");
    const lastId = await post(server, "a");
    await using _ann = await server.join("ann", { room: "b" });
    await using _bob = await server.joinJson("bob", { room: "b" });
    await using _twice = await server.join("bob", { room: "b" });
    // Each node answers for all of them.
    for (let i = 0; i < 2; i++)
      expect<unknown>(await roomsOf(server, "?room=b&room=caf%65%CC%81&room=a&room=b")).toEqual({
        status: 200,
        body: {
          rooms: [entry("b", 2, null), entry("caf\u00e9", 0, null), entry("a", 0, lastId)],
          listed: false,
        },
      });
    const { body } = await roomsOf(server, "?room=a");
    const messages = await server.get("/rooms/a/messages?limit=1");
    const { time }: { time?: number } = JSON.parse(await messages.text()).messages[0];
    expect<unknown>(body).toEqual({
      rooms: [{ room: "a", count: 0, lastId, lastTime: time }],
      listed: false,
    });
  });

  test("a removal does not change the order of the list", async () => {
    await using server = await startServer({ store, secret: SECRET, args: LISTING });
    const headers = server.authorization("mod", ["read", "write", "moderate"]);
    await using _inA = await server.joinJson("mod", { room: "a" });
    for (const room of ["a", "b"])
      expect((await server.post(room, { from: "mod", text: "hi" }, headers)).status).toBe(201);
    const { body } = await roomsOf(server, "", headers);
    expect<unknown>(body).toMatchObject({ rooms: [{ room: "b" }, { room: "a" }] });
    const removal = await server.answer("/rooms/a/messages?from=mod", { method: "DELETE", headers });
    expect(JSON.parse(removal.body)).toEqual({ removed: 1 });
    expect((await roomsOf(server, "", headers)).body).toEqual(body);
    const next = await roomsOf(server, "?after=b", headers);
    expect<unknown>(next.body).toMatchObject({ rooms: [{ room: "a" }], more: false });
  });

  test("--list-rooms lists all rooms with messages, that of the latest first, page by page", async () => {
    await using server = await startServer({ store, args: LISTING });
    expect(await roomsOf(server)).toEqual({ status: 200, body: { rooms: [], more: false } });
    // In alphabetical order, which decides if a store's clock has not advanced in between.
    const ids = new Map<string, string>();
    for (const room of ["a", "b", "c", "d", "e"]) ids.set(room, await post(server, room));
    await using _ann = await server.join("ann", { room: "c" });
    await using _bob = await server.join("bob", { room: "without-messages" });
    const all = ["e", "d", "c", "b", "a"].map((room) =>
      entry(room, Number(room === "c"), ids.get(room) ?? ""),
    );
    for (let i = 0; i < 2; i++) {
      expect<unknown>((await roomsOf(server)).body).toEqual({ rooms: all, more: false });
      expect<unknown>((await roomsOf(server, "?limit=2")).body).toEqual({
        rooms: all.slice(0, 2),
        more: true,
      });
      expect<unknown>((await roomsOf(server, "?limit=2&after=d")).body).toEqual({
        rooms: all.slice(2, 4),
        more: true,
      });
      expect<unknown>((await roomsOf(server, "?limit=2&after=b")).body).toEqual({
        rooms: all.slice(4),
        more: false,
      });
      expect((await roomsOf(server, "?after=a")).body).toEqual({ rooms: [], more: false });
    }
    expect<unknown>(await roomsOf(server, "?after=unknown")).toEqual({
      status: 400,
      body: {
        title: "Bad Request",
        status: 400,
        detail: "after must be the last room of the page before.",
        code: "bad-name",
      },
    });
    const lastId = await post(server, "f");
    expect<unknown>((await roomsOf(server, "?limit=1")).body).toEqual({
      rooms: [entry("f", 0, lastId)],
      more: true,
    });
  });
});

test("a server without --list-rooms names no room", async () => {
  await using server = await startServer();
  await post(server, "secret");
  expect<unknown>(await roomsOf(server)).toEqual({
    status: 403,
    body: {
      title: "Forbidden",
      status: 403,
      detail: "This server lists no rooms. Name those you know: ?room=NAME.",
      code: "not-listed",
    },
  });
});

test("with tokens, a client receives only the rooms that it may read", async () => {
  await using server = await startServer({ args: LISTING, ...SECURED });
  const all = bearer("ci");
  for (const room of ["a", "b", "c"]) await post(server, room, all);
  const names = async (query: string, headers: Record<string, string>) => {
    const response = await server.get(`/rooms${query}`, { headers });
    const { rooms, more }: { rooms?: { room: string }[]; more?: boolean } = JSON.parse(await response.text());
    return [response.status, rooms?.map(({ room }) => room), more];
  };
  expect(await names("", all)).toEqual([200, ["c", "b", "a"], false]);
  const some = bearer("ann", { rooms: ["a", "c", "d"] });
  expect(await names("", some)).toEqual([200, ["c", "a"], false]);
  expect(await names("?limit=1", some)).toEqual([200, ["c"], true]);
  expect(await names("?after=c", some)).toEqual([200, ["a"], false]);
  for (const other of ["b", "unknown"])
    expect(await names(`?after=${other}`, some)).toEqual([400, undefined, undefined]);
  expect(await names("?room=b&room=d&room=a", some)).toEqual([200, ["d", "a"], undefined]);
  const metrics = bearer("ops", { can: ["metrics"] });
  expect(await names("", metrics)).toEqual([200, [], false]);
  expect(await names("?room=a", metrics)).toEqual([200, [], undefined]);
  expect(await names("", {})).toEqual([401, undefined, undefined]);
});

test("invalid requests, methods and origins are rejected like those of its siblings", async () => {
  await using server = await startServer({ args: [...LISTING, "--allow-origin", "https://a.example"] });
  const codeOf = async (query: string, init?: RequestInit) => {
    const response = await server.get(`/rooms${query}`, init);
    return [response.status, response.headers.get("hubbub-code")];
  };
  expect(await codeOf("?room=a%20b")).toEqual([400, "bad-name"]);
  expect(await codeOf("?room=")).toEqual([400, "bad-name"]);
  expect(await codeOf("?after=a%20b")).toEqual([400, "bad-name"]);
  for (const limit of ["0", "1001", "x", ""])
    expect(await codeOf(`?limit=${limit}`)).toEqual([400, "bad-limit"]);
  const named = (count: number) => `?${Array.from({ length: count }, (_, i) => `room=r${i}`).join("&")}`;
  expect(await codeOf(named(30))).toEqual([200, null]);
  for (const count of [31, 32, 1000]) expect(await codeOf(named(count))).toEqual([400, "bad-limit"]);
  expect(await codeOf("", { method: "POST" })).toEqual([405, "no-such-method"]);
  expect(await codeOf("", { headers: { Origin: "https://b.example" } })).toEqual([403, "origin"]);
  expect(await codeOf("", { headers: { Host: "evil.example" } })).toEqual([403, "host"]);
  const allowed = await server.get("/rooms", { headers: { Origin: "https://a.example" } });
  expect([allowed.status, allowed.headers.get("access-control-allow-origin")]).toEqual([
    200,
    "https://a.example",
  ]);
  expect([allowed.headers.get("cache-control"), allowed.headers.get("content-type")]).toEqual([
    "no-store",
    "application/json;charset=utf-8",
  ]);
});

test("the reads of an address share one rate limit", async () => {
  await using server = await startServer({ args: ["--message-rate", "1", "--message-burst", "3"] });
  const statuses = [];
  for (const path of ["?room=a", "?room=a", "/a/members", "?room=a"])
    statuses.push((await server.get(`/rooms${path}`)).status);
  expect(statuses).toEqual([200, 200, 200, 429]);
});

test("reading past rooms that the client may not read counts towards its limit", async () => {
  using folder = new TempFolder();
  const { path: cwd } = folder;
  const store = { name: "SQLite", url: "sqlite:chat.db" };
  {
    await using server = await startServer({ store, cwd });
    for (let i = 0; i < 401; i++) await post(server, `secret-${i}`);
    await server.stop("SIGTERM");
  }
  const args = ["--allow-guests", "lobby", ...LISTING, "--message-rate", "1"];
  const statusOf = async (burst: string) => {
    await using server = await startServer({
      ...SECURED,
      store,
      cwd,
      args: [...args, "--message-burst", burst],
    });
    const { status } = await roomsOf(server);
    await server.stop();
    return status;
  };
  expect(await statusOf("1")).toBe(429);
  expect(await statusOf("4")).toBe(200);
});

test("a SQLite file lists its rooms after a restart, but not those whose messages were pruned", async () => {
  using folder = new TempFolder();
  const store = { name: "SQLite", url: "sqlite:chat.db" };
  const start = () => startServer({ store, cwd: folder.path, args: LISTING });
  {
    await using server = await start();
    await post(server, "old");
    await post(server, "new");
    await server.stop("SIGTERM");
  }
  const { Database } = await import("bun:sqlite");
  {
    using db = new Database(`${folder.path}/chat.db`);
    db.run("DELETE FROM messages WHERE room = 'old'");
  }
  await using server = await start();
  expect<unknown>((await roomsOf(server)).body).toEqual({
    rooms: [entry("new", 0, expect.any(String))],
    more: false,
  });
});
