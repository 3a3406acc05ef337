/** What a screen reader announces: at most one sentence per two seconds. */

import { find } from "./dom.ts";
import { words } from "./words.ts";

const INTERVAL_MS = 2_000;

export class Announcer {
  readonly #output = find("announcer", HTMLElement);
  #queue: string[] = [];
  #isIdle = true;

  announce(sentence: string): void {
    this.#queue.push(sentence);
    if (this.#isIdle) this.#next();
  }

  #next(): void {
    const [first, ...others] = this.#queue;
    this.#isIdle = first === undefined;
    if (first === undefined) return;
    this.#output.textContent = others.length === 0 ? first : words.announceMany(this.#queue.length);
    this.#queue = [];
    setTimeout(() => this.#next(), INTERVAL_MS);
  }
}
