/** The latest messages of a room, and pages of them. */

import { compareIds } from "./message-id.ts";
import type { StoredMessage } from "./message.ts";

/** Messages after an id, before an id, or else the latest. */
export interface PageQuery {
  readonly after?: string;
  readonly before?: string;
  readonly limit: number;
}

export interface HistoryPage {
  /** In the room's order. */
  readonly messages: readonly StoredMessage[];
  /** Whether more follow the last one (with `after`) or precede the first one. */
  readonly more: boolean;
  /** Only with `after`: no message is missing between it and the first of the page. */
  readonly recovered?: boolean;
  /** Only with `after`: `after` is still stored, but a message that followed it is damaged, so it is not recovered. */
  readonly isDamaged?: boolean;
}

/** A page holds no more than this, or a single message, whatever its limit. */
export const MAX_PAGE_BYTES = 1024 * 1024;

export type ReadonlyHistory = Omit<History, "push" | "evictOldest">;

/** The latest messages of one room. Offsets count from the room's first message, so eviction does not change them. */
export class History {
  readonly #messages: StoredMessage[] = [];
  #firstOffset = 0;
  #bytes = 0;
  /** The id before the oldest message held. */
  #idBefore: string;

  /** @param idBefore the id before the first message: in a new room, one that no message has */
  constructor(
    idBefore: string,
    private readonly maxMessages: number,
    private readonly maxBytes: number,
    messages: readonly StoredMessage[] = [],
  ) {
    this.#idBefore = messages[0]?.prev ?? idBefore;
    for (const message of messages) this.push(message);
  }

  get lastId(): string {
    return this.#messages.at(-1)?.id ?? this.#idBefore;
  }

  /** The offset of the oldest message held. */
  get firstOffset(): number {
    return this.#firstOffset;
  }

  /** The offset that the next message will have. */
  get nextOffset(): number {
    return this.#firstOffset + this.#messages.length;
  }

  /** Estimated memory. */
  get bytes(): number {
    return this.#bytes;
  }

  get(offset: number): StoredMessage | undefined {
    return this.#messages[offset - this.#firstOffset];
  }

  /** The id before the message at that offset; the offset must be held, or be {@link nextOffset}. */
  idBeforeOffset(offset: number): string {
    return this.get(offset - 1)?.id ?? this.#idBefore;
  }

  /**
   * Where a client that has received everything up to `id` resumes: the rule of *recovered*. Undefined unless `id` is a
   * message still held or the one before the oldest, because only then no message is missing in between.
   */
  offsetAfter(id: string): number | undefined {
    if (id === this.#idBefore) return this.#firstOffset;
    const index = this.#messages.findLastIndex((message) => message.id === id);
    return index < 0 ? undefined : this.#firstOffset + index + 1;
  }

  oldestFirst(): Iterable<StoredMessage> {
    return this.#messages;
  }

  page({ after, before, limit }: PageQuery): HistoryPage {
    const indexWhere = (matches: (id: string) => boolean) => {
      const index = this.#messages.findIndex(({ id }) => matches(id));
      return index < 0 ? this.#messages.length : index;
    };
    if (after !== undefined) {
      const offset = this.offsetAfter(after);
      const from =
        offset === undefined ? indexWhere((id) => compareIds(id, after) > 0) : offset - this.#firstOffset;
      return { ...takePage(this.#messages.slice(from), limit), recovered: offset !== undefined };
    }
    const to = before === undefined ? this.#messages.length : indexWhere((id) => compareIds(id, before) >= 0);
    return takeLatest(this.#messages.slice(0, to).reverse(), limit);
  }

  push(message: StoredMessage): void {
    this.#messages.push(message);
    this.#bytes += sizeOf(message);
    while (this.#messages.length > this.maxMessages || this.#bytes > this.maxBytes) this.evictOldest();
  }

  evictOldest(): void {
    const oldest = this.#messages.shift();
    if (!oldest) return;
    this.#idBefore = oldest.id;
    this.#firstOffset++;
    this.#bytes -= sizeOf(oldest);
  }
}

/** The first messages, as many as fit into one page. */
export function takePage(
  messages: Iterable<StoredMessage>,
  limit: number,
  maxBytes = MAX_PAGE_BYTES,
): { messages: StoredMessage[]; more: boolean } {
  const page: StoredMessage[] = [];
  let bytes = 0;
  for (const message of messages) {
    bytes += sizeOf(message);
    if (page.length === limit || (bytes > maxBytes && page.length > 0)) return { messages: page, more: true };
    page.push(message);
  }
  return { messages: page, more: false };
}

/** {@link takePage} of messages that come newest first, put in the room's order. */
export function takeLatest(newestFirst: Iterable<StoredMessage>, limit: number, maxBytes?: number) {
  const { messages, more } = takePage(newestFirst, limit, maxBytes);
  return { messages: messages.reverse(), more };
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
function sizeOf({ content }: StoredMessage): number {
  return 200 + (typeof content === "string" ? 2 * content.length : content.byteLength);
}
