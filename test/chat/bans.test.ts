/** Moderators disconnect a client from their rooms on every node, and keep it out for a time. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import type { Right } from "../../src/protocol/events.ts";
import { TestClock } from "../support/clock.ts";
import { Peer } from "../support/peer.ts";
import { eventually } from "../support/deadline.ts";
import { subscribe } from "../support/event-stream.ts";
import { Postgres, sharedPostgres, skipped as withoutPostgres } from "../support/postgres.ts";
import { Redis, sharedRedis, skipped } from "../support/redis.ts";
import { COVERING_STORES, startServer, type TestServer } from "../support/server.ts";

const SECRET = "a secret of thirty-two bytes, or more";
const BANNED = { code: 4003, reason: "Disconnected by a moderator." };

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "hubbub-"));
});
afterEach(() => rm(folder, { recursive: true }));

async function disconnect(
  server: TestServer,
  client: string,
  forSeconds: unknown = 60,
  can: readonly Right[] = ["moderate"],
  rooms: readonly string[] = [],
  by = "mod",
) {
  const headers = server.authorization(by, can, rooms);
  const body = JSON.stringify({ forSeconds });
  const response = await server.get(`/clients/${client}/disconnect`, { method: "POST", headers, body });
  const { until, code } = JSON.parse(await response.text());
  return [response.status, typeof until === "number" ? "until" : code];
}

/** Status and code of joining, reading, subscribing and posting. */
async function statuses(
  server: TestServer,
  client: string,
  room = "lobby",
  headers: Record<string, string> = server.authorization(client),
) {
  const answers = await Promise.all([
    server.get(`/ws/${client}?room=${room}`, { headers }),
    server.get(`/rooms/${room}/messages`, { headers }),
    server.get(`/rooms/${room}/events`, { headers, method: "HEAD" }),
    server.get(`/rooms/${room}/messages`, {
      headers,
      method: "POST",
      body: JSON.stringify({ text: "hi", from: client }),
    }),
  ]);
  return answers.map(({ status, headers }) => `${status} ${headers.get("hubbub-code") ?? ""}`.trim());
}
/** A guest's headers. */
const from = (address: string) => ({ "X-Forwarded-For": address });

const OUT = Array(4).fill("403 banned");
const IN = ["426 not-websocket", "200", "200", "201"];

