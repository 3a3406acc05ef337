/** Who is in the room: the list, the count, and the news of who joined and left. */

import type { PresenceChange } from "../protocol/events.ts";
import { GUEST_PREFIX } from "../protocol/names.ts";
import { avatar, hue } from "./avatar.ts";
import type { Conversation } from "./conversation.ts";
import { create, find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { foldName } from "./mentions.ts";
import { displayName, locale, words } from "./words.ts";

/** A client that is back within this time is not said to have left. */
const LEAVE_GRACE_MS = 5_000;
const MAX_LISTED = 200;

export class People {
  readonly #identity: Identity;
  readonly #conversation: Conversation;
  readonly #names = new Set<string>();
  /** The same for {@link has}, until they change. */
  #folded: ReadonlySet<string> | undefined;
  readonly #leaving = new Map<string, ReturnType<typeof setTimeout>>();
  readonly #collator = new Intl.Collator(locale);
  /** The server's count; it names only some of the clients of a large room. */
  #count = 0;

  constructor(identity: Identity, conversation: Conversation) {
    this.#identity = identity;
    this.#conversation = conversation;
    find("here", HTMLElement).onclick = () => find("list", HTMLDialogElement).showModal();
  }

  /** @param name in any case */
  has(name: string): boolean {
    this.#folded ??= new Set([...this.#names].map((name) => foldName(name.replace(GUEST_PREFIX, ""))));
    return this.#folded.has(name);
  }

  /** Replaces the list by the server's, without announcing anyone who was already there. */
  reset(members: readonly string[], count: number): void {
    const present = new Set(members);
    for (const name of this.#names)
      if (!present.has(name)) {
        // Of a large room the server names only some: the others may have left or not.
        if (count <= members.length) this.#remove(name);
        else this.#names.delete(name);
      }
    for (const name of members) this.#add(name);
    this.#count = count;
    this.#show();
  }

  change({ joined, left, count }: PresenceChange): void {
    this.#count = count;
    for (const name of joined) {
      const isNews = this.#add(name) && name !== this.#identity.client;
      this.#identity.releaseFormerName(name);
      if (isNews) this.#conversation.showPresence("joined", name);
    }
    for (const name of left) this.#remove(name);
    this.#show();
  }

  /** @returns whether the client was not in the room */
  #add(name: string): boolean {
    const isNew = !this.#names.has(name) && !this.#leaving.has(name);
    clearTimeout(this.#leaving.get(name));
    this.#leaving.delete(name);
    this.#names.add(name);
    return isNew;
  }

  #remove(name: string): void {
    this.#names.delete(name);
    if (name === this.#identity.client || this.#identity.isFormerName(name) || this.#leaving.has(name))
      return;
    const announce = () => {
      this.#leaving.delete(name);
      this.#conversation.showPresence("left", name);
    };
    this.#leaving.set(name, setTimeout(announce, LEAVE_GRACE_MS));
  }

  #show(): void {
    this.#folded = undefined;
    const { client: me } = this.#identity;
    const others = [...this.#names]
      .filter((name) => name !== me)
      .sort(this.#collator.compare)
      .slice(0, MAX_LISTED);
    const unlisted = this.#count - others.length - 1;
    for (const title of document.querySelectorAll("#here, .count"))
      title.textContent = words.here(this.#count);
    for (const list of document.querySelectorAll(".people"))
      list.replaceChildren(
        person(me, words.you),
        ...others.map((name) => person(name)),
        ...(unlisted > 0 ? [create("li", "", words.others(unlisted))] : []),
      );
  }
}

function person(name: string, suffix = ""): HTMLElement {
  const entry = create("li", "", avatar(name), create("bdi", "name", displayName(name)), suffix);
  entry.style.setProperty("--hue", hue(name));
  return entry;
}
