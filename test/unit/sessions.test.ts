/** The rules of numbered messages that only a rare moment puts to the test. */

import { describe, expect, test } from "bun:test";
import { Sequence, Sessions } from "../../src/store/dedup.ts";
import type { Draft } from "../../src/store/store.ts";

const kept = (id: string) => ({ kept: { id, prev: "0-0", time: 0, room: "r", from: "ann", content: "" } });
const repeated = (seq: number) => ({ repeated: seq });
const unavailable = { refused: "unavailable" } as const;
const none = { after: undefined };
const outOfOrder = { refused: "out-of-order" } as const;

describe("a sequence", () => {
  test("hangs each number on the one before it while that is not answered", () => {
    const sequence = new Sequence();
    expect([1, 2, 3].map((seq) => sequence.admit(seq, false))).toEqual([none, { after: 1 }, { after: 2 }]);
    for (const seq of [1, 2, 3]) sequence.answered(seq, kept(`${seq}-0`));
    expect(sequence.admit(4, false)).toEqual(none);
  });

  test("holds back a higher number until each refused one below it has come again", () => {
    const sequence = new Sequence();
    for (const seq of [1, 2, 3]) sequence.admit(seq, false);
    sequence.answered(1, unavailable);
    sequence.answered(2, outOfOrder);
    sequence.answered(3, outOfOrder);
    expect(sequence.admit(4, false)).toEqual(outOfOrder);
    expect(sequence.admit(1, false)).toEqual(none);
    expect(sequence.admit(5, false)).toEqual(outOfOrder);
    expect([2, 3, 4, 5, 6].map((seq) => sequence.admit(seq, false))).toEqual(
      [1, 2, 3, 4, 5].map((after) => ({ after })),
    );
  });

  test("a late refusal of a number that is under way again neither blocks nor loosens what follows", () => {
    const sequence = new Sequence();
    for (const seq of [1, 2]) sequence.admit(seq, false);
    sequence.answered(1, unavailable);
    for (const seq of [1, 2, 3]) sequence.admit(seq, false);
    sequence.answered(2, unavailable);
    sequence.answered(1, kept("1-0"));
    expect(sequence.admit(4, false)).toEqual({ after: 3 });
  });

  test("a number that is kept holds back nothing when it comes once more and is refused", () => {
    const sequence = new Sequence();
    for (const seq of [1, 2, 1, 2]) sequence.admit(seq, false);
    for (const seq of [1, 2]) sequence.answered(seq, kept(`${seq}-0`));
    sequence.answered(1, repeated(1));
    sequence.answered(2, unavailable);
    expect(sequence.admit(3, false)).toEqual(none);
    sequence.admit(2, false);
    sequence.retract(2);
    expect(sequence.admit(4, false)).toEqual({ after: 3 });
  });

  test("with skip only what is still under way comes first, not what was refused", () => {
    const sequence = new Sequence();
    for (const seq of [1, 3]) sequence.admit(seq, false);
    sequence.answered(1, unavailable);
    sequence.admit(1, false);
    sequence.answered(3, outOfOrder);
    expect(sequence.admit(4, true)).toEqual({ after: 1 });
  });

  test("skip goes on above what was refused, and a repeat clears it too", () => {
    const sequence = new Sequence();
    for (const seq of [1, 2]) sequence.refuse(seq);
    expect(sequence.admit(3, false)).toEqual(outOfOrder);
    expect(sequence.admit(3, true)).toEqual(none);
    sequence.answered(3, kept("1-0"));
    sequence.refuse(5);
    expect(sequence.admit(4, false)).toEqual(none);
    sequence.answered(4, repeated(4));
    expect(sequence.admit(6, false)).toEqual(outOfOrder);
  });

  test("the lowest refused is known also when more than can be noted were refused before it", () => {
    const sequence = new Sequence();
    for (let seq = 1; seq <= 1200; seq++) sequence.admit(seq, false);
    for (let seq = 1200; seq >= 1; seq--) sequence.answered(seq, { refused: "unavailable" });
    expect(sequence.admit(2, false)).toEqual(outOfOrder);
    expect(sequence.admit(1, false)).toEqual(none);
  });
});

test("a connection has at most 10,000 numbers at the store; the next one is held back until one is answered", () => {
  const sequence = new Sequence();
  for (let seq = 1; seq <= 10_000; seq++) sequence.admit(seq, false);
  expect(sequence.admit(10_001, false)).toEqual(unavailable);
  sequence.answered(1, kept("1-0"));
  expect(sequence.admit(10_001, false)).toEqual({ after: 10_000 });
});

describe("sessions", () => {
  const draft = (seq: number, more: Partial<Draft> = {}): Draft => ({
    room: "r",
    from: "ann",
    content: "",
    session: "s",
    seq,
    after: undefined,
    givenMs: 0,
    ...more,
  });

  test("know a repeat by the highest number, and object to one whose predecessor was not kept", () => {
    const sessions = new Sessions();
    expect(sessions.objection(draft(2, { after: 1 }), 0)).toEqual({ refused: "out-of-order" });
    expect(sessions.objection(draft(2), 0)).toBeUndefined();
    sessions.kept(draft(2), "7-0", 0);
    expect(sessions.objection(draft(2), 0)).toEqual({ repeated: 2, id: "7-0" });
    expect(sessions.objection(draft(1), 0)).toEqual({ repeated: 1 });
    expect(sessions.objection(draft(3, { after: 2 }), 0)).toBeUndefined();
    expect(sessions.objection(draft(4, { after: 3 }), 0)).toEqual({ refused: "out-of-order" });
    expect(sessions.objection(draft(1, { from: "bob" }), 0)).toBeUndefined();
  });

  test("are forgotten after a day, or when there are too many, the longest unused first", () => {
    const day = 24 * 60 * 60 * 1000;
    const sessions = new Sessions(undefined, 2);
    for (const [from, nowMs] of [
      ["ann", 0],
      ["bob", 1],
      ["ann", 2],
      ["eve", 3],
    ] as const)
      sessions.kept(draft(nowMs + 1, { from }), "1-0", nowMs);
    expect(["ann", "bob", "eve"].map((client) => sessions.sent(client, "s", 4))).toEqual([3, null, 4]);
    expect(["ann", "eve"].map((client) => sessions.sent(client, "s", day + 2))).toEqual([null, 4]);
  });

  test("are 100,000 at most", () => {
    const sessions = new Sessions();
    for (let i = 1; i <= 100_000; i++) sessions.kept(draft(1, { session: `s${i}` }), "1-0", 0);
    expect(sessions.sent("ann", "s1", 0)).toBe(1);
    sessions.kept(draft(1, { session: "one more" }), "1-0", 0);
    expect(["s1", "s2", "one more"].map((session) => sessions.sent("ann", session, 0))).toEqual([null, 1, 1]);
  });
});
