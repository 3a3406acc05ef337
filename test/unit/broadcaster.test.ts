/** When queued messages are written to a room, and to how much of a large room at once. */

import { describe, expect, test } from "bun:test";
import { Broadcaster, type Member, type Subscriber } from "../../src/chat/broadcaster.ts";
import { ndjsonEncoder, sseEncoder } from "../../src/protocol/stream-encoders.ts";
import { textCodec } from "../../src/protocol/codec.ts";
import { systemClock } from "../../src/util/clock.ts";
import type { CloseReason } from "../../src/protocol/codes.ts";
import { Hub } from "../../src/chat/hub.ts";
import { receive } from "../../src/chat/receive.ts";
import { systemRandom } from "../../src/util/random.ts";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import { eventually } from "../support/deadline.ts";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { FakeSocket, startHub } from "../support/hub.ts";

describe("a busy room", () => {
  useFakeTime();

  /** A room to which "1" was just broadcast; the clock stands still. */
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

  test("receives a message after --flush-ms, not before", async () => {
    const { say, bob } = await busyRoom();
    say("2");
    say("3");
    await passes(9);
    expect(bob.socket.takes()).toEqual([]);
    await passes(1);
    expect(bob.socket.takes()).toEqual(["Client #ann says: 2", "Client #ann says: 3"]);
  });

  /** Clients on both wires in a room to which "1" was just broadcast. */
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

  test("sends queued messages early, once, to a sender whose next line must follow them", async () => {
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

  test("a sender that leaves or joins before the flush changes nothing for the others", async () => {
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

  test("flushes before the server stops, also to a sender that was sent a part early", async () => {
    const { hub, ann, bob } = await sendersInBusyRoom();
    for (const text of ["2", "3"]) ann.says(text);
    ann.socket.takes();
    hub.flush();
    expect(ann.socket.takes()).toEqual(["Client #ann says: 3"]);
    expect(bob.socket.takes()).toEqual(["Client #ann says: 2", "Client #ann says: 3"]);
  });

  test("receives at once what exceeds 16 KiB, both wires together", async () => {
    const { say, bob } = await busyRoom();
    say("x".repeat(8000));
    expect(bob.socket.takes()).toEqual([]);
    say("y".repeat(300));
    expect(bob.socket.takes().map(({ length }) => length)).toEqual([18 + 8000, 18 + 300]);
  });
});

test("event streams of one format share what is queued for it as one chunk, encoded once", () => {
  const published: [topic: string, frame: string][] = [];
  const publish = (topic: string, frame: unknown) => published.push([topic, String(frame)]);
  const broadcaster = new Broadcaster("tea", publish, 1000, systemClock);
  for (const codec of [sseEncoder, sseEncoder, ndjsonEncoder]) {
    const stream: Subscriber = { codec, shard: 0, socket: undefined, send: () => 1, close() {} };
    broadcaster.add(stream);
    broadcaster.subscribe(stream);
  }
  const message = (id: string) => ({ id, prev: "", time: 1, room: "tea", from: "ann", content: id });
  const events = (...ids: string[]) => [
    ["sse:0:tea", ids.map((id) => sseEncoder.message(message(id))).join("")],
    ["ndjson:0:tea", ids.map((id) => ndjsonEncoder.message(message(id))).join("")],
  ];
  broadcaster.broadcast(message("1-1"));
  expect<unknown>(published.splice(0)).toEqual(events("1-1"));
  for (const id of ["1-2", "1-3", "1-4"]) broadcaster.broadcast(message(id));
  expect(published).toEqual([]);
  broadcaster.flush();
  expect<unknown>(published).toEqual(events("1-2", "1-3", "1-4"));
});

describe("a large room, which is written to in several turns", () => {
  /** A room of 600 connections: three shards. */
  function crowd(
    publish: (topic: string, frame: string) => void,
    stays = (_: Member) => true,
    onClose: (connection: Member, reason: CloseReason) => void = () => {},
  ) {
    const broadcaster = new Broadcaster(
      "crowd",
      (topic, frame) => {
        publish(topic, String(frame));
        return 1;
      },
      1,
      systemClock,
    );
    const all = Array.from({ length: 600 }, (_, i): Member => ({
      client: `c${i}`,
      codec: textCodec,
      shard: 0,
      socket: undefined,
      send: () => 1,
      close(reason) {
        onClose(this, reason);
      },
    }));
    for (const each of all) {
      broadcaster.add(each);
      broadcaster.subscribe(each);
    }
    for (const each of all) if (!stays(each)) broadcaster.remove(each);
    return (frame: string) => broadcaster.announce(textCodec, frame);
  }

  test("gives other rooms a turn in between", async () => {
    const events: string[] = [];
    const say = crowd((topic, message) => events.push(`${topic} receives ${message}`));
    say("1");
    say("2");
    for (let section = 0; section < 3; section++) {
      events.push("others");
      for (let turn = 0; turn < 2; turn++) await new Promise(setImmediate);
    }
    await eventually(async () => events.includes("text:0:crowd receives 2"), "the shard receives it");
    expect(events).toEqual([
      "text:0:crowd receives 1",
      "others",
      "text:1:crowd receives 1",
      "text:1:crowd receives 2",
      "others",
      "text:2:crowd receives 1",
      "text:2:crowd receives 2",
      "others",
      // After the pause, the shard that has not received it yet.
      "text:0:crowd receives 2",
    ]);
  });

  test("pauses for a part of the time that a write took, however much is queued", async () => {
    const times: number[] = [];
    const say = crowd(() => {
      Bun.sleepSync(30);
      times.push(performance.now());
    });
    say("1");
    while (times.length < 3) await new Promise(setImmediate);
    say("x".repeat(20_000));
    await eventually(async () => times.length === 4, "the next write");
    const [, , last = NaN, next = NaN] = times;
    expect(next - last).toBeGreaterThan(30 + 0.4 * 90); // the next write takes 30 ms, too
  });

  test("is written to at once when few clients are left, and empty shards are skipped", () => {
    const received: string[] = [];
    const say = crowd(
      (topic) => received.push(topic),
      ({ client, shard }) => shard !== 1 && client.endsWith("0"),
    );
    say("1");
    expect(received).toEqual(["text:0:crowd", "text:2:crowd"]);
  });

  test("has one shard closed when the broadcast to it fails", async () => {
    const received: string[] = [];
    const dismissed: string[] = [];
    const say = crowd(
      (topic) => {
        received.push(topic);
        if (topic === "text:1:crowd") throw new Error("injected");
      },
      undefined,
      ({ client }, why) => dismissed.push(`${client} ${why}`),
    );
    say("1");
    await eventually(async () => received.length === 3, "all shards are written to");
    expect(dismissed).toEqual(Array.from({ length: 250 }, (_, i) => `c${250 + i} undelivered`));
  });

  test("queues no more than a slow consumer may be behind", () => {
    const received: string[] = [];
    const say = crowd((topic) => received.push(topic));
    say("1");
    const large = "x".repeat(64 * 1024);
    for (let i = 0; i < 3; i++) say(large);
    expect(received).toEqual(["text:0:crowd"]);
    say(large);
    expect(received).toHaveLength(1 + 4 * 3 + 2);
  });
});

test("messages queued in a room that the store has lost do not reach its successor of the same name", async () => {
  const published: string[] = [];
  let loseState = () => {};
  const hub = new Hub(
    ({ onEntry, onStateLost }) => {
      loseState = onStateLost;
      return { store: new MemoryStore(10, onEntry, systemClock, systemRandom) };
    },
    (_, frame) => published.push(String(frame)),
    { maxMessageBytes: 65_536, pingSeconds: 25, flushMs: 20 },
    systemClock,
  );
  const reserve = () =>
    hub.reserve(
      { client: "ann", room: "tea", wire: "text", history: 0, can: ["read", "write"] },
      new TokenBucket({ perSecond: 0, burst: 0 }),
    );
  const connection = await reserve();
  await reserve(); // the room stays open for it
  hub.join(connection, new FakeSocket(new Map()));
  for (const text of ["1", "2"]) receive(connection, text);
  loseState();
  await Bun.sleep(100); // the flush cycle is over
  expect(published).toEqual(["Client #ann says: 1"]);
});
