/** How much one connection may send. */

import type { Content } from "../store/store.ts";

/** A token bucket's: so many a second, so many at once; 0 a second is no limit. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** Each of these many bytes costs as much as another message. */
const BYTES_PER_COST = 4096;
/** A sender that is refused and goes on regardless, at so many times its rate, is closed. */
const PATIENCE = 10;
/** More than a client sends before it has heard the first refusal. */
const MIN_PATIENCE = 100;

/** What a connection may send still: a token bucket for its messages, and a wider one for all that it sends in vain. */
export class Allowance {
  #left: number;
  #patience: number;
  #filledMs: number | undefined;

  /** @param left what it starts with */
  constructor(
    private readonly rate: Rate,
    left = rate.burst,
  ) {
    this.#left = left;
    this.#patience = this.#maxPatience;
  }

  get #maxPatience(): number {
    return Math.max(MIN_PATIENCE, PATIENCE * this.rate.burst);
  }

  /** Takes as much as there is, up to so many. */
  takeUpTo(most: number, nowMs: number): number {
    if (this.rate.perSecond === 0) return most;
    this.#fill(nowMs);
    const taken = Math.min(most, Math.floor(this.#left));
    this.#left -= taken;
    return taken;
  }

  /** Takes what a message costs. @returns 0, or the seconds until there will be enough */
  take(content: Content, nowMs: number): number {
    const waitSeconds = this.waitFor(content, nowMs);
    if (waitSeconds === 0 && this.rate.perSecond > 0) this.#left -= this.#costOf(content);
    return waitSeconds;
  }

  /** 0, or the seconds until there will be enough for such a message. */
  waitFor(content: Content, nowMs: number): number {
    const { perSecond } = this.rate;
    if (perSecond === 0) return 0;
    this.#fill(nowMs);
    const missing = this.#costOf(content) - this.#left;
    return missing > 0 ? Math.ceil((missing / perSecond) * 1000) / 1000 : 0;
  }

  #costOf(content: Content): number {
    return Math.min(costOf(content), this.rate.burst);
  }

  /** Puts up with a frame that is no message, or a refused one. @returns whether there is patience left */
  bear(nowMs: number, frame: Content = ""): boolean {
    if (this.rate.perSecond === 0) return true;
    this.#fill(nowMs);
    this.#patience -= costOf(frame);
    return this.#patience >= 0;
  }

  #fill(nowMs: number): void {
    const { perSecond, burst } = this.rate;
    const gained = (perSecond * (nowMs - (this.#filledMs ?? nowMs))) / 1000;
    this.#filledMs = nowMs;
    this.#left = Math.min(burst, this.#left + gained);
    this.#patience = Math.min(this.#maxPatience, this.#patience + PATIENCE * gained);
  }
}

/** More than these are not told apart: the one that has not been here for longest starts anew. */
const MAX_ALLOWANCES = 10_000;

/** An allowance for each of many, where there is no connection to keep it with. */
export class Allowances {
  /** The longest unused first. */
  readonly #allowances = new Map<string, Allowance>();

  constructor(private readonly rate: Rate) {}

  of(key: string): Allowance {
    const allowance = this.#allowances.get(key) ?? new Allowance(this.rate);
    this.#allowances.delete(key);
    this.#allowances.set(key, allowance);
    const [oldest] = this.#allowances.keys();
    if (this.#allowances.size > MAX_ALLOWANCES && oldest !== undefined) this.#allowances.delete(oldest);
    return allowance;
  }
}

function costOf(content: Content): number {
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  if (content.length * 3 < BYTES_PER_COST) return 1;
  return 1 + Math.floor(Buffer.byteLength(content) / BYTES_PER_COST);
}
