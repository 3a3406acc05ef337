/** Writes messages and cluster updates in batches. One batch is in flight; the next takes what was queued meanwhile. */

import { logError } from "../../ops/log.ts";
import type { ClusterListener, ClusterMembership } from "./cluster.ts";
import type { ClusterOutbox } from "./outbox.ts";
import type { LogRecord } from "./log-record.ts";
import { EngineRejection, type Batch, type Engine } from "./engine.ts";
import { Faults } from "./faults.ts";
import type { SharedLogContext } from "./timing.ts";
import type { PendingMessage, RejectReason } from "../message.ts";
import type { AppendCallback } from "../store.ts";

/** Of one batch. */
const MAX_MESSAGES = 500;
const MAX_UPDATES = 500;
const MAX_BATCH_BYTES = 512 * 1024;
/** Messages are rejected when the queue is longer than this. */
const MAX_QUEUED_BYTES = 64 * 1024 * 1024;
/** Estimate of a message's overhead. */
const MESSAGE_BYTES = 200;

interface QueuedMessage {
  readonly pending: PendingMessage;
  readonly callback: AppendCallback;
}

interface QueuedBatch extends Batch {
  readonly messages: readonly QueuedMessage[];
  readonly deadline: Timer;
}

export class BatchWriter {
  #queue: QueuedMessage[] = [];
  #queuedBytes = 0;
  #batch: QueuedBatch | undefined;
  #isFlushScheduled = false;
  /** The last record may have yet to take effect. */
  #isApplyPending = false;
  /** Messages given to {@link append}, and those of them that have a result. */
  #accepted = 0;
  #settled = 0;
  /** Numbers grow, so that an abandoned batch cannot be written after a later one. */
  #batchNumber = 0;
  readonly #faults = new Faults();

  constructor(
    private readonly engine: Engine,
    private readonly context: SharedLogContext,
    private readonly cluster: ClusterMembership,
    private readonly outbox: ClusterOutbox,
    private readonly listener: ClusterListener,
  ) {}

  /** Waits for the messages accepted so far, not for those that follow, as long as the store is available. */
  async acceptedSettled(): Promise<void> {
    const { clock, timing } = this.context;
    const accepted = this.#accepted;
    while (this.#settled < accepted && this.listener.isReady) await clock.sleep(timing.drainPollMs);
  }

  append(pending: PendingMessage, callback: AppendCallback): void {
    if (!this.listener.isReady || this.#queuedBytes > MAX_QUEUED_BYTES)
      return callback.onResult(pending, { rejected: "unavailable" });
    this.#queue.push({ pending, callback });
    this.#accepted++;
    this.#queuedBytes += sizeOf(pending);
    this.scheduleFlush();
  }

  /** Writes what is queued by the end of this turn of the event loop. */
  scheduleFlush(): void {
    if (this.#isFlushScheduled || this.#batch) return;
    this.#isFlushScheduled = true;
    this.context.clock.setImmediate(() => {
      this.#isFlushScheduled = false;
      if (!this.#batch && this.listener.isReady) this.#flush();
    });
  }

  /** Queued messages were not sent to the database, so that their senders may safely send them again. */
  rejectQueued(): void {
    const rejected = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#settled += rejected.length;
    rejectAll(rejected, "unavailable");
  }

  /** The batch in flight may still be written, but its senders get a result now. */
  abandonBatch(): void {
    if (this.#batch) this.#failBatch(this.#batch, "unconfirmed", "the store is closing");
  }

  /** @returns the messages of the batch in flight, if this is its record */
  onRecord({ node, batch }: LogRecord): readonly QueuedMessage[] {
    if (this.#batch?.node !== node || this.#batch.number !== batch) return [];
    const { messages } = this.#batch;
    this.#finishBatch(this.#batch);
    return messages;
  }

  #flush(): void {
    const updates = this.outbox.drain(MAX_UPDATES);
    const messages = this.#takeMessages();
    if (updates.length + messages.length === 0) return this.#applyPending();
    const deadline = this.context.clock.setTimeout(
      () => this.#failBatch(batch, "unconfirmed", "no reply in time"),
      this.context.timing.writeDeadlineMs,
    );
    const batch = { node: this.cluster.id, number: ++this.#batchNumber, messages, updates, deadline };
    this.#batch = batch;
    this.#isApplyPending = true;
    void this.#write(batch);
  }

  /** Now rather than with the next request, which may be one that reads from a database that rejects writes by then. */
  #applyPending(): void {
    if (!this.#isApplyPending) return;
    this.#isApplyPending = false;
    this.engine
      .applyPending?.()
      .catch((error: unknown) => this.#faults.check("The last record could not be applied", error));
  }

  #takeMessages(): readonly QueuedMessage[] {
    let count = 0;
    let bytes = 0;
    for (const { pending } of this.#queue) {
      const size = sizeOf(pending);
      if (count === MAX_MESSAGES || (bytes > 0 && bytes + size > MAX_BATCH_BYTES)) break;
      bytes += size;
      count++;
    }
    this.#queuedBytes -= bytes;
    return this.#queue.splice(0, count);
  }

  /** Retries until the database has replied, the record has been read from the log, or the deadline has passed. */
  async #write(batch: QueuedBatch): Promise<void> {
    const { timing, clock } = this.context;
    const startMs = clock.elapsed();
    for (let attempt = 1; this.#batch === batch; attempt++)
      try {
        const reply = await this.engine.append(batch);
        // An earlier attempt may have been written before the node was removed.
        if (reply === "unknown node") this.#failBatch(batch, "unconfirmed", "this node was removed");
        if (reply === "eviction due") this.cluster.evict();
        this.#faults.clear();
        return;
      } catch (error) {
        const reason = this.#faults.check("A batch could not be written", error);
        if (error instanceof EngineRejection && attempt === 1)
          return this.#failBatch(batch, "unavailable", reason);
        if (clock.elapsed() - startMs > timing.writeOutageMs) this.listener.onUnavailable(reason);
        await clock.sleep(timing.writeRetryMs);
      }
  }

  #failBatch(batch: QueuedBatch, rejected: RejectReason, reason: string): void {
    if (this.#batch !== batch) return;
    this.outbox.requeue(batch.updates);
    this.#finishBatch(batch);
    this.listener.onUnavailable(reason);
    rejectAll(batch.messages, rejected);
  }

  #finishBatch({ deadline, messages }: QueuedBatch): void {
    this.context.clock.clear(deadline);
    this.#settled += messages.length;
    this.#batch = undefined;
    this.scheduleFlush();
  }
}

/** Estimated; Base64 makes bytes a third larger. */
function sizeOf({ content }: PendingMessage): number {
  return MESSAGE_BYTES + content.length;
}

function rejectAll(messages: readonly QueuedMessage[], rejected: RejectReason): void {
  for (const { pending, callback } of messages)
    try {
      callback.onResult(pending, { rejected });
    } catch (error) {
      logError("A rejection could not be delivered", error);
    }
}
