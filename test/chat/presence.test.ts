/** "Client #ID left the chat": once, when the client's last connection is gone, however it went. */

import { describe, expect, test } from "bun:test";
import { TestClock } from "../support/clock.ts";
import { startHub } from "../support/hub.ts";
import { startServer, STORES } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

describe.each(STORES)("with the store $name", (store) => {
  const server = sharedServer({ store });

  test("the leave of a client that closes is announced to everyone else", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    await using eve = await server().join("eve", { room });
    await ann.leaves();
    await bob.hears("Client #ann left the chat");
    await eve.hears("Client #ann left the chat");
    await bob.hearsNothing();
  });

  test("so is that of one whose connection drops", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    ann.vanishes();
    await bob.hears("Client #ann left the chat");
  });

  test("so is that of one whose process is killed", async () => {
    await using server = await startServer({ store });
    await using bob = await server.join("bob");
    const url = `ws://127.0.0.1:${server.port}/ws/ann`;
    await using ann = Bun.spawn([
      process.execPath,
      "--eval",
      `const socket = new WebSocket(${JSON.stringify(url)}); socket.onopen = () => socket.send("hi")`,
    ]);
    await bob.hears("Client #ann says: hi");
    ann.kill("SIGKILL");
    await bob.hears("Client #ann left the chat");
  });

  test("two tabs with one id are one client, which leaves with the last tab", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    await using one = await server().join("ann", { room });
    await using two = await server().join("ann", { room });
    await using eve = await server().join("eve", { room });
    one.says("hi");
    await two.hears("Client #ann says: hi");
    await one.leaves();
    await eve.leaves(); // its announcement would follow one for ann
    await bob.hears("Client #ann says: hi", "Client #eve left the chat");
    await two.leaves();
    await bob.hears("Client #ann left the chat");
  });

  // Time stands still until the client is back. The other stores preload a module of their own, or publish joins later.
  if (!store.preload && !store.nodes)
    test("a client that reconnects in time has not left, even while other leaves are announced", async () => {
      using clock = new TestClock();
      await using server = await startServer({ store, ...clock.setup });
      await using bob = await server.join("bob");
      const others = await Promise.all(Array.from({ length: 20 }, (_, i) => server.join(`other${i}`)));
      await using first = await server.join("ann");
      for (const other of others) other.vanishes();
      await first.leaves();
      await using again = await server.join("ann");
      const passing = setInterval(() => clock.advance(100), 20);
      try {
        for (const _ of others) expect(await bob.next()).toMatch(/^Client #other\d+ left the chat$/);
        again.says("still here");
        await bob.hears("Client #ann says: still here");
      } finally {
        clearInterval(passing);
      }
    });

  test("when many leave at once, each leave is announced once, to everyone who stays", async () => {
    const room = newRoom();
    const stay = await Promise.all(["bob", "eve", "joe"].map((id) => server().join(id, { room })));
    const names = Array.from({ length: 500 }, (_, i) => `c${i}`);
    const crowd = await Promise.all(names.map((id) => server().join(id, { room })));
    for (const peer of crowd) peer.vanishes();
    const announced = names.map((id) => `Client #${id} left the chat`).toSorted();
    for (const peer of stay) {
      const received = await Promise.all(names.map(() => peer.next()));
      expect(received.map(String).toSorted()).toEqual(announced);
      await peer.hearsNothing();
    }
  });
});

describe("when thousands leave at once", () => {
  test("the JSON wire names everyone, senders first", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    const ann = await join("ann");
    ann.says("hi");
    const ids = Array.from({ length: 240 }, (_, i) => `c${i}`);
    const crowd = await Promise.all(ids.map((id) => join(id)));
    const joined: string[] = [];
    const left: string[] = [];
    const listen = async (isHeard: () => boolean) => {
      while (!isHeard()) {
        await Bun.sleep(5);
        for (const event of bob.socket.takesPresence()) {
          joined.push(...event.joined);
          left.push(...event.left);
        }
      }
    };
    await listen(() => joined.length === 242);
    for (const each of [...crowd, ann]) each.leaves();
    await listen(() => left.length === 241);
    expect(left).toEqual(["ann", ...ids]);
  });
});
