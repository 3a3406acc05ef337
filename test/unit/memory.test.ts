/** Bounds and ids of the memory store, with limits that a test can reach. */

import { expect, test } from "bun:test";
import { MemoryStore } from "../../src/store/memory.ts";
import type { ReadonlyHistory } from "../../src/store/history.ts";
import type { PendingMessage, StoredMessage } from "../../src/store/message.ts";
import { StoreUnavailable } from "../../src/store/store.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

function draft(room: string, content: string): PendingMessage {
  return {
    room,
    from: "ann",
    content,
    session: undefined,
    seq: undefined,
    requiresSeq: undefined,
  };
}

function makeStore({
  entries: messages = 100,
  rooms = 100,
  roomBytes = 1e9,
  bytes = 1e9,
  clock = (): number => 1000,
} = {}) {
  const followed: StoredMessage[] = [];
  const store = new MemoryStore(
    messages,
    (message) => followed.push(message),
    { ...systemClock, now: clock },
    systemRandom,
    { rooms, roomBytes, bytes },
  );
  return {
    followed,
    store,
    say(room: string, content = "hi") {
      let result: unknown;
      store.append(draft(room, content), { onResult: (_, given) => (result = given) });
      return result;
    },
    async open(room: string): Promise<ReadonlyHistory> {
      const history = await store.acquireRoom(room);
      return history;
    },
  };
}

test("ids increase even when the clock goes back, and each message names its predecessor in the room", async () => {
  let nowMs = 5000;
  const { say, open, followed } = makeStore({ clock: () => nowMs });
  const start = (await open("tea")).lastId;
  for (nowMs of [5000, 5001, 4000, 5002, 1]) {
    say("tea");
    say("coffee");
  }
  const order = (id: string) => id.split("-").map(Number) as [number, number];
  for (const [i, { id }] of followed.entries()) {
    const [beforeMs, before] = order(followed[i - 1]?.id ?? start);
    const [ms, sequence] = order(id);
    expect(ms > beforeMs || (ms === beforeMs && sequence > before)).toBe(true);
  }
  const tea = followed.filter(({ room }) => room === "tea");
  expect(tea.map(({ prev }) => prev)).toEqual([start, ...tea.slice(0, -1).map(({ id }) => id)]);
});

test("a message has the time of the clock, even when ids are far ahead of it", () => {
  let nowMs = 5_000_000;
  const { say, followed } = makeStore({ clock: () => nowMs });
  for (nowMs of [5_000_000, 1000, 1001]) say("tea");
  expect(followed.map(({ time }) => time)).toEqual([5_000_000, 1000, 1001]);
  expect(followed.map(({ id }) => id.split("-")[0])).toEqual(["5000000", "5000000", "5000000"]);
});

test("a room keeps its latest messages, limited by number and by bytes", async () => {
  const { say, open } = makeStore({ entries: 3, roomBytes: 3000 });
  const history = await open("tea");
  for (const text of ["1", "2", "3", "4"]) say("tea", text);
  expect([2, 3, 4].map((n) => history.get(n - 1)?.content)).toEqual(["2", "3", "4"]);
  expect(history.get(0)).toBeUndefined();
  say("tea", "x".repeat(1200));
  expect([history.firstOffset, history.nextOffset]).toEqual([3, 5]);
});

test("beyond the limit of rooms, the one that has been empty longest is evicted, an occupied one never", async () => {
  const { say, open, store } = makeStore({ rooms: 3 });
  const ids = new Map<string, string>();
  for (const room of ["a", "b", "c"]) {
    const history = await open(room);
    say(room);
    ids.set(room, history.lastId);
  }
  await expect(store.acquireRoom("d")).rejects.toBeInstanceOf(StoreUnavailable);
  expect(
    store.append(draft("d", ""), {
      onResult: (_, result) => expect(result).toEqual({ rejected: "unavailable" }),
    }),
  ).toBeUndefined();
  store.releaseRoom("b");
  store.releaseRoom("a");
  await open("d");
  say("d"); // evicts b
  expect((await open("a")).lastId).toBe(ids.get("a") ?? "");
  await expect(store.acquireRoom("b")).rejects.toBeInstanceOf(StoreUnavailable);
  store.releaseRoom("d");
  await open("b");
  say("b");
  expect((await open("b")).lastId).not.toBe(ids.get("b") ?? "");
  expect((await open("c")).lastId).toBe(ids.get("c") ?? "");
});

