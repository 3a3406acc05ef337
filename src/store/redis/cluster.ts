/** The nodes that share a Redis: that this one is alive, and which other is not. */

import { logEvent } from "../../ops/log.ts";
import type { ClusterOutbox } from "./outbox.ts";
import { ClockWatch } from "../clock-watch.ts";
import { Faults, RedisReplyError, type RedisConnection } from "./connection.ts";
import { isMessageId, parseHeartbeat } from "./records.ts";
import { scripts } from "./scripts.ts";
import { compareIds } from "../message.ts";

/** How often a node shows that it is alive, and how long that holds. */
const RENEW_MS = 2000;
const ALIVE_MS = 8000;
/** While Redis is away it is looked for so often. */
const LOOK_MS = 250;
/** A node that is not alive has so long to show up again, and its clients to come back elsewhere. */
const GRACE_MS = 7000;
/** Each kept for a day. */
const MAX_SESSIONS = 100_000;
const MAX_ROOMS = 50_000;
const DAY_MS = 24 * 60 * 60 * 1000;

export interface NodesEvents {
  /** The last record of the log that is known. */
  position(): string;
  /** Redis answers. If it does not have what it had, `newest` is the end of the log that it has now. */
  found(newest: string | undefined): void;
  lost(why: string): void;
  /** What is older may be forgotten; both in Unix time in milliseconds, by Redis' clock. */
  aged(limitMs: number, nowMs: number): void;
}

export class ClusterMembership {
  /** Which node this is; another one, when this was taken for dead. */
  id = "";
  /** All that this process has been: what these have written is told here already. */
  readonly ownNodeIds = new Set<string>();
  /** Others that are not alive, each with since when that is known. */
  readonly #suspects = new Map<string, number>();
  #epoch = "";
  /** The record before which the log had a gap, if it had one. */
  #lastGapId = "0-0";
  /** Since when Redis has answered without a break, as far as this node knows. */
  #availableSinceMs = 0;
  #renewedMs = -Infinity;
  #failures = 0;
  #timer: Timer | undefined;
  #isEnded = false;
  #isLooking = false;
  #isRenewing = false;
  /** What Redis has of this node may be from before; who has left since would stay in it. */
  #needsRejoin = false;
  readonly #clockWatch = new ClockWatch();
  readonly #faults = new Faults();
  #blind = "";

  constructor(
    private readonly line: RedisConnection,
    private readonly changes: ClusterOutbox,
    private readonly keepDays: number,
    private readonly events: NodesEvents,
  ) {}

  /** @returns the newest id of the log */
  async start(): Promise<string> {
    const top = await this.#register();
    this.#trackAvailability(performance.now());
    this.#renewLater(RENEW_MS);
    return top;
  }

  /** Its clients have gone, or come back elsewhere. */
  async end(): Promise<void> {
    this.#isEnded = true;
    clearTimeout(this.#timer);
    await this.line
      .run(scripts.leave, this.id)
      .catch((error: unknown) => this.#faults.check("A node could not resign", error));
  }

  /**
   * The log has a gap before this record: this becomes another node, and what was told before ends with the old one. What
   * it tells of clients that have gone since would be what an old snapshot had of them.
   */
  onLogGap(record: string): void {
    this.#lastGapId = record;
    this.#needsRejoin = true;
    this.probe();
  }

  /** Redis does not answer: it is looked for. */
  probe(): void {
    if (this.#isEnded || this.#isLooking || this.#isRenewing) return;
    this.#isLooking = true;
    clearTimeout(this.#timer);
    this.#renewLater(LOOK_MS);
  }

  async #register(): Promise<string> {
    this.id = crypto.randomUUID();
    this.ownNodeIds.add(this.id);
    const reply = await this.line.run(scripts.join, this.id, ALIVE_MS, Math.floor(Math.random() * 1000));
    const [top, born]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isMessageId(top) || !isMessageId(born))
      throw new RedisReplyError("what it holds under this prefix is not a conversation");
    this.#epoch = born;
    this.#needsRejoin = false;
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
      const isLost = born !== this.#epoch && compareIds(born, this.#lastGapId) > 0;
      const isOther = isLost || compareIds(top, position) < 0;
      const isNew = !isKnown || isOther || this.#needsRejoin;
      const newest = isNew ? await this.#register() : top; // which may be the first of a new conversation
      if (!isNew) this.#epoch = born;
      if (this.#isEnded) return;
      this.#isLooking = false;
      this.#failures = 0;
      const wasAway = this.#trackAvailability(performance.now());
      // Whoever came meanwhile did not see this node's clients; a renewal without an answer may have hidden that.
      if (isNew || !wasAlive || wasAway) this.changes.republishAll();
      this.events.found(isOther ? newest : undefined);
      this.changes.publishOverdueLeaves();
      await this.#removeDeadNodes(missing);
      this.#faults.clear();
      if (!this.#isEnded) this.#renewLater(RENEW_MS);
    } catch (error) {
      if (this.#isEnded) return;
      const why = this.#faults.check("A node could not renew itself", error);
      this.#isLooking = false;
      // A connection may have been cut; that alone is nothing.
      if (++this.#failures > 1) {
        this.#renewedMs = -Infinity;
        this.events.lost(why);
      }
      this.#renewLater(LOOK_MS);
    } finally {
      this.#isRenewing = false;
    }
  }

  async #askRenew() {
    const reply = await this.line.run(
      scripts.heartbeat,
      ...[this.id, ALIVE_MS, this.keepDays * DAY_MS],
      ...[DAY_MS, MAX_ROOMS, MAX_SESSIONS],
    );
    const { full, nowMs, evicted, trimmed, blind, ...renewal } = parseHeartbeat(reply);
    if (evicted + trimmed > 0) logEvent("Redis nearly full", { evicted, trimmed });
    if (blind && blind !== this.#blind) logEvent("Redis does not say how full it is", { why: blind });
    this.#blind = blind;
    this.#clockWatch.check(Number.parseInt(renewal.top), nowMs);
    if (this.keepDays > 0) this.events.aged(nowMs - this.keepDays * DAY_MS, nowMs);
    if (full) throw new RedisReplyError(full);
    return renewal;
  }

  /**
   * Times to live go on while Redis is frozen, or this process: then every node looks dead, and nobody is to judge.
   * @returns whether that was so
   */
  #trackAvailability(nowMs: number): boolean {
    const wasAway = nowMs - this.#renewedMs > ALIVE_MS;
    if (wasAway) {
      this.#availableSinceMs = nowMs;
      this.#suspects.clear();
    }
    this.#renewedMs = nowMs;
    return wasAway;
  }

  async #removeDeadNodes(missing: readonly string[]): Promise<void> {
    const nowMs = performance.now();
    for (const node of this.#suspects.keys()) if (!missing.includes(node)) this.#suspects.delete(node);
    for (const node of missing) {
      const sinceMs = this.#suspects.get(node) ?? nowMs;
      this.#suspects.set(node, sinceMs);
      if (nowMs - this.#availableSinceMs < ALIVE_MS || nowMs - sinceMs < GRACE_MS) continue;
      if ((await this.line.run(scripts.removeNode, node)) === 1) logEvent("node gone", { node });
    }
  }
}
