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
const ABUSE_FACTOR = 10;
/** More than a client sends before it has heard the first refusal. */
const MIN_ABUSE_BUDGET = 100;

/** What a connection may send still: a token bucket for its messages, and a wider one for all that it sends in vain. */
export class TokenBucket {
  #tokens: number;
  #abuseBudget: number;
  #refilledMs: number | undefined;

  /** @param left what it starts with */
  constructor(
    private readonly rate: Rate,
    left = rate.burst,
  ) {
    this.#tokens = left;
    this.#abuseBudget = this.#maxAbuseBudget;
  }

  get #maxAbuseBudget(): number {
    return Math.max(MIN_ABUSE_BUDGET, ABUSE_FACTOR * this.rate.burst);
  }

  /** Takes as much as there is, up to so many. */
  takeAvailable(most: number, nowMs: number): number {
    if (this.rate.perSecond === 0) return most;
    this.#refill(nowMs);
    const taken = Math.min(most, Math.floor(this.#tokens));
    this.#tokens -= taken;
    return taken;
  }

  /** Takes what a message costs. @returns 0, or the seconds until there will be enough */
  take(content: Content, nowMs: number): number {
    const waitSeconds = this.waitFor(content, nowMs);
    if (waitSeconds === 0 && this.rate.perSecond > 0) this.#tokens -= this.#costOf(content);
    return waitSeconds;
  }

  /** 0, or the seconds until there will be enough for such a message. */
  waitFor(content: Content, nowMs: number): number {
    const { perSecond } = this.rate;
    if (perSecond === 0) return 0;
    this.#refill(nowMs);
    const missing = this.#costOf(content) - this.#tokens;
    return missing > 0 ? Math.ceil((missing / perSecond) * 1000) / 1000 : 0;
  }

  #costOf(content: Content): number {
    return Math.min(costOf(content), this.rate.burst);
  }

  /** Puts up with a frame that is no message, or a refused one. @returns whether there is patience left */
  chargeAbuse(nowMs: number, frame: Content = ""): boolean {
    if (this.rate.perSecond === 0) return true;
    this.#refill(nowMs);
    this.#abuseBudget -= costOf(frame);
    return this.#abuseBudget >= 0;
  }

  #refill(nowMs: number): void {
    const { perSecond, burst } = this.rate;
    const gained = (perSecond * (nowMs - (this.#refilledMs ?? nowMs))) / 1000;
    this.#refilledMs = nowMs;
    this.#tokens = Math.min(burst, this.#tokens + gained);
    this.#abuseBudget = Math.min(this.#maxAbuseBudget, this.#abuseBudget + ABUSE_FACTOR * gained);
  }
}

/** More than these are not told apart: the one that has not been here for longest starts anew. */
const MAX_BUCKETS = 10_000;

/** An allowance for each of many, where there is no connection to keep it with. */
export class TokenBuckets {
  /** The longest unused first. */
  readonly #buckets = new Map<string, TokenBucket>();

  constructor(private readonly rate: Rate) {}

  get(key: string): TokenBucket {
    const bucket = this.#buckets.get(key) ?? new TokenBucket(this.rate);
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    const [oldest] = this.#buckets.keys();
    if (this.#buckets.size > MAX_BUCKETS && oldest !== undefined) this.#buckets.delete(oldest);
    return bucket;
  }
}

function costOf(content: Content): number {
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  if (content.length * 3 < BYTES_PER_COST) return 1;
  return 1 + Math.floor(Buffer.byteLength(content) / BYTES_PER_COST);
}
