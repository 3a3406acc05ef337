import type { AppendResult, RejectReason } from "../store/message.ts";

/** More than these are not told apart: a sender with so many refused has to send all of them again in order. */
const MAX_REJECTED = 1_000;
/** Numbers that one connection may have at the store; more are told to wait. */
const MAX_IN_FLIGHT = 10_000;

/**
 * A connection's side: which of its numbers may go on to the store. Once one is refused, no higher one may be said
 * before it, or its repeat would look like one that has been said already, and be lost.
 */
export class SendOrder {
  /** Refused and not come again since, in rising order. */
  readonly #rejected: number[] = [];
  /** The highest that is kept: at or below it nothing can be said any more, and so nothing holds anything back. */
  #highestStored = 0;
  /** Given to the store and not answered, in that order; a number that came again is in it again. */
  readonly #inFlight: number[] = [];

  /** Asks for a number to go on to the store; `after` is what its draft has to say. */
  admit(
    seq: number,
    skip: boolean,
  ): { readonly after: number | undefined } | { readonly rejected: RejectReason } {
    const lowest = this.#rejected[0];
    if (lowest !== undefined && skip) this.#forgetUpTo(seq);
    else if (lowest !== undefined && seq > lowest) return this.#refuse(seq, "out-of-order");
    else if (seq === lowest) this.#rejected.shift();
    if (this.#inFlight.length >= MAX_IN_FLIGHT) return this.#refuse(seq, "unavailable");
    const after = this.#inFlightBefore(seq);
    this.#inFlight.push(seq);
    return { after: after || undefined };
  }

  /** What is answered needs no condition: it was kept, or holds back every higher number itself. 0 for none. */
  #inFlightBefore(seq: number): number {
    let highest = 0;
    for (let i = this.#inFlight.length - 1; i >= 0; i--) {
      const other = this.#inFlight[i] ?? 0;
      if (other === seq - 1) return other; // the usual case: one after the other
      if (other < seq && other > highest) highest = other;
    }
    return highest;
  }

  /** The number admitted last does not go on to the store after all. */
  rollback(seq: number): void {
    this.#inFlight.pop();
    this.markRejected(seq);
  }

  /** A number that did not get as far as the store. */
  markRejected(seq: number): void {
    if (seq <= this.#highestStored || this.#rejected.includes(seq)) return;
    const place = this.#rejected.findIndex((other) => other > seq);
    this.#rejected.splice(place < 0 ? this.#rejected.length : place, 0, seq);
    if (this.#rejected.length > MAX_REJECTED) this.#rejected.pop(); // the lowest hold back all others
  }

  #refuse(seq: number, rejected: RejectReason): { readonly rejected: RejectReason } {
    this.markRejected(seq);
    return { rejected };
  }

  /** Mostly they are answered in the order in which they were given, but a refusal may come sooner. */
  onResult(seq: number, result: AppendResult): void {
    this.#inFlight.splice(this.#inFlight.indexOf(seq), 1);
    if (!("rejected" in result)) {
      this.#highestStored = Math.max(this.#highestStored, seq);
      this.#forgetUpTo(seq);
    } else if (!this.#inFlight.includes(seq)) this.markRejected(seq);
  }

  #forgetUpTo(seq: number): void {
    const kept = this.#rejected.findIndex((other) => other > seq);
    this.#rejected.splice(0, kept < 0 ? this.#rejected.length : kept);
  }
}
