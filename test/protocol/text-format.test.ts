/** The text wire: the tutorial's echo and chat, to the letter. */

import { describe, expect, test } from "bun:test";
import type { Peer } from "../support/peer.ts";
import { startServer, STORES } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

const EVERY_KIND: Record<string, string> = {
  "a word": "hi",
  "nothing at all": "",
  "64 KiB": "x".repeat(65_536),
  "64 KiB in three-byte characters": "語".repeat(21_845) + "!",
  "a byte order mark, and nothing else": "\ufeff",
  "many scripts": "Grüße, 你好, שלום, नमस्ते, 👩‍👩‍👧‍👦, e\u0301",
  "control characters": "\0\x01\x1b[31m\r\n\t\x7f\u0085\u2028\ufeff",
  JSON: '{"type":"message","text":"hi","seq":1}',
  "lines of the wire itself": "Client #9 says: You wrote: Client #9 left the chat",
  "a percent and a dollar": "100% $& $1 \\ `",
};

describe("the echo", () => {
  const server = sharedServer();

  for (const [kind, text] of Object.entries(EVERY_KIND))
    test(`repeats ${kind}`, async () => {
      await using ann = await server().open("/websocket");
      ann.says(text);
      await ann.hears(`Message text was: ${text}`);
    });

  test("returns a binary message unchanged", async () => {
    await using ann = await server().open("/websocket");
    ann.says(new Uint8Array([0, 255, 128, 10]));
    ann.says(new Uint8Array());
    await ann.hears(new Uint8Array([0, 255, 128, 10]), new Uint8Array());
  });

  test("is sent to no other client", async () => {
    const room = newRoom();
    await using ann = await server().open("/websocket");
    await using bob = await server().open("/websocket");
    await using eve = await server().join("eve", { room });
    ann.says("hi");
    await ann.hears("Message text was: hi");
    await ann.leaves();
    await bob.hearsNothing();
    await eve.hearsNothing();
  });
});

describe.each(STORES)("the chat, with the store $name", (store) => {
  const server = sharedServer({ store });

  for (const [kind, text] of Object.entries(EVERY_KIND))
    test(`carries ${kind}`, async () => {
      const room = newRoom();
      await using ann = await server().join("ann", { room });
      await using bob = await server().join("bob", { room });
      ann.says(text);
      await ann.hears(`You wrote: ${text}`, `Client #ann says: ${text}`);
      await bob.hears(`Client #ann says: ${text}`);
    });

  test("joining is silent", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    await ann.hearsNothing();
    await bob.hearsNothing();
  });

  test("a binary message reaches everyone including its sender, without a personal line", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    const every = Uint8Array.from({ length: 256 }, (_, i) => i);
    ann.says(every);
    ann.says(new Uint8Array());
    await ann.hears(every, new Uint8Array());
    await bob.hears(every, new Uint8Array());
    await ann.hearsNothing();
  });

  test("everyone receives one order", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    await using eve = await server().join("eve", { room });
    for (let i = 0; i < 200; i++) (i % 2 ? ann : bob).says(`${i}`);
    const heard = Array.from({ length: 200 }, () => eve.next());
    const order = await Promise.all(heard);
    expect(order.toSorted()).toEqual(
      Array.from({ length: 200 }, (_, i) => `Client #${i % 2 ? "ann" : "bob"} says: ${i}`).toSorted(),
    );
    const others = async (peer: typeof ann) => {
      const all = [];
      while (all.length < 200) {
        const message = await peer.next();
        if (!String(message).startsWith("You wrote: ")) all.push(message);
      }
      return all;
    };
    expect(await others(ann)).toEqual(order);
    expect(await others(bob)).toEqual(order);
  });

  test.each(["0", "10"])(
    "a sender that pipelines receives the tutorial's order, line by line (--flush-ms %s)",
    async (flushMs) => {
      await using server = await startServer({ store, args: ["--flush-ms", flushMs] });
      await using ann = await server.join("ann");
      await using bob = await server.join("bob");
      const texts = Array.from({ length: 30 }, (_, i) => `${i}`);
      for (const text of texts) ann.says(text);
      for (const text of texts) await ann.hears(`You wrote: ${text}`, `Client #ann says: ${text}`);
      for (const text of texts) await bob.hears(`Client #ann says: ${text}`);
      ann.says(new Uint8Array([1]));
      ann.says("the end");
      await ann.hears(new Uint8Array([1]), "You wrote: the end", "Client #ann says: the end");
    },
  );

  test("a rejection arrives in its place, after the messages stored before it", async () => {
    await using server = await startServer({
      store,
      args: ["--flush-ms", "10", "--message-rate", "1", "--message-burst", "5"],
    });
    await using ann = await server.join("ann");
    await hearsAllOf(ann, 30, "rate-limited");
  });

  test("/websocket/:id is the same room as /ws/:id", async () => {
    const room = newRoom();
    await using ann = await server().open(`/websocket/ann?room=${room}`);
    await using bob = await server().open(`/ws/bob?room=${room}`);
    ann.says("hi");
    await bob.hears("Client #ann says: hi");
    bob.says("ho");
    await ann.hears("You wrote: hi", "Client #ann says: hi", "Client #bob says: ho");
  });

  test("an id may be in any script, and its Unicode spellings are one client", async () => {
    const room = newRoom();
    await using ann = await server().join("Ame\u0301lie", { room });
    await using twin = await server().join("Am\u00e9lie", { room });
    await using bob = await server().join("हिन्दी", { room });
    ann.says("hi");
    await bob.hears("Client #Am\u00e9lie says: hi");
    await twin.hears("Client #Am\u00e9lie says: hi");
    bob.says("ho");
    await twin.hears("Client #हिन्दी says: ho");
    await ann.leaves();
    await twin.leaves();
    await bob.hears("You wrote: ho", "Client #हिन्दी says: ho", "Client #Am\u00e9lie left the chat");
    await bob.hearsNothing();
  });

  test("an id is only a name, whatever it spells", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    for (const id of ["__proto__", "constructor", "0", "...", "-"]) {
      await using odd = await server().join(id, { room });
      odd.says("hi");
      await bob.hears(`Client #${id} says: hi`);
      await odd.leaves();
      await bob.hears(`Client #${id} left the chat`);
    }
  });

  test("a message over 64 KiB closes its connection; the others only receive the leave", async () => {
    const room = newRoom();
    await using ann = await server().join("ann", { room });
    await using bob = await server().join("bob", { room });
    ann.says("x".repeat(65_537));
    expect((await ann.closes()).code).toBe(1009);
    await bob.hears("Client #ann left the chat");
  });
});

test("a rejection by the store arrives in its place, too", async () => {
  await using server = await startServer({
    store: {
      name: "a store that rejects",
      url: "delayed:?delay=5&reject=0.3&seed=3",
      preload: "delayed-store.ts",
    },
    args: ["--flush-ms", "10"],
  });
  await using ann = await server.join("ann");
  await hearsAllOf(ann, 200, "unavailable");
});

/** Pipelines lines, some of which are rejected; every result arrives in its place. */
async function hearsAllOf(ann: Peer, count: number, reason: string): Promise<void> {
  for (let i = 0; i < count; i++) ann.says(`${i}`);
  let rejected = 0;
  for (let i = 0; i < count; i++) {
    const line = await ann.next();
    if (line === `Not sent (${reason}): ${i}`) rejected++;
    else {
      expect(line).toBe(`You wrote: ${i}`);
      await ann.hears(`Client #ann says: ${i}`);
    }
  }
  expect(rejected).toBeWithin(1, count);
}
