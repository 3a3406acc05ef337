/** What this node has to say, written in batches: one on its way at a time, and the next takes what came meanwhile. */

import { report } from "../../ops/log.ts";
import { Faults, RedisRefusal, type RedisLine } from "./connection.ts";
import { encode, type LogRecord } from "./records.ts";
import type { Change, RedisChanges } from "./changes.ts";
import type { RedisNodes } from "./cluster.ts";
import { finish, write } from "./scripts.ts";
import type { Draft, Refused, Sender } from "../store.ts";

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

interface Waiting {
  readonly draft: Draft;
  readonly sender: Sender;
  readonly coded: string;
}

interface Batch {
  readonly node: string;
  readonly number: number;
  readonly args: readonly (string | number)[];
  readonly drafts: readonly Waiting[];
  readonly changes: readonly Change[];
  readonly deadline: Timer;
}

export class RedisWriter {
  #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #batch: Batch | undefined;
  #isWaking = false;
  /** Something was written, and nothing after it. */
  #isUnfinished = false;
  /** Drafts that it was given, and those of them that are answered. */
  #given = 0;
  #answered = 0;
  /** Each is greater than the last; one that was given up can no longer be written when a later one was. */
  #number = 0;
  readonly #faults = new Faults();

  /** @param lose what happens when Redis does not do its part */
  constructor(
    private readonly line: RedisLine,
    private readonly nodes: RedisNodes,
    private readonly changes: RedisChanges,
    private readonly maxHistory: number,
    private readonly isReady: () => boolean,
    private readonly lose: (why: string) => void,
  ) {}

  get given(): number {
    return this.#given;
  }

  get answered(): number {
    return this.#answered;
  }

  append(draft: Draft, sender: Sender): void {
    const coded = encode(draft.content);
    if (!this.isReady() || this.#waitingBytes > MAX_WAITING_BYTES)
      return sender.answered(draft, { refused: "unavailable" });
    this.#waiting.push({ draft, sender, coded });
    this.#given++;
    this.#waitingBytes += coded.length + DRAFT_BYTES;
    this.wake();
  }

  /** There is something to write, perhaps; what else comes in this tick goes with it. */
  wake(): void {
    if (this.#isWaking || this.#batch) return;
    this.#isWaking = true;
    setImmediate(() => {
      this.#isWaking = false;
      if (!this.#batch && this.isReady()) this.#writeNext();
    });
  }

  /** What waits was not given to Redis: it is refused, and its sender may send it again. */
  refuseWaiting(): void {
    const refused = this.#waiting;
    this.#waiting = [];
    this.#waitingBytes = 0;
    this.#answered += refused.length;
    answerAll(refused, "unavailable");
  }

  /** What is on its way may still be written, but nobody waits for it any more. */
  giveUp(): void {
    if (this.#batch) this.#fail(this.#batch, "unconfirmed", "nobody waits any more");
  }

  /** A record of the log: if it is the batch that is on its way, whoever sent it can be answered. */
  land({ node, batch }: LogRecord): readonly Waiting[] {
    if (this.#batch?.node !== node || this.#batch.number !== batch) return [];
    const { drafts } = this.#batch;
    this.#forget(this.#batch);
    return drafts;
  }

  #writeNext(): void {
    const changes = this.changes.take(MAX_CHANGES);
    const drafts = this.#takeDrafts();
    if (changes.length + drafts.length === 0) return this.#finish();
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
      ...drafts.flatMap(({ draft: { room, from, session = "", seq = "", after = "" }, coded }) => {
        const isNumbered = session !== "" && seq !== "";
        return [room, from, isNumbered ? session : "", seq, after, coded];
      }),
    ];
    const deadline = setTimeout(() => {
      this.#fail(batch, "unconfirmed", "no answer in time");
    }, DEADLINE_MS);
    const batch: Batch = { node, number, args, drafts, changes, deadline };
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
      .run(finish)
      .catch((error: unknown) => this.#faults.check("A batch could not be finished", error));
  }

  #takeDrafts(): readonly Waiting[] {
    let count = 0;
    let bytes = 0;
    for (const { coded } of this.#waiting) {
      if (count === MAX_DRAFTS || (bytes > 0 && bytes + coded.length > MAX_BATCH_BYTES)) break;
      bytes += coded.length + DRAFT_BYTES;
      count++;
    }
    this.#waitingBytes -= bytes;
    return this.#waiting.splice(0, count);
  }

  /** Until Redis has answered, or it is in the log, or nobody waits any more. */
  async #write(batch: Batch): Promise<void> {
    const startMs = performance.now();
    for (let attempt = 1; this.#batch === batch; attempt++)
      try {
        const reply = await this.line.run(write, ...batch.args);
        // Nobody knows this node any more: whether this was written before that, the log may tell, or nothing does.
        if (reply === "unknown node") this.#fail(batch, "unconfirmed", "this node was taken for dead");
        this.#faults.clear();
        return;
      } catch (error) {
        const why = this.#faults.check("A batch could not be written", error);
        if (error instanceof RedisRefusal && attempt === 1) return this.#fail(batch, "unavailable", why);
        if (performance.now() - startMs > LOST_MS) this.lose(why);
        await Bun.sleep(RETRY_MS);
      }
  }

  #fail(batch: Batch, refused: Refused, why: string): void {
    if (this.#batch !== batch) return;
    this.changes.putBack(batch.changes);
    this.#forget(batch);
    this.lose(why);
    answerAll(batch.drafts, refused);
  }

  #forget({ deadline, drafts }: Batch): void {
    clearTimeout(deadline);
    this.#answered += drafts.length;
    this.#batch = undefined;
    this.wake();
  }
}

function answerAll(drafts: readonly Waiting[], refused: Refused): void {
  for (const { draft, sender } of drafts)
    try {
      sender.answered(draft, { refused });
    } catch (error) {
      report("A refusal could not be told", error);
    }
}
