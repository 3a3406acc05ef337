/** A quiet room hears at once; in a busy one messages share a write, in their order, and nobody hears one twice. */

import { describe, expect, test } from "bun:test";
import { Broadcaster } from "../../src/chat/broadcaster.ts";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { ConnectionManager, type Member } from "../../src/chat/connection-manager.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import type { CloseReason } from "../../src/protocol/codec.ts";
import { RoomRegistry } from "../../src/chat/room.ts";
import type { Content } from "../../src/store/store.ts";
import { startServer, type TestServer } from "../support/server.ts";

/** So long that what waits can be seen to wait. */
const start = () => startServer({ args: ["--flush-ms", "1000"] });
type Listener = Member & { socket: undefined };
const says = (text: string) => `Client #ann says: ${text}`;

/** A room in which "1" was just said, so that what follows waits. */
async function busyRoom(server: TestServer) {
  const ann = await server.join("ann");
  const bob = await server.join("bob");
  const eve = await server.joinJson("eve");
  ann.says("1");
  await ann.hears("You wrote: 1", says("1"));
  await bob.hears(says("1"));
  await eve.hears({ type: "message", from: "ann", text: "1" });
  return { ann, bob, eve };
}

describe("while the room is busy", () => {
  test("a message is acknowledged at once, after its sender's own, and heard a little later by everyone on both wires", async () => {
    await using server = await start();
    const { ann, bob, eve } = await busyRoom(server);
    ann.says("2");
    ann.says("3");
    await ann.hears("You wrote: 2", says("2"), "You wrote: 3");
    await bob.hearsNothingBeforePong();
    await ann.hears(says("3"));
    await bob.hears(says("2"), says("3"));
    for (const text of ["2", "3"]) await eve.hears({ type: "message", from: "ann", text });
  });

  test("16 KiB do not wait", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    const [large, larger] = ["x".repeat(5_000), "y".repeat(5_000)];
    ann.says(large);
    ann.says(larger);
    await ann.hears(`You wrote: ${large}`, says(large), `You wrote: ${larger}`);
    await bob.hears(says(large), says(larger));
    ann.says("2");
    await ann.hears(says(larger), "You wrote: 2");
    await bob.hearsNothingBeforePong();
  });

  test("who comes hears what waits once: in the history, or as it is said", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    ann.says("2");
    await ann.hears("You wrote: 2");
    await using late = await server.join("late", { history: 10 });
    await using none = await server.join("none");
    await late.hears(says("1"), says("2"));
    ann.says("3");
    await ann.hears(says("2"), "You wrote: 3", says("3"));
    await bob.hears(says("2"), says("3"));
    await late.hears(says("3"));
    await none.hears(says("3"));
  });

  test("a pong comes after all that was said before it, and hurries nobody", async () => {
    await using server = await start();
    const { ann, bob, eve } = await busyRoom(server);
    ann.says("2");
    await ann.hears("You wrote: 2");
    eve.sends({ type: "ping" });
    await bob.hearsNothingBeforePong();
    await eve.hears({ type: "message", from: "ann", text: "2" }, { type: "pong" });
    await bob.hears(says("2"));
  });

  test("who leaves is said to have left after what they said", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    ann.says("my last word");
    await ann.hears("You wrote: my last word");
    await ann.leaves();
    await bob.hears(says("my last word"), "Client #ann left the chat");
  });

  test("what waits when the last one leaves, who comes next hears in the history alone", async () => {
    await using server = await startServer({ args: ["--flush-ms", "500"] });
    await using ann = await server.join("ann");
    ann.says("1");
    await ann.hears("You wrote: 1", says("1"));
    ann.says("2");
    await ann.hears("You wrote: 2");
    await ann.leaves();
    await using bob = await server.join("bob", { history: 10 });
    await bob.hears(says("1"), says("2"));
    await Bun.sleep(700); // the pause is over
    await bob.hearsNothing();
  });

  test("what waits is out before the server stops", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    ann.says("2");
    await ann.hears("You wrote: 2");
    server.process.kill("SIGTERM");
    await bob.hears(says("2"));
    expect((await bob.closes()).code).toBe(1012);
  });
});

