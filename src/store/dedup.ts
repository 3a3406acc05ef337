/** Exactly once and in order: what is known of each sender's numbered messages. */

import type { AppendResult, PendingMessage, RejectReason } from "./store.ts";

const SESSION_TTL_MS = 24 * 60 * 60 * 1000;
/** Some 20 MB; beyond it, the session that has been silent for longest is forgotten. */
const MAX_SESSIONS = 100_000;

export interface SessionRecord {
  readonly seq: number;
  readonly id: string;
  readonly usedMs: number;
}

/** A store's side: the highest number kept of each session, which is all it takes to know a repeat. */
export class DedupTable {
  /** By client and session, the longest unused first. */
  readonly #sessions = new Map<string, SessionRecord>();

  /** @param loadFromStore what a store that persists knows of a session that is not in memory */
  constructor(
    private readonly loadFromStore: (client: string, session: string) => SessionRecord | undefined = () =>
      undefined,
    private readonly maxSessions = MAX_SESSIONS,
  ) {}

  lastSeq(client: string, session: string, nowMs: number): number | null {
    return this.get(client, session, nowMs)?.seq ?? null;
  }

  get(client: string, session: string, nowMs: number): SessionRecord | undefined {
    const key = sessionKey(client, session);
    const kept = this.#sessions.get(key);
    const known = kept ?? this.loadFromStore(client, session);
    if (!known || nowMs - known.usedMs >= SESSION_TTL_MS) return undefined;
    if (kept) return kept;
    this.#sessions.set(key, known);
    this.#prune(nowMs);
    return known;
  }

  /** The answer to a draft that must not be kept: it was already, or the one before it was not. */
  check({ from, session, seq, requiresSeq }: PendingMessage, nowMs: number): AppendResult | undefined {
    if (session === undefined || seq === undefined) return undefined;
    const known = this.get(from, session, nowMs);
    if (known && seq <= known.seq)
      return seq === known.seq ? { duplicateSeq: seq, id: known.id } : { duplicateSeq: seq };
    if (requiresSeq !== undefined && (known?.seq ?? 0) < requiresSeq) return { rejected: "out-of-order" };
    return undefined;
  }

  record({ from, session, seq }: PendingMessage, id: string, nowMs: number): void {
    if (session === undefined || seq === undefined) return;
    const key = sessionKey(from, session);
    this.#sessions.delete(key);
    this.#sessions.set(key, { seq, id, usedMs: nowMs });
    this.#prune(nowMs);
  }

  /** Forgets what was noted of these, which were not kept after all; it is loaded again. */
  invalidate(pendingMessages: readonly PendingMessage[]): void {
    for (const { from, session } of pendingMessages)
      if (session !== undefined) this.#sessions.delete(sessionKey(from, session));
  }

  #prune(nowMs: number): void {
    for (const [key, { usedMs }] of this.#sessions) {
      if (this.#sessions.size <= this.maxSessions && nowMs - usedMs < SESSION_TTL_MS) return;
      this.#sessions.delete(key);
    }
  }
}

/** No client id has a space in it. */
function sessionKey(client: string, session: string): string {
  return `${client} ${session}`;
}

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
