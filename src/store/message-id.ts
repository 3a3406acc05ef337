/**
 * Message ids: `<milliseconds>-<sequence>`, an order and a resume point in one. Each is greater than all ids that the store
 * assigned before, in any room, even when the clock goes back. The milliseconds follow the clock but are not a time stamp.
 *
 * Each store assigns its ids: the memory store with {@link IdGenerator}, SQLite with integer keys that stand for ids
 * (`sqlite/database.ts`), Redis in its scripts (`next_id` in `redis/lua/common.lua`).
 */

import type { Random } from "../util/random.ts";

const MAX_FIRST_SEQUENCE = 1000;
const MESSAGE_ID = /^\d{1,15}-\d{1,16}$/;

export function isMessageId(value: unknown): value is string {
  return typeof value === "string" && MESSAGE_ID.test(value);
}

/** Compares ids: negative, 0 or positive as the first is earlier, the same or later. */
export function compareIds(one: string, other: string): number {
  const [ms = 0, sequence = 0] = one.split("-").map(Number);
  const [otherMs = 0, otherSequence = 0] = other.split("-").map(Number);
  return ms - otherMs || sequence - otherSequence;
}

/** Where the sequence of a millisecond begins: random, so that an id is hardly assigned again after data was lost. */
export function randomSequence(random: Random): number {
  return Math.floor(random.next() * MAX_FIRST_SEQUENCE);
}

export class IdGenerator {
  /** The milliseconds of the newest id: ahead of the clock if that went back. */
  lastMs = 0;
  #sequence: number;

  /** @param firstSequence the sequence of the first id in each millisecond */
  constructor(private readonly firstSequence: number) {
    this.#sequence = firstSequence;
  }

  next(nowMs: number): string {
    if (nowMs > this.lastMs) {
      this.lastMs = nowMs;
      this.#sequence = this.firstSequence;
    } else this.#sequence++;
    return `${this.lastMs}-${this.#sequence}`;
  }
}
