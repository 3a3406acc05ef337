/** For moderators: a button on the message that is hovered or focused opens a dialog that removes it, or all of its client. */

import type { Conversation } from "./conversation.ts";
import { create, find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { displayName, words } from "./words.ts";

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
    const list = find("messages", HTMLOListElement);
    for (const type of ["pointerover", "focusin"] as const)
      list.addEventListener(type, ({ target }) => target instanceof Element && this.#offer(target));
    this.#button.ariaLabel = words.moderate;
    this.#button.ariaHasPopup = "dialog";
  }

  #offer(target: Element): void {
    const entry = target.closest(".message");
    const message = entry && this.isAllowed ? this.conversation.removable(entry) : undefined;
    if (!entry || !message) return this.#button.remove();
    this.#button.onclick = () => this.#open(message);
    if (this.#button.parentElement !== entry) entry.append(this.#button);
  }

  #open({ id, client }: { readonly id: string; readonly client: string }): void {
    this.#title.textContent = displayName(client);
    this.#problem.textContent = "";
    const room = encodeURIComponent(this.identity.room);
    const messages = `/rooms/${room}/messages`;
    const remove = (button: string, path: string) =>
      (find(button, HTMLButtonElement).onclick = () => void this.#remove(path));
    remove("remove-message", `${messages}/${id}`);
    remove("remove-all", `${messages}?from=${encodeURIComponent(client)}`);
    this.#dialog.showModal();
  }

  /** The messages disappear when the room receives the removal. */
  async #remove(path: string): Promise<void> {
    const headers = { Authorization: `Bearer ${this.identity.token}` };
    const response = await fetch(path, { method: "DELETE", headers }).catch(() => undefined);
    if (response?.ok) return this.#dialog.close();
    this.#problem.textContent = words.notRemoved;
  }
}
