/** What a token allows: its rights (`can`) and its rooms, on every wire and route. */

import { describe, expect, test } from "bun:test";
import { Keyring } from "../../src/auth/keyring.ts";
import { coversRoom, parseRoomPattern } from "../../src/auth/room-patterns.ts";
import type { Right } from "../../src/protocol/events.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { findViolations, skippedAxe } from "../support/axe.ts";
import { openPage, skipped } from "../support/browser.ts";
import { bearer, secretSource, tokenOf, SECRET, SECURED } from "../support/keys.ts";
import { JsonPeer } from "../support/peer.ts";
import { startServer } from "../support/server.ts";

const withSecret = () => startServer(SECURED);

const READ_ONLY = "You may read this room, but not write to it.";

describe("rights", () => {
  test("each route and wire asks for its right", async () => {
    await using server = await withSecret();
    const body = '{"text":"hi"}';
    /** Status of: joining, reading, members, posting, metrics through a proxy. */
    const statuses = async (...can: Right[]) => {
      const headers = bearer("ann", { can });
      const forwarded = { ...headers, "X-Forwarded-For": "192.0.2.1" };
      const answers = await Promise.all([
        server.get("/ws/ann?room=tea", { headers }),
        server.get("/rooms/tea/messages", { headers }),
        server.get("/rooms/tea/members", { headers }),
        server.get("/rooms/tea/messages", { method: "POST", body, headers }),
        server.get("/metrics", { headers: forwarded }),
      ]);
      return answers.map(({ status, headers }) => `${status} ${headers.get("hubbub-code") ?? ""}`.trim());
    };
    const NO_ROOM = "403 not-for-room";
    const NO_METRICS = "403 not-for-metrics";
    const JOINS = "426 not-websocket";
    expect(await statuses("read", "write")).toEqual([JOINS, "200", "200", "201", NO_METRICS]);
    expect(await statuses("read")).toEqual([JOINS, "200", "200", "403 read-only", NO_METRICS]);
    expect(await statuses("write")).toEqual([NO_ROOM, NO_ROOM, NO_ROOM, "201", NO_METRICS]);
    expect(await statuses("moderate")).toEqual([NO_ROOM, NO_ROOM, NO_ROOM, NO_ROOM, NO_METRICS]);
    expect(await statuses("metrics")).toEqual([NO_ROOM, NO_ROOM, NO_ROOM, NO_ROOM, "200"]);
    expect(await statuses("read", "metrics")).toEqual([JOINS, "200", "200", "403 read-only", "200"]);
  });

  test("rejections say what to do", async () => {
    await using server = await withSecret();
    const { body } = await server.answer("/ws/ann", { headers: bearer("ann", { can: ["write"] }) });
    expect(body).toBe("This token does not grant access to rooms. Use one made with --can read.\n");
    const post = { method: "POST", body: '{"text":"hi"}', headers: bearer("ann", { can: ["read"] }) };
    expect(JSON.parse((await server.answer("/rooms/tea/messages", post)).body)).toMatchObject({
      status: 403,
      code: "read-only",
      detail: READ_ONLY,
    });
  });

  test("a malformed can or rooms is 401, on every route", async () => {
    await using server = await withSecret();
    const claims = [{ can: "read" }, { can: ["fly"] }, { can: null }, { rooms: "tea" }, { rooms: ["a*b"] }];
    for (const claim of claims) {
      const signed = [{ alg: "HS256" }, { sub: "ann", ...claim }]
        .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
        .join(".");
      const token = `${signed}.${new Bun.CryptoHasher("sha256", SECRET).update(signed).digest("base64url")}`;
      for (const path of ["/ws/ann", "/websocket", "/rooms", "/rooms/tea/messages", "/rooms/tea/members"])
        expect((await server.get(`${path}?token=${token}`)).status).toBe(401);
    }
  });

  test("a reader on the JSON wire: its messages are rejected, it receives those of others", async () => {
    await using server = await withSecret();
    const headers = { "Sec-WebSocket-Protocol": SUBPROTOCOL, ...bearer("ann", { can: ["metrics", "read"] }) };
    await using ann = await JsonPeer.over(await server.open("/ws/ann?session=s", headers));
    await using bob = await server.open("/ws/bob", bearer("bob"));
    expect(ann.welcome.can).toEqual(["read", "metrics"]);
    for (const seq of [1, 2]) {
      ann.sends({ type: "message", text: "hi", seq });
      await ann.hears({ type: "error", code: "read-only", message: READ_ONLY, seq });
    }
    bob.says("hello");
    await ann.hears({ type: "message", from: "bob", text: "hello" });
    await bob.hears("You wrote: hello", "Client #bob says: hello");
  });

  test("a reader on the text wire: its messages are rejected, binary ones, too", async () => {
    await using server = await withSecret();
    await using ann = await server.open("/ws/ann", bearer("ann", { can: ["read"] }));
    await using bob = await server.open("/ws/bob", bearer("bob"));
    ann.says("hi");
    ann.says(new Uint8Array(3));
    await ann.hears("Not sent (read-only): hi", "Not sent (read-only): 3 bytes");
    bob.says("hello");
    await ann.hears("Client #bob says: hello");
    await bob.hears("You wrote: hello", "Client #bob says: hello");
  });

  test.skipIf(skipped !== "")(
    `a reader's page has no message field, not even for files${skipped}`,
    async () => {
      await using server = await withSecret();
      await using bob = await server.open("/ws/bob", bearer("bob"));
      using page = await openPage(server, `/client?token=${tokenOf("ann", { can: ["read"] })}`);
      await page.shows("[$('composer').checkVisibility(), $('read-only').textContent]", [
        false,
        "You can read here, but not write.",
      ]);
      await page.shows("$('empty').innerText", "No messages yet.");
      bob.says("hello");
      await page.shows(page.conversation, ["bob: hello"]);
      if (skippedAxe === "") expect(await findViolations(page)).toEqual([]);
      using writer = await openPage(server, `/client?token=${tokenOf("eve")}`);
      await writer.shows("[$('composer').checkVisibility(), $('read-only').checkVisibility()]", [
        true,
        false,
      ]);
    },
  );
});

