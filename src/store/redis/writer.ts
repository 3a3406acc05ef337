/** Writes messages and cluster updates in batches. One batch is in flight; the next takes what was queued meanwhile. */

import { logError } from "../../ops/log.ts";
import type { ClusterMembership } from "./cluster.ts";
import { Faults, RedisReplyError, type RedisContext } from "./connection.ts";
import type { ClusterOutbox, ClusterUpdate } from "./outbox.ts";
import { encodeContent, type LogRecord } from "./records.ts";
import { scripts } from "./scripts.ts";
import { isNumbered, type PendingMessage, type RejectReason } from "../message.ts";
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
  readonly sender: AppendCallback;
  readonly encoded: string;
}

interface Batch {
  readonly node: string;
  readonly number: number;
  readonly args: readonly (string | number)[];
  readonly messages: readonly QueuedMessage[];
  readonly updates: readonly ClusterUpdate[];
  readonly deadline: Timer;
}

export class BatchWriter {
  #queue: QueuedMessage[] = [];
  #queuedBytes = 0;
  #batch: Batch | undefined;
  #isFlushScheduled = false;
  /** The last record has yet to be applied to the other keys. */
  #isApplyPending = false;
  /** Messages given to {@link append}, and those of them that have a result. */
  #accepted = 0;
  #settled = 0;
  /** Numbers grow, so that an abandoned batch cannot be written after a later one. */
  #batchNumber = 0;
  readonly #faults = new Faults();

  constructor(
    private readonly context: RedisContext,
    private readonly cluster: ClusterMembership,
    private readonly outbox: ClusterOutbox,
    private readonly maxHistory: number,
    private readonly isReady: () => boolean,
    private readonly onUnavailable: (reason: string) => void,
  ) {}

  get accepted(): number {
    return this.#accepted;
  }

  get settled(): number {
    return this.#settled;
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    const encoded = encodeContent(pending.content);
    if (!this.isReady() || this.#queuedBytes > MAX_QUEUED_BYTES)
      return sender.onResult(pending, { rejected: "unavailable" });
    this.#queue.push({ pending, sender, encoded });
    this.#accepted++;
    this.#queuedBytes += encoded.length + MESSAGE_BYTES;
    this.scheduleFlush();
  }

  /** Writes what is queued by the end of this turn of the event loop. */
  scheduleFlush(): void {
    if (this.#isFlushScheduled || this.#batch) return;
    this.#isFlushScheduled = true;
    this.context.clock.setImmediate(() => {
      this.#isFlushScheduled = false;
      if (!this.#batch && this.isReady()) this.#flush();
    });
  }

  /** Queued messages were not sent to Redis, so that their senders may safely send them again. */
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
    const presence = updates.flatMap((update) =>
      "room" in update ? [update.room, update.client, update.connections] : [],
    );
    const sessions = updates.flatMap((update) =>
      "session" in update ? [update.client, update.session, update.fencingToken] : [],
    );
    const { clock, random, timing } = this.context;
    const number = ++this.#batchNumber;
    const { id: node } = this.cluster;
    const args = [
      ...[node, number, Math.floor(random.next() * 1000), this.maxHistory],
      ...[presence.length / 3, sessions.length / 3, ...presence, ...sessions],
      ...messages.flatMap(({ pending, encoded }) => {
        const { room, from, seq = "", requiresSeq = "" } = pending;
        return [room, from, isNumbered(pending) ? pending.session : "", seq, requiresSeq, encoded];
      }),
    ];
    const deadline = clock.setTimeout(() => {
      this.#failBatch(batch, "unconfirmed", "no reply in time");
    }, timing.writeDeadlineMs);
    const batch: Batch = { node, number, args, messages, updates, deadline };
    this.#batch = batch;
    this.#isApplyPending = true;
    void this.#write(batch);
  }

  /** Now rather than by the next script, which may be one that reads from a Redis that rejects writes by then. */
  #applyPending(): void {
    if (!this.#isApplyPending) return;
    this.#isApplyPending = false;
    this.context.connection
      .run(scripts.applyPending)
      .catch((error: unknown) => this.#faults.check("The last record could not be applied", error));
  }

  #takeMessages(): readonly QueuedMessage[] {
    let count = 0;
    let bytes = 0;
    for (const { encoded } of this.#queue) {
      if (count === MAX_MESSAGES || (bytes > 0 && bytes + encoded.length > MAX_BATCH_BYTES)) break;
      bytes += encoded.length + MESSAGE_BYTES;
      count++;
    }
    this.#queuedBytes -= bytes;
    return this.#queue.splice(0, count);
  }

  /** Retries until Redis has replied, the record has been read from the log, or the deadline has passed. */
  async #write(batch: Batch): Promise<void> {
    const { connection, timing, clock } = this.context;
    const startMs = clock.elapsed();
    for (let attempt = 1; this.#batch === batch; attempt++)
      try {
        const reply = await connection.run(scripts.append, ...batch.args);
        // An earlier attempt may have been written before the node was removed.
        if (reply === "unknown node") this.#failBatch(batch, "unconfirmed", "this node was removed");
        if (reply === "eviction due") this.cluster.evict();
        this.#faults.clear();
        return;
      } catch (error) {
        const reason = this.#faults.check("A batch could not be written", error);
        if (error instanceof RedisReplyError && attempt === 1)
          return this.#failBatch(batch, "unavailable", reason);
        if (clock.elapsed() - startMs > timing.writeOutageMs) this.onUnavailable(reason);
        await clock.sleep(timing.writeRetryMs);
      }
  }

  #failBatch(batch: Batch, rejected: RejectReason, reason: string): void {
    if (this.#batch !== batch) return;
    this.outbox.requeue(batch.updates);
    this.#finishBatch(batch);
    this.onUnavailable(reason);
    rejectAll(batch.messages, rejected);
  }

  #finishBatch({ deadline, messages }: Batch): void {
    this.context.clock.clear(deadline);
    this.#settled += messages.length;
    this.#batch = undefined;
    this.scheduleFlush();
  }
}

function rejectAll(messages: readonly QueuedMessage[], rejected: RejectReason): void {
  for (const { pending, sender } of messages)
    try {
      sender.onResult(pending, { rejected });
    } catch (error) {
      logError("A rejection could not be delivered", error);
    }
}
