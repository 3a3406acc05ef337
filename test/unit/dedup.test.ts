/** Which numbered messages a store takes for duplicates, and for how long it can tell. */

import { describe, expect, test } from "bun:test";
import { DedupTable } from "../../src/store/dedup.ts";
import type { PendingMessage } from "../../src/store/message.ts";

const DAY_MS = 24 * 60 * 60 * 1000;

describe("the dedup table", () => {
  const pending = (seq: number, more: Partial<PendingMessage> = {}): PendingMessage => ({
    room: "r",
    from: "ann",
    content: "",
    session: "s",
    seq,
    requiresSeq: undefined,
    ...more,
  });

  test("recognizes a duplicate by the highest seq of its session, and rejects a message whose predecessor is not stored", () => {
    const table = new DedupTable(DAY_MS);
    expect(table.check(pending(2, { requiresSeq: 1 }), 0)).toEqual({ rejected: "out-of-order" });
    expect(table.check(pending(2), 0)).toBeUndefined();
    table.record(pending(2), "7-0", 0);
    expect(table.check(pending(2), 0)).toEqual({ duplicateSeq: 2, id: "7-0" });
    expect(table.check(pending(1), 0)).toEqual({ duplicateSeq: 1 });
    expect(table.check(pending(3, { requiresSeq: 2 }), 0)).toBeUndefined();
    expect(table.check(pending(4, { requiresSeq: 3 }), 0)).toEqual({ rejected: "out-of-order" });
    expect(table.check(pending(1, { from: "bob" }), 0)).toBeUndefined();
  });

  test("forgets a session when it expires, and the least recently used one when there are too many", () => {
    const table = new DedupTable(DAY_MS, undefined, 2);
    for (const [from, nowMs] of [
      ["ann", 0],
      ["bob", 1],
      ["ann", 2],
      ["eve", 3],
    ] as const)
      table.record(pending(nowMs + 1, { from }), "1-0", nowMs);
    expect(["ann", "bob", "eve"].map((client) => table.lastSeq(client, "s", 4))).toEqual([3, null, 4]);
    expect(["ann", "eve"].map((client) => table.lastSeq(client, "s", DAY_MS + 2))).toEqual([null, 4]);
  });

  test("holds 100,000 sessions", () => {
    const table = new DedupTable(DAY_MS);
    for (let i = 1; i <= 100_000; i++) table.record(pending(1, { session: `s${i}` }), "1-0", 0);
    expect(table.lastSeq("ann", "s1", 0)).toBe(1);
    table.record(pending(1, { session: "one more" }), "1-0", 0);
    expect(["s1", "s2", "one more"].map((session) => table.lastSeq("ann", session, 0))).toEqual([null, 1, 1]);
  });
});
