/** The order of one connection's numbered messages, up to the store. */

import type { AppendResult, RejectReason } from "../store/message.ts";

/** At most this many are remembered, the lowest ones: they hold back all others, so the sender resends in order. */
const MAX_REJECTED = 1_000;
/** Messages of one connection that the store may be processing; more are rejected as unavailable. */
const MAX_IN_FLIGHT = 10_000;

/**
 * Decides which messages may go to the store. After a rejection, no higher seq may be stored before the rejected one, or
 * that one would count as a duplicate when it is resent, and be lost.
 */
export class SeqOrder {
  /** Rejected and not resent since, in rising order. */
  readonly #rejected: number[] = [];
  /** A seq up to this one can only be a duplicate, so its rejection holds nothing back. */
  #highestStored = 0;
  /** At the store, without a result yet, in the order of sending. A resent seq is in it twice. */
  readonly #inFlight: number[] = [];

  /** @returns the seq that the store has to have stored before this one, if any; or why it may not go to the store */
  admit(
    seq: number,
    skip: boolean,
  ): { readonly requiresSeq: number | undefined } | { readonly rejected: RejectReason } {
    const lowest = this.#rejected[0];
    if (lowest !== undefined && skip) this.#forgetUpTo(seq);
    else if (lowest !== undefined && seq > lowest) return this.#reject(seq, "out-of-order");
    else if (seq === lowest) this.#rejected.shift();
    if (this.#inFlight.length >= MAX_IN_FLIGHT) return this.#reject(seq, "unavailable");
    const requiresSeq = this.#inFlightBefore(seq);
    this.#inFlight.push(seq);
    return { requiresSeq };
  }

  /** The highest lower seq without a result. One with a result needs no condition: it is stored, or holds this one back. */
  #inFlightBefore(seq: number): number | undefined {
    let highest: number | undefined;
    for (let i = this.#inFlight.length - 1; i >= 0; i--) {
      const other = this.#inFlight[i] ?? 0;
      if (other === seq - 1) return other; // the usual case
      if (other < seq && other > (highest ?? 0)) highest = other;
    }
    return highest;
  }

  /** The seq admitted last does not go to the store after all. */
  rollback(seq: number): void {
    this.#inFlight.pop();
    this.markRejected(seq);
  }

  /** A message was rejected before it got as far as the store. */
  markRejected(seq: number): void {
    if (seq <= this.#highestStored || this.#rejected.includes(seq)) return;
    const index = this.#rejected.findIndex((other) => other > seq);
    this.#rejected.splice(index < 0 ? this.#rejected.length : index, 0, seq);
    if (this.#rejected.length > MAX_REJECTED) this.#rejected.pop();
  }

  #reject(seq: number, rejected: RejectReason): { readonly rejected: RejectReason } {
    this.markRejected(seq);
    return { rejected };
  }

  /** Results arrive in the order of sending, except that a rejection may arrive early. */
  onResult(seq: number, result: AppendResult): void {
    this.#inFlight.splice(this.#inFlight.indexOf(seq), 1);
    if (!("rejected" in result)) {
      this.#highestStored = Math.max(this.#highestStored, seq);
      this.#forgetUpTo(seq);
    } else if (!this.#inFlight.includes(seq)) this.markRejected(seq);
  }

  #forgetUpTo(seq: number): void {
    const count = this.#rejected.findIndex((other) => other > seq);
    this.#rejected.splice(0, count < 0 ? this.#rejected.length : count);
  }
}