test("a thousand messages of many senders come in one order, the same for all, whatever shares a write", async () => {
  await using server = await startServer({ args: ["--flush-ms", "10", "--history", "2000"] });
  const senders = await Promise.all(Array.from({ length: 10 }, (_, i) => server.join(`s${i}`)));
  await using bob = await server.joinJson("bob");
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
      // The last one that it wrote may be on its way, and no other.
      const received = heard.filter((each) => each.startsWith(`Client #s${i} `)).length;
      expect(own.length - received).toBeOneOf([0, 1]);
    }
    expect(heard).toEqual(order);
    expect(own).toEqual(Array.from({ length: 100 }, (_, n) => `You wrote: ${n}`));
    expect(order.filter((line) => line.startsWith(`Client #s${i} `))).toEqual(
      own.map((line) => line.replace("You wrote", `Client #s${i} says`)),
    );
  }
});

describe("a crowd, which is written to in several goes", () => {
  /** Of three sections. */
  function crowd(
    publish: (topic: string, message: string) => void,
    stays = (_: Listener) => true,
    dismiss: (connection: Listener, why: CloseReason) => void = () => {},
  ) {
    const manager = new ConnectionManager<Listener>("crowd", (topic, message) => {
      publish(topic, String(message));
      return 1;
    });
    const all = Array.from({ length: 600 }, (_, i): Listener => {
      return { client: `c${i}`, wire: "text", shard: 0, socket: undefined, send: () => 1 };
    });
    for (const each of all) manager.connect(each);
    for (const each of all) if (!stays(each)) manager.disconnect(each, 0);
    const broadcaster = new Broadcaster<Listener>(manager, new Set(), 1, dismiss);
    return (message: string) => broadcaster.enqueue([{ to: "text", message, isStored: true }]);
  }

  test("leaves others their turns in between", async () => {
    const happened: string[] = [];
    const say = crowd((topic, message) => happened.push(`${topic} hears ${message}`));
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

  test("rests for some of the time that it took, however much there is to say", async () => {
    const times: number[] = [];
    const say = crowd(() => {
      Bun.sleepSync(30);
      times.push(performance.now());
    });
    say("1");
    while (times.length < 3) await new Promise(setImmediate);
    say("x".repeat(20_000));
    while (times.length < 4) await Bun.sleep(1);
    const [, , last = NaN, next = NaN] = times;
    expect(next - last).toBeGreaterThan(30 + 0.4 * 90); // the next write takes 30 ms, too
  });

  test("is none any more when few are left of it, or nobody in a section", () => {
    const heard: string[] = [];
    const say = crowd(
      (topic) => heard.push(topic),
      ({ client, shard }) => shard !== 1 && client.endsWith("0"),
    );
    say("1");
    expect(heard).toEqual(["text:0:crowd", "text:2:crowd"]);
  });

  test("that a broadcast does not reach is closed in part: the section that it was for", async () => {
    const heard: string[] = [];
    const dismissed: string[] = [];
    const say = crowd(
      (topic) => {
        heard.push(topic);
        if (topic === "text:1:crowd") throw new Error("injected");
      },
      undefined,
      ({ client }, why) => dismissed.push(`${client} ${why}`),
    );
    say("1");
    while (heard.length < 3) await Bun.sleep(1);
    expect(dismissed).toEqual(Array.from({ length: 250 }, (_, i) => `c${250 + i} undelivered`));
  });

  test("lets no more wait than a reader may be behind", () => {
    const heard: string[] = [];
    const say = crowd((topic) => heard.push(topic));
    say("1");
    const large = "x".repeat(64 * 1024);
    for (let i = 0; i < 3; i++) say(large);
    expect(heard).toEqual(["text:0:crowd"]);
    say(large);
    expect(heard).toHaveLength(1 + 4 * 3 + 2);
  });
});

test("what waits in a room that the store has lost is not for who comes into the next one of that name", async () => {
  const heard: string[] = [];
  const publish = (_: string, message: Content) => heard.push(String(message));
  const rooms = new RoomRegistry(new MemoryStore(10, () => {}), publish, 20, () => {});
  const come = () =>
    rooms.acquire(
      { client: "ann", room: "tea", wire: "text", history: 0 },
      new TokenBucket({ perSecond: 0, burst: 0 }),
    );
  const [here, onTheWay] = [await come(), await come()];
  if (here === "unavailable" || onTheWay === "unavailable") throw new Error("the room did not open");
  const { room } = here;
  room.manager.connect(here);
  for (const message of ["1", "2"]) room.broadcaster.enqueue([{ to: "text", message, isStored: false }]);
  rooms.detachAll();
  room.manager.disconnect(here, 0);
  rooms.release(room);
  await Bun.sleep(100); // the pause is over
  expect(heard).toEqual(["1"]);
});
