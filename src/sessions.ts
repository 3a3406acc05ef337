/** Exactly once and in order: what is known of each sender's numbered messages. */

import type { Answer, Draft } from "./store.ts";

const SESSION_KEPT_MS = 24 * 60 * 60 * 1000;
/** Some 20 MB; beyond it, the session that has been silent for longest is forgotten. */
const MAX_SESSIONS = 100_000;

interface Session {
  readonly seq: number;
  readonly id: string;
  readonly usedMs: number;
}

/** A store's side: the highest number kept of each session, which is all it takes to know a repeat. */
export class Sessions {
  /** By client and session, the longest unused first. */
  readonly #sessions = new Map<string, Session>();

  constructor(private readonly maxSessions = MAX_SESSIONS) {}

  sent(client: string, session: string, nowMs: number): number | null {
    this.#forgetOld(nowMs);
    return this.#sessions.get(keyOf(client, session))?.seq ?? null;
  }

  /** The answer to a draft that must not be kept: it was already, or the one before it was not. */
  objection({ from, session, seq, after }: Draft): Answer | undefined {
    if (session === undefined || seq === undefined) return undefined;
    const known = this.#sessions.get(keyOf(from, session));
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

/** More refused numbers than this are not told apart: a sender with so many has to send all of them again in order. */
const MAX_REFUSED = 10_000;

/**
 * A connection's side: which of its numbers may go on to the store. Once one is refused, no higher one may be said
 * before it, or its repeat would look like one that has been said already, and be lost.
 */
export class Sequence {
  /** Refused and not come again since, in rising order. */
  readonly #refused: number[] = [];
  /** Given to the store and not answered, in that order; a number that came again is in it again. */
  readonly #unanswered: number[] = [];
  /** The highest number given since there last was nothing unanswered. */
  #highest = 0;

  /** Asks for a number to go on to the store; `after` is what its draft has to say. */
  admit(seq: number, skip: boolean): { readonly after?: number } | { readonly refused: "out-of-order" } {
    const lowest = this.#refused[0];
    if (lowest !== undefined) {
      if (skip) this.#forgetUpTo(seq);
      else if (seq > lowest) {
        this.refuse(seq);
        return { refused: "out-of-order" };
      } else if (seq === lowest) this.#refused.shift();
    }
    const after = this.#unansweredBefore(seq);
    this.#highest = this.#unanswered.length === 0 ? seq : Math.max(this.#highest, seq);
    this.#unanswered.push(seq);
    return after === undefined ? {} : { after };
  }

  /** What is answered needs no condition: it was kept, or holds back every higher number itself. */
  #unansweredBefore(seq: number): number | undefined {
    if (this.#unanswered.length === 0) return undefined;
    if (seq > this.#highest) return this.#highest;
    const lower = this.#unanswered.filter((other) => other < seq);
    return lower.length > 0 ? Math.max(...lower) : undefined;
  }

  refuse(seq: number): void {
    if (this.#refused.length >= MAX_REFUSED || this.#refused.includes(seq)) return;
    const isHighest = seq > (this.#refused.at(-1) ?? 0);
    this.#refused.push(seq);
    if (!isHighest) this.#refused.sort((a, b) => a - b);
  }

  /** Answers come in the order in which the numbers were given. */
  answered(seq: number, answer: Answer): void {
    this.#unanswered.shift();
    if (!("refused" in answer)) this.#forgetUpTo(seq);
    else if (!this.#unanswered.includes(seq)) this.refuse(seq);
  }

  #forgetUpTo(seq: number): void {
    const kept = this.#refused.findIndex((other) => other > seq);
    this.#refused.splice(0, kept < 0 ? this.#refused.length : kept);
  }
}