describe.each(COVERING_STORES)("with the store $name", (store) => {
  test("its sockets and streams in the moderator's rooms are closed on every node, and it stays out", async () => {
    await using server = await startServer({ store, secret: SECRET });
    const nodes = [server, server.other ?? server];
    await using one = await server.joinJson("eve");
    await using two = await server.join("eve");
    await using bob = await server.joinJson("bob");
    await using elsewhere = await server.joinJson("eve", { room: "tea" });
    const headers = server.authorization("eve");
    const streams = await Promise.all(nodes.map((node) => subscribe(node, "lobby", { headers })));
    expect(await disconnect(server, "eve", 60, ["moderate"], ["lob*"])).toEqual([200, "until"]);
    expect([await one.peer.closes(), await two.closes()]).toEqual([BANNED, BANNED]);
    for (const stream of streams) expect((await stream.ends()).unread).toEqual([]);
    for (const node of nodes) {
      await eventually(
        async () => (await statuses(node, "eve")).every((each) => each === "403 banned"),
        "out",
      );
      expect(await statuses(node, "eve")).toEqual(OUT);
      expect(await statuses(node, "eve", "tea")).toEqual(IN);
      expect(await statuses(node, "bob")).toEqual(IN);
    }
    const response = await server.get("/ws/eve", { headers });
    expect(Number(response.headers.get("retry-after"))).toBeWithin(1, 61);
    await elsewhere.saysAndHears("still here");
    await bob.saysAndHears("me too");
  });

  test("a banned moderator has no rights in the rooms of its ban, even to lift it", async () => {
    await using server = await startServer({ store, secret: SECRET });
    const nodes = [server, server.other ?? server];
    const act = (by: string, on: string, forSeconds: number, rooms: readonly string[] = []) =>
      disconnect(server, on, forSeconds, ["moderate"], rooms, by);
    expect(await act("boss", "mod", 60, ["lob*", "tea"])).toEqual([200, "until"]);
    for (const node of nodes)
      await eventually(async () => (await statuses(node, "mod"))[0] === OUT[0], "the moderator is banned");
    for (const rooms of [["lobby"], ["lobby", "tea"], ["lob*"], ["lobby-*"]]) {
      expect(await act("mod", "eve", 60, rooms)).toEqual([403, "banned"]);
      expect(await act("mod", "mod", 0, rooms)).toEqual([403, "banned"]);
    }
    await using eve = await server.joinJson("eve");
    expect(await act("mod", "eve", 60)).toEqual([200, "until"]);
    expect(await act("mod", "mod", 0)).toEqual([200, "until"]);
    for (const node of nodes) {
      await eventually(async () => (await statuses(node, "eve", "den"))[0] === OUT[0], "out");
      expect(await statuses(node, "eve", "lobby")).toEqual(IN);
      expect(await statuses(node, "mod")).toEqual(OUT);
    }
    await eve.saysAndHears("still here");
    const removal = { method: "DELETE", headers: server.authorization("mod", ["moderate"]) };
    expect((await server.get("/rooms/lobby/messages?from=eve", removal)).status).toBe(403);

    expect(await act("boss", "mod", 0)).toEqual([200, "until"]);
    for (const node of nodes)
      await eventually(async () => (await statuses(node, "mod"))[0] === IN[0], "the ban is lifted");
    expect(await act("mod", "eve", 60, ["lobby"])).toEqual([200, "until"]);
  });

  test("a guest's ban is for all guests of its address, on every node, until it is lifted", async () => {
    const args = ["--allow-guests", "*", "--trust-proxy"];
    await using server = await startServer({ store, secret: SECRET, args });
    const nodes = [server, server.other ?? server];
    const open = async (node: TestServer, path: string, headers: Record<string, string>) => {
      const peer = new Peer(node.origin.replace("http", "ws") + path, headers);
      await peer.opened;
      return peer;
    };
    const [same, other] = [from("192.0.2.1"), from("192.0.2.2")];
    await using eve = await open(server, "/ws/eve", same);
    const neighbours = await Promise.all(nodes.map((node, i) => open(node, `/ws/neighbour${i}`, same)));
    const streams = await Promise.all(nodes.map((node) => subscribe(node, "lobby", { headers: same })));
    await using elsewhere = await open(server, "/ws/neighbour?room=tea", same);
    await using bob = await open(server, "/ws/bob", other);
    await using ann = await open(server, "/ws/ann", { ...same, ...server.authorization("ann") });
    expect(await disconnect(server, "~eve", 60, ["moderate"], ["lobby"])).toEqual([200, "until"]);
    for (const peer of [eve, ...neighbours]) expect(await peer.closes()).toEqual(BANNED);
    for (const stream of streams) await stream.ends();
    for (const node of nodes) {
      await eventually(async () => (await statuses(node, "new", "lobby", same))[0] === OUT[0], "out");
      for (const name of ["eve", "new"]) expect(await statuses(node, name, "lobby", same)).toEqual(OUT);
      expect(await statuses(node, "new", "tea", same)).toEqual(IN);
      expect(await statuses(node, "new", "lobby", other)).toEqual(IN);
      expect(await statuses(node, "eve", "lobby", other)).toEqual(["403 banned", "200", "200", "403 banned"]);
      expect(await statuses(node, "eve")).toEqual(IN); // with a token it is another client
    }
    expect(await disconnect(server, "~eve", 600, ["moderate"], ["lobby"])).toEqual([200, "until"]);
    for (const node of nodes) expect(await statuses(node, "new", "lobby", same)).toEqual(OUT);
    expect(await disconnect(server, "~eve", 0)).toEqual([200, "until"]);
    for (const node of nodes)
      for (const name of ["eve", "new"])
        await eventually(
          async () => (await statuses(node, name, "lobby", same))[0] === IN[0],
          "it is lifted",
        );
    for (const peer of [elsewhere, bob, ann]) await peer.leaves();
  });

  test("a client sees no rooms from which it is banned", async () => {
    await using server = await startServer({ store, secret: SECRET, args: ["--list-rooms"] });
    for (const room of ["lobby", "tea"]) await server.post(room, { from: "ann", text: "hi" });
    expect(await disconnect(server, "eve", 60, ["moderate"], ["lobby"])).toEqual([200, "until"]);
    const headers = server.authorization("eve");
    for (const node of [server, server.other ?? server]) {
      await eventually(async () => (await statuses(node, "eve"))[0] === OUT[0], "out");
      for (const query of ["", "?room=lobby&room=tea"]) {
        const response = await fetch(`${node.origin}/rooms${query}`, { headers });
        expect(await response.json()).toMatchObject({ rooms: [{ room: "tea" }] });
      }
      const response = await fetch(`${node.origin}/rooms?after=lobby`, { headers });
      expect(response.headers.get("hubbub-code")).toBe("bad-name");
    }
  });
});

