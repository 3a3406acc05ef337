/** The rooms that are open on a node: what is cached of them, and what the node publishes to the others. */

import { expect, test } from "bun:test";
import type { RoomSnapshot } from "../../src/store/shared-log/engine.ts";
import { ClusterOutbox } from "../../src/store/shared-log/outbox.ts";
import { OpenRooms } from "../../src/store/shared-log/rooms.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import { systemClock } from "../../src/util/clock.ts";

const listener = {
  onEntry() {},
  onRemotePresence() {},
  onSessionClaimed() {},
  onBan() {},
  onRemovedAll() {},
  onStateLost() {},
};
const emptyRoom = {
  openRoom: async () => ({ head: "1-0", lastId: "1-0", newestFirst: [], presence: [] }),
};
const MAX_BYTES = 1_000_000;

function message(room: string, sequence: number, time = 1, characters = 400) {
  const id = `2-${sequence}`;
  return { id, prev: `2-${sequence - 1}`, time, room, from: "ann", content: "x".repeat(characters) };
}

test("rooms that were opened empty and then filled stay within the byte budget", async () => {
  const rooms = new OpenRooms(emptyRoom, new Set(), 1000, listener, MAX_BYTES);
  const names = Array.from({ length: 150 }, (_, i) => `${i}`);
  for (const name of names) await rooms.open(name);
  for (let i = 1; i <= 100; i++)
    for (const name of names) {
      const stored = message(name, i);
      rooms.apply(name, stored.id, { entry: stored });
      expect(rooms.bytes).toBeLessThanOrEqual(MAX_BYTES);
    }
  expect(rooms.bytes).toBeGreaterThan(MAX_BYTES / 2);
  for (const name of names) rooms.close(name);
  expect(rooms.bytes).toBe(0);
});

test("only the oldest messages are pruned; a time in the future counts as the next message's", async () => {
  const rooms = new OpenRooms(emptyRoom, new Set(), 1000, listener, MAX_BYTES);
  const history = await rooms.open("tea");
  const NOW = 1000;
  const times = [1, 5000, 2, 5000, 900, 3];
  for (const [i, time] of times.entries()) {
    const stored = message("tea", i + 1, time);
    rooms.apply("tea", stored.id, { entry: stored });
  }
  rooms.prune(500, NOW);
  expect(history.firstOffset).toBe(3);
  rooms.prune(950, NOW);
  expect(history.firstOffset).toBe(6);
  expect(history.offsetAfter("2-6")).toBe(6);
});

/** Rooms whose loads the test completes one by one. */
function pausedRooms() {
  const loads: ((snapshot: RoomSnapshot) => void)[] = [];
  const broadcast: string[] = [];
  const openRoom = () => new Promise<RoomSnapshot>((resolve) => loads.push(resolve));
  const rooms = new OpenRooms(
    { openRoom },
    new Set(),
    1000,
    { ...listener, onEntry: ({ id }) => broadcast.push(id) },
    MAX_BYTES,
  );
  /** When "tea" and the log have that many messages. */
  const snapshot = (count: number): RoomSnapshot => ({
    head: `2-${count}`,
    lastId: `2-${count}`,
    newestFirst: Array.from({ length: count }, (_, i) => message("tea", count - i)),
    presence: [],
  });
  const apply = (sequence: number) => {
    const stored = message("tea", sequence);
    rooms.apply("tea", stored.id, { entry: stored });
  };
  return { rooms, loads, broadcast, snapshot, apply };
}

test("each message appears once, whether it is loaded or read from the log, before, during or after", async () => {
  const { rooms, loads, broadcast, snapshot, apply } = pausedRooms();
  const opening = rooms.open("tea");
  for (const sequence of [1, 2, 3, 4]) apply(sequence);
  loads[0]?.(snapshot(3));
  const history = await opening;
  expect([history.nextOffset, history.lastId, broadcast]).toEqual([4, "2-4", ["2-4"]]);
  apply(5);
  expect([history.nextOffset, history.lastId, broadcast]).toEqual([5, "2-5", ["2-4", "2-5"]]);

  rooms.reloadAll();
  loads[1]?.(snapshot(7));
  const reloaded = await rooms.open("tea");
  for (const sequence of [6, 7, 8]) apply(sequence);
  expect([reloaded.nextOffset, reloaded.lastId, broadcast]).toEqual([8, "2-8", ["2-4", "2-5", "2-8"]]);
});

test("after a reload the room is what the latest load says, whichever reply comes first", async () => {
  for (const order of [
    [0, 1],
    [1, 0],
  ]) {
    const { rooms, loads, snapshot } = pausedRooms();
    const opening = rooms.open("tea");
    rooms.reloadAll();
    for (const which of order) {
      loads[which]?.(snapshot(which === 0 ? 3 : 5));
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect((await opening).lastId).toBe("2-5");
    const { bytes } = rooms;
    rooms.close("tea");
    expect([bytes > 0, rooms.bytes]).toEqual([true, 0]);
  }
});

test("a room that is closed while it loads counts no bytes", async () => {
  const { rooms, loads, snapshot } = pausedRooms();
  const opening = rooms.open("tea");
  loads[0]?.(snapshot(3));
  await opening;
  rooms.reloadAll();
  rooms.close("tea");
  loads[1]?.(snapshot(5));
  await new Promise((resolve) => setImmediate(resolve));
  expect(rooms.bytes).toBe(0);
});

test("an update that was not written is published again, unless a newer one replaces it", () => {
  const outbox = new ClusterOutbox({ clock: systemClock, timing: sharedLogTiming }, () => {});
  const update = (client: string, connections: number) => ({ room: "tea", client, connections });
  outbox.adjustPresence("tea", "ann", 1);
  outbox.adjustPresence("tea", "bob", 1);
  const drained = outbox.drain(10);
  expect(drained).toEqual([update("ann", 1), update("bob", 1)]);
  outbox.adjustPresence("tea", "bob", -1);
  outbox.requeue(drained);
  expect(outbox.drain(10).toSorted((a, b) => a.client.localeCompare(b.client))).toEqual([
    update("ann", 1),
    update("bob", 0),
  ]);
  expect(outbox.drain(10)).toEqual([]);
});
