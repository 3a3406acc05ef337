/** The nodes that share a Redis: what this one tells of its clients, that it is alive, and which other is not. */

import { note } from "../log.ts";
import { RedisRefusal, type RedisLine } from "./line.ts";
import { isId, readRenewal } from "./records.ts";
import { bury, register, renew, resign } from "./node-scripts.ts";
import { compareIds } from "../store.ts";

/** How often a node shows that it is alive, and how long that holds. */
const RENEW_MS = 2000;
const ALIVE_MS = 8000;
/** While Redis is away it is looked for so often. */
const LOOK_MS = 250;
/** A node that is not alive has so long to show up again, and its clients to come back elsewhere. */
const GRACE_MS = 7000;
/** Clients that this node has sent away have so long to come back before they are said to have gone. */
const AWAY_MS = 15_000;
/** Each kept for a day. */
const MAX_SESSIONS = 100_000;
const MAX_ROOMS = 50_000;
const DAY_MS = 24 * 60 * 60 * 1000;

/** What the other nodes are to know: how many connections a client has in a room here; that a session was opened. */
export type Change =
  | { readonly room: string; readonly client: string; readonly connections: number }
  | { readonly client: string; readonly session: string; readonly ticket: number };

export interface NodesEvents {
  /** The last record of the log that is known. */
  position(): string;
  /** Redis answers. If it does not have what it had, `newest` is the end of the log that it has now. */
  found(newest: string | undefined): void;
  lost(why: string): void;
  /** There is something to write. */
  changed(): void;
}

export class RedisNodes {
  /** Which node this is; another one, when this was taken for dead. */
  id = "";
  /** All that this process has been: what these have written is told here already. */
  readonly own = new Set<string>();
  /** How many connections each client has here, by room. */
  readonly #here = new Map<string, Map<string, number>>();
  readonly #changed = new Map<string, Change>();
  /** Clients that were sent away, each with when that has to be told. */
  readonly #away = new Map<string, { readonly change: Change; readonly untilMs: number }>();
  /** Others that are not alive, each with since when that is known. */
  readonly #missing = new Map<string, number>();
  #born = "";
  /** The record before which the log had a gap, if it had one. */
  #gap = "0-0";
  /** Since when Redis has answered without a break, as far as this node knows. */
  #steadySinceMs = 0;
  #renewedMs = -Infinity;
  #failures = 0;
  #timer: Timer | undefined;
  #isEnded = false;
  #isSendingAway = false;
  #isLooking = false;
  #isRenewing = false;
  /** What Redis has of this node may be from before; who has left since would stay in it. */
  #isStale = false;

  constructor(
    private readonly line: RedisLine,
    private readonly keepDays: number,
    private readonly events: NodesEvents,
  ) {}

  /** @returns the newest id of the log */
  async start(): Promise<string> {
    const top = await this.#register();
    this.#steady(performance.now());
    this.#renewLater(RENEW_MS);
    return top;
  }