const PERSISTENT = [
  ["SQLite", async () => "sqlite:chat.db"],
  ...(skipped ? [] : [["Redis", async () => (await sharedRedis()).url("bans")] as const]),
  ...(withoutPostgres ? [] : [["Postgres", async () => (await sharedPostgres()).url("bans")] as const]),
] as const;
describe.each(PERSISTENT)("with the store %s", (name, url) => {
  test("a ban survives a restart", async () => {
    const args = ["--allow-guests", "*"];
    const setup = { store: { name, url: await url() }, secret: SECRET, cwd: folder, args };
    const isGuestOut = async (server: TestServer) =>
      (await statuses(server, "new", "lobby", {}))[0] === OUT[0];
    const first = await startServer(setup);
    const guest = await first.open("/ws/guest");
    for (const client of ["eve", "~guest"]) expect(await disconnect(first, client)).toEqual([200, "until"]);
    expect(await guest.closes()).toEqual(BANNED);
    await eventually(() => isGuestOut(first), "the guest's address is banned");
    await first.stop("SIGKILL");
    const second = await startServer(setup);
    expect([await statuses(second, "eve"), await isGuestOut(second)]).toEqual([OUT, true]);
    for (const client of ["eve", "~guest"])
      expect(await disconnect(second, client, 0)).toEqual([200, "until"]);
    expect([await statuses(second, "eve"), await isGuestOut(second)]).toEqual([IN, false]);
    await second.stop("SIGKILL");
    await using third = await startServer(setup);
    expect([await statuses(third, "eve"), await isGuestOut(third)]).toEqual([IN, false]);
  });
});

const CLUSTERS = [
  ...(skipped
    ? []
    : [
        {
          name: "Redis",
          start: async () => {
            const redis = await Redis.start();
            // The last record is yet to be applied.
            const trim = () => redis.send("XTRIM", "p:log", "MAXLEN", "1");
            return { url: redis.url("p"), trim, [Symbol.asyncDispose]: () => redis[Symbol.asyncDispose]() };
          },
        },
      ]),
  ...(withoutPostgres
    ? []
    : [
        {
          name: "Postgres",
          start: async () => {
            const postgres = await Postgres.start();
            const trim = () => postgres.query("DELETE FROM p.log WHERE id < (SELECT max(id) FROM p.log)");
            return {
              url: postgres.url("p"),
              trim,
              [Symbol.asyncDispose]: () => postgres[Symbol.asyncDispose](),
            };
          },
        },
      ]),
];
describe.each(CLUSTERS)("with the store $name", ({ name, start }) => {
  test("a node that misses part of the log learns which bans were made and lifted meanwhile", async () => {
    await using database = await start();
    const setup = { store: { name, url: database.url }, secret: SECRET, preload: "fast-shared-log.ts" };
    await using one = await startServer(setup);
    await using other = await startServer(setup);
    expect(await disconnect(one, "eve")).toEqual([200, "until"]);
    await eventually(async () => (await statuses(other, "eve"))[0] === OUT[0], "out");
    other.process.kill("SIGSTOP");
    // The first record may already be in the frozen node's socket.
    await one.post("lobby", { from: "ann", text: "hi" });
    expect(await disconnect(one, "eve", 0)).toEqual([200, "until"]);
    expect(await disconnect(one, "bob")).toEqual([200, "until"]);
    await one.post("lobby", { from: "ann", text: "hi" });
    await database.trim();
    await one.post("lobby", { from: "ann", text: "hi" });
    other.process.kill("SIGCONT");
    await eventually(async () => (await statuses(other, "bob"))[0] === OUT[0], "the new ban is known");
    await eventually(async () => (await statuses(other, "eve"))[0] === IN[0], "the old ban is lifted");
  });
});

