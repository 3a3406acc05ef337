/** This node's membership in the cluster: its lease, and the removal of nodes whose lease has expired. */

import { logEvent } from "../../ops/log.ts";
import { ClockWatch } from "../clock-watch.ts";
import type { Engine } from "./engine.ts";
import { Faults, OutageDetector } from "./faults.ts";
import type { LogReader } from "./log-reader.ts";
import type { SharedLogContext } from "./timing.ts";
import { compareIds } from "../message-id.ts";

/** The database has answered, and accepts writes. */
export interface Heartbeat {
  /** The end of its log, if it has lost the data that this node followed. */
  readonly newHead: string | undefined;
  /** The database, or a node that started meanwhile, may lack this node's presence. */
  readonly isPresenceLost: boolean;
  /** Its clock, and up to which time messages were pruned. */
  readonly nowMs: number;
  readonly cutoffMs: number;
}

export interface ClusterListener {
  /** Whether the database can be written and its log can be read. */
  readonly isReady: boolean;
  onAvailable(heartbeat: Heartbeat): void;
  onUnavailable(reason: string): void;
}

export class ClusterMembership {
  /** The current node id. A node that was removed, or missed records, joins again under a new one. */
  id = "";
  /** The ids that this process has or had. */
  readonly ownNodeIds = new Set<string>();
  #epoch = "";
  /** The record before which the log had a gap last. */
  #lastGapId = "0-0";
  /** What the database has of this node may be out of date, such as clients that have left since. */
  #needsRejoin = false;
  /** Other nodes without a lease, and since when that is known. */
  readonly #suspects = new Map<string, number>();
  /** Since when the database has answered every heartbeat. */
  #availableSinceMs = 0;
  #lastHeartbeatMs = -Infinity;
  #timer: Timer | undefined;
  #isClosed = false;
  #isProbing = false;
  #isHeartbeatInFlight = false;
  readonly #clockWatch = new ClockWatch();
  readonly #faults = new Faults();
  readonly #outage: OutageDetector;

  constructor(
    private readonly engine: Engine,
    private readonly context: SharedLogContext,
    private readonly log: LogReader,
    private readonly listener: ClusterListener,
  ) {
    this.#outage = new OutageDetector(context);
  }

  /** @returns the head of the log */
  async start(): Promise<string> {
    const head = await this.#join();
    this.#trackAvailability();
    this.#scheduleHeartbeat(this.context.timing.heartbeatMs);
    return head;
  }

  /** Gives up the lease, so that clients that do not reconnect count as gone without delay. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.context.clock.clear(this.#timer);
    await this.engine
      .leave(this.id)
      .catch((error: unknown) => this.#faults.check("A node could not leave the cluster", error));
  }

  /** The node rejoins under a new id, so stale presence written under the old id expires with it. */
  onLogGap(recordId: string): void {
    this.#lastGapId = recordId;
    this.#needsRejoin = true;
    this.probe();
  }

  /** Sends a heartbeat soon, because a command has failed. */
  probe(): void {
    if (this.#isClosed || this.#isProbing || this.#isHeartbeatInFlight) return;
    this.#isProbing = true;
    this.#scheduleHeartbeat(this.context.timing.probeMs);
  }

  /** Sends a heartbeat now, because much has been written since the last one. */
  evict(): void {
    if (this.#isClosed || this.#isHeartbeatInFlight) return;
    this.context.clock.clear(this.#timer);
    void this.#heartbeat();
  }

  async #join(): Promise<string> {
    const id = this.context.random.uuid();
    this.ownNodeIds.add(id);
    const { head, epoch } = await this.engine.join(id);
    // Not before the reply: if it is lost, the next heartbeat joins again, and presence is republished.
    this.id = id;
    this.#epoch = epoch;
    this.#needsRejoin = false;
    return head;
  }

  #scheduleHeartbeat(waitMs: number): void {
    this.context.clock.clear(this.#timer);
    this.#timer = this.context.clock.setTimeout(() => void this.#heartbeat(), waitMs);
  }

  async #heartbeat(): Promise<void> {
    const { heartbeatMs, probeMs } = this.context.timing;
    this.#isHeartbeatInFlight = true;
    const lastId = this.log.lastId;
    try {
      const { isKnown, wasAlive, head, epoch, expiredNodes, nowMs, cutoffMs } = await this.engine.heartbeat(
        this.id,
      );
      this.#clockWatch.check(Number.parseInt(head), nowMs);
      // An epoch that began before the last gap has been handled with that gap.
      const isNewEpoch = epoch !== this.#epoch && compareIds(epoch, this.#lastGapId) > 0;
      const isDataLost = isNewEpoch || compareIds(head, lastId) < 0;
      const mustJoin = !isKnown || isDataLost || this.#needsRejoin;
      const newHead = mustJoin ? await this.#join() : head;
      if (!mustJoin) this.#epoch = epoch;
      if (this.#isClosed) return;
      this.#isProbing = false;
      this.#outage.onSuccess();
      const wasAway = this.#trackAvailability();
      // A node that started while the lease was expired has not seen this node's clients. `wasAway` covers a heartbeat
      // that renewed an expired lease and whose reply was lost.
      const isPresenceLost = mustJoin || !wasAlive || wasAway;
      const lost = { newHead: isDataLost ? newHead : undefined, isPresenceLost };
      this.listener.onAvailable({ ...lost, nowMs, cutoffMs });
      await this.#removeExpiredNodes(expiredNodes);
      this.#faults.clear();
      if (!this.#isClosed) this.#scheduleHeartbeat(heartbeatMs);
    } catch (error) {
      if (this.#isClosed) return;
      const reason = this.#faults.check("A heartbeat failed", error);
      this.#isProbing = false;
      if (this.#outage.onFailure(error)) {
        this.#lastHeartbeatMs = -Infinity;
        this.listener.onUnavailable(reason);
      }
      this.#scheduleHeartbeat(probeMs);
    } finally {
      this.#isHeartbeatInFlight = false;
    }
  }

  /**
   * Leases expire while the database or this process is frozen, so that afterwards every node looks dead: suspicion starts again.
   * @returns whether there was such a break
   */
  #trackAvailability(): boolean {
    const nowMs = this.context.clock.elapsed();
    const wasAway = nowMs - this.#lastHeartbeatMs > this.context.timing.leaseMs;
    if (wasAway) {
      this.#availableSinceMs = nowMs;
      this.#suspects.clear();
    }
    this.#lastHeartbeatMs = nowMs;
    return wasAway;
  }

  async #removeExpiredNodes(expired: readonly string[]): Promise<void> {
    const { timing, clock } = this.context;
    const nowMs = clock.elapsed();
    for (const node of this.#suspects.keys()) if (!expired.includes(node)) this.#suspects.delete(node);
    for (const node of expired) {
      const sinceMs = this.#suspects.get(node) ?? nowMs;
      this.#suspects.set(node, sinceMs);
      if (nowMs - this.#availableSinceMs < timing.leaseMs || nowMs - sinceMs < timing.graceMs) continue;
      if (await this.engine.removeNode(node)) logEvent("node removed", { node });
    }
  }
}
