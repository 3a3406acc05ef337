/** Messages of one connection are stored in their order, also when the store rejects some of them. */

import { describe, expect, test } from "bun:test";
import { SeqOrder } from "../../src/chat/seq-order.ts";

const stored = (id: string) => ({
  stored: { id, prev: "0-0", time: 0, room: "r", from: "ann", content: "" },
});
const duplicate = (seq: number) => ({ duplicateSeq: seq });
const unavailable = { rejected: "unavailable" } as const;
const none = { requiresSeq: undefined };
const outOfOrder = { rejected: "out-of-order" } as const;

describe("the send order", () => {
  test("makes each message require the one before it, while that is in flight", () => {
    const order = new SeqOrder();
    expect([1, 2, 3].map((seq) => order.admit(seq, false))).toEqual([
      none,
      { requiresSeq: 1 },
      { requiresSeq: 2 },
    ]);
    for (const seq of [1, 2, 3]) order.onResult(seq, stored(`${seq}-0`));
    expect(order.admit(4, false)).toEqual(none);
  });

  test("rejects higher numbers until each rejected one below them has been sent again", () => {
    const order = new SeqOrder();
    for (const seq of [1, 2, 3]) order.admit(seq, false);
    order.onResult(1, unavailable);
    order.onResult(2, outOfOrder);
    order.onResult(3, outOfOrder);
    expect(order.admit(4, false)).toEqual(outOfOrder);
    expect(order.admit(1, false)).toEqual(none);
    expect(order.admit(5, false)).toEqual(outOfOrder);
    expect([2, 3, 4, 5, 6].map((seq) => order.admit(seq, false))).toEqual(
      [1, 2, 3, 4, 5].map((requiresSeq) => ({ requiresSeq })),
    );
  });

  test("a late rejection of a number that is in flight again changes nothing for those after it", () => {
    const order = new SeqOrder();
    for (const seq of [1, 2]) order.admit(seq, false);
    order.onResult(1, unavailable);
    for (const seq of [1, 2, 3]) order.admit(seq, false);
    order.onResult(2, unavailable);
    order.onResult(1, stored("1-0"));
    expect(order.admit(4, false)).toEqual({ requiresSeq: 3 });
  });

  test("a stored number blocks nothing when it is sent again and rejected", () => {
    const order = new SeqOrder();
    for (const seq of [1, 2, 1, 2]) order.admit(seq, false);
    for (const seq of [1, 2]) order.onResult(seq, stored(`${seq}-0`));
    order.onResult(1, duplicate(1));
    order.onResult(2, unavailable);
    expect(order.admit(3, false)).toEqual(none);
    order.admit(2, false);
    order.rollback(2);
    expect(order.admit(4, false)).toEqual({ requiresSeq: 3 });
  });

  test("with skip, a message requires only what is in flight, not what was rejected", () => {
    const order = new SeqOrder();
    for (const seq of [1, 3]) order.admit(seq, false);
    order.onResult(1, unavailable);
    order.admit(1, false);
    order.onResult(3, outOfOrder);
    expect(order.admit(4, true)).toEqual({ requiresSeq: 1 });
  });

  test("skip continues above rejected numbers, and so does a duplicate", () => {
    const order = new SeqOrder();
    for (const seq of [1, 2]) order.markRejected(seq);
    expect(order.admit(3, false)).toEqual(outOfOrder);
    expect(order.admit(3, true)).toEqual(none);
    order.onResult(3, stored("1-0"));
    order.markRejected(5);
    expect(order.admit(4, false)).toEqual(none);
    order.onResult(4, duplicate(4));
    expect(order.admit(6, false)).toEqual(outOfOrder);
  });

  test("the lowest rejected number is known even after more rejections than are remembered", () => {
    const order = new SeqOrder();
    for (let seq = 1; seq <= 1200; seq++) order.admit(seq, false);
    for (let seq = 1200; seq >= 1; seq--) order.onResult(seq, { rejected: "unavailable" });
    expect(order.admit(2, false)).toEqual(outOfOrder);
    expect(order.admit(1, false)).toEqual(none);
  });
});

test("at most 10,000 messages of a connection are in flight; the next one is rejected as unavailable", () => {
  const order = new SeqOrder();
  for (let seq = 1; seq <= 10_000; seq++) order.admit(seq, false);
  expect(order.admit(10_001, false)).toEqual(unavailable);
  order.onResult(1, stored("1-0"));
  expect(order.admit(10_001, false)).toEqual({ requiresSeq: 10_000 });
});