describe.each(COVERING_STORES)("with the store $name", (store) => {
  test("a flood is removed after its sender was banned, whichever node it came to", async () => {
    await using server = await startServer({ store, secret: SECRET });
    const COUNT = 10_000;
    const mod = server.other ?? server;
    const headers = { ...server.authorization("eve"), "Sec-WebSocket-Protocol": SUBPROTOCOL };
    await using eve = new Peer(`${server.origin.replace("http", "ws")}/ws/eve?session=s`, headers);
    await eve.opened;
    for (let seq = 1; seq <= COUNT; seq++) eve.says(JSON.stringify({ type: "message", text: "spam", seq }));
    while (!String(await eve.next()).includes('"ack"'));
    const moderator = server.authorization("mod", ["moderate", "read"]);
    const body = JSON.stringify({ forSeconds: 600 });
    const eveOnOther = `${mod.origin}/clients/eve/disconnect`;
    expect((await fetch(eveOnOther, { method: "POST", headers: moderator, body })).status).toBe(200);
    const spam = `${mod.origin}/rooms/lobby/messages?from=eve`;
    expect((await fetch(spam, { method: "DELETE", headers: moderator })).status).toBe(200);
    expect(await eve.closes()).toEqual(BANNED);
    // This message is stored after all that its node has accepted before.
    const url = `${server.origin}/rooms/lobby/messages`;
    const post = { method: "POST", headers: server.authorization("ann"), body: '{"from":"ann","text":"hi"}' };
    expect((await fetch(url, post)).status).toBe(201);
    await eventually(async () => {
      const page = await (await fetch(`${url}?limit=1000`, { headers: moderator })).text();
      return page.includes('"hi"') && !page.includes("spam");
    }, "all of it is gone");
  });
});

test.skipIf(withoutPostgres !== "")(
  `the database's clock neither ends a ban nor brings it back${withoutPostgres}`,
  async () => {
    await using postgres = await Postgres.start();
    const setup = {
      store: { name: "Postgres", url: postgres.url("p") },
      secret: SECRET,
      preload: "fast-shared-log.ts",
    };
    await (await startServer(setup)).stop();
    const HOUR_MS = 3_600_000;
    const setClock = (ms: number) =>
      postgres.query(`CREATE OR REPLACE FUNCTION p.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
        'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint + ${ms}'`);
    for (const [client, forSeconds, expected] of [
      ["eve", 600, OUT],
      ["eve", 0, IN],
    ] as const)
      for (const ms of [2 * HOUR_MS, -2 * HOUR_MS, HOUR_MS, 0]) {
        await setClock(ms);
        {
          await using server = await startServer(setup);
          if (ms === 2 * HOUR_MS)
            expect(await disconnect(server, client, forSeconds)).toEqual([200, "until"]);
          expect(await statuses(server, client)).toEqual(expected);
        }
      }
  },
);

test("a ban ends after its time", async () => {
  using clock = new TestClock();
  await using server = await startServer({ ...clock.setup, secret: SECRET });
  await using eve = await server.joinJson("eve");
  expect(await disconnect(server, "eve", 3)).toEqual([200, "until"]);
  expect(await eve.peer.closes()).toEqual(BANNED);
  expect(await statuses(server, "eve")).toEqual(OUT);
  clock.advance(3000);
  await eventually(async () => (await statuses(server, "eve"))[0] === IN[0], "it may return");
});

test("only a token with the right to moderate disconnects; without tokens nobody does", async () => {
  await using server = await startServer({ secret: SECRET });
  expect(await disconnect(server, "eve", 60, ["read", "write"])).toEqual([403, "not-moderator"]);
  for (const seconds of [-1, 1.5, "60", null, 1e12])
    expect(await disconnect(server, "eve", seconds)).toEqual([400, "bad-seconds"]);
  expect(await disconnect(server, "a%20b")).toEqual([400, "bad-name"]);
  await using open = await startServer();
  expect(await disconnect(open, "eve")).toEqual([403, "not-moderator"]);
});

test("it is logged and counted: who, by whom, where and for how long", async () => {
  const server = await startServer({ secret: SECRET, args: ["--log", "json"] });
  await disconnect(server, "eve", 7, ["moderate"], ["tea", "lob*"]);
  expect((await server.metrics()).get('hubbub_moderations_total{action="disconnect"}')).toBe(1);
  await server.stop("SIGTERM");
  const line = (await server.output).split("\n").find((each) => each.includes("client disconnected"));
  expect(JSON.parse(line ?? "")).toMatchObject({
    client: "eve",
    by: "mod",
    rooms: "lob* tea",
    forSeconds: 7,
  });
});
