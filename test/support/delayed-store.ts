/**
 * A memory store that answers late and in bursts, and rejects some messages. Preloaded into a server:
 * `--store "delayed:?delay=20&reject=0.2&seed=7"`: up to 20 ms late, one message in five rejected. A seed makes it repeatable.
 */

import { MemoryStore } from "../../src/store/memory.ts";
import type { PageQuery } from "../../src/store/history.ts";
import type { AppendResult, PendingMessage, RemovalTarget } from "../../src/store/message.ts";
import type { AppendCallback, MessageStore } from "../../src/store/store.ts";
import { storeFactories } from "../../src/store/open.ts";
import { randomFrom } from "./random.ts";
import { systemClock, type Clock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

export interface Delays {
  /** Each answer takes up to this long. */
  readonly delayMs: number;
  /** The share of messages that are rejected as unavailable. */
  readonly rejectShare: number;
  /** The share of messages that are stored, but rejected as unconfirmed. */
  readonly unconfirmedShare: number;
}

export class DelayedStore implements MessageStore {
  readonly #waiting: [PendingMessage, AppendCallback][] = [];
  #working = false;
  #accepted = 0;
  #settled = 0;
  readonly isReady = true;
  readonly durability = "delayed";

  constructor(
    private readonly inner: MemoryStore,
    private readonly delays: Delays,
    private readonly clock: Clock,
    private readonly random: () => number,
  ) {}

  async acquireRoom(room: string) {
    await this.#delay();
    return this.inner.acquireRoom(room);
  }

  releaseRoom(room: string): void {
    this.inner.releaseRoom(room);
  }

  async lastSeq(client: string, session: string) {
    await this.#delay();
    return this.inner.lastSeq(client, session);
  }

  async readHistory(room: string, where: PageQuery) {
    await this.#delay();
    return this.inner.readHistory(room, where);
  }

  async listRooms(after: string | undefined, limit: number) {
    await this.#delay();
    return this.inner.listRooms(after, limit);
  }

  async remove(room: string, target: RemovalTarget) {
    const accepted = this.#accepted;
    do await this.#delay();
    while (this.#settled < accepted);
    return this.inner.remove(room, target);
  }

  close(): void {
    this.inner.close();
  }

  async drain(): Promise<void> {
    while (this.#working) await this.#delay();
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    this.#waiting.push([pending, sender]);
    this.#accepted++;
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      await this.#delay();
      for (const [pending, sender] of this.#waiting.splice(0, 1 + Math.floor(this.random() * 50)))
        this.#append(pending, sender);
      this.#settled = this.#accepted - this.#waiting.length;
    }
    this.#working = false;
  }

  #append(pending: PendingMessage, sender: AppendCallback): void {
    const { rejectShare, unconfirmedShare } = this.delays;
    if (this.random() < rejectShare) return sender.onResult(pending, { rejected: "unavailable" });
    if (this.random() >= unconfirmedShare) return this.inner.append(pending, sender);
    const unconfirmed = (_: PendingMessage, result: AppendResult) =>
      sender.onResult(pending, "stored" in result ? { rejected: "unconfirmed" } : result);
    this.inner.append(pending, { onResult: unconfirmed });
  }

  #delay(): Promise<void> {
    return this.clock.sleep(this.random() * this.delays.delayMs);
  }
}

storeFactories.set("delayed:", ({ searchParams: query }) => async () => ({ history }, { onEntry }) => {
  const number = (name: string, missing: number) => Number(query.get(name) ?? missing);
  const delays = { delayMs: number("delay", 5), rejectShare: number("reject", 0), unconfirmedShare: 0 };
  const inner = new MemoryStore(history, onEntry, systemClock, systemRandom);
  return { store: new DelayedStore(inner, delays, systemClock, randomFrom(number("seed", 1))) };
});
