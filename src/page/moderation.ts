/** For moderators: a button on the message that is hovered or focused opens a dialog that removes it, or its client. */

import type { Conversation } from "./conversation.ts";
import { create, find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { displayName, words } from "./words.ts";

/** How long a person who was removed is kept out: a day. */
const BAN_SECONDS = 24 * 60 * 60;

export class Moderation {
  /** Whether the user's token allows it here. */
  isAllowed = false;

  readonly #dialog = find("moderation", HTMLDialogElement);
  readonly #title = find("moderation-title", HTMLElement);
  readonly #problem = find("moderation-problem", HTMLElement);
  /** One for all messages: there may be thousands. */
  readonly #button = create("button", "options", "⋯");

  constructor(
    private readonly identity: Identity,
    private readonly conversation: Conversation,
  ) {
    const list = find("messages", HTMLElement);
    for (const type of ["pointerover", "focusin"] as const)
      list.addEventListener(type, ({ target }) => target instanceof Element && this.#offer(target));
    this.#button.ariaLabel = words.moderate;
    this.#button.ariaHasPopup = "dialog";
  }

  #offer(target: Element): void {
    const entry = target.closest(".message");
    const message = entry && this.isAllowed ? this.conversation.removable(entry) : undefined;
    if (!entry || !message) {
      // The mouse may rest on another entry while the keyboard is used.
      const offered = this.#button.parentElement;
      if (offered === entry || !offered?.matches(":focus-within")) this.#button.remove();
      return;
    }
    this.#button.onclick = () => this.#open(message);
    if (this.#button.parentElement !== entry) entry.append(this.#button);
  }

  #open({ id, client }: { readonly id: string; readonly client: string }): void {
    this.#title.textContent = displayName(client);
    this.#problem.textContent = "";
    for (const id of ["remove-person", "remove-person-hint"])
      find(id, HTMLElement).hidden = client === this.identity.client;
    const room = encodeURIComponent(this.identity.room);
    const messages = `/rooms/${room}/messages`;
    const name = encodeURIComponent(client);
    const body = JSON.stringify({ forSeconds: BAN_SECONDS });
    find("remove-message", HTMLButtonElement).onclick = () =>
      void this.#request([[`${messages}/${id}`, { method: "DELETE" }]]);
    find("remove-person", HTMLButtonElement).onclick = () =>
      void this.#request([
        [`/clients/${name}/disconnect`, { method: "POST", body }], // first, or it could write again
        [`${messages}?from=${name}`, { method: "DELETE" }],
      ]);
    this.#dialog.showModal();
  }

  /** One after the other. The messages disappear when the room receives the removal. */
  async #request(requests: readonly (readonly [path: string, init: RequestInit])[]): Promise<void> {
    const headers = { Authorization: `Bearer ${this.identity.token}` };
    for (const [path, init] of requests) {
      const response = await fetch(path, { ...init, headers }).catch(() => undefined);
      if (!response?.ok) return void (this.#problem.textContent = words.notRemoved);
    }
    this.#dialog.close();
  }
}
