/** The byte budget of the histories in memory. */

import { expect, test } from "bun:test";
import { RoomCache, type CachedRoom } from "../../src/store/room-cache.ts";
import { History } from "../../src/store/history.ts";

function roomsOf(cache: RoomCache<CachedRoom>, ...names: string[]): CachedRoom[] {
  return names.map((name) => {
    const room = { history: new History("0-0", 1000, 1e9), refCount: 1 };
    cache.add(name, room);
    return room;
  });
}
let sequence = 0;
const message = (characters: number) => ({
  id: `1-${++sequence}`,
  prev: `1-${sequence - 1}`,
  time: 1,
  room: "r",
  from: "ann",
  content: "x".repeat(characters),
});
const total = (rooms: CachedRoom[]) => rooms.reduce((bytes, { history }) => bytes + history.bytes, 0);

test("rooms that were acquired empty and then filled stay within the budget", () => {
  const cache = new RoomCache(1_000_000);
  const rooms = roomsOf(cache, ...Array.from({ length: 150 }, (_, i) => `${i}`));
  for (let i = 0; i < 100; i++)
    for (const room of rooms) {
      cache.push(room, message(400));
      expect(cache.bytes).toBeLessThanOrEqual(1_000_000);
    }
  expect(cache.bytes).toBe(total(rooms));
  expect(cache.bytes).toBeGreaterThan(80_000);
});

test("the largest histories are cut: a small room loses nothing, and every room keeps its latest messages", () => {
  const cache = new RoomCache(100_000);
  const [small, ...large] = roomsOf(cache, "small", "a", "b");
  for (let i = 0; i < 10; i++) if (small) cache.push(small, message(100));
  for (let i = 0; i < 200; i++) for (const room of large) cache.push(room, message(400));
  expect(small?.history.nextOffset).toBe(10);
  expect(small?.history.firstOffset).toBe(0);
  for (const { history } of large) {
    expect(history.bytes).toBeGreaterThan(40_000);
    expect(history.nextOffset).toBe(200);
    expect(history.get(199)).toBeDefined();
    expect(history.offsetAfter(history.idBeforeOffset(history.firstOffset))).toBe(history.firstOffset);
  }
});

test("replaced and deleted histories no longer count", () => {
  const cache = new RoomCache(100_000);
  const [a, b] = roomsOf(cache, "a", "b");
  if (!a || !b) throw new Error("no rooms");
  cache.push(a, message(1000));
  const bytes = cache.bytes;
  cache.push(b, message(1000));
  cache.replace(b, new History("5-0", 10, 1e9));
  expect(cache.bytes).toBe(bytes);
  expect(cache.release("a")).toBe(a);
  cache.delete("a");
  expect([cache.bytes, cache.size, cache.get("a")]).toEqual([0, 1, undefined]);
});

test("a message larger than the whole budget is not cached", () => {
  const cache = new RoomCache(10_000);
  const [a] = roomsOf(cache, "a");
  if (a) cache.push(a, message(20_000));
  expect([cache.bytes, a?.history.firstOffset, a?.history.nextOffset]).toEqual([0, 1, 1]);
});

test("the budget is 256 MiB; 4 MiB of a room are loaded, or 64 KiB once the cache is full", () => {
  const cache = new RoomCache();
  const MIB = 1024 * 1024;
  const rooms = roomsOf(cache, "a", "b", "c", "d");
  expect(cache.loadBytes).toBe(4 * MIB);
  const large = message(MIB); // 2 MiB, plus an allowance for the object
  for (let i = 0; i < 31; i++) for (const room of rooms) cache.push(room, large);
  expect(cache.loadBytes).toBe(4 * MIB);
  for (const room of rooms.slice(0, 3)) cache.push(room, large);
  expect(cache.loadBytes).toBe(256 * MIB - cache.bytes);
  const [small] = roomsOf(cache, "small");
  if (small) cache.push(small, message((256 * MIB - cache.bytes) / 2 - 1000));
  expect(cache.loadBytes).toBe(64 * 1024);
  expect(total(rooms)).toBeGreaterThan(254 * MIB);
  for (const room of rooms) cache.push(room, large);
  expect(cache.bytes).toBeLessThanOrEqual(256 * MIB);
});