describe("room patterns", () => {
  test("a trailing * stands for any rest of a name", () => {
    const covered = (pattern: string, ...rooms: string[]) =>
      rooms.filter((room) => coversRoom(new Set([parseRoomPattern(pattern) ?? ""]), room));
    const rooms = ["team", "team-", "team-a", "team-a.b", "Team-a", "steam-a", "lobby"];
    expect(covered("team-*", ...rooms)).toEqual(["team-", "team-a", "team-a.b"]);
    expect(covered("team", ...rooms)).toEqual(["team"]);
    expect(covered("*", ...rooms)).toEqual(rooms);
    // One character in the normal form, of which "e" is no part.
    expect(covered("cafe*", "cafe\u0301".normalize())).toEqual([]);
    const wrong = ["", "**", "a*b", "*a", "a b*", "te/*", `${"a".repeat(64)}*`, 7, null];
    expect(wrong.map(parseRoomPattern)).toEqual(wrong.map(() => undefined));
  });

  test("a token with a pattern is valid for the rooms that it covers, on every route", async () => {
    await using server = await startServer({ ...SECURED, args: ["--list-rooms"] });
    const headers = bearer("ann", { rooms: ["team-*", "tea"] });
    for (const room of ["team-a", "team-b", "tea", "coffee"])
      expect((await server.post(room, { text: "hi" }, bearer("bob"))).status).toBe(201);
    const statusOf = async (path: string, more = {}) => (await server.get(path, { headers, ...more })).status;
    const post = { method: "POST", body: '{"text":"hi"}' };
    for (const [room, expected] of [
      ["team-a", [426, 200, 200, 201]],
      ["tea", [426, 200, 200, 201]],
      ["coffee", [403, 403, 403, 403]],
    ] as const)
      expect([
        await statusOf(`/ws/ann?room=${room}`),
        await statusOf(`/rooms/${room}/messages`),
        await statusOf(`/rooms/${room}/members`),
        await statusOf(`/rooms/${room}/messages`, post),
      ]).toEqual([...expected]);
    const listed = async (query: string) => {
      const { rooms } = JSON.parse((await server.answer(`/rooms${query}`, { headers })).body);
      return rooms.map(({ room }: { room: string }) => room).sort();
    };
    expect(await listed("")).toEqual(["tea", "team-a", "team-b"]);
    expect(await listed("?room=coffee&room=team-b")).toEqual(["team-b"]);
  });

  test("`hubbub token` makes a token for reading the rooms of a pattern", async () => {
    const source = `${import.meta.dir}/../../src/server.ts`;
    const make = async (...args: string[]) => {
      const made = Bun.$`${process.execPath} ${source} token ann ${args}`.env({
        ...process.env,
        HUBBUB_SECRET: SECRET,
      });
      return new URL((await made.text()).trim()).searchParams;
    };
    const query = await make("--can", "read", "--room", "team-*");
    const keyring = new Keyring([secretSource(SECRET)]);
    expect<unknown>(keyring.verify(query.get("token") ?? "", Date.now())).toMatchObject({
      client: "ann",
      rooms: new Set(["team-*"]),
      can: new Set(["read"]),
    });
    // The link opens the first room that is named.
    expect(query.has("room")).toBe(false);
    expect((await make("--room", "team-*", "--room", "tea")).get("room")).toBe("tea");
  });
});
