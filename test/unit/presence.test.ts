/** When joins and leaves are announced, and how many at a time. */

import { describe, expect, test } from "bun:test";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { startHub } from "../support/hub.ts";

useFakeTime();

describe("leaves", () => {
  test("are announced after 100 to 150 ms", async () => {
    const { join } = startHub();
    const bob = await join("bob");
    const ann = await join("ann");
    const eve = await join("eve");
    ann.leaves();
    await passes(30);
    eve.leaves();
    await passes(69);
    expect(bob.socket.takes()).toEqual([]);
    await passes(51);
    expect(bob.socket.takes()).toEqual(["Client #ann left the chat", "Client #eve left the chat"]);
  });

  test("are not announced for a client that is back within 100 ms", async () => {
    const { join } = startHub();
    const bob = await join("bob");
    const ann = await join("ann");
    ann.leaves();
    await passes(99);
    const again = await join("ann");
    await passes(1000);
    expect(bob.socket.takes()).toEqual([]);
    again.leaves();
    await passes(150);
    expect(bob.socket.takes()).toEqual(["Client #ann left the chat"]);
  });

  test("of many clients cause at most 10,000 deliveries at a time, with a pause in between", async () => {
    const { join } = startHub();
    const stay = await Promise.all(Array.from({ length: 200 }, (_, i) => join(`stays${i}`)));
    const crowd = await Promise.all(Array.from({ length: 300 }, (_, i) => join(`goes${i}`)));
    for (const each of crowd) each.leaves();
    const [first] = stay;
    const goes: number[] = [];
    await passes(300, () => goes.push(first?.socket.takes().length ?? 0));
    expect(Math.max(...goes) * stay.length).toBeLessThanOrEqual(10_000);
    expect(goes.reduce((sum, count) => sum + count, 0)).toBe(crowd.length);
    const times = goes.flatMap((count, ms) => (count > 0 ? [ms] : []));
    for (const [i, ms] of times.slice(1).entries()) expect(ms - (times[i] ?? NaN)).toBeGreaterThanOrEqual(10);
  });

  test("are announced senders first, then up to 1,000 others in the order of leaving", async () => {
    const { hub, join } = startHub();
    const bob = await join("bob");
    const silent = Array.from({ length: 3_000 }, (_, i) => `c${i}`);
    const joinAll = () => Promise.all([...silent, "ann"].map((client) => join(client)));
    const announced = async () => {
      bob.socket.takes();
      await passes(3_000);
      return bob.socket.takes();
    };
    const lines = (clients: string[]) => clients.map((client) => `Client #${client} left the chat`);
    const crowd = await joinAll();
    crowd.at(-1)?.says("hi");
    for (const each of crowd) each.leaves();
    expect(await announced()).toEqual(lines(["ann", ...silent.slice(0, 1_000)]));
    const again = await joinAll();
    for (const each of again.slice(2_000)) each.leaves();
    // Since it joined again, ann has sent nothing.
    expect(await announced()).toEqual(lines(silent.slice(2_000)));
    expect((await hub.getPresence("tea")).count).toBe(2_001);
  });
});

describe("presence", () => {
  test("is sent every 200 ms at most, and not much later", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    await passes(1000);
    bob.socket.takes();
    const times: number[] = [];
    const joined: string[] = [];
    for (let ms = 0; ms < 2000; ms += 10) {
      await join(`c${ms}`);
      await passes(10, () => {
        for (const event of bob.socket.takesPresence()) {
          times.push(performance.now());
          joined.push(...event.joined);
        }
      });
    }
    for (const [i, ms] of times.slice(1).entries())
      expect(ms - (times[i] ?? NaN)).toBeGreaterThanOrEqual(200);
    expect(times.length).toBeGreaterThanOrEqual(9);
    await passes(200);
    joined.push(...bob.socket.takesPresence().flatMap((event) => event.joined));
    expect(joined).toEqual(Array.from({ length: 200 }, (_, i) => `c${10 * i}`));
  });

  test("has no grace period: a client that is away when an event is sent has left, and then joined", async () => {
    const { hub, join } = startHub();
    const bob = await join("bob", "json");
    const ann = await join("ann");
    const eve = await join("eve");
    await passes(1000);
    bob.socket.takes();
    eve.leaves();
    await passes(135);
    ann.leaves();
    expect((await hub.getPresence("tea")).count).toBe(1);
    await passes(65);
    await join("ann");
    await join("eve");
    expect(bob.socket.takesPresence()).toEqual([{ joined: [], left: ["eve", "ann"], count: 1 }]);
    await passes(200);
    expect(bob.socket.takesPresence()).toEqual([{ joined: ["ann", "eve"], left: [], count: 3 }]);
  });

  test("tells a newcomer of clients that return, or go, between its welcome and the next event", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    const ann = await join("ann");
    await passes(1000);
    bob.socket.takes();
    const dan = await join("dan");
    ann.leaves();
    const eve = await join("eve", "json");
    expect(JSON.parse(String(eve.socket.takes()[0])).members).toEqual(["bob", "dan", "eve"]);
    await join("ann");
    dan.leaves();
    await passes(200);
    const event = { joined: ["eve", "ann"], left: ["dan"], count: 3 };
    expect([bob.socket.takesPresence(), eve.socket.takesPresence()]).toEqual([[event], [event]]);
  });

  test("tells of a leave that follows a return between two events", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    const ann = await join("ann");
    await passes(1000);
    bob.socket.takes();
    ann.leaves();
    await join("eve", "json");
    (await join("ann", "json")).leaves();
    await passes(200);
    expect(bob.socket.takesPresence()).toEqual([{ joined: ["eve"], left: ["ann"], count: 2 }]);
  });

  test("does not mention a client that joins and leaves between two events", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    await passes(1000);
    bob.socket.takes();
    await join("ann");
    const eve = await join("eve", "json");
    eve.leaves();
    await passes(200);
    expect(bob.socket.takesPresence()).toEqual([{ joined: ["ann"], left: [], count: 2 }]);
  });

  test("names 100 clients in a welcome and over HTTP, and counts all", async () => {
    const { hub, join } = startHub();
    for (let i = 0; i < 150; i++) await join(`c${i}`);
    const bob = await join("bob", "json");
    const { members, count } = JSON.parse(String(bob.socket.takes()[0]));
    expect([members.length, count]).toEqual([100, 151]);
    expect(await hub.getPresence("tea")).toEqual({ count: 151, members });
  });

  test("names 100 clients at a time, and the rest 200 ms later", async () => {
    const { join } = startHub();
    const bob = await join("bob", "json");
    await passes(1000);
    bob.socket.takes();
    for (let i = 0; i < 250; i++) await join(`c${i}`);
    const events = [];
    for (let i = 0; i < 4; i++) {
      await passes(200);
      events.push(bob.socket.takesPresence().map(({ joined, count }) => [joined.length, count]));
    }
    expect(events).toEqual([[[100, 251]], [[100, 251]], [[50, 251]], []]);
  });
});
