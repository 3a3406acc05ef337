/** Preloaded: a memory store that loses its data once, while the second client joins: `--store losing:?while=open`, or `sent`. */

import { MemoryStore } from "../../src/store/memory.ts";
import type { PageQuery } from "../../src/store/history.ts";
import type { PendingMessage, RemovalTarget } from "../../src/store/message.ts";
import type { StoreListener, AppendCallback, MessageStore } from "../../src/store/store.ts";
import { storeFactories } from "../../src/store/open.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

class LosingStore implements MessageStore {
  readonly isReady = true;
  readonly durability = "for a moment";
  #inner: MemoryStore;
  #isOpen = false;
  #hasLost = false;

  constructor(
    private readonly moment: string | null,
    private readonly maxEntries: number,
    private readonly follower: StoreListener,
  ) {
    this.#inner = new MemoryStore(maxEntries, follower.onEntry, systemClock, systemRandom);
  }

  async acquireRoom(room: string) {
    const history = await this.#inner.acquireRoom(room);
    // The first client opens the room.
    if (this.#isOpen && this.moment === "open") this.#lose();
    this.#isOpen = true;
    return history;
  }

  #lose(): void {
    if (this.#hasLost) return;
    this.#hasLost = true;
    this.#inner = new MemoryStore(this.maxEntries, this.follower.onEntry, systemClock, systemRandom);
    this.follower.onStateLost();
  }

  releaseRoom(room: string): void {
    this.#inner.releaseRoom(room);
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    this.#inner.append(pending, sender);
  }

  remove(room: string, target: RemovalTarget) {
    return this.#inner.remove(room, target);
  }

  async lastSeq(client: string, session: string) {
    if (this.moment === "sent") this.#lose();
    return this.#inner.lastSeq(client, session);
  }

  readHistory(room: string, where: PageQuery) {
    return this.#inner.readHistory(room, where);
  }

  listRooms(after: string | undefined, limit: number) {
    return this.#inner.listRooms(after, limit);
  }

  async drain(): Promise<void> {}

  close(): void {}
}

storeFactories.set("losing:", ({ searchParams }) => async () => ({ history }, follower) => ({
  store: new LosingStore(searchParams.get("while"), history, follower),
}));
