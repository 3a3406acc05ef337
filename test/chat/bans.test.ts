/** Moderators disconnect a client from their rooms on every node, and keep it out for a time. */

import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Right } from "../../src/protocol/events.ts";
import { TestClock } from "../support/clock.ts";
import { eventually } from "../support/deadline.ts";
import { subscribe } from "../support/event-stream.ts";
import { sharedRedis, skipped } from "../support/redis.ts";
import { startServer, STORES, type TestServer } from "../support/server.ts";

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
) {
  const headers = server.authorization("mod", can, rooms);
  const body = JSON.stringify({ forSeconds });
  const response = await server.get(`/clients/${client}/disconnect`, { method: "POST", headers, body });
  const { until, code } = JSON.parse(await response.text());
  return [response.status, typeof until === "number" ? "until" : code];
}

/** Status and code of joining, reading, subscribing and posting. */
async function statuses(server: TestServer, client: string, room = "lobby", guest = false) {
  const headers = guest ? {} : server.authorization(client);
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
const OUT = Array(4).fill("403 banned");
const IN = ["426 not-websocket", "200", "200", "201"];

describe.each(STORES)("with the store $name", (store) => {
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
});

const PERSISTENT = [
  ["SQLite", async () => "sqlite:chat.db"],
  ...(skipped ? [] : [["Redis", async () => (await sharedRedis()).url("bans")] as const]),
] as const;
describe.each(PERSISTENT)("with the store %s", (name, url) => {
  test("a ban survives a restart", async () => {
    const setup = { store: { name, url: await url() }, secret: SECRET, cwd: folder };
    const first = await startServer(setup);
    expect(await disconnect(first, "eve")).toEqual([200, "until"]);
    await first.stop("SIGKILL");
    await using second = await startServer(setup);
    expect(await statuses(second, "eve")).toEqual(OUT);
    expect(await disconnect(second, "eve", 0)).toEqual([200, "until"]);
    expect(await statuses(second, "eve")).toEqual(IN);
  });
});

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

test("a guest's address is banned too, for guests", async () => {
  await using server = await startServer({ secret: SECRET, args: ["--allow-guests", "*"] });
  await using guest = await server.open("/ws/eve");
  expect(await disconnect(server, "~eve")).toEqual([200, "until"]);
  expect(await guest.closes()).toEqual(BANNED);
  await eventually(async () => (await statuses(server, "other", "lobby", true))[0] === OUT[0], "out");
  expect(await statuses(server, "eve", "lobby", true)).toEqual(OUT);
  expect(await statuses(server, "other", "lobby", true)).toEqual(OUT);
  expect(await statuses(server, "eve")).toEqual(IN); // with a token it is another client
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
    rooms: "tea lob*",
    forSeconds: 7,
  });
});
