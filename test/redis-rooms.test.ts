/** The rooms that are open on a node with Redis: what of them is in memory. */

import { expect, test } from "bun:test";
import { RedisRooms } from "../src/redis/rooms.ts";

const follower = { said() {}, present() {}, replaced() {}, lost() {} };
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
      const said = message(name, i);
      rooms.tell(name, said.id, { said });
      expect(rooms.bytes).toBeLessThanOrEqual(MAX_BYTES);
    }
  expect(rooms.bytes).toBeGreaterThan(MAX_BYTES / 2);
  for (const name of names) rooms.close(name);
  expect(rooms.bytes).toBe(0);
});

test("what is too old goes from the front alone; a time to come counts as the next message's", async () => {
  const rooms = new RedisRooms(emptyRoom, new Set(), 1000, follower, MAX_BYTES);
  const history = await rooms.open("tea");
  if (history === "unavailable") throw new Error("the room is not open");
  const NOW = 1000;
  const times = [1, 5000, 2, 5000, 900, 3];
  for (const [i, time] of times.entries()) {
    const said = message("tea", i + 1, time);
    rooms.tell("tea", said.id, { said });
  }
  rooms.forgetOld(500, NOW);
  expect(history.start).toBe(3);
  rooms.forgetOld(950, NOW);
  expect(history.start).toBe(6);
  expect(history.positionAfter("2-6")).toBe(6);
});