test("a room stays open until it has been released as often as acquired", async () => {
  const { say, open, store } = makeStore({ rooms: 1 });
  await open("a");
  await open("a");
  say("a");
  store.releaseRoom("a");
  await expect(store.acquireRoom("b")).rejects.toBeInstanceOf(StoreUnavailable);
  store.releaseRoom("a");
  await open("b");
});

test("beyond the limit of bytes, empty rooms are evicted first, then the oldest messages of the room that grew", async () => {
  const { say, open, store } = makeStore({ bytes: 10_000 });
  const [empty, other, grown] = [await open("empty"), await open("other"), await open("grown")];
  for (const room of ["empty", "other", "grown"]) say(room, "x".repeat(1000));
  store.releaseRoom("empty");
  for (let i = 0; i < 3; i++) say("grown", "x".repeat(1000));
  expect((await open("empty")).lastId).not.toBe(empty.lastId);
  expect([other.firstOffset, other.nextOffset]).toEqual([0, 1]);
  expect([grown.firstOffset, grown.nextOffset]).toEqual([1, 4]);
});

test("the busiest room is not evicted, even if it is used over HTTP only", async () => {
  const { say, store } = makeStore({ rooms: 3 });
  for (let i = 0; i < 10; i++) {
    say("busy", `${i}`);
    say(`other${i}`);
  }
  const texts = async (room: string) =>
    (await store.readHistory(room, { limit: 100 })).messages.map(({ content }) => content);
  expect(await texts("busy")).toEqual(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
  expect(await texts("other7")).toEqual([]);
  expect(await texts("other9")).toEqual(["hi"]);
});

test("rooms without a history never evict one that has a history", async () => {
  const { say, open, store } = makeStore({ rooms: 50 });
  for (let i = 0; i < 50; i++) say(`full${i}`, `${i}`);
  const left = async () => {
    let count = 0;
    for (let i = 0; i < 50; i++) count += (await store.readHistory(`full${i}`, { limit: 1 })).messages.length;
    return count;
  };
  for (let i = 0; i < 150; i++) await open(`silent${i}`);
  expect(await left()).toBe(50);
  for (let i = 0; i < 150; i++) store.releaseRoom(`silent${i}`);
  for (let i = 0; i < 150; i++) {
    await open(`brief${i}`);
    store.releaseRoom(`brief${i}`);
  }
  expect(await left()).toBe(50);
  await open("silent0");
  say("silent0", "the first message of a room takes the place of the one silent for longest");
  expect(await left()).toBe(49);
});

test("the limit of rooms also holds where rooms have no history", async () => {
  const { say, open, followed } = makeStore({ rooms: 3, entries: 0 });
  const first = (await open("occupied")).lastId;
  for (let i = 0; i < 10; i++) say(`r${i}`);
  expect((await open("occupied")).lastId).toBe(first);
  for (const room of ["r9", "r0"]) say(room);
  const ids = new Map(followed.map(({ id, room }, i) => [i < 10 ? room : "", id]));
  expect(followed.slice(10).map(({ room, prev }) => prev === ids.get(room))).toEqual([true, false]);
});

test("its own limits are 64 MiB a room, 256 MiB in all, and 50,000 rooms", async () => {
  const store = new MemoryStore(1_000_000, () => {}, systemClock, systemRandom);
  const say = (room: string, content: string) => store.append(draft(room, content), { onResult() {} });
  const twoMiB = "x".repeat(1024 * 1024); // two bytes per character, plus a small overhead
  const histories: ReadonlyHistory[] = [];
  for (let i = 0; i < 5; i++) {
    const history = await store.acquireRoom(`large${i}`);
    histories.push(history);
    for (let n = 0; n < 40; n++) say(`large${i}`, twoMiB);
  }
  const lengths = histories.map(({ firstOffset, nextOffset }) => nextOffset - firstOffset);
  expect(lengths.slice(0, 4)).toEqual([31, 31, 31, 31]);
  expect(lengths.reduce((sum, length) => sum + length)).toBe(127);

  const many = new MemoryStore(1, () => {}, systemClock, systemRandom);
  const isKept = async (room: string) => (await many.readHistory(room, { limit: 1 })).messages.length === 1;
  for (let i = 0; i < 50_000; i++) many.append(draft(`r${i}`, ""), { onResult() {} });
  expect(await isKept("r0")).toBe(true);
  many.append(draft("one more", ""), { onResult() {} });
  expect([await isKept("r0"), await isKept("r1"), await isKept("one more")]).toEqual([false, true, true]);
});
