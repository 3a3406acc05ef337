/** A quiet room receives messages at once; in a busy one several share a write, in order and without duplicates. */

import { describe, expect, test } from "bun:test";
import { startServer, type TestServer } from "../support/server.ts";

/** With a flush interval long enough to observe queued messages. */
const start = () => startServer({ args: ["--flush-ms", "1000"] });
const says = (text: string) => `Client #ann says: ${text}`;

/** A room to which "1" was just broadcast, so that what follows is queued. */
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
  test("the personal line is sent at once and in order; the broadcast follows a little later on both wires", async () => {
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

  test("more than 16 KiB are not queued", async () => {
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

  test("a new client receives a queued message once: in its history or as a broadcast", async () => {
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

  test("a pong follows everything broadcast before it, and does not flush the queue", async () => {
    await using server = await start();
    const { ann, bob, eve } = await busyRoom(server);
    ann.says("2");
    await ann.hears("You wrote: 2");
    eve.sends({ type: "ping" });
    await bob.hearsNothingBeforePong();
    await eve.hears({ type: "message", from: "ann", text: "2" }, { type: "pong" });
    await bob.hears(says("2"));
  });

  test("a leave is announced after the client's messages", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    ann.says("my last word");
    await ann.hears("You wrote: my last word");
    await ann.leaves();
    await bob.hears(says("my last word"), "Client #ann left the chat");
  });

  test("messages queued when the last client leaves reach the next one in its history only", async () => {
    await using server = await startServer({ args: ["--flush-ms", "500"] });
    await using ann = await server.join("ann");
    ann.says("1");
    await ann.hears("You wrote: 1", says("1"));
    ann.says("2");
    await ann.hears("You wrote: 2");
    await ann.leaves();
    await using bob = await server.join("bob", { history: 10 });
    await bob.hears(says("1"), says("2"));
    await Bun.sleep(700); // longer than the pause
    await bob.hearsNothing();
  });

  test("queued messages are sent before the server stops", async () => {
    await using server = await start();
    const { ann, bob } = await busyRoom(server);
    ann.says("2");
    await ann.hears("You wrote: 2");
    server.process.kill("SIGTERM");
    await bob.hears(says("2"));
    expect((await bob.closes()).code).toBe(1012);
  });
});

test("a thousand messages of many senders arrive in one order, however they share writes", async () => {
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
    const received: string[] = [];
    const own: string[] = [];
    while (received.length < 1000) {
      const line = String(await sender.next());
      if (line.startsWith("You wrote: ")) own.push(line);
      else received.push(line);
      // Only its last message may still be in flight.
      const ownReceived = received.filter((each) => each.startsWith(`Client #s${i} `)).length;
      expect(own.length - ownReceived).toBeOneOf([0, 1]);
    }
    expect(received).toEqual(order);
    expect(own).toEqual(Array.from({ length: 100 }, (_, n) => `You wrote: ${n}`));
    expect(order.filter((line) => line.startsWith(`Client #s${i} `))).toEqual(
      own.map((line) => line.replace("You wrote", `Client #s${i} says`)),
    );
  }
});
