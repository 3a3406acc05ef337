/** Exactly once and in order: what is known of each sender's numbered messages. */

import type { AppendResult, PendingMessage } from "./message.ts";

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

/** One key for a session of a client. Client ids contain no space. */
export function sessionKey(client: string, session: string): string {
  return `${client} ${session}`;
}
