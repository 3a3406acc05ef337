/**
 * Preloaded: a memory store that answers late and in bursts, and rejects some messages.
 * `--store "delayed:?delay=20&reject=0.2&seed=7"`: up to 20 ms late, one message in five rejected. A seed makes it repeatable.
 */

import { MemoryStore } from "../../src/store/memory.ts";
import type { PageQuery } from "../../src/store/history.ts";
import type { PendingMessage } from "../../src/store/message.ts";
import type { MessageListener, AppendCallback, MessageStore } from "../../src/store/store.ts";
import { storeFactories } from "../../src/store/open.ts";
import { randomFrom } from "./random.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

class DelayedStore implements MessageStore {
  readonly #inner: MemoryStore;
  readonly #waiting: [PendingMessage, AppendCallback][] = [];
  readonly #random: () => number;
  readonly #delayMs: number;
  readonly #rejectShare: number;
  #working = false;
  readonly isReady = true;
  readonly durability = "delayed";

  constructor(query: URLSearchParams, history: number, onMessage: MessageListener) {
    this.#inner = new MemoryStore(history, onMessage, systemClock, systemRandom);
    this.#random = randomFrom(Number(query.get("seed") ?? 1));
    this.#delayMs = Number(query.get("delay") ?? 5);
    this.#rejectShare = Number(query.get("reject") ?? 0);
  }

  async acquireRoom(room: string) {
    await this.#delay();
    return this.#inner.acquireRoom(room);
  }

  releaseRoom(room: string): void {
    this.#inner.releaseRoom(room);
  }

  async lastSeq(client: string, session: string) {
    await this.#delay();
    return this.#inner.lastSeq(client, session);
  }

  async readHistory(room: string, where: PageQuery) {
    await this.#delay();
    return this.#inner.readHistory(room, where);
  }

  async listRooms(after: string | undefined, limit: number) {
    await this.#delay();
    return this.#inner.listRooms(after, limit);
  }

  close(): void {
    this.#inner.close();
  }

  async drain(): Promise<void> {
    while (this.#working) await this.#delay();
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    this.#waiting.push([pending, sender]);
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      await this.#delay();
      for (const [pending, sender] of this.#waiting.splice(0, 1 + Math.floor(this.#random() * 50)))
        if (this.#random() < this.#rejectShare) sender.onResult(pending, { rejected: "unavailable" });
        else this.#inner.append(pending, sender);
    }
    this.#working = false;
  }

  #delay(): Promise<void> {
    return Bun.sleep(this.#random() * this.#delayMs);
  }
}

storeFactories.set("delayed:", ({ searchParams }) => async () => ({ history }, { onMessage }) => ({
  store: new DelayedStore(searchParams, history, onMessage),
}));