  /** Its clients have gone, or come back elsewhere. */
  async end(): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#timer);
    await this.line.run(resign, this.id).catch(() => {});
  }

  tell(room: string, client: string, connections: number): void {
    const change = { room, client, connections };
    const clients = this.#here.get(room) ?? new Map<string, number>();
    if (connections > 0) this.#here.set(room, clients.set(client, connections));
    else {
      clients.delete(client);
      if (clients.size === 0) this.#here.delete(room);
    }
    if (this.#isSendingAway && connections === 0)
      this.#away.set(keyOf(change), { change, untilMs: performance.now() + AWAY_MS });
    else {
      this.#away.delete(keyOf(change));
      this.#change(change);
    }
  }

  opened(client: string, session: string, ticket: number): void {
    this.#change({ client, session, ticket });
  }

  #change(change: Change): void {
    this.#changed.set(keyOf(change), change);
    this.events.changed();
  }

  /** Whoever goes while that is done was sent away, and is expected back. */
  sendAway(all: () => void): void {
    this.#isSendingAway = true;
    try {
      all();
    } finally {
      this.#isSendingAway = false;
    }
  }

  takeChanges(count: number): readonly Change[] {
    const taken = this.#changed.entries().take(count).toArray();
    for (const [key] of taken) this.#changed.delete(key);
    return taken.map(([, change]) => change);
  }

  /** They may not have been written; what is newer stands. */
  putBack(changes: readonly Change[]): void {
    for (const change of changes)
      if (!this.#changed.has(keyOf(change))) this.#changed.set(keyOf(change), change);
  }

  /**
   * The log has a gap before this record: this becomes another node, and what was told before ends with the old one. What
   * it tells of clients that have gone since would be what an old snapshot had of them.
   */
  skipped(record: string): void {
    this.#gap = record;
    this.#isStale = true;
    this.look();
  }

  /** Redis does not answer: it is looked for. */
  look(): void {
    if (this.#isEnded || this.#isLooking || this.#isRenewing) return;
    this.#isLooking = true;
    clearTimeout(this.#timer);
    this.#renewLater(LOOK_MS);
  }

  async #register(): Promise<string> {
    this.id = crypto.randomUUID();
    this.own.add(this.id);
    const reply = await this.line.run(register, this.id, ALIVE_MS, Math.floor(Math.random() * 1000));
    const [top, born]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isId(top) || !isId(born)) throw new Error("what it holds under this prefix is not a conversation");
    this.#born = born;
    this.#isStale = false;
    return top;
  }

  #renewLater(waitMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#renew(), waitMs).unref();
  }

  async #renew(): Promise<void> {
    this.#isRenewing = true;
    const position = this.events.position();
    try {
      const { isKnown, wasAlive, top, born, missing } = await this.#askRenew();
      // One that had begun by the gap is what has been read since: nothing is to be skipped a second time.
      const isLost = born !== this.#born && compareIds(born, this.#gap) > 0;
      const isOther = isLost || compareIds(top, position) < 0;
      const isNew = !isKnown || isOther || this.#isStale;
      const newest = isNew ? await this.#register() : top; // which may be the first of a new conversation
      if (!isNew) this.#born = born;
      if (this.#isEnded) return;
      this.#isLooking = false;
      this.#failures = 0;
      const wasAway = this.#steady(performance.now());
      // Whoever came meanwhile did not see this node's clients; a renewal without an answer may have hidden that.
      if (isNew || !wasAlive || wasAway) this.#tellAll();
      this.events.found(isOther ? newest : undefined);
      this.#tellAway();
      await this.#judge(missing);
      if (!this.#isEnded) this.#renewLater(RENEW_MS);
    } catch (error) {
      if (this.#isEnded) return;
      this.#isLooking = false;
      // A connection may have been cut; that alone is nothing.
      if (++this.#failures > 1) {
        this.#renewedMs = -Infinity;
        this.events.lost(error instanceof Error ? error.message : String(error));
      }
      this.#renewLater(LOOK_MS);
    } finally {
      this.#isRenewing = false;
    }
  }

  async #askRenew() {
    const reply = await this.line.run(
      renew,
      ...[this.id, ALIVE_MS, this.keepDays * DAY_MS],
      ...[DAY_MS, MAX_ROOMS, MAX_SESSIONS],
    );
    const { full, ...renewal } = readRenewal(reply);
    if (full) throw new RedisRefusal(full);
    return renewal;
  }

  /** Times to live go on while Redis is frozen, or this process: then every node looks dead, and nobody is to judge. */
  #steady(nowMs: number): boolean {
    const wasAway = nowMs - this.#renewedMs > ALIVE_MS;
    if (wasAway) {
      this.#steadySinceMs = nowMs;
      this.#missing.clear();
    }
    this.#renewedMs = nowMs;
    return wasAway;
  }

  #tellAll(): void {
    for (const [room, clients] of this.#here)
      for (const [client, connections] of clients) this.#change({ room, client, connections });
  }

  #tellAway(): void {
    const nowMs = performance.now();
    for (const [key, { change, untilMs }] of this.#away) {
      if (untilMs > nowMs) return;
      this.#away.delete(key);
      this.#change(change);
    }
  }

  async #judge(missing: readonly string[]): Promise<void> {
    const nowMs = performance.now();
    for (const node of this.#missing.keys()) if (!missing.includes(node)) this.#missing.delete(node);
    for (const node of missing) {
      const sinceMs = this.#missing.get(node) ?? nowMs;
      this.#missing.set(node, sinceMs);
      if (nowMs - this.#steadySinceMs < ALIVE_MS || nowMs - sinceMs < GRACE_MS) continue;
      if ((await this.line.run(bury, node)) === 1) note("node gone", { node });
    }
  }
}

/** What is newer of the same takes the place of what is older. */
function keyOf(change: Change): string {
  return "room" in change ? `${change.room} ${change.client}` : `session ${change.client} ${change.session}`;
}
