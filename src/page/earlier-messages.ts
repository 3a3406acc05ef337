/** Requests earlier messages when the reader scrolls up. */

import type { ReceivedMessage } from "../client/client.ts";
import type { Announcer } from "./announcer.ts";
import type { Conversation } from "./conversation.ts";
import type { Scroller } from "./scroller.ts";
import { words } from "./words.ts";

const NEAR_START_PX = 600;

/** A page of messages before one, oldest first. */
type Request = (before: string) => Promise<{ messages: readonly ReceivedMessage[]; more: boolean }>;

export class EarlierMessages {
  readonly #conversation: Conversation;
  readonly #scroller: Scroller;
  readonly #announcer: Announcer;
  /** One page at a time. */
  #isRequesting = false;

  constructor(conversation: Conversation, scroller: Scroller, announcer: Announcer) {
    this.#conversation = conversation;
    this.#scroller = scroller;
    this.#announcer = announcer;
  }

  /** Requests a page if the first message is almost visible and the server may have earlier ones. */
  async loadIfNear(request: Request, isOwn: (message: ReceivedMessage) => boolean): Promise<void> {
    const { firstId, hasEarlier } = this.#conversation;
    if (!hasEarlier || this.#isRequesting || firstId === undefined) return;
    if (this.#scroller.top > NEAR_START_PX) return;
    this.#isRequesting = true;
    let page: Awaited<ReturnType<Request>> | undefined;
    let removals: number;
    do {
      ({ removals } = this.#conversation);
      page = await request(firstId).catch(() => undefined);
    } while (page && removals !== this.#conversation.removals); // the page may contain what was removed meanwhile
    this.#isRequesting = false;
    // The message before which it belongs may have been trimmed meanwhile.
    if (!page || firstId !== this.#conversation.firstId) return;
    this.#conversation.prepend(page.messages, isOwn);
    if (page.messages.length > 0) this.#announcer.announce(words.earlier(page.messages.length));
    this.#conversation.hasEarlier = page.more;
  }
}
