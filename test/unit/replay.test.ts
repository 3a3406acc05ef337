/** What waits, and for how long: the hub in this process, on a clock that moves only when the test says so. */

import { afterEach, beforeEach, describe, expect, jest, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import { renderMetrics } from "../../src/ops/metrics.ts";
import { SqliteStore } from "../../src/store/sqlite/store.ts";
import { History, type Content, type MessageStore } from "../../src/store/store.ts";
import { FakeSocket, startHub } from "../support/hub.ts";

beforeEach(() => void jest.useFakeTimers());
afterEach(() => void jest.useRealTimers());

/** Moves the clock by 1 ms at a time; what awaits a promise runs in between. */
async function passes(ms: number, eachMs = () => {}): Promise<void> {
  for (let step = 0; step < ms; step++) {
    jest.advanceTimersByTime(1);
    await Promise.resolve();
    eachMs();
  }
}

describe("leaves", () => {
  test("are announced after 100 ms, and no later than half of that again", async () => {
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

  test("are none of a client that is back within 100 ms", async () => {
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

  test("of a crowd are at most 10,000 deliveries in one go, with a rest for others in between", async () => {
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
});

describe("presence", () => {
  test("comes at most every 200 ms, however much there is of it, and not much later", async () => {
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

  test("names 100 clients in a welcome and over HTTP, and counts them all", async () => {
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

describe("a slow consumer", () => {
  const MIB = 1024 * 1024;
  const TOO_SLOW = { code: 1013, reason: "Reading too slowly: please come back and resume." };

  test("may be 1 MiB behind what others say, and no more", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    const [slow, slower] = [await join("slow"), await join("slower")];
    [slow.socket.buffered, slower.socket.buffered] = [MIB, MIB + 1];
    ann.says("hi");
    await passes(50);
    expect(slow.socket.closed).toBeUndefined();
    expect(slower.socket.closed).toEqual(TOO_SLOW);
    ann.socket.takes();
    await passes(150);
    expect(ann.socket.takes()).toEqual(["Client #slower left the chat"]);
    for (const { socket } of [slow, slower]) socket.takes();
    ann.says("ho");
    expect([slow.socket.takes(), slower.socket.takes()]).toEqual([["Client #ann says: ho"], []]);
  });

  test("may be 1 MiB behind its own answers, and no more", async () => {
    const { join } = startHub();
    const [slow, slower] = [await join("slow", "json"), await join("slower", "json")];
    [slow.socket.buffered, slower.socket.buffered] = [MIB, MIB + 1];
    slow.says("not JSON");
    slower.says("not JSON");
    expect(slow.socket.closed).toBeUndefined();
    expect(slower.socket.closed).toEqual(TOO_SLOW);
  });

  test("is looked for at once when much is being said", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    const slow = await join("slow");
    slow.socket.buffered = MIB + 1;
    for (let i = 0; i < 5; i++) ann.says("x".repeat(60_000));
    expect(slow.socket.closed).toEqual(TOO_SLOW);
  });
});

describe("a replay", () => {
  const MIB = 1024 * 1024;
  const numbers = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => `Client #ann says: ${from + i}`);
  /** The next turn of the event loop, whatever the clock says. */
  const turn = () => new Promise(setImmediate);

  test("sends no more than the network takes, and closes nobody for it", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    for (let i = 0; i < 10; i++) ann.says(`${i}`);
    const slow = await join("slow", "text", { history: 10, buffered: 2 * MIB });
    expect(slow.socket.takes()).toEqual(["Client #ann says: 0"]);
    ann.says("10");
    await passes(1000);
    expect(slow.socket.takes()).toEqual([]);
    slow.drains();
    expect(slow.socket.takes()).toEqual(["Client #ann says: 1"]);
    expect(slow.socket.closed).toBeUndefined();
    slow.socket.buffered = 0;
    slow.drains();
    expect(slow.socket.takes()).toEqual(Array.from({ length: 9 }, (_, i) => `Client #ann says: ${i + 2}`));
    ann.says("11");
    expect(slow.socket.takes()).toEqual(["Client #ann says: 11"]);
  });

  test("goes on from the store when the history no longer has what follows", async () => {
    const file = join(await mkdtemp(join(tmpdir(), "hubbub-")), "chat.db");
    const { hub, join: joins } = startHub({
      makeStore: ({ onMessage }) => new SqliteStore(file, { history: 10, keepDays: 0 }, onMessage),
    });
    const ann = await joins("ann");
    const say = async (from: number, to: number) => {
      for (const text of numbers(from, to)) ann.says(text.slice("Client #ann says: ".length));
      await hub.drain();
    };
    await say(1, 20);
    const slow = await joins("slow", "text", { history: 10, buffered: 2 * MIB });
    expect(slow.socket.takes()).toEqual(numbers(11, 11));
    await say(21, 200);
    slow.socket.buffered = 0;
    slow.drains();
    const received: Content[] = [];
    for (let i = 0; i < 20; i++) {
      await turn();
      received.push(...slow.socket.takes());
    }
    expect(received).toEqual(numbers(12, 200));
    expect(slow.socket.closed).toBeUndefined();
    await say(201, 201);
    expect(slow.socket.takes()).toEqual(numbers(201, 201));
    await hub.close();
    await rm(dirname(file), { recursive: true });
  });

  test("ends when its connection does, and nothing more is sent, or counted as sent", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    for (let i = 0; i < 3; i++) ann.says(`${i}`);
    const slow = await join("slow", "text", { history: 3, buffered: 1 });
    slow.leaves();
    slow.drains();
    expect(slow.socket.takes()).toEqual(["Client #ann says: 0"]);
    const sent = () => Number(/^hubbub_sent_messages_total (\d+)$/m.exec(renderMetrics())?.[1]);
    const before = sent();
    ann.says("3");
    expect(sent() - before).toBe(1);
  });

  test("is overtaken by no personal line: each comes just before its own message", async () => {
    const { join } = startHub();
    const bob = await join("bob");
    for (let i = 1; i <= 3; i++) bob.says(`${i}`);
    bob.socket.takes();
    const ann = await join("ann", "text", { history: 3, buffered: 1 });
    ann.says("a");
    bob.says("4");
    ann.says("b");
    expect(ann.socket.takes()).toEqual(["Client #bob says: 1"]);
    ann.socket.buffered = 0;
    ann.drains();
    ann.says("c");
    expect(ann.socket.takes()).toEqual([
      "Client #bob says: 2",
      "Client #bob says: 3",
      "You wrote: a",
      "Client #ann says: a",
      "Client #bob says: 4",
      "You wrote: b",
      "Client #ann says: b",
      "You wrote: c",
      "Client #ann says: c",
    ]);
    expect(bob.socket.takes().slice(0, 3)).toEqual([
      "Client #ann says: a",
      "You wrote: 4",
      "Client #bob says: 4",
    ]);
  });

  test("is overtaken by no rejection", async () => {
    const { join } = startHub();
    const bob = await join("bob");
    for (let i = 1; i <= 3; i++) bob.says(`${i}`);
    const bucket = new TokenBucket({ perSecond: 0.001, burst: 1 });
    const ann = await join("ann", "text", { history: 3, buffered: 1 }, bucket);
    for (const text of ["a", "b"]) ann.says(text);
    bob.says("4");
    ann.says("c");
    ann.socket.takes();
    ann.socket.buffered = 0;
    ann.drains();
    expect(ann.socket.takes()).toEqual([
      "Client #bob says: 2",
      "Client #bob says: 3",
      "You wrote: a",
      "Client #ann says: a",
      "Not sent (rate-limited): b",
      "Client #bob says: 4",
      "Not sent (rate-limited): c",
    ]);
  });

  test("of what only the store still has is overtaken by no personal line", async () => {
    const file = join(await mkdtemp(join(tmpdir(), "hubbub-")), "chat.db");
    const { hub, join: joins } = startHub({
      makeStore: ({ onMessage }) => new SqliteStore(file, { history: 10, keepDays: 0 }, onMessage),
    });
    const bob = await joins("bob");
    for (let i = 1; i <= 200; i++) bob.says(`${i}`);
    await hub.drain();
    const ann = await joins("ann", "text", { history: 200 });
    ann.says("a");
    await hub.drain();
    bob.says("201");
    await hub.drain();
    for (let i = 0; i < 20; i++) await turn();
    expect(ann.socket.takes()).toEqual([
      ...Array.from({ length: 200 }, (_, i) => `Client #bob says: ${i + 1}`),
      "You wrote: a",
      "Client #ann says: a",
      "Client #bob says: 201",
    ]);
    await hub.close();
    await rm(dirname(file), { recursive: true });
  });

  test("holds 1 MiB of personal lines for a slow consumer, and no more", async () => {
    const { join } = startHub();
    const bob = await join("bob");
    for (let i = 1; i <= 3; i++) bob.says(`${i}`);
    const slow = await join("slow", "text", { history: 3, buffered: 1 });
    const large = "x".repeat(65_536);
    for (let i = 0; i < 15; i++) slow.says(large);
    expect(slow.socket.closed).toBeUndefined();
    slow.says(large);
    expect(slow.socket.closed?.code).toBe(1013);
  });

  test("leaves others their turn after 1,000 messages", async () => {
    const { join } = startHub({ history: 3000 });
    const ann = await join("ann");
    for (let i = 1; i <= 2500; i++) ann.says(`${i}`);
    const { socket } = await join("late", "text", { history: 3000 });
    for (const [from, to] of [
      [1, 1000],
      [1001, 2000],
      [2001, 2500],
    ] as const) {
      expect(socket.takes()).toEqual(numbers(from, to));
      await turn();
    }
  });

  test("is over before a pong is sent that was asked for meanwhile", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    for (let i = 0; i < 3; i++) ann.says(`${i}`);
    const late = await join("late", "json", { history: 3, buffered: 1 });
    late.says('{"type":"ping"}');
    late.drains();
    const types = () => late.socket.takes().map((frame) => JSON.parse(String(frame)).type);
    expect(types()).toEqual(["welcome", "message", "message"]);
    late.socket.buffered = 0;
    late.drains();
    expect(types()).toEqual(["message", "pong"]);
    late.drains();
    late.says('{"type":"ping"}');
    expect(types()).toEqual(["pong"]);
  });

  describe("of what only the store still has", () => {
    /** A room in which 1 to 500 were said, of which ten are kept ready. */
    async function longRoom() {
      const ready = new History("1-0", 10, Infinity);
      const stores: MessageStore[] = [];
      const { join } = startHub({
        makeStore({ onMessage }) {
          const store = new MemoryStore(1000, (message) => {
            ready.push(message);
            onMessage(message);
          });
          store.acquireRoom = async () => ready;
          stores.push(store);
          return store;
        },
      });
      const ann = await join("ann");
      ann.says("0");
      const after = ready.lastId;
      for (let i = 1; i <= 500; i++) ann.says(`${i}`);
      const [store] = stores;
      if (!store) throw new Error("there is no store");
      return { join, after, store, ann };
    }
    const texts = ({ received }: FakeSocket) =>
      received
        .map((frame) => JSON.parse(String(frame)))
        .flatMap(({ type, text }) => (type === "message" ? text : []));

    test("sends no more than the network takes, and misses nothing", async () => {
      const { join, after, ann } = await longRoom();
      const late = await join("late", "json", { after, buffered: 2 * MIB });
      for (let i = 0; i < 5; i++) await turn();
      expect(texts(late.socket)).toEqual(["1"]);
      late.socket.buffered = 0;
      late.drains();
      for (let i = 0; i < 20; i++) await turn();
      ann.says("501");
      expect(texts(late.socket)).toEqual(Array.from({ length: 501 }, (_, i) => `${i + 1}`));
      expect(late.socket.closed).toBeUndefined();
    });

    test("ends with 1013 when the store has lost it meanwhile, rather than with a gap", async () => {
      const { join, after, store } = await longRoom();
      const late = await join("late", "json", { after, buffered: 2 * MIB });
      for (let i = 0; i < 5; i++) await turn();
      store.readHistory = async () => ({ messages: [], more: false, recovered: false });
      late.socket.buffered = 0;
      late.drains();
      for (let i = 0; i < 5; i++) await turn();
      expect(late.socket.closed?.code).toBe(1013);
      expect(texts(late.socket)).toEqual(["1"]);
    });
  });
});

describe("a busy room", () => {
  /** In which "1" was just said; the clock stands still. */
  async function busyRoom() {
    const { join } = startHub({ flushMs: 10 });
    const ann = await join("ann", "json");
    const bob = await join("bob");
    const say = (text: string) => ann.says(JSON.stringify({ type: "message", text }));
    say("1");
    for (let i = 0; i < 5; i++) await new Promise(setImmediate);
    expect(bob.socket.takes()).toEqual(["Client #ann says: 1"]);
    return { say, bob };
  }

  test("hears a message after --flush-ms, and not before", async () => {
    const { say, bob } = await busyRoom();
    say("2");
    say("3");
    await passes(9);
    expect(bob.socket.takes()).toEqual([]);
    await passes(1);
    expect(bob.socket.takes()).toEqual(["Client #ann says: 2", "Client #ann says: 3"]);
  });

  /** Clients on the text wire, and on JSON, in a room in which "1" was just said. */
  async function sendersInBusyRoom() {
    const { hub, join } = startHub({ flushMs: 10 });
    const [ann, bob, eve] = [await join("ann"), await join("bob"), await join("eve", "json")];
    ann.says("1");
    for (let i = 0; i < 5; i++) await new Promise(setImmediate);
    for (const { socket } of [ann, bob, eve]) socket.takes();
    const texts = ({ socket }: typeof eve) =>
      socket
        .takes()
        .map((frame) => JSON.parse(String(frame)))
        .flatMap(({ type, text }) => (type === "message" ? text : []));
    return { hub, join, ann, bob, eve, texts };
  }

  test("sends what waits to a sender alone, once, when its next line needs it", async () => {
    const { ann, bob, eve, texts } = await sendersInBusyRoom();
    bob.says("2");
    ann.says("3");
    expect(ann.socket.takes()).toEqual(["You wrote: 3"]);
    ann.says("4");
    expect(ann.socket.takes()).toEqual(["Client #bob says: 2", "Client #ann says: 3", "You wrote: 4"]);
    bob.says("5");
    expect(bob.socket.takes()).toEqual([
      "You wrote: 2",
      "Client #bob says: 2",
      "Client #ann says: 3",
      "Client #ann says: 4",
      "You wrote: 5",
    ]);
    expect(texts(eve)).toEqual([]);
    await passes(10);
    expect(ann.socket.takes()).toEqual(["Client #ann says: 4", "Client #bob says: 5"]);
    expect(bob.socket.takes()).toEqual(["Client #bob says: 5"]);
    expect(texts(eve)).toEqual(["2", "3", "4", "5"]);
    for (let i = 0; i < 5; i++) await new Promise(setImmediate);
    await passes(10);
    bob.says("6");
    expect(ann.socket.takes()).toEqual(["Client #bob says: 6"]);
  });

  test("a sender that leaves before the write, and one that joins, change nothing for the others", async () => {
    const { join, ann, bob, eve, texts } = await sendersInBusyRoom();
    for (const text of ["2", "3"]) ann.says(text);
    ann.leaves();
    const again = await join("ann", "text", { history: 2 });
    expect(again.socket.takes()).toEqual(["Client #ann says: 2", "Client #ann says: 3"]);
    again.says("4");
    expect(again.socket.takes()).toEqual(["You wrote: 4"]);
    expect(bob.socket.takes()).toEqual([]);
    await passes(10);
    expect(again.socket.takes()).toEqual(["Client #ann says: 4"]);
    expect(bob.socket.takes()).toEqual(["2", "3", "4"].map((text) => `Client #ann says: ${text}`));
    expect(texts(eve)).toEqual(["2", "3", "4"]);
  });

  test("what waits is out before the server stops, also to a sender that was sent some of it", async () => {
    const { hub, ann, bob } = await sendersInBusyRoom();
    for (const text of ["2", "3"]) ann.says(text);
    ann.socket.takes();
    hub.flush();
    expect(ann.socket.takes()).toEqual(["Client #ann says: 3"]);
    expect(bob.socket.takes()).toEqual(["Client #ann says: 2", "Client #ann says: 3"]);
  });

  test("hears at once what is more than 16 KiB, both wires together", async () => {
    const { say, bob } = await busyRoom();
    say("x".repeat(8000));
    expect(bob.socket.takes()).toEqual([]);
    say("y".repeat(300));
    expect(bob.socket.takes().map(({ length }) => length)).toEqual([18 + 8000, 18 + 300]);
  });
});
