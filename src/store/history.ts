/** The latest messages of a room, with the removals among them, and pages of them. */

import { compareIds } from "./message-id.ts";
import { isMessage, type RemovalTarget, type StoredEntry, type StoredMessage } from "./message.ts";
import type { RemovedMessages } from "../protocol/events.ts";

/** Messages after an id, before an id, or else the latest. */
export interface PageQuery {
  readonly after?: string;
  readonly before?: string;
  readonly limit: number;
}

export interface HistoryPage {
  /** In the room's order. Removals are not counted by the limit. */
  readonly entries: readonly StoredEntry[];
  /** Whether more follow the last one (with `after`) or precede the first one. */
  readonly more: boolean;
  /** Only with `after`: no message is missing between it and the first of the page. */
  readonly recovered?: boolean;
  /** Only with `after`: `after` is still stored, but a message that followed it is damaged, so it is not recovered. */
  readonly isDamaged?: boolean;
}

/** A page holds no more than this, or a single message, whatever its limit. */
export const MAX_PAGE_BYTES = 1024 * 1024;
/** How much history a replay sends at most if more is requested than the cache has. */
export const MAX_REPLAY_BYTES = 8 * 1024 * 1024;

export type ReadonlyHistory = Omit<History, "push" | "evictOldest">;

/** The latest messages of one room. Offsets count from the room's first entry, so eviction does not change them. */
export class History {
  readonly #entries: StoredEntry[] = [];
  #messageCount = 0;
  #firstOffset = 0;
  #bytes = 0;
  /** The id before the oldest entry held. */
  #idBefore: string;

  /** @param idBefore the id before the first message: in a new room, one that no message has */
  constructor(
    idBefore: string,
    private readonly maxMessages: number,
    private readonly maxBytes: number,
    entries: readonly StoredEntry[] = [],
  ) {
    this.#idBefore = entries[0]?.prev ?? idBefore;
    for (const entry of entries) this.push(entry);
  }

  get lastId(): string {
    return this.#entries.at(-1)?.id ?? this.#idBefore;
  }

  /** How many messages are held, besides removals. */
  get messageCount(): number {
    return this.#messageCount;
  }

  get latestMessage(): StoredMessage | undefined {
    return this.#entries.findLast(isMessage);
  }

  /** The offset of the oldest entry held. */
  get firstOffset(): number {
    return this.#firstOffset;
  }

  /** The offset that the next entry will have. */
  get nextOffset(): number {
    return this.#firstOffset + this.#entries.length;
  }

  /** Estimated memory. */
  get bytes(): number {
    return this.#bytes;
  }

  get(offset: number): StoredEntry | undefined {
    return this.#entries[offset - this.#firstOffset];
  }

  /** Where the latest `count` messages begin, or all that are held. */
  offsetOfLatest(count: number): number {
    let index = this.#entries.length;
    for (let left = count; left > 0 && index > 0; index--) {
      const entry = this.#entries[index - 1];
      if (entry && isMessage(entry)) left--;
    }
    return this.#firstOffset + index;
  }

  /** The id before the entry at that offset; the offset must be held, or be {@link nextOffset}. */
  idBeforeOffset(offset: number): string {
    return this.get(offset - 1)?.id ?? this.#idBefore;
  }

