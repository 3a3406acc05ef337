/** The rules of numbered messages that only a rare moment puts to the test. */

import { describe, expect, test } from "bun:test";
import { DedupTable } from "../../src/store/dedup.ts";
import { SendOrder } from "../../src/chat/send-order.ts";
import type { PendingMessage } from "../../src/store/message.ts";

const kept = (id: string) => ({ stored: { id, prev: "0-0", time: 0, room: "r", from: "ann", content: "" } });
const repeated = (seq: number) => ({ duplicateSeq: seq });
const unavailable = { rejected: "unavailable" } as const;
const none = { after: undefined };
const outOfOrder = { rejected: "out-of-order" } as const;

describe("a sequence", () => {
  test("hangs each number on the one before it while that is not answered", () => {
    const sequence = new SendOrder();
    expect([1, 2, 3].map((seq) => sequence.admit(seq, false))).toEqual([none, { after: 1 }, { after: 2 }]);
    for (const seq of [1, 2, 3]) sequence.onResult(seq, kept(`${seq}-0`));
    expect(sequence.admit(4, false)).toEqual(none);
  });

  test("holds back a higher number until each refused one below it has come again", () => {
    const sequence = new SendOrder();
    for (const seq of [1, 2, 3]) sequence.admit(seq, false);
    sequence.onResult(1, unavailable);
    sequence.onResult(2, outOfOrder);
    sequence.onResult(3, outOfOrder);
    expect(sequence.admit(4, false)).toEqual(outOfOrder);
    expect(sequence.admit(1, false)).toEqual(none);
    expect(sequence.admit(5, false)).toEqual(outOfOrder);
    expect([2, 3, 4, 5, 6].map((seq) => sequence.admit(seq, false))).toEqual(
      [1, 2, 3, 4, 5].map((after) => ({ after })),
    );
  });

  test("a late refusal of a number that is under way again neither blocks nor loosens what follows", () => {
    const sequence = new SendOrder();
    for (const seq of [1, 2]) sequence.admit(seq, false);
    sequence.onResult(1, unavailable);
    for (const seq of [1, 2, 3]) sequence.admit(seq, false);
    sequence.onResult(2, unavailable);
    sequence.onResult(1, kept("1-0"));
    expect(sequence.admit(4, false)).toEqual({ after: 3 });
  });

  test("a number that is kept holds back nothing when it comes once more and is refused", () => {
    const sequence = new SendOrder();
    for (const seq of [1, 2, 1, 2]) sequence.admit(seq, false);
    for (const seq of [1, 2]) sequence.onResult(seq, kept(`${seq}-0`));
    sequence.onResult(1, repeated(1));
    sequence.onResult(2, unavailable);
    expect(sequence.admit(3, false)).toEqual(none);
    sequence.admit(2, false);
    sequence.rollback(2);
    expect(sequence.admit(4, false)).toEqual({ after: 3 });
  });

  test("with skip only what is still under way comes first, not what was refused", () => {
    const sequence = new SendOrder();
    for (const seq of [1, 3]) sequence.admit(seq, false);
    sequence.onResult(1, unavailable);
    sequence.admit(1, false);
    sequence.onResult(3, outOfOrder);
    expect(sequence.admit(4, true)).toEqual({ after: 1 });
  });

  test("skip goes on above what was refused, and a repeat clears it too", () => {
    const sequence = new SendOrder();
    for (const seq of [1, 2]) sequence.markRejected(seq);
    expect(sequence.admit(3, false)).toEqual(outOfOrder);
    expect(sequence.admit(3, true)).toEqual(none);
    sequence.onResult(3, kept("1-0"));
    sequence.markRejected(5);
    expect(sequence.admit(4, false)).toEqual(none);
    sequence.onResult(4, repeated(4));
    expect(sequence.admit(6, false)).toEqual(outOfOrder);
  });

  test("the lowest refused is known also when more than can be noted were refused before it", () => {
    const sequence = new SendOrder();
    for (let seq = 1; seq <= 1200; seq++) sequence.admit(seq, false);
    for (let seq = 1200; seq >= 1; seq--) sequence.onResult(seq, { rejected: "unavailable" });
    expect(sequence.admit(2, false)).toEqual(outOfOrder);
    expect(sequence.admit(1, false)).toEqual(none);
  });
});

test("a connection has at most 10,000 numbers at the store; the next one is held back until one is answered", () => {
  const sequence = new SendOrder();
  for (let seq = 1; seq <= 10_000; seq++) sequence.admit(seq, false);
  expect(sequence.admit(10_001, false)).toEqual(unavailable);
  sequence.onResult(1, kept("1-0"));
  expect(sequence.admit(10_001, false)).toEqual({ after: 10_000 });
});

describe("sessions", () => {
  const pending = (seq: number, more: Partial<PendingMessage> = {}): PendingMessage => ({
    room: "r",
    from: "ann",
    content: "",
    session: "s",
    seq,
    requiresSeq: undefined,
    ...more,
  });

  test("know a repeat by the highest number, and object to one whose predecessor was not kept", () => {
    const sessions = new DedupTable();
    expect(sessions.check(pending(2, { requiresSeq: 1 }), 0)).toEqual({ rejected: "out-of-order" });
    expect(sessions.check(pending(2), 0)).toBeUndefined();
    sessions.record(pending(2), "7-0", 0);
    expect(sessions.check(pending(2), 0)).toEqual({ duplicateSeq: 2, id: "7-0" });
    expect(sessions.check(pending(1), 0)).toEqual({ duplicateSeq: 1 });
    expect(sessions.check(pending(3, { requiresSeq: 2 }), 0)).toBeUndefined();
    expect(sessions.check(pending(4, { requiresSeq: 3 }), 0)).toEqual({ rejected: "out-of-order" });
    expect(sessions.check(pending(1, { from: "bob" }), 0)).toBeUndefined();
  });

  test("are forgotten after a day, or when there are too many, the longest unused first", () => {
    const day = 24 * 60 * 60 * 1000;
    const sessions = new DedupTable(undefined, 2);
    for (const [from, nowMs] of [
      ["ann", 0],
      ["bob", 1],
      ["ann", 2],
      ["eve", 3],
    ] as const)
      sessions.record(pending(nowMs + 1, { from }), "1-0", nowMs);
    expect(["ann", "bob", "eve"].map((client) => sessions.lastSeq(client, "s", 4))).toEqual([3, null, 4]);
    expect(["ann", "eve"].map((client) => sessions.lastSeq(client, "s", day + 2))).toEqual([null, 4]);
  });

  test("are 100,000 at most", () => {
    const sessions = new DedupTable();
    for (let i = 1; i <= 100_000; i++) sessions.record(pending(1, { session: `s${i}` }), "1-0", 0);
    expect(sessions.lastSeq("ann", "s1", 0)).toBe(1);
    sessions.record(pending(1, { session: "one more" }), "1-0", 0);
    expect(["s1", "s2", "one more"].map((session) => sessions.lastSeq("ann", session, 0))).toEqual([
      null,
      1,
      1,
    ]);
  });
});
