/** Messages that arrived while nobody was looking: counted in the title, with a line above the first. */

import type { Conversation } from "./conversation.ts";
import { create } from "./dom.ts";
import type { Scroller } from "./scroller.ts";
import { words } from "./words.ts";

export class Unread {
  readonly #conversation: Conversation;
  readonly #scroller: Scroller;
  readonly #room: string;
  readonly #line = create("li", "notice rule unread", words.unread);
  #count = 0;
  /** How many of them mention the user. */
  #mentions = 0;

  constructor(conversation: Conversation, scroller: Scroller, room: string) {
    this.#conversation = conversation;
    this.#scroller = scroller;
    this.#room = room;
    document.addEventListener("visibilitychange", () => this.clear());
    this.#showTitle();
  }

  add(entry: Element, mentionsMe: boolean): void {
    if (mentionsMe) this.#mentions++;
    if (this.#count++ === 0) this.#conversation.insert(this.#line, entry);
    this.#showTitle();
  }

  /** If the end of the conversation is visible, everything has been read. */
  clear(): void {
    if (document.hidden || !this.#scroller.isFollowing || this.#count === 0) return;
    this.#count = this.#mentions = 0;
    this.#showTitle();
  }

  #showTitle(): void {
    const counts = [this.#count || [], this.#mentions ? `@${this.#mentions}` : []].flat();
    document.title = `${counts.length > 0 ? `(${counts.join(" · ")}) ` : ""}${this.#room} · Hubbub`;
  }
}
