/** The limits and ids of the memory store, with limits that a test can reach. */

import { expect, test } from "bun:test";
import { MemoryStore } from "../../src/store/memory.ts";
import type { ReadonlyHistory } from "../../src/store/history.ts";
import { isMessage, type PendingMessage, type StoredMessage } from "../../src/store/message.ts";
import { StoreUnavailable } from "../../src/store/store.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

function pendingMessage(room: string, content: string): PendingMessage {
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
  maxMessages = 100,
  rooms = 100,
  roomBytes = 1e9,
  bytes = 1e9,
  clock = (): number => 1000,
} = {}) {
  const emitted: StoredMessage[] = [];
  const store = new MemoryStore(
    maxMessages,
    (entry) => isMessage(entry) && emitted.push(entry),
    { ...systemClock, now: clock },
    systemRandom,
    { rooms, roomBytes, bytes },
  );
  return {
    emitted,
    store,
    append(room: string, content = "hi") {
      let result: unknown;
      store.append(pendingMessage(room, content), { onResult: (_, appended) => (result = appended) });
      return result;
    },
    acquire: (room: string) => store.acquireRoom(room),
  };
}

test("ids increase even when the clock goes back, and each message names the one before it in its room", async () => {
  let nowMs = 5000;
  const { append, acquire, emitted } = makeStore({ clock: () => nowMs });
  const start = (await acquire("tea")).lastId;
  for (nowMs of [5000, 5001, 4000, 5002, 1]) {
    append("tea");
    append("coffee");
  }
  const order = (id: string) => id.split("-").map(Number) as [number, number];
  for (const [i, { id }] of emitted.entries()) {
    const [beforeMs, before] = order(emitted[i - 1]?.id ?? start);
    const [ms, sequence] = order(id);
    expect(ms > beforeMs || (ms === beforeMs && sequence > before)).toBe(true);
  }
  const tea = emitted.filter(({ room }) => room === "tea");
  expect(tea.map(({ prev }) => prev)).toEqual([start, ...tea.slice(0, -1).map(({ id }) => id)]);
});

test("`time` follows the clock even when ids are far ahead of it", () => {
  let nowMs = 5_000_000;
  const { append, emitted } = makeStore({ clock: () => nowMs });
  for (nowMs of [5_000_000, 1000, 1001]) append("tea");
  expect(emitted.map(({ time }) => time)).toEqual([5_000_000, 1000, 1001]);
  expect(emitted.map(({ id }) => id.split("-")[0])).toEqual(["5000000", "5000000", "5000000"]);
});

test("a room is limited in messages and in bytes", async () => {
  const { append, acquire } = makeStore({ maxMessages: 3, roomBytes: 3000 });
  const history = await acquire("tea");
  for (const text of ["1", "2", "3", "4"]) append("tea", text);
  expect(history.oldestFirst()).toMatchObject([{ content: "2" }, { content: "3" }, { content: "4" }]);
  expect(history.get(0)).toBeUndefined();
  append("tea", "x".repeat(1200));
  expect([history.firstOffset, history.nextOffset]).toEqual([3, 5]);
});

test("beyond the room limit the least recently used unoccupied room is evicted, never an occupied one", async () => {
  const { append, acquire, store } = makeStore({ rooms: 3 });
  const ids = new Map<string, string>();
  for (const room of ["a", "b", "c"]) {
    const history = await acquire(room);
    append(room);
    ids.set(room, history.lastId);
  }
  await expect(store.acquireRoom("d")).rejects.toBeInstanceOf(StoreUnavailable);
  expect(
    store.append(pendingMessage("d", ""), {
      onResult: (_, result) => expect(result).toEqual({ rejected: "unavailable" }),
    }),
  ).toBeUndefined();
  store.releaseRoom("b");
  store.releaseRoom("a");
  await acquire("d");
  append("d"); // b is evicted
  expect((await acquire("a")).lastId).toBe(ids.get("a") ?? "");
  await expect(store.acquireRoom("b")).rejects.toBeInstanceOf(StoreUnavailable);
  store.releaseRoom("d");
  await acquire("b");
  append("b");
  expect((await acquire("b")).lastId).not.toBe(ids.get("b") ?? "");
  expect((await acquire("c")).lastId).toBe(ids.get("c") ?? "");
});

test("a room is protected until it is released as often as it was acquired", async () => {
  const { append, acquire, store } = makeStore({ rooms: 1 });
  await acquire("a");
  await acquire("a");
  append("a");
  store.releaseRoom("a");
  await expect(store.acquireRoom("b")).rejects.toBeInstanceOf(StoreUnavailable);
  store.releaseRoom("a");
  await acquire("b");
});

