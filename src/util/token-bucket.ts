/** Token buckets: what a connection or an address may still send. */

/** 0 per second: unlimited. */
export interface Rate {
  readonly perSecond: number;
  readonly burst: number;
}

/** A message costs 1, and 1 more for each of these. */
export const BYTES_PER_COST = 4096;
/** A sender that keeps sending in vain, at this multiple of its rate, is closed. */
const ABUSE_FACTOR = 10;
/** More than a client sends before it has received the first rejection. */
const MIN_ABUSE_BUDGET = 100;

/** A token bucket for messages, and a larger one, the abuse budget, for frames that are rejected or are no messages. */
export class TokenBucket {
  #tokens: number;
  #abuseBudget: number;
  #refilledMs: number | undefined;

  /** @param tokens what it starts with */
  constructor(
    private readonly rate: Rate,
    tokens = rate.burst,
  ) {
    this.#tokens = tokens;
    this.#abuseBudget = this.#maxAbuseBudget;
  }

  get #maxAbuseBudget(): number {
    return Math.max(MIN_ABUSE_BUDGET, ABUSE_FACTOR * this.rate.burst);
  }

  /** Takes whole tokens, `most` of them at most. @returns how many */
  takeAvailable(most: number, nowMs: number): number {
    if (this.rate.perSecond === 0) return most;
    this.#refill(nowMs);
    const taken = Math.min(most, Math.floor(this.#tokens));
    this.#tokens -= taken;
    return taken;
  }

  /** Takes the tokens if there are enough; a cost above the burst counts as the burst. @returns 0, or the seconds until there are enough */
  take(cost: number, nowMs: number): number {
    const waitSeconds = this.waitFor(cost, nowMs);
    if (waitSeconds === 0 && this.rate.perSecond > 0) this.#tokens -= Math.min(cost, this.rate.burst);
    return waitSeconds;
  }

  /** @returns 0, or the seconds until there are enough tokens for a message of that cost */
  waitFor(cost: number, nowMs: number): number {
    const { perSecond, burst } = this.rate;
    if (perSecond === 0) return 0;
    this.#refill(nowMs);
    const missing = Math.min(cost, burst) - this.#tokens;
    return missing > 0 ? Math.ceil((missing / perSecond) * 1000) / 1000 : 0;
  }

  /** Charges the abuse budget for a frame that was rejected or is not a message. @returns false once it is exhausted */
  chargeAbuse(nowMs: number, cost = 1): boolean {
    if (this.rate.perSecond === 0) return true;
    this.#refill(nowMs);
    this.#abuseBudget -= cost;
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

/** Beyond this, the bucket unused for longest is dropped; its key starts again with a full one. */
const MAX_BUCKETS = 10_000;

/** A token bucket per key, such as a client's address. */
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

/** What a message costs: 1, and 1 more for each full 4 KiB (UTF-8). */
export function costOf(content: string | Uint8Array): number {
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  if (content.length * 3 < BYTES_PER_COST) return 1;
  return 1 + Math.floor(Buffer.byteLength(content) / BYTES_PER_COST);
}
