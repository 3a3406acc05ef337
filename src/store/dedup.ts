/** Exactly once and in order: what is known of each sender's numbered messages. */

import type { Answer, Draft, Refused } from "./store.ts";

const SESSION_KEPT_MS = 24 * 60 * 60 * 1000;
/** Some 20 MB; beyond it, the session that has been silent for longest is forgotten. */
const MAX_SESSIONS = 100_000;

export interface Session {
  readonly seq: number;
  readonly id: string;
  readonly usedMs: number;
}

/** A store's side: the highest number kept of each session, which is all it takes to know a repeat. */
export class Sessions {
  /** By client and session, the longest unused first. */
  readonly #sessions = new Map<string, Session>();

  /** @param load what a store that persists knows of a session that is not in memory */
  constructor(
    private readonly load: (client: string, session: string) => Session | undefined = () => undefined,
    private readonly maxSessions = MAX_SESSIONS,
  ) {}

  sent(client: string, session: string, nowMs: number): number | null {
    return this.get(client, session, nowMs)?.seq ?? null;
  }

  get(client: string, session: string, nowMs: number): Session | undefined {
    const key = keyOf(client, session);
    const kept = this.#sessions.get(key);
    const known = kept ?? this.load(client, session);
    if (!known || nowMs - known.usedMs >= SESSION_KEPT_MS) return undefined;
    if (kept) return kept;
    this.#sessions.set(key, known);
    this.#forgetOld(nowMs);
    return known;
  }

  /** The answer to a draft that must not be kept: it was already, or the one before it was not. */
  objection({ from, session, seq, after }: Draft, nowMs: number): Answer | undefined {
    if (session === undefined || seq === undefined) return undefined;
    const known = this.get(from, session, nowMs);
    if (known && seq <= known.seq)
      return seq === known.seq ? { repeated: seq, id: known.id } : { repeated: seq };
    if (after !== undefined && (known?.seq ?? 0) < after) return { refused: "out-of-order" };
    return undefined;
  }

  kept({ from, session, seq }: Draft, id: string, nowMs: number): void {
    if (session === undefined || seq === undefined) return;
    const key = keyOf(from, session);
    this.#sessions.delete(key);
    this.#sessions.set(key, { seq, id, usedMs: nowMs });
    this.#forgetOld(nowMs);
  }

  /** Forgets what was noted of these, which were not kept after all; it is loaded again. */
  reload(drafts: readonly Draft[]): void {
    for (const { from, session } of drafts)
      if (session !== undefined) this.#sessions.delete(keyOf(from, session));
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { usedMs }] of this.#sessions) {
      if (this.#sessions.size <= this.maxSessions && nowMs - usedMs < SESSION_KEPT_MS) return;
      this.#sessions.delete(key);
    }
  }
}

/** No client id has a space in it. */
function keyOf(client: string, session: string): string {
  return `${client} ${session}`;
}

/** More than these are not told apart: a sender with so many refused has to send all of them again in order. */
const MAX_REFUSED = 1_000;
/** Numbers that one connection may have at the store; more are told to wait. */
const MAX_UNANSWERED = 10_000;

/**
 * A connection's side: which of its numbers may go on to the store. Once one is refused, no higher one may be said
 * before it, or its repeat would look like one that has been said already, and be lost.
 */
export class Sequence {
  /** Refused and not come again since, in rising order. */
  readonly #refused: number[] = [];
  /** The highest that is kept: at or below it nothing can be said any more, and so nothing holds anything back. */
  #kept = 0;
  /** Given to the store and not answered, in that order; a number that came again is in it again. */
  readonly #unanswered: number[] = [];

  /** Asks for a number to go on to the store; `after` is what its draft has to say. */
  admit(seq: number, skip: boolean): { readonly after: number | undefined } | { readonly refused: Refused } {
    const lowest = this.#refused[0];
    if (lowest !== undefined && skip) this.#forgetUpTo(seq);
    else if (lowest !== undefined && seq > lowest) return this.#refuse(seq, "out-of-order");
    else if (seq === lowest) this.#refused.shift();
    if (this.#unanswered.length >= MAX_UNANSWERED) return this.#refuse(seq, "unavailable");
    const after = this.#unansweredBefore(seq);
    this.#unanswered.push(seq);
    return { after: after || undefined };
  }

  /** What is answered needs no condition: it was kept, or holds back every higher number itself. 0 for none. */
  #unansweredBefore(seq: number): number {
    let highest = 0;
    for (let i = this.#unanswered.length - 1; i >= 0; i--) {
      const other = this.#unanswered[i] ?? 0;
      if (other === seq - 1) return other; // the usual case: one after the other
      if (other < seq && other > highest) highest = other;
    }
    return highest;
  }

  /** The number admitted last does not go on to the store after all. */
  retract(seq: number): void {
    this.#unanswered.pop();
    this.refuse(seq);
  }

  /** A number that did not get as far as the store. */
  refuse(seq: number): void {
    if (seq <= this.#kept || this.#refused.includes(seq)) return;
    const place = this.#refused.findIndex((other) => other > seq);
    this.#refused.splice(place < 0 ? this.#refused.length : place, 0, seq);
    if (this.#refused.length > MAX_REFUSED) this.#refused.pop(); // the lowest hold back all others
  }

  #refuse(seq: number, refused: Refused): { readonly refused: Refused } {
    this.refuse(seq);
    return { refused };
  }

  /** Mostly they are answered in the order in which they were given, but a refusal may come sooner. */
  answered(seq: number, answer: Answer): void {
    this.#unanswered.splice(this.#unanswered.indexOf(seq), 1);
    if (!("refused" in answer)) {
      this.#kept = Math.max(this.#kept, seq);
      this.#forgetUpTo(seq);
    } else if (!this.#unanswered.includes(seq)) this.refuse(seq);
  }

  #forgetUpTo(seq: number): void {
    const kept = this.#refused.findIndex((other) => other > seq);
    this.#refused.splice(0, kept < 0 ? this.#refused.length : kept);
  }
}
