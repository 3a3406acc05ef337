/** Replays are paced by the network, in order, and never leave a gap. */

import { describe, expect, test } from "bun:test";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import { renderMetrics } from "../../src/ops/metrics.ts";
import { SqliteStore } from "../../src/store/sqlite/store.ts";
import { History } from "../../src/store/history.ts";
import type { Content } from "../../src/protocol/codec.ts";
import type { StoredEntry } from "../../src/store/message.ts";
import { StoreUnavailable, type MessageStore } from "../../src/store/store.ts";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { type FakeSocket, startHub } from "../support/hub.ts";
import { TempFolder } from "../support/temp-folder.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

useFakeTime();

function startSqliteHub({ path }: TempFolder) {
  return startHub({
    makeStore: ({ onEntry }) =>
      new SqliteStore(`${path}/chat.db`, { history: 10, keepDays: 0 }, onEntry, systemClock, systemRandom),
  });
}

describe("a replay", () => {
  const MIB = 1024 * 1024;
  const numbers = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => `Client #ann says: ${from + i}`);
  /** A turn of the event loop; the clock stands still. */
  const turn = () => new Promise(setImmediate);

  test("sends no more than the network takes, and does not count as slow consumer", async () => {
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

  test("continues from the store once the cached history has moved on", async () => {
    using folder = new TempFolder();
    const { hub, join } = startSqliteHub(folder);
    const ann = await join("ann");
    const say = async (from: number, to: number) => {
      for (const text of numbers(from, to)) ann.says(text.slice("Client #ann says: ".length));
      await hub.drain();
    };
    await say(1, 20);
    const slow = await join("slow", "text", { history: 10, buffered: 2 * MIB });
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
    await hub.store.close();
  });

  test("ends with its connection: nothing more is sent or counted", async () => {
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

  test("is not overtaken by personal lines: each comes just before its message", async () => {
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

  test("is not overtaken by rejections", async () => {
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

  test("from the store is not overtaken by personal lines", async () => {
    using folder = new TempFolder();
    const { hub, join } = startSqliteHub(folder);
    const bob = await join("bob");
    for (let i = 1; i <= 200; i++) bob.says(`${i}`);
    await hub.drain();
    const ann = await join("ann", "text", { history: 200 });
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
    await hub.store.close();
  });

  test("holds up to 1 MiB of personal lines for a slow consumer", async () => {
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

  test("yields to other work after 1,000 messages", async () => {
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

  test("is complete before a ping during it is answered", async () => {
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

  describe("from the store", () => {
    const HISTORY_UNAVAILABLE = { code: 1013, reason: "The history is unavailable. Reconnect and resume." };

    /** A room with the messages 1 to 500, of which ten are cached. */
    async function longRoom() {
      const ready = new History("1-0", 10, Infinity);
      const stores: MessageStore[] = [];
      const { join } = startHub({
        makeStore({ onEntry }) {
          const store = new MemoryStore(
            1000,
            (message) => {
              ready.push(message);
              onEntry(message);
            },
            systemClock,
            systemRandom,
          );
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

    test("sends no more than the network takes, without a gap", async () => {
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

    test("closes with 1013 rather than leave a gap when the store has lost messages", async () => {
      const { join, after, store } = await longRoom();
      const late = await join("late", "json", { after, buffered: 2 * MIB });
      for (let i = 0; i < 5; i++) await turn();
      store.readHistory = async () => ({ entries: [], more: false, recovered: false });
      late.socket.buffered = 0;
      late.drains();
      for (let i = 0; i < 5; i++) await turn();
      expect(late.socket.closed).toEqual(HISTORY_UNAVAILABLE);
      expect(texts(late.socket)).toEqual(["1"]);
    });

    /** A node that receives what the store has stored only when it reads the log. */
    function laggingNode() {
      const unread: (() => void)[] = [];
      const cached = new History("1-0", 10, Infinity);
      const limits: number[] = [];
      const { hub, join } = startHub({
        makeStore({ onEntry }) {
          const onStored = (entry: StoredEntry) =>
            void unread.push(() => (cached.push(entry), onEntry(entry)));
          const store = new MemoryStore(1000, onStored, systemClock, systemRandom);
          const append = store.append.bind(store);
          store.append = (pending, callback) =>
            append(pending, {
              onResult: (...result) => void unread.push(() => callback.onResult(...result)),
            });
          store.acquireRoom = async () => cached;
          const readHistory = store.readHistory.bind(store);
          store.readHistory = (room, query) => {
            limits.push(query.limit);
            return readHistory(room, query);
          };
          return store;
        },
      });
      const reads = () => {
        for (const receive of unread.splice(0)) receive();
      };
      return { hub, join, cached, limits, reads };
    }

    test("sends nothing that the node has not received yet, so that replies come before their messages", async () => {
      const { join, cached, reads } = laggingNode();
      const bob = await join("bob");
      bob.says("0");
      reads();
      const after = cached.lastId;
      for (let i = 1; i <= 50; i++) bob.says(`${i}`);
      reads();
      const ann = await join("ann", "text", { after, buffered: 1 });
      for (let i = 0; i < 5; i++) await turn();
      expect(ann.socket.takes()).toEqual(["Client #bob says: 1"]);
      ann.says("a");
      ann.socket.buffered = 0;
      ann.drains();
      // Reads 2, 4, 8, 16 and 20 messages.
      for (let i = 0; i < 20; i++) await turn();
      reads();
      const received = ann.socket.takes();
      expect(received).toHaveLength(51);
      expect(received.slice(-3)).toEqual(["Client #bob says: 50", "You wrote: a", "Client #ann says: a"]);
    });

    test("reads single messages until the node has received what follows, then whole pages", async () => {
      const { hub, join, limits, reads } = laggingNode();
      const bob = await join("bob");
      for (let i = 0; i <= 500; i++) bob.says(`${i}`);
      const { entries } = await hub.store.readHistory("tea", { limit: 501 });
      const ann = await join("ann", "json", { after: entries[100]?.id ?? "" });
      const polls = async () => {
        limits.length = 0;
        for (let i = 0; i < 20; i++) {
          await turn();
          await passes(20);
        }
        return limits;
      };
      expect(new Set((await polls()).slice(1))).toEqual(new Set([1]));
      expect(texts(ann.socket)).toEqual([]);
      reads();
      expect((await polls()).at(-1)).toBe(100);
      expect(texts(ann.socket)).toEqual(Array.from({ length: 400 }, (_, i) => `${101 + i}`));
    });

    test("closes with 1013 when the store cannot be read", async () => {
      const { join, after, store } = await longRoom();
      const late = await join("late", "json", { after, buffered: 2 * MIB });
      for (let i = 0; i < 5; i++) await turn();
      store.readHistory = () => Promise.reject(new StoreUnavailable());
      late.socket.buffered = 0;
      late.drains();
      for (let i = 0; i < 5; i++) await turn();
      expect(late.socket.closed).toEqual(HISTORY_UNAVAILABLE);
    });
  });
});
