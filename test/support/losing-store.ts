/** Preloaded: a memory store that loses all it has, once, while the second client joins: `--store losing:?while=open`, or `sent`. */

import { MemoryStore } from "../../src/store/memory.ts";
import type { Draft, Follower, Sender, Store, Where } from "../../src/store/store.ts";
import { stores } from "../../src/store/open.ts";

class LosingStore implements Store {
  readonly isReady = true;
  readonly promise = "for a moment";
  #inner: MemoryStore;
  #isOpen = false;
  #hasLost = false;

  constructor(
    private readonly moment: string | null,
    private readonly maxEntries: number,
    private readonly follower: Follower,
  ) {
    this.#inner = new MemoryStore(maxEntries, follower.said);
  }

  async open(room: string) {
    const history = await this.#inner.open(room);
    // The first opens it.
    if (this.#isOpen && this.moment === "open") this.#lose();
    this.#isOpen = true;
    return history;
  }

  #lose(): void {
    if (this.#hasLost) return;
    this.#hasLost = true;
    this.#inner = new MemoryStore(this.maxEntries, this.follower.said);
    this.follower.lost();
  }

  close(room: string): void {
    this.#inner.close(room);
  }

  append(draft: Draft, sender: Sender): void {
    this.#inner.append(draft, sender);
  }

  async sent(client: string, session: string) {
    if (this.moment === "sent") this.#lose();
    return this.#inner.sent(client, session);
  }

  read(room: string, where: Where) {
    return this.#inner.read(room, where);
  }

  async settle(): Promise<void> {}

  end(): void {}
}

stores.set(
  "losing:",
  ({ searchParams }) =>
    async () =>
    ({ history }, follower) =>
      new LosingStore(searchParams.get("while"), history, follower),
);
