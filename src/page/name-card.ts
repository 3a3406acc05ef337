/** The card above the composer that asks for a name. The chat goes on meanwhile, under a generated one. */

import { find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { NameField } from "./name-field.ts";
import { BROWSER, load, save } from "./storage.ts";
import { words } from "./words.ts";

export class NameCard {
  readonly #identity: Identity;
  readonly #onRename: () => void;
  readonly #focusComposer: () => void;
  readonly #card = find("naming", HTMLElement);
  readonly #notNow = find("not-now", HTMLButtonElement);
  readonly #field = new NameField("name", words.invalidName);

  /** @param onRename is called when the name of this page has changed */
  constructor(identity: Identity, onRename: () => void, focusComposer: () => void) {
    this.#identity = identity;
    this.#onRename = onRename;
    this.#focusComposer = focusComposer;
    find("me", HTMLElement).onclick = () => this.open();
    this.#notNow.onclick = () => this.#close();
    this.#card.onkeydown = ({ key }) => {
      if (key === "Escape") this.#close();
    };
    find("name-form", HTMLFormElement).onsubmit = (event) => {
      event.preventDefault();
      this.#take();
    };
  }

  /** On a first visit without a name; not again once it was answered. */
  askOnce(): void {
    if (!this.#identity.isGenerated || load(BROWSER, "asked")) return;
    this.#show("", words.notNow);
  }

  open(): void {
    this.#show(this.#identity.name, words.cancel);
  }

  /** Without an answer. */
  withdraw(): void {
    this.#card.hidden = true;
  }

  /** A message is about to be sent: under the name just typed, if there is one. */
  settle(): void {
    if (this.#card.hidden) return;
    if (this.#field.isEmpty || !this.#take()) this.#close();
  }

  #show(name: string, notNow: string): void {
    this.#notNow.textContent = notNow;
    this.#card.hidden = false;
    this.#field.open(name);
  }

  #take(): boolean {
    const name = this.#field.take();
    if (name === undefined) return false;
    this.#close();
    if (this.#identity.changeName(name)) this.#onRename();
    return true;
  }

  #close(): void {
    this.#card.hidden = true;
    save(BROWSER, "asked", "yes");
    this.#focusComposer();
  }
}
