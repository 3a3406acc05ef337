/** Rooms on both wires, with each store: who receives which messages, and what a new client is sent. */

import { describe, expect, test } from "bun:test";
import { startServer, STORES } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";
import { UPGRADE } from "../support/raw-websocket.ts";

describe.each(STORES)("with the store $name", (store) => {
  const server = sharedServer({ store });

  test("a message stays in its room", async () => {
    const [tea, coffee] = [newRoom(), newRoom()];
    await using ann = await server().joinJson("ann", { room: tea });
    await using bob = await server().join("bob", { room: tea });
    await using eve = await server().joinJson("eve", { room: coffee });
    await using joe = await server().join("joe");
    ann.says("hi");
    await ann.hears({ type: "message", from: "ann", text: "hi" });
    await bob.hears("Client #ann says: hi");
    await eve.hearsNothing();
    await joe.hearsNothing();
  });

  test("the default room is the lobby; names are normalized to one spelling", async () => {
    await using server = await startServer({ store });
    await using ann = await server.join("ann");
    await using bob = await server.joinJson("bob", { room: "lobby" });
    await using eve = await server.join("eve", { room: "cafe\u0301" });
    await using joe = await server.joinJson("joe", { room: "caf\u00e9" });
    ann.says("hi");
    await bob.hears({ type: "message", from: "ann", text: "hi" });
    eve.says("ho");
    await joe.hears({ type: "message", from: "eve", text: "ho" });
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    await ann.hearsNothing();
  });

  test("both wires share a room, in one order", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().joinJson("bob", { room, session: room });
    ann.says("one");
    await bob.hears({ type: "message", from: "ann", text: "one" });
    bob.says("two", { seq: 1 });
    await bob.hears({ type: "ack", seq: 1 }, { type: "message", from: "bob", text: "two" });
    await ann.hears("You wrote: one", "Client #ann says: one", "Client #bob says: two");
  });

  test("a binary message is `data` on the JSON wire, in both directions", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().joinJson("bob", { room });
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    ann.says(bytes);
    await bob.hears({ type: "message", from: "ann", data: bytes.toBase64() });
    bob.sends(bytes);
    await bob.hears({ type: "message", from: "bob", data: bytes.toBase64() });
    ann.says(new Uint8Array());
    await bob.hears({ type: "message", from: "ann", data: "" });
    await ann.hears(bytes, bytes, new Uint8Array());
    await using eve = await server().join("eve", { room, history: 2 });
    await eve.hears(bytes, new Uint8Array());
  });

  test("a welcome describes the room and its members", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().joinJson("bob", { room });
    await using twin = await server().joinJson("bob", { room, session: room });
    const { last, ...welcome } = twin.welcome;
    expect(last).toMatch(/^\d{13}-\d+$/);
    expect(last).toBe(bob.welcome.last);
    expect(welcome).toEqual({
      type: "welcome",
      client: "bob",
      room,
      sent: null,
      count: 2,
      members: ["ann", "bob"],
      connections: 2,
      can: ["read", "write"],
      pingSeconds: 25,
      maxMessageBytes: 65_536,
    });
    ann.says("hi");
    await twin.hears({ type: "message", from: "ann", text: "hi" });
  });

  test("a new client receives the history: all of it on the JSON wire, what it asks for on the text wire", async () => {
    await using server = await startServer({ store, args: ["--history", "3"] });
    await using ann = await server.join("ann");
    for (const text of ["1", "2", "3", "4", "5"]) ann.says(text);
    for (const text of ["1", "2", "3", "4", "5"])
      await ann.hears(`You wrote: ${text}`, `Client #ann says: ${text}`);

    await using bob = await server.joinJson("bob");
    await bob.hears(...["3", "4", "5"].map((text) => ({ type: "message", from: "ann", text })));
    await using two = await server.joinJson("two", { history: 2 });
    await two.hears(...["4", "5"].map((text) => ({ type: "message", from: "ann", text })));
    await using none = await server.joinJson("none", { history: 0 });
    await using eve = await server.join("eve", { history: 1000 });
    const older = store.keepsEverything ? ["Client #ann says: 1", "Client #ann says: 2"] : [];
    await eve.hears(...older, "Client #ann says: 3", "Client #ann says: 4", "Client #ann says: 5");
    await using joe = await server.join("joe");
    ann.says("6");
    for (const peer of [eve, joe]) await peer.hears("Client #ann says: 6");
    for (const peer of [bob, two, none]) await peer.hears({ type: "message", from: "ann", text: "6" });
  });

  test("presence events are combined, and the count is exact", async () => {
    const room = newRoom();
    await using ann = await server().joinJson("ann", { room });
    await ann.hearsPresence({ joined: ["ann"], left: [], count: 1 });
    const crowd = await Promise.all(Array.from({ length: 250 }, (_, i) => server().join(`c${i}`, { room })));
    let joined: unknown[] = [];
    const event = async () => {
      const received = JSON.parse(String(await ann.peer.next()));
      expect(received.type).toBe("presence");
      expect(received.joined.length + received.left.length).toBeLessThanOrEqual(100);
      return received;
    };
    let last;
    while (joined.length < 250) joined = joined.concat((last = await event()).joined);
    expect(new Set(joined)).toEqual(new Set(crowd.map((_, i) => `c${i}`)));
    expect(last.count).toBe(251);
    for (const peer of crowd) peer.vanishes();
    let left: unknown[] = [];
    while (left.length < 250) left = left.concat((last = await event()).left);
    expect(new Set(left)).toEqual(new Set(joined));
    expect(last.count).toBe(1);
  });

  test("presence events add up to who is in the room, however soon a client leaves or returns", async () => {
    const room = newRoom();
    await using ann = await server().joinJson("ann", { room });
    const members = new Set<unknown>();
    /** By the events so far. */
    const sees = async (...expected: string[]) => {
      let count: unknown;
      while (members.symmetricDifference(new Set(expected)).size > 0) {
        const { joined, left, ...event } = await ann.nextPresence(() => `expected ${expected}`);
        if (!Array.isArray(joined) || !Array.isArray(left)) throw new Error("expected lists of clients");
        for (const client of joined) members.add(client);
        for (const client of left) members.delete(client);
        ({ count } = event);
      }
      expect(count).toBe(expected.length);
    };
    await sees("ann");
    await using bob = await server().join("bob", { room });
    await using eve = await server().join("eve", { room });
    await eve.leaves();
    await sees("ann", "bob");
    await using brief = await server().join("brief", { room });
    await brief.leaves();
    await bob.leaves();
    await using again = await server().join("bob", { room });
    await using joe = await server().join("joe", { room });
    await sees("ann", "bob", "joe");
    await joe.leaves();
    await sees("ann", "bob");
    await again.leaves();
    await sees("ann");
  });

  test("an invalid room, session or history is rejected before the upgrade", async () => {
    const json = { "Sec-WebSocket-Protocol": "hubbub.v1" };
    for (const [query, sentence] of [
      ["room=", 'A room is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n'],
      ["room=a%20b", 'A room is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n'],
      ["session=a/b", 'A session is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\n'],
      ["history=many", "history must be a whole number: how many of the latest messages to replay.\n"],
    ])
      expect(await server().answer(`/ws/ann?${query}`, { headers: json })).toEqual({
        status: 400,
        body: sentence ?? "",
      });
    expect(await server().answer("/ws/ann?room=tea&session=s", { headers: json })).toHaveProperty(
      "status",
      426,
    );
  });

  test("the response names the chosen subprotocol, whatever else is offered", async () => {
    const offer = async (protocols: string) => {
      const headers = { ...UPGRADE, "Sec-WebSocket-Protocol": protocols };
      const response = await server().get("/ws/ann", { headers });
      return [response.status, response.headers.get("sec-websocket-protocol")];
    };
    expect(await offer("token.secret, hubbub.v1")).toEqual([101, "hubbub.v1"]);
    expect(await offer("hubbub.v1,chat")).toEqual([101, "hubbub.v1"]);
    expect(await offer("hubbub.v2")).toEqual([101, null]);
  });
});
