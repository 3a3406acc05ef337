/** The rooms that are open on a node with Redis: what of them is in memory, and what the other nodes are told. */

import { expect, test } from "bun:test";
import { ClusterOutbox } from "../../src/store/redis/outbox.ts";
import { RedisRooms } from "../../src/store/redis/rooms.ts";

const follower = { onMessage() {}, onRemotePresence() {}, onSessionClaimed() {}, onStateLost() {} };
const emptyRoom = async () => ["1-0", "1-0", [], []];
const MAX_BYTES = 1_000_000;

/** @returns a message, as the log tells of it */
function message(room: string, sequence: number, time = 1, characters = 400) {
  const id = `2-${sequence}`;
  return { id, prev: `2-${sequence - 1}`, time, room, from: "ann", content: "x".repeat(characters) };
}

test("rooms that were opened empty and then filled stay within the bound of bytes", async () => {
  const rooms = new RedisRooms(emptyRoom, new Set(), 1000, follower, MAX_BYTES);
  const names = Array.from({ length: 150 }, (_, i) => `${i}`);
  for (const name of names) await rooms.open(name);
  for (let i = 1; i <= 100; i++)
    for (const name of names) {
      const stored = message(name, i);
      rooms.apply(name, stored.id, { stored });
      expect(rooms.bytes).toBeLessThanOrEqual(MAX_BYTES);
    }
  expect(rooms.bytes).toBeGreaterThan(MAX_BYTES / 2);
  for (const name of names) rooms.close(name);
  expect(rooms.bytes).toBe(0);
});

test("what is too old goes from the front alone; a time to come counts as the next message's", async () => {
  const rooms = new RedisRooms(emptyRoom, new Set(), 1000, follower, MAX_BYTES);
  const history = await rooms.open("tea");
  const NOW = 1000;
  const times = [1, 5000, 2, 5000, 900, 3];
  for (const [i, time] of times.entries()) {
    const stored = message("tea", i + 1, time);
    rooms.apply("tea", stored.id, { stored });
  }
  rooms.forgetOld(500, NOW);
  expect(history.firstOffset).toBe(3);
  rooms.forgetOld(950, NOW);
  expect(history.firstOffset).toBe(6);
  expect(history.offsetAfter("2-6")).toBe(6);
});

/** Rooms whose looks at Redis are answered one by one, by the test; and what is broadcast. */
function waitingRooms() {
  const looks: ((reply: unknown) => void)[] = [];
  const said: string[] = [];
  const look = () => new Promise<unknown>((resolve) => looks.push(resolve));
  const rooms = new RedisRooms(
    look,
    new Set(),
    1000,
    { ...follower, onMessage: ({ id }) => said.push(id) },
    MAX_BYTES,
  );
  /** What Redis has of "tea": as many messages, and the log up to there. */
  const replyWith = (count: number) => {
    const rows = Array.from({ length: count }, (_, i) => {
      const { id, prev, from, content } = message("tea", count - i);
      return [id, ["p", prev, "f", from, "c", `t${content}`, "t", "1"]];
    });
    return [`2-${count}`, `2-${count}`, rows, []];
  };
  const tell = (sequence: number) => {
    const told = message("tea", sequence);
    rooms.apply("tea", told.id, { stored: told });
  };
  return { rooms, looks, said, replyWith, tell };
}

test("each message comes once, whether it is read or told, before, meanwhile or after", async () => {
  const { rooms, looks, said, replyWith, tell } = waitingRooms();
  const opening = rooms.open("tea");
  for (const sequence of [1, 2, 3, 4]) tell(sequence);
  looks[0]?.(replyWith(3));
  const history = await opening;
  expect([history.nextOffset, history.lastId, said]).toEqual([4, "2-4", ["2-4"]]);
  tell(5);
  expect([history.nextOffset, history.lastId, said]).toEqual([5, "2-5", ["2-4", "2-5"]]);

  rooms.reloadAll();
  looks[1]?.(replyWith(7));
  const again = await rooms.open("tea");
  for (const sequence of [6, 7, 8]) tell(sequence);
  expect([again.nextOffset, again.lastId, said]).toEqual([8, "2-8", ["2-4", "2-5", "2-8"]]);
});

test("a room that is read anew is what it is then, whichever answer comes first", async () => {
  for (const order of [
    [0, 1],
    [1, 0],
  ]) {
    const { rooms, looks, replyWith } = waitingRooms();
    const opening = rooms.open("tea");
    rooms.reloadAll();
    for (const which of order) {
      looks[which]?.(replyWith(which === 0 ? 3 : 5));
      await new Promise((resolve) => setImmediate(resolve));
    }
    const history = await opening;
    expect(history.lastId).toBe("2-5");
    const { bytes } = rooms;
    rooms.close("tea");
    expect([bytes > 0, rooms.bytes]).toEqual([true, 0]);
  }
});

test("a room that is closed while it is read counts no bytes", async () => {
  const { rooms, looks, replyWith } = waitingRooms();
  const opening = rooms.open("tea");
  looks[0]?.(replyWith(3));
  await opening;
  rooms.reloadAll();
  rooms.close("tea");
  looks[1]?.(replyWith(5));
  await new Promise((resolve) => setImmediate(resolve));
  expect(rooms.bytes).toBe(0);
});

test("what could not be told is told again, unless something newer takes its place", () => {
  const changes = new ClusterOutbox(() => {});
  const change = (client: string, connections: number) => ({ room: "tea", client, connections });
  changes.setPresence("tea", "ann", 1);
  changes.setPresence("tea", "bob", 1);
  const taken = changes.drain(10);
  expect(taken).toEqual([change("ann", 1), change("bob", 1)]);
  changes.setPresence("tea", "bob", 0);
  changes.requeue(taken);
  expect(changes.drain(10).toSorted((a, b) => a.client.localeCompare(b.client))).toEqual([
    change("ann", 1),
    change("bob", 0),
  ]);
  expect(changes.drain(10)).toEqual([]);
});
