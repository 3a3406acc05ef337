/** What this node has to say, written in batches: one on its way at a time, and the next takes what came meanwhile. */

import { logError } from "../../ops/log.ts";
import { Faults, RedisReplyError, type RedisConnection } from "./connection.ts";
import { encodeContent, type LogRecord } from "./records.ts";
import type { ClusterUpdate, ClusterOutbox } from "./outbox.ts";
import type { ClusterMembership } from "./cluster.ts";
import { scripts } from "./scripts.ts";
import type { PendingMessage, RejectReason } from "../message.ts";
import type { AppendCallback } from "../store.ts";

const MAX_DRAFTS = 500;
const MAX_CHANGES = 500;
const MAX_BATCH_BYTES = 512 * 1024;
/** More than this waits for no batch. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024;
/** What surrounds a draft, in bytes. */
const DRAFT_BYTES = 200;
/** A batch that has no answer is written again, which changes nothing if it was written before. */
const RETRY_MS = 50;
/** After so long without an answer nothing more is taken; and after so long nobody waits any more. */
const LOST_MS = 500;
const DEADLINE_MS = 5000;

interface QueuedMessage {
  readonly draft: PendingMessage;
  readonly sender: AppendCallback;
  readonly encoded: string;
}

interface Batch {
  readonly node: string;
  readonly number: number;
  readonly args: readonly (string | number)[];
  readonly drafts: readonly QueuedMessage[];
  readonly changes: readonly ClusterUpdate[];
  readonly deadline: Timer;
}

export class BatchWriter {
  #queue: QueuedMessage[] = [];
  #queuedBytes = 0;
  #batch: Batch | undefined;
  #isWaking = false;
  /** Something was written, and nothing after it. */
  #isUnfinished = false;
  /** Drafts that it was given, and those of them that are answered. */
  #accepted = 0;
  #settled = 0;
  /** Each is greater than the last; one that was given up can no longer be written when a later one was. */
  #number = 0;
  readonly #faults = new Faults();

  /** @param lose what happens when Redis does not do its part */
  constructor(
    private readonly line: RedisConnection,
    private readonly nodes: ClusterMembership,
    private readonly changes: ClusterOutbox,
    private readonly maxHistory: number,
    private readonly isReady: () => boolean,
    private readonly lose: (why: string) => void,
  ) {}

  get accepted(): number {
    return this.#accepted;
  }

  get settled(): number {
    return this.#settled;
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    const encoded = encodeContent(pending.content);
    if (!this.isReady() || this.#queuedBytes > MAX_WAITING_BYTES)
      return sender.onResult(pending, { rejected: "unavailable" });
    this.#queue.push({ draft: pending, sender, encoded });
    this.#accepted++;
    this.#queuedBytes += encoded.length + DRAFT_BYTES;
    this.scheduleFlush();
  }

  /** There is something to write, perhaps; what else comes in this tick goes with it. */
  scheduleFlush(): void {
    if (this.#isWaking || this.#batch) return;
    this.#isWaking = true;
    setImmediate(() => {
      this.#isWaking = false;
      if (!this.#batch && this.isReady()) this.#writeNext();
    });
  }

  /** What waits was not given to Redis: it is refused, and its sender may send it again. */
  rejectQueued(): void {
    const refused = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#settled += refused.length;
    rejectAll(refused, "unavailable");
  }

  /** What is on its way may still be written, but nobody waits for it any more. */
  abandonBatch(): void {
    if (this.#batch) this.#failBatch(this.#batch, "unconfirmed", "nobody waits any more");
  }

  /** A record of the log: if it is the batch that is on its way, whoever sent it can be answered. */
  onRecord({ node, batch }: LogRecord): readonly QueuedMessage[] {
    if (this.#batch?.node !== node || this.#batch.number !== batch) return [];
    const { drafts: pendingMessages } = this.#batch;
    this.#finishBatch(this.#batch);
    return pendingMessages;
  }

  #writeNext(): void {
    const changes = this.changes.drain(MAX_CHANGES);
    const pendingMessages = this.#takeDrafts();
    if (changes.length + pendingMessages.length === 0) return this.#finish();
    const present = changes.flatMap((change) =>
      "room" in change ? [change.room, change.client, change.connections] : [],
    );
    const opened = changes.flatMap((change) =>
      "session" in change ? [change.client, change.session, change.ticket] : [],
    );
    const number = ++this.#number;
    const { id: node } = this.nodes;
    const args = [
      ...[node, number, Math.floor(Math.random() * 1000), this.maxHistory],
      ...[present.length / 3, opened.length / 3, ...present, ...opened],
      ...pendingMessages.flatMap(
        ({ draft: { room, from, session = "", seq = "", requiresSeq = "" }, encoded }) => {
          const isNumbered = session !== "" && seq !== "";
          return [room, from, isNumbered ? session : "", seq, requiresSeq, encoded];
        },
      ),
    ];
    const deadline = setTimeout(() => {
      this.#failBatch(batch, "unconfirmed", "no answer in time");
    }, DEADLINE_MS);
    const batch: Batch = { node, number, args, drafts: pendingMessages, changes, deadline };
    this.#batch = batch;
    this.#isUnfinished = true;
    void this.#write(batch);
  }

  /** Left to the next script, it would be left to one that only reads, and Redis may take nothing by then. */
  #finish(): void {
    if (!this.#isUnfinished) return;
    this.#isUnfinished = false;
    // Where it is refused, the next script does it.
    this.line
      .run(scripts.applyPending)
      .catch((error: unknown) => this.#faults.check("A batch could not be finished", error));
  }

  #takeDrafts(): readonly QueuedMessage[] {
    let count = 0;
    let bytes = 0;
    for (const { encoded } of this.#queue) {
      if (count === MAX_DRAFTS || (bytes > 0 && bytes + encoded.length > MAX_BATCH_BYTES)) break;
      bytes += encoded.length + DRAFT_BYTES;
      count++;
    }
    this.#queuedBytes -= bytes;
    return this.#queue.splice(0, count);
  }

  /** Until Redis has answered, or it is in the log, or nobody waits any more. */
  async #write(batch: Batch): Promise<void> {
    const startMs = performance.now();
    for (let attempt = 1; this.#batch === batch; attempt++)
      try {
        const reply = await this.line.run(scripts.append, ...batch.args);
        // Nobody knows this node any more: whether this was written before that, the log may tell, or nothing does.
        if (reply === "unknown node") this.#failBatch(batch, "unconfirmed", "this node was taken for dead");
        this.#faults.clear();
        return;
      } catch (error) {
        const why = this.#faults.check("A batch could not be written", error);
        if (error instanceof RedisReplyError && attempt === 1)
          return this.#failBatch(batch, "unavailable", why);
        if (performance.now() - startMs > LOST_MS) this.lose(why);
        await Bun.sleep(RETRY_MS);
      }
  }

  #failBatch(batch: Batch, refused: RejectReason, why: string): void {
    if (this.#batch !== batch) return;
    this.changes.requeue(batch.changes);
    this.#finishBatch(batch);
    this.lose(why);
    rejectAll(batch.drafts, refused);
  }

  #finishBatch({ deadline, drafts: pendingMessages }: Batch): void {
    clearTimeout(deadline);
    this.#settled += pendingMessages.length;
    this.#batch = undefined;
    this.scheduleFlush();
  }
}

function rejectAll(pendingMessages: readonly QueuedMessage[], rejected: RejectReason): void {
  for (const { draft: pending, sender } of pendingMessages)
    try {
      sender.onResult(pending, { rejected });
    } catch (error) {
      logError("A refusal could not be told", error);
    }
}
