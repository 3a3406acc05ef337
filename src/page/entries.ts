/**
 * The list of the conversation's entries, in blocks: the browser neither lays out nor paints the blocks that are far from
 * what is visible, and uses the height that they had.
 */

import { create, find } from "./dom.ts";

const BLOCK_ENTRIES = 50;

export class Entries implements Iterable<Element> {
  readonly #list = find("messages", HTMLElement);
  #count = 0;
  #width = 0;
  /** Blocks to be laid out in this frame, and those that were in the last one. */
  #changed = new Set<Element>();
  #laidOut = new Set<Element>();
  #isScheduled = false;

  constructor() {
    // In another width every block has another height.
    new ResizeObserver(() => {
      const { clientWidth } = this.#list;
      if (clientWidth !== this.#width) for (const block of this.#list.children) this.#measure(block);
      this.#width = clientWidth;
    }).observe(this.#list);
  }

  get count(): number {
    return this.#count;
  }

  get first(): Element | null {
    return this.#list.firstElementChild?.firstElementChild ?? null;
  }

  get last(): Element | null {
    return this.#list.lastElementChild?.lastElementChild ?? null;
  }

  next(entry: Element): Element | null {
    return entry.nextElementSibling ?? entry.parentElement?.nextElementSibling?.firstElementChild ?? null;
  }

  previous(entry: Element): Element | null {
    return (
      entry.previousElementSibling ?? entry.parentElement?.previousElementSibling?.lastElementChild ?? null
    );
  }

  /** @param before null for the end */
  insert(entry: Element, before: Element | null): void {
    if (entry === before) return;
    this.remove(entry);
    let block = (before ?? this.last)?.parentElement;
    const isAtEdge = before === null || before === this.first;
    if (!block || (isAtEdge && block.childElementCount >= BLOCK_ENTRIES)) {
      block = create("ol", "block");
      this.#list.insertBefore(block, before?.parentElement ?? null);
      before = null;
    }
    block.insertBefore(entry, before);
    this.#count++;
    this.#measure(block);
  }

  /** Does nothing to an entry that is not in the list. */
  remove(entry: Element): void {
    const block = entry.parentElement;
    if (!block) return;
    entry.remove();
    this.#count--;
    if (block.childElementCount > 0) return this.#measure(block);
    block.remove();
    this.#changed.delete(block);
    this.#laidOut.delete(block);
  }

  /** Something in the entry, and maybe its height, has changed. */
  update(entry: Element): void {
    if (entry.parentElement) this.#measure(entry.parentElement);
  }

  *[Symbol.iterator](): Iterator<Element> {
    for (let entry = this.first; entry; entry = this.next(entry)) yield entry;
  }

  /** Lets the browser skip the block once it has laid it out: before, it would guess the height. */
  #measure(block: Element): void {
    block.classList.remove("measured");
    this.#laidOut.delete(block);
    this.#changed.add(block);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame(() => this.#onFrame());
  }

  /** Runs before the browser lays out the changed blocks. */
  #onFrame(): void {
    this.#isScheduled = false;
    for (const block of this.#laidOut) block.classList.add("measured");
    this.#laidOut = this.#changed;
    this.#changed = new Set();
    if (this.#laidOut.size > 0) this.#schedule();
  }
}
