/**
 * Preloaded: a store that answers late, in bursts, and refuses on purpose, around the memory store.
 * `--store "late:?delay=20&refuse=0.2&seed=7"`: up to 20 ms late, every fifth draft refused; the seed repeats a run.
 */

import { MemoryStore } from "../../src/store/memory.ts";
import type { Draft, Follow, Sender, Store, Where } from "../../src/store/store.ts";
import { stores } from "../../src/store/open.ts";
import { randomFrom } from "./random.ts";

class LateStore implements Store {
  readonly #inner: MemoryStore;
  readonly #waiting: [Draft, Sender][] = [];
  readonly #random: () => number;
  readonly #delayMs: number;
  readonly #refuse: number;
  #working = false;
  readonly isReady = true;
  readonly promise = "late";

  constructor(query: URLSearchParams, maxEntries: number, follow: Follow) {
    this.#inner = new MemoryStore(maxEntries, follow);
    this.#random = randomFrom(Number(query.get("seed") ?? 1));
    this.#delayMs = Number(query.get("delay") ?? 5);
    this.#refuse = Number(query.get("refuse") ?? 0);
  }

  async open(room: string) {
    await this.#late();
    return this.#inner.open(room);
  }

  close(room: string): void {
    this.#inner.close(room);
  }

  async sent(client: string, session: string) {
    await this.#late();
    return this.#inner.sent(client, session);
  }

  async read(room: string, where: Where) {
    await this.#late();
    return this.#inner.read(room, where);
  }

  end(): void {
    this.#inner.end();
  }

  async settle(): Promise<void> {
    while (this.#working) await this.#late();
  }

  append(draft: Draft, sender: Sender): void {
    this.#waiting.push([draft, sender]);
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#waiting.length > 0) {
      await this.#late();
      for (const [draft, sender] of this.#waiting.splice(0, 1 + Math.floor(this.#random() * 50)))
        if (this.#random() < this.#refuse) sender.answered(draft, { refused: "unavailable" });
        else this.#inner.append(draft, sender);
    }
    this.#working = false;
  }

  #late(): Promise<void> {
    return Bun.sleep(this.#random() * this.#delayMs);
  }
}

stores.set(
  "late:",
  ({ searchParams }) =>
    async () =>
    ({ history }, { said }) =>
      new LateStore(searchParams, history, said),
);