test("beyond the byte limit unoccupied rooms are evicted first, then the oldest messages of the room that grew", async () => {
  const { append, acquire, store } = makeStore({ bytes: 10_000 });
  const [empty, other, grown] = [await acquire("empty"), await acquire("other"), await acquire("grown")];
  for (const room of ["empty", "other", "grown"]) append(room, "x".repeat(1000));
  store.releaseRoom("empty");
  for (let i = 0; i < 3; i++) append("grown", "x".repeat(1000));
  expect((await acquire("empty")).lastId).not.toBe(empty.lastId);
  expect([other.firstOffset, other.nextOffset]).toEqual([0, 1]);
  expect([grown.firstOffset, grown.nextOffset]).toEqual([1, 4]);
});

test("the busiest room is not evicted, even if no client ever joins it", async () => {
  const { append, store } = makeStore({ rooms: 3 });
  for (let i = 0; i < 10; i++) {
    append("busy", `${i}`);
    append(`other${i}`);
  }
  const texts = async (room: string) =>
    (await store.readHistory(room, { limit: 100 })).entries.filter(isMessage).map(({ content }) => content);
  expect(await texts("busy")).toEqual(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
  expect(await texts("other7")).toEqual([]);
  expect(await texts("other9")).toEqual(["hi"]);
});

test("rooms with history outlive any number of rooms without, occupied or not", async () => {
  const { append, acquire, store } = makeStore({ rooms: 50 });
  for (let i = 0; i < 50; i++) append(`full${i}`, `${i}`);
  const left = async () => {
    let count = 0;
    for (let i = 0; i < 50; i++) count += (await store.readHistory(`full${i}`, { limit: 1 })).entries.length;
    return count;
  };
  for (let i = 0; i < 150; i++) await acquire(`silent${i}`);
  expect(await left()).toBe(50);
  for (let i = 0; i < 150; i++) store.releaseRoom(`silent${i}`);
  for (let i = 0; i < 150; i++) {
    await acquire(`brief${i}`);
    store.releaseRoom(`brief${i}`);
  }
  expect(await left()).toBe(50);
  await acquire("silent0");
  append("silent0", "the first message of a room evicts the least recently used one");
  expect(await left()).toBe(49);
});

test("the number of rooms is limited even if rooms have no history at all", async () => {
  const { append, acquire, emitted } = makeStore({ rooms: 3, maxMessages: 0 });
  const first = (await acquire("occupied")).lastId;
  for (let i = 0; i < 10; i++) append(`r${i}`);
  expect((await acquire("occupied")).lastId).toBe(first);
  for (const room of ["r9", "r0"]) append(room);
  const ids = new Map(emitted.map(({ id, room }, i) => [i < 10 ? room : "", id]));
  expect(emitted.slice(10).map(({ room, prev }) => prev === ids.get(room))).toEqual([true, false]);
});

test("the default limits are 64 MiB per room, 256 MiB in total, and 50,000 rooms", async () => {
  const store = new MemoryStore(1_000_000, () => {}, systemClock, systemRandom);
  const append = (room: string, content: string) =>
    store.append(pendingMessage(room, content), { onResult() {} });
  const twoMiB = "x".repeat(1024 * 1024); // two bytes per character, plus an allowance for the object
  const histories: ReadonlyHistory[] = [];
  for (let i = 0; i < 5; i++) {
    const history = await store.acquireRoom(`large${i}`);
    histories.push(history);
    for (let n = 0; n < 40; n++) append(`large${i}`, twoMiB);
  }
  const lengths = histories.map(({ firstOffset, nextOffset }) => nextOffset - firstOffset);
  expect(lengths.slice(0, 4)).toEqual([31, 31, 31, 31]);
  expect(lengths.reduce((sum, length) => sum + length)).toBe(127);

  const many = new MemoryStore(1, () => {}, systemClock, systemRandom);
  const isStored = async (room: string) => (await many.readHistory(room, { limit: 1 })).entries.length === 1;
  for (let i = 0; i < 50_000; i++) many.append(pendingMessage(`r${i}`, ""), { onResult() {} });
  expect(await isStored("r0")).toBe(true);
  many.append(pendingMessage("one more", ""), { onResult() {} });
  expect([await isStored("r0"), await isStored("r1"), await isStored("one more")]).toEqual([
    false,
    true,
    true,
  ]);
});

test("rooms are listed by their latest message, without evicted and empty ones", async () => {
  const { append, acquire, store } = makeStore({ rooms: 3 });
  await acquire("empty");
  for (const room of ["a", "b", "c", "a"]) append(room);
  const names = async (after?: string, limit = 10) =>
    (await store.listRooms(after, limit))?.map(({ room }) => room);
  expect(await names()).toEqual(["a", "c", "b"]);
  expect(await names("a", 1)).toEqual(["c"]);
  expect(await names("empty")).toBeUndefined();
  append("d"); // evicts the least recently used
  expect(await names()).toEqual(["d", "a", "c"]);
  expect(await names("b")).toBeUndefined();
  const { append: appendNowhere, store: keepsNothing } = makeStore({ maxMessages: 0 });
  appendNowhere("a");
  expect(await keepsNothing.listRooms(undefined, 10)).toEqual([]);
});
