/** A quiet room hears at once; in a busy one messages share a write, in their order, and nobody hears one twice. */

import { describe, expect, test } from "bun:test";
import { FanOut } from "../src/fan-out.ts";
import { ConnectionManager } from "../src/manager.ts";
import type { Visitor } from "../src/visitor.ts";
import { startHubbub, type Hubbub } from "./hubbub.ts";

/** So long that what waits can be seen to wait. */
const start = () => startHubbub({ args: ["--flush-ms", "1000"] });
const says = (text: string) => `Client #ann says: ${text}`;

/** A room in which "1" was just said, so that what follows waits. */
async function busyRoom(hub: Hubbub) {
  const ann = await hub.join("ann");
  const bob = await hub.join("bob");
  const eve = await hub.joinJson("eve");
  ann.says("1");
  await ann.hears("You wrote: 1", says("1"));
  await bob.hears(says("1"));
  await eve.hears({ type: "message", from: "ann", text: "1" });
  return { ann, bob, eve };
}

describe("while the room is busy", () => {
  test("a message is acknowledged at once, and heard a little later, by everyone on both wires", async () => {
    await using hub = await start();
    const { ann, bob, eve } = await busyRoom(hub);
    ann.says("2");
    ann.says("3");
    await ann.hears("You wrote: 2", "You wrote: 3");
    await bob.hearsNothing();
    await ann.hears(says("2"), says("3"));
    await bob.hears(says("2"), says("3"));
    for (const text of ["2", "3"]) await eve.hears({ type: "message", from: "ann", text });
  });

  test("16 KiB do not wait", async () => {
    await using hub = await start();
    const { ann, bob } = await busyRoom(hub);
    const [large, larger] = ["x".repeat(5_000), "y".repeat(5_000)];
    ann.says(large);
    ann.says(larger);
    await ann.hears(`You wrote: ${large}`, `You wrote: ${larger}`);
    await bob.hears(says(large), says(larger));
    ann.says("2");
    await ann.hears(says(large), says(larger), "You wrote: 2");
    await bob.hearsNothing();
  });

  test("who comes hears what waits once: in the history, or as it is said", async () => {
    await using hub = await start();
    const { ann, bob } = await busyRoom(hub);
    ann.says("2");
    await ann.hears("You wrote: 2");
    await using late = await hub.join("late", { history: 10 });
    await using none = await hub.join("none");
    await late.hears(says("1"), says("2"));
    ann.says("3");
    await ann.hears(says("2"), "You wrote: 3", says("3"));
    await bob.hears(says("2"), says("3"));
    await late.hears(says("3"));
    await none.hears(says("3"));
  });

  test("a pong comes after all that was said before it, and hurries nobody", async () => {
    await using hub = await start();
    const { ann, bob, eve } = await busyRoom(hub);
    ann.says("2");
    await ann.hears("You wrote: 2");
    eve.sends({ type: "ping" });
    await bob.hearsNothing();
    await eve.hears({ type: "message", from: "ann", text: "2" }, { type: "pong" });
    await bob.hears(says("2"));
  });

  test("who leaves is said to have left after what they said", async () => {
    await using hub = await start();
    const { ann, bob } = await busyRoom(hub);
    ann.says("my last word");
    await ann.hears("You wrote: my last word");
    await ann.leaves();
    await bob.hears(says("my last word"), "Client #ann left the chat");
  });

  test("what waits when the last one leaves, who comes next hears in the history alone", async () => {
    await using hub = await startHubbub({ args: ["--flush-ms", "500"] });
    await using ann = await hub.join("ann");
    ann.says("1");
    await ann.hears("You wrote: 1", says("1"));
    ann.says("2");
    await ann.hears("You wrote: 2");
    await ann.leaves();
    await using bob = await hub.join("bob", { history: 10 });
    await bob.hears(says("1"), says("2"));
    await Bun.sleep(700); // the pause is over
    await bob.hearsNothing();
  });

  test("what waits is out before the server stops", async () => {
    await using hub = await start();
    const { ann, bob } = await busyRoom(hub);
    ann.says("2");
    await ann.hears("You wrote: 2");
    hub.process.kill("SIGTERM");
    await bob.hears(says("2"));
    expect((await bob.closes()).code).toBe(1012);
  });
});

test("a thousand messages of many senders come in one order, the same for all, whatever shares a write", async () => {
  await using hub = await startHubbub({ args: ["--flush-ms", "10", "--history", "2000"] });
  const senders = await Promise.all(Array.from({ length: 10 }, (_, i) => hub.join(`s${i}`)));
  await using bob = await hub.joinJson("bob");
  for (let n = 0; n < 100; n++) for (const sender of senders) sender.says(`${n}`);
  const order: string[] = [];
  while (order.length < 1000) {
    const { from, text } = await bob.next();
    order.push(`Client #${from} says: ${text}`);
  }
  for (const [i, sender] of senders.entries()) {
    const heard: string[] = [];
    const own: string[] = [];
    while (heard.length < 1000) {
      const line = String(await sender.next());
      if (line.startsWith("You wrote: ")) own.push(line);
      else heard.push(line);
    }
    expect(heard).toEqual(order);
    expect(own).toEqual(Array.from({ length: 100 }, (_, n) => `You wrote: ${n}`));
    expect(order.filter((line) => line.startsWith(`Client #s${i} `))).toEqual(
      own.map((line) => line.replace("You wrote", `Client #s${i} says`)),
    );
  }
});

test("a crowd is written to in several goes, and others have their turns in between", async () => {
  const happened: string[] = [];
  const manager = new ConnectionManager<Visitor>("crowd", (topic, message) =>
    happened.push(`${topic} hears ${message}`),
  );
  for (let i = 0; i < 600; i++) manager.connect({ client: `c${i}`, wire: "text" } as Visitor);
  const fanOut = new FanOut(manager, new Set(), 1, () => {});
  const say = (message: string) => fanOut.add([{ to: "text", message, isEntry: true }]);
  say("1");
  say("2");
  for (let section = 0; section < 3; section++) {
    happened.push("others");
    for (let turn = 0; turn < 2; turn++) await new Promise(setImmediate);
  }
  while (!happened.includes("text:0:crowd hears 2")) await Bun.sleep(1);
  expect(happened).toEqual([
    "text:0:crowd hears 1",
    "others",
    "text:1:crowd hears 1",
    "text:1:crowd hears 2",
    "others",
    "text:2:crowd hears 1",
    "text:2:crowd hears 2",
    "others",
    // After the pause, those who have not heard it yet.
    "text:0:crowd hears 2",
  ]);
});
