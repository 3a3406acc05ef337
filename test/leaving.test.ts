/** "Client #ID left the chat": once, when the client's last connection is gone, however it went. */

import { describe, expect, test } from "bun:test";
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
