/** Each message can be reached by keyboard: the latest with Tab, others from there with the arrow keys, Home and End. */

import { find } from "./dom.ts";

export class MessageFocus {
  readonly #list = find("messages", HTMLOListElement);
  /** The only message at which Tab stops. */
  #tabStop: HTMLElement | undefined;

  /** @param onEscape is called to leave the messages */
  constructor(onEscape: () => void) {
    const observer = new MutationObserver(() => {
      if (!this.#tabStop?.isConnected || !this.#tabStop.matches(":focus-within")) this.#stopAt(this.#last);
    });
    observer.observe(this.#list, { childList: true });
    this.#list.addEventListener("focusin", ({ target }) => {
      const message = target instanceof Element ? target.closest(".message") : null;
      this.#stopAt(message instanceof HTMLElement ? message : undefined);
    });
    this.#list.onkeydown = (event) => {
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
    return nearest(this.#list.lastElementChild, "previousElementSibling");
  }

  #findNext(from: HTMLElement, key: string): HTMLElement | undefined {
    switch (key) {
      case "ArrowUp":
        return nearest(from.previousElementSibling, "previousElementSibling");
      case "ArrowDown":
        return nearest(from.nextElementSibling, "nextElementSibling");
      case "Home":
        return nearest(this.#list.firstElementChild, "nextElementSibling");
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
}

/** The first message from here on, without the notices in between. */
function nearest(
  start: Element | null,
  step: "previousElementSibling" | "nextElementSibling",
): HTMLElement | undefined {
  for (let entry = start; entry; entry = entry[step])
    if (entry instanceof HTMLElement && entry.matches(".message")) return entry;
  return undefined;
}
