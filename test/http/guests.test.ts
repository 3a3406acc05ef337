/** Guests: clients without a token, in the rooms that `--allow-guests` names. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { parseCommand } from "../../src/cli/parse-command.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { joinPage, openPage, skipped } from "../support/browser.ts";
import { bearer, tokenOf, SECRET, SECURED } from "../support/keys.ts";
import { JsonPeer } from "../support/peer.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const withGuests = (...args: string[]) =>
  startServer({
    ...SECURED,
    args: ["--allow-guests", "lobby", "--allow-guests", "open-*", ...args],
  });

const NONE = "A token is required. Ask this server's operator for one.";
const READ_ONLY = "You may read this room, but not write to it.";

describe("guests", () => {
  test("join the allowed rooms under an id that no token can have, on both wires", async () => {
    await using server = await withGuests();
    await using ann = await server.open(`/ws/ann?token=${tokenOf("ann")}`);
    await using guest = await server.open("/ws/ann");
    guest.says("hi");
    await guest.hears("You wrote: hi", "Client #~ann says: hi");
    await ann.hears("Client #~ann says: hi");
    await using other = await JsonPeer.over(
      await server.open("/ws/ann", { "Sec-WebSocket-Protocol": SUBPROTOCOL }),
    );
    expect(other.welcome).toMatchObject({
      client: "~ann",
      can: ["read", "write"],
      count: 2,
      connections: 2,
      members: ["ann", "~ann"],
    });
    ann.says("hello");
    await ann.hears("You wrote: hello", "Client #ann says: hello");
    await guest.hears("Client #ann says: hello");
    await other.peer.leaves();
    await guest.leaves();
    await ann.hears("Client #~ann left the chat");
  });

  test("resume, and send each message once", async () => {
    await using server = await withGuests();
    const connectGuest = async (query: string) =>
      JsonPeer.over(
        await server.open(`/ws/ann?session=s${query}`, { "Sec-WebSocket-Protocol": SUBPROTOCOL }),
      );
    const first = await connectGuest("");
    first.says("one", { seq: 1 });
    await first.hears({ type: "ack", seq: 1 }, { type: "message", from: "~ann", text: "one" });
    await first.leaves();
    await using second = await connectGuest(`&after=${first.after}`);
    expect(second.welcome).toMatchObject({ sent: 1, recovered: true });
    second.says("one", { seq: 1 });
    await second.hears({ type: "ack", seq: 1 });
    await second.hearsNothingBeforePong();
  });

  test("are allowed in no other room, and nowhere else: there, a token is required", async () => {
    await using server = await withGuests("--list-rooms");
    const statusOf = async (path: string, init = {}) => {
      const { status, headers } = await server.get(path, init);
      return `${status} ${headers.get("hubbub-code") ?? ""}`.trim();
    };
    const post = { method: "POST", body: '{"text":"hi","from":"ann"}' };
    for (const [room, expected] of [
      ["lobby", ["426 not-websocket", "200", "200", "200", "201"]],
      ["open-a", ["426 not-websocket", "200", "200", "200", "201"]],
      ["open", Array(5).fill("401 no-token")],
      ["team", Array(5).fill("401 no-token")],
    ] as const)
      expect([
        await statusOf(`/ws/ann?room=${room}`),
        await statusOf(`/rooms/${room}/messages`),
        await statusOf(`/rooms/${room}/members`),
        await statusOf(`/rooms/${room}/events`, { method: "HEAD" }),
        await statusOf(`/rooms/${room}/messages`, post),
      ]).toEqual([...expected]);
    expect(await statusOf("/websocket")).toBe("401 no-token");
    expect(await statusOf("/metrics", { headers: { "X-Forwarded-For": "192.0.2.1" } })).toBe("401 no-token");
    expect(await server.answer("/ws/ann?room=team")).toEqual({ status: 401, body: `${NONE}\n` });
    // Rooms are listed as far as a guest may read them.
    const headers = bearer("bob");
    expect(await statusOf("/rooms/team/messages", { ...post, headers, body: '{"text":"hi"}' })).toBe("201");
    const listed = async (query: string) =>
      JSON.parse((await server.answer(`/rooms${query}`)).body)
        .rooms.map(({ room }: { room: string }) => room)
        .sort();
    expect(await listed("")).toEqual(["lobby", "open-a"]);
    expect(await listed("?room=team&room=lobby")).toEqual(["lobby"]);
  });

  test("post under their prefixed id, also as plain text", async () => {
    await using server = await withGuests();
    await server.post("lobby", { text: "json", from: "ann" });
    const headers = { "Content-Type": "text/plain" };
    await server.get("/rooms/lobby/messages?from=ann", { method: "POST", body: "plain", headers });
    const { messages } = JSON.parse((await server.answer("/rooms/lobby/messages")).body);
    expect(messages).toMatchObject([
      { from: "~ann", text: "json" },
      { from: "~ann", text: "plain" },
    ]);
  });

  test("nobody can ask for a guest's id", async () => {
    await using server = await withGuests();
    for (const path of ["/ws/~ann", "/ws/%7Eann", "/websocket/~ann", `/ws/~ann?token=${tokenOf("~ann")}`])
      expect((await server.get(path)).headers.get("hubbub-code")).toBe("bad-name");
    expect((await server.post("lobby", { text: "hi", from: "~ann" })).status).toBe(400);
    expect((await server.post("lobby", { text: "hi" }, bearer("~ann"))).status).toBe(401);
    expect(parseCommand(["token", "~ann"], { HUBBUB_SECRET: SECRET })).toMatchObject({ kind: "invalid" });
    // Nor without tokens, where everyone has the id that they claim.
    await using open = await startServer();
    expect((await open.get("/ws/~ann")).status).toBe(400);
  });

  test("an invalid, expired or empty token is 401, never a guest", async () => {
    await using server = await withGuests();
    const forms: [string, Record<string, string>][] = [
      ["?token=nonsense", {}],
      ["?token=", {}],
      [`?token=${tokenOf("ann", { seconds: -60 })}`, {}],
      ["", { Authorization: "Bearer nonsense" }],
      ["", { Authorization: "Bearer" }],
      ["", { Authorization: "Bearer a b" }],
      ["", bearer("ann", { seconds: -60 })],
      ["", { "Sec-WebSocket-Protocol": `${SUBPROTOCOL}, token.` }],
      ["", { "Sec-WebSocket-Protocol": `${SUBPROTOCOL}, token.nonsense` }],
    ];
    for (const [query, headers] of forms)
      for (const path of ["/ws/ann", "/rooms/lobby/messages", "/rooms/lobby/events", "/rooms"])
        expect([path, query, headers, (await server.get(path + query, { headers })).status]).toEqual([
          path,
          query,
          headers,
          401,
        ]);
    // A valid token for another room does not make its client a guest here, either.
    const elsewhere = await server.get(`/ws/ann?token=${tokenOf("ann", { rooms: ["tea"] })}`);
    expect(elsewhere.headers.get("hubbub-code")).toBe("not-for-room");
  });

  test("may only read with --guests read", async () => {
    await using server = await withGuests("--guests", "read");
    await using guest = await JsonPeer.over(
      await server.open("/ws/ann", { "Sec-WebSocket-Protocol": SUBPROTOCOL }),
    );
    expect(guest.welcome).toMatchObject({ client: "~ann", can: ["read"] });
    guest.says("hi", { seq: 1 });
    await guest.hears({ type: "error", code: "read-only", message: READ_ONLY, seq: 1 });
    expect((await server.post("lobby", { text: "hi", from: "ann" })).headers.get("hubbub-code")).toBe(
      "read-only",
    );
  });

  test("without --allow-guests there are none", async () => {
    await using server = await startServer(SECURED);
    for (const path of ["/ws/ann", "/rooms", "/rooms?room=lobby", "/rooms/lobby/messages"])
      expect((await server.get(path)).status).toBe(401);
  });
});

test("options that have no effect are rejected", () => {
  const errorsOf = (argv: string[], env = {}) => {
    const command = parseCommand(argv, env);
    return "errors" in command ? command.errors : [];
  };
  expect(errorsOf(["--allow-guests", "lobby"])).toEqual([
    "--allow-guests: expected with --secret-file or --public-key-file, as without them everyone may join",
  ]);
  expect(errorsOf(["--guests", "read"], { HUBBUB_SECRET: SECRET })).toEqual([
    "--guests: expected with --allow-guests, which names the rooms",
  ]);
  expect(errorsOf(["--allow-guests", "a*b", "--guests", "all"], { HUBBUB_SECRET: SECRET })).toEqual([
    '--allow-guests: expected a room name, or a pattern such as open-*, got "a*b"',
    '--guests: expected read or write, got "all"',
  ]);
});

describe.skipIf(skipped !== "")(`on the page${skipped}`, () => {
  test("a guest is shown as one, to itself and to others, and can change its name", async () => {
    await using server = await withGuests();
    using ann = await joinPage(server, `/client?token=${tokenOf("ann")}`);
    using guest = await openPage(server, "/client?id=ann");
    await guest.shows("[$('ws-id').textContent, $('me').disabled]", ["ann (guest)", false]);
    await guest.says("hi");
    await guest.shows(`[${guest.pending}, ${guest.conversation}]`, [0, ["me: hi"]]);
    await ann.shows(ann.conversation, ["ann (guest) joined", "ann (guest): hi"]);
    const NAMES =
      "[...document.querySelectorAll('aside .people .name')].map(({ textContent }) => textContent)";
    await ann.shows(NAMES, ["ann", "ann (guest)"]);
    await guest.shows(NAMES, ["ann (guest)", "ann"]);
    // A mention is of the name, without the prefix.
    await ann.says("@ann look");
    await guest.shows("document.querySelectorAll('.mentions-me').length", 1);
    await guest.reload();
    await guest.shows(`[$('ws-id').textContent, ${guest.conversation}.length]`, ["ann (guest)", 2]);
  });

  test("a guest who may only read has no message field", async () => {
    await using server = await withGuests("--guests", "read");
    using guest = await openPage(server, "/client?id=ann");
    await guest.shows("[$('ws-id').textContent, $('composer').checkVisibility()]", ["ann (guest)", false]);
  });

  test("in other rooms, the page asks for a token", async () => {
    await using server = await withGuests();
    using page = await openPage(server, "/client?id=ann&room=team");
    await page.shows(page.line, NONE);
  });
});
