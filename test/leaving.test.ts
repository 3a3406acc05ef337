/** "Client #ID left the chat": once, when the client's last connection is gone, however it went. */

import { describe, expect, test } from "bun:test";
import { Hub } from "../src/hub.ts";
import { Allowance } from "../src/limits.ts";
import { ConnectionManager, type Member } from "../src/manager.ts";
import { MemoryStore } from "../src/memory.ts";
import type { Wire } from "../src/protocol.ts";
import { startHubbub, STORES } from "./hubbub.ts";

describe.each(STORES)("with the store $name", (store) => {
  test("a client that closes is said to have left, to everyone else", async () => {
    await using hub = await startHubbub({ store });
    await using ann = await hub.join("ann");
    await using bob = await hub.join("bob");
    await using eve = await hub.join("eve");
    await ann.leaves();
    await bob.hears("Client #ann left the chat");
    await eve.hears("Client #ann left the chat");
    await bob.hearsNothing();
  });

  test("a connection that is dropped counts as closed", async () => {
    await using hub = await startHubbub({ store });
    await using ann = await hub.join("ann");
    await using bob = await hub.join("bob");
    ann.vanishes();
    await bob.hears("Client #ann left the chat");
  });

  test("so does a client whose process is killed", async () => {
    await using hub = await startHubbub({ store });
    await using bob = await hub.join("bob");
    const url = `ws://127.0.0.1:${hub.port}/ws/ann`;
    await using ann = Bun.spawn([
      process.execPath,
      "--eval",
      `const socket = new WebSocket(${JSON.stringify(url)}); socket.onopen = () => socket.send("hi")`,
    ]);
    await bob.hears("Client #ann says: hi");
    ann.kill("SIGKILL");
    await bob.hears("Client #ann left the chat");
  });

  test("two tabs with one id are one client: it leaves with the last one", async () => {
    await using hub = await startHubbub({ store });
    await using bob = await hub.join("bob");
    await using one = await hub.join("ann");
    await using two = await hub.join("ann");
    await using eve = await hub.join("eve");
    one.says("hi");
    await two.hears("Client #ann says: hi");
    await one.leaves();
    await eve.leaves(); // told after ann's, if that had been one
    await bob.hears("Client #ann says: hi", "Client #eve left the chat");
    await two.leaves();
    await bob.hears("Client #ann left the chat");
  });

  test("a client that is back before it was announced has not left, even in a room where others just did", async () => {
    await using hub = await startHubbub({ store });
    await using bob = await hub.join("bob");
    const others = await Promise.all(Array.from({ length: 20 }, (_, i) => hub.join(`other${i}`)));
    await using first = await hub.join("ann");
    for (const other of others) other.vanishes();
    await first.leaves();
    await using again = await hub.join("ann");
    for (const _ of others) expect(await bob.next()).toMatch(/^Client #other\d+ left the chat$/);
    again.says("still here");
    await bob.hears("Client #ann says: still here");
  });

  test("a crowd that goes at once is announced once each, to all who stay", async () => {
    await using hub = await startHubbub({ store });
    const stay = await Promise.all(["bob", "eve", "joe"].map((id) => hub.join(id)));
    const names = Array.from({ length: 500 }, (_, i) => `c${i}`);
    const crowd = await Promise.all(names.map((id) => hub.join(id)));
    for (const peer of crowd) peer.vanishes();
    const announced = names.map((id) => `Client #${id} left the chat`).toSorted();
    for (const peer of stay) {
      const heard = await Promise.all(names.map(() => peer.next()));
      expect(heard.map(String).toSorted()).toEqual(announced);
      await peer.hearsNothing();
    }
  });
});

describe("when thousands leave at once", () => {
  const CROWD = 3_000;

  /** A hub without a network, so that all of it happens at one moment. */
  function openHub() {
    const published: string[] = [];
    const options = { pingSeconds: 25, flushMs: 0, maxMessageBytes: 100 };
    const hub = new Hub(
      (follower) => new MemoryStore(10, follower.said),
      (topic, message) => published.push(`${topic} ${message}`),
      options,
    );
    const join = async (client: string, wire: Wire = "text") => {
      const wish = { client, room: "tea", wire, history: 0 };
      const visitor = await hub.reserve(wish, new Allowance({ perSecond: 0, burst: 0 }));
      if (visitor === "unavailable") throw new Error("the room did not open");
      hub.enter(visitor, {
        data: {},
        close() {},
        ping: () => 1,
        cork: (sends) => sends(),
        send: () => 1,
        subscribe() {},
        unsubscribe() {},
        getBufferedAmount: () => 0,
      });
      return visitor;
    };
    return { hub, join, published };
  }

  test("the pending announcements are the senders' first, and of the others no more than 1,000", () => {
    const manager = new ConnectionManager<Member>("tea", () => 1);
    const clients = [...Array.from({ length: CROWD }, (_, i) => `c${i}`), "ann"];
    const connections = clients.map((client): Member => ({
      client,
      wire: "text",
      section: 0,
      send: () => 1,
    }));
    for (const each of connections) manager.connect(each);
    manager.hasSent("ann");
    for (const each of connections) manager.disconnect(each, 1);
    expect([...manager.takeGone(300, 0)]).toEqual([]);
    expect([...manager.takeGone(300, 1)]).toEqual(["ann", ...clients.slice(0, 299)]);
    expect([...manager.takeGone(Infinity, 1)]).toEqual(clients.slice(299, 1_000));
    for (const each of connections) manager.connect(each);
    for (const each of connections.slice(2_000)) manager.disconnect(each, 2);
    // It has sent nothing since it joined again.
    expect([...manager.takeGone(Infinity, 2)]).toEqual(clients.slice(2_000, 3_000));
  });

  test("on the text wire, senders are announced, and of the others no more than 1,000", async () => {
    const { hub, join, published } = openHub();
    await join("bob");
    const senders = await Promise.all(["ann", "eve"].map((client) => join(client)));
    for (const sender of senders) hub.hear(sender, "hi");
    const crowd = await Promise.all(Array.from({ length: CROWD }, (_, i) => join(`c${i}`)));
    const before = published.length;
    for (const each of [...crowd, ...senders]) hub.leave(each);
    const pending = [...senders, ...crowd.slice(0, 1_000)];
    const announced = pending.map(({ client }) => `text:0:tea Client #${client} left the chat`);
    while (published.length < before + announced.length) await Bun.sleep(5);
    expect(published.slice(before).toSorted()).toEqual(announced.toSorted());
    const last = await join("last");
    hub.leave(last);
    while (published.length <= before + announced.length) await Bun.sleep(5);
    expect(published.at(-1)).toBe("text:0:tea Client #last left the chat");
    expect(await hub.presenceOf("tea")).toEqual({ count: 1, members: ["bob"] });
  });

  test("on the JSON wire, senders are named first, and everyone is named", async () => {
    const { hub, join, published } = openHub();
    await join("bob", "json");
    const ann = await join("ann");
    hub.hear(ann, "hi");
    const crowd = await Promise.all(Array.from({ length: 240 }, (_, i) => join(`c${i}`)));
    const named = (way: "joined" | "left"): string[] =>
      published
        .filter((each) => each.includes('"presence"'))
        .flatMap((each) => JSON.parse(each.slice(each.indexOf("{")))[way]);
    while (named("joined").length < 242) await Bun.sleep(5);
    for (const each of [...crowd, ann]) hub.leave(each);
    while (named("left").length < 241) await Bun.sleep(5);
    expect(named("left")).toEqual([ann, ...crowd].map(({ client }) => client));
  });
});