  /**
   * Where a client that has received everything up to `id` resumes: the rule of *recovered*. Undefined unless `id` is an
   * entry still held or the one before the oldest, because only then nothing is missing in between.
   */
  offsetAfter(id: string): number | undefined {
    if (id === this.#idBefore) return this.#firstOffset;
    const index = this.#entries.findLastIndex((entry) => entry.id === id);
    return index < 0 ? undefined : this.#firstOffset + index + 1;
  }

  oldestFirst(): Iterable<StoredEntry> {
    return this.#entries;
  }

  /** What a removal of the target would remove now; undefined if the one message is not held. */
  findRemovable(
    target: RemovalTarget,
  ): { readonly removes: RemovedMessages; readonly count: number } | undefined {
    const removes = "message" in target ? target : { ...target, upTo: this.lastId };
    let count = 0;
    let isHeld = false;
    for (const entry of this.#entries) {
      if (!isMessage(entry) || !isRemovedBy(removes, entry)) continue;
      isHeld = true;
      if (entry.content !== undefined) count++;
    }
    return isHeld || "from" in target ? { removes, count } : undefined;
  }

  page({ after, before, limit }: PageQuery): HistoryPage {
    const indexWhere = (matches: (id: string) => boolean) => {
      const index = this.#entries.findIndex(({ id }) => matches(id));
      return index < 0 ? this.#entries.length : index;
    };
    if (after !== undefined) {
      const offset = this.offsetAfter(after);
      const from =
        offset === undefined ? indexWhere((id) => compareIds(id, after) > 0) : offset - this.#firstOffset;
      return { ...takePage(this.#entries.slice(from), limit), recovered: offset !== undefined };
    }
    const to = before === undefined ? this.#entries.length : indexWhere((id) => compareIds(id, before) >= 0);
    return takeLatest(this.#entries.slice(0, to).reverse(), limit);
  }

  push(entry: StoredEntry): void {
    this.#entries.push(entry);
    this.#bytes += sizeOf(entry);
    if (isMessage(entry)) this.#messageCount++;
    else this.#erase(entry.removes);
    while (this.#messageCount > this.maxMessages || this.#bytes > this.maxBytes) this.evictOldest();
  }

  #erase(removes: RemovedMessages): void {
    for (const [i, entry] of this.#entries.entries()) {
      if (!isMessage(entry) || !isRemovedBy(removes, entry)) continue;
      const erased = { ...entry, content: undefined };
      this.#entries[i] = erased;
      this.#bytes += sizeOf(erased) - sizeOf(entry);
    }
  }

  evictOldest(): void {
    const oldest = this.#entries.shift();
    if (!oldest) return;
    if (isMessage(oldest)) this.#messageCount--;
    this.#idBefore = oldest.id;
    this.#firstOffset++;
    this.#bytes -= sizeOf(oldest);
  }
}

export function isRemovedBy(removes: RemovedMessages, { id, from }: StoredMessage): boolean {
  if ("message" in removes) return id === removes.message;
  return from === removes.from && compareIds(id, removes.upTo) <= 0;
}

/** The first messages, as many as fit into one page, and the removals up to the next. */
export function takePage(
  entries: Iterable<StoredEntry>,
  limit: number,
  maxBytes = MAX_PAGE_BYTES,
): { entries: StoredEntry[]; more: boolean } {
  const page: StoredEntry[] = [];
  let count = 0;
  let bytes = 0;
  for (const entry of entries) {
    bytes += sizeOf(entry);
    const isLimitReached = isMessage(entry) && count++ === limit;
    if (isLimitReached || (bytes > maxBytes && page.length > 0)) return { entries: page, more: true };
    page.push(entry);
  }
  return { entries: page, more: false };
}

/** {@link takePage} of entries that come newest first, put in the room's order. */
export function takeLatest(newestFirst: Iterable<StoredEntry>, limit: number, maxBytes?: number) {
  const { entries, more } = takePage(newestFirst, limit, maxBytes);
  return { entries: entries.reverse(), more };
}

/**
 * Which messages of a room are too old: only the first ones, because *recovered* relies on none missing in the middle. A
 * time in the future, from a wrong clock, counts as the next message's.
 */
export function findExpired<Id>(
  oldestFirst: Iterable<{ readonly id: Id; readonly time: number }>,
  nowMs: number,
  cutoffMs: number,
  maxCount = Infinity,
): { readonly upTo?: Id; readonly count: number } {
  let expired: { upTo?: Id; count: number } = { count: 0 };
  let seen = 0;
  for (const { id, time } of oldestFirst) {
    seen++;
    if (time > nowMs) continue;
    if (time > cutoffMs || expired.count >= maxCount) break;
    expired = { upTo: id, count: seen };
  }
  return expired;
}

/** Estimated memory in bytes: two for each character, which is the most a string takes, and an allowance for the object. */
function sizeOf(entry: StoredEntry): number {
  const content = isMessage(entry) ? entry.content : undefined;
  return 200 + (typeof content === "string" ? 2 * content.length : (content?.byteLength ?? 0));
}
