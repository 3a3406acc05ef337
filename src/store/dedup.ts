/** Deduplication: the highest `seq` of each session is all that it takes to recognize a duplicate. */

import { isNumbered, type AppendResult, type PendingMessage } from "./message.ts";

/** About 20 MB. Beyond it, the session unused for longest is dropped. */
const MAX_SESSIONS = 100_000;

export interface SessionRecord {
  /** The highest stored. */
  readonly seq: number;
  /** The id of that message. */
  readonly id: string;
  readonly usedMs: number;
}

export class DedupTable {
  /** By {@link sessionKey}, the longest unused first. */
  readonly #sessions = new Map<string, SessionRecord>();

  /** @param loadFromStore reads a session that is not in memory, where the store persists them */
  constructor(
    private readonly ttlMs: number,
    private readonly loadFromStore: (client: string, session: string) => SessionRecord | undefined = () =>
      undefined,
    private readonly maxSessions = MAX_SESSIONS,
  ) {}

  lastSeq(client: string, session: string, nowMs: number): number | null {
    return this.get(client, session, nowMs)?.seq ?? null;
  }

  get(client: string, session: string, nowMs: number): SessionRecord | undefined {
    const key = sessionKey(client, session);
    const cached = this.#sessions.get(key);
    const record = cached ?? this.loadFromStore(client, session);
    if (!record || nowMs - record.usedMs >= this.ttlMs) return undefined;
    if (cached) return cached;
    this.#sessions.set(key, record);
    this.#prune(nowMs);
    return record;
  }

  /** The result of a message that must not be stored: it is a duplicate, or the one before it was not stored. */
  check(pending: PendingMessage, nowMs: number): AppendResult | undefined {
    if (!isNumbered(pending)) return undefined;
    const { from, session, seq, requiresSeq } = pending;
    const last = this.get(from, session, nowMs);
    if (last && seq <= last.seq)
      return seq === last.seq ? { duplicateSeq: seq, id: last.id } : { duplicateSeq: seq };
    if (requiresSeq !== undefined && (last?.seq ?? 0) < requiresSeq) return { rejected: "out-of-order" };
    return undefined;
  }

  record(pending: PendingMessage, id: string, nowMs: number): void {
    if (!isNumbered(pending)) return;
    const { from, session, seq } = pending;
    const key = sessionKey(from, session);
    this.#sessions.delete(key);
    this.#sessions.set(key, { seq, id, usedMs: nowMs });
    this.#prune(nowMs);
  }

  /** Drops the records of messages that were not stored after all; they are loaded again. */
  invalidate(pendingMessages: readonly PendingMessage[]): void {
    for (const pending of pendingMessages)
      if (isNumbered(pending)) this.#sessions.delete(sessionKey(pending.from, pending.session));
  }

  #prune(nowMs: number): void {
    for (const [key, { usedMs }] of this.#sessions) {
      if (this.#sessions.size <= this.maxSessions && nowMs - usedMs < this.ttlMs) return;
      this.#sessions.delete(key);
    }
  }
}

/** One key for a session of a client. Client ids contain no space. */
export function sessionKey(client: string, session: string): string {
  return `${client} ${session}`;
}
