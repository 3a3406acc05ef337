/** Each message can be reached by keyboard: the latest with Tab, others from there with the arrow keys, Home and End. */

import { find } from "./dom.ts";
import type { Entries } from "./entries.ts";

export class MessageFocus {
  readonly #entries: Entries;
  /** The only message at which Tab stops. */
  #tabStop: HTMLElement | undefined;

  /** @param onEscape is called to leave the messages */
  constructor(entries: Entries, onEscape: () => void) {
    this.#entries = entries;
    const list = find("messages", HTMLElement);
    const observer = new MutationObserver(() => {
      if (!this.#tabStop?.isConnected || !this.#tabStop.matches(":focus-within")) this.#stopAt(this.#last);
    });
    observer.observe(list, { childList: true, subtree: true });
    list.addEventListener("focusin", ({ target }) => {
      const message = target instanceof Element ? target.closest(".message") : null;
      this.#stopAt(message instanceof HTMLElement ? message : undefined);
    });
    list.onkeydown = (event) => {
      const { key, target } = event;
      if (key === "Escape") onEscape();
      if (!(target instanceof HTMLElement) || !target.matches(".message")) return;
      const next = this.#findNext(target, key);
      if (!next) return;
      event.preventDefault();
      next.focus();
    };
  }

  get #last(): HTMLElement | undefined {
    return this.#nearest(this.#entries.last, "previous");
  }

  #findNext(from: HTMLElement, key: string): HTMLElement | undefined {
    switch (key) {
      case "ArrowUp":
        return this.#nearest(this.#entries.previous(from), "previous");
      case "ArrowDown":
        return this.#nearest(this.#entries.next(from), "next");
      case "Home":
        return this.#nearest(this.#entries.first, "next");
      case "End":
        return this.#last;
      default:
        return undefined;
    }
  }

  #stopAt(message: HTMLElement | undefined): void {
    if (this.#tabStop) this.#tabStop.tabIndex = -1;
    this.#tabStop = message;
    if (message) message.tabIndex = 0;
  }

  /** The first message from here on, without the notices in between. */
  #nearest(start: Element | null, direction: "next" | "previous"): HTMLElement | undefined {
    for (let entry = start; entry; entry = this.#entries[direction](entry))
      if (entry instanceof HTMLElement && entry.matches(".message")) return entry;
    return undefined;
  }
}
