/** The dialog in which a user chooses another room. */

import { find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { NameField } from "./name-field.ts";
import { words } from "./words.ts";

export class Rooms {
  readonly #dialog = find("rooms", HTMLDialogElement);
  readonly #field = new NameField("room-name", words.invalidRoom);

  constructor(identity: Identity) {
    find("switch", HTMLElement).onclick = () => this.open();
    find("close-rooms", HTMLElement).onclick = () => this.#dialog.close();
    this.#dialog.onsubmit = (event) => {
      const room = this.#field.take();
      if (room === undefined) event.preventDefault();
      else identity.enterRoom(room);
    };
  }

  open(): void {
    this.#dialog.showModal();
    this.#field.open("");
  }
}
