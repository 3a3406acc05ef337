/** The dialog in which a user chooses a name and a room. */

import { find } from "./dom.ts";
import { isName, type Identity } from "./identity.ts";
import { words } from "./words.ts";

export class NameDialog {
  readonly #identity: Identity;
  readonly #dialog = find("naming", HTMLDialogElement);
  readonly #name = find("name", HTMLInputElement);
  readonly #room = find("room-name", HTMLInputElement);

  /** @param onRename is called when the name of this page has changed */
  constructor(identity: Identity, onRename: () => void) {
    this.#identity = identity;
    const hasToken = identity.token !== "";
    find("me", HTMLButtonElement).disabled = this.#name.readOnly = hasToken;
    find("me", HTMLElement).onclick = () => this.chooseName();
    find("room", HTMLElement).onclick = () => this.chooseRoom();
    find("cancel", HTMLElement).onclick = () => this.#dialog.close();
    for (const field of [this.#name, this.#room]) field.oninput = () => showValidity(field, true);
    this.#dialog.onsubmit = (event) => {
      const invalid = [this.#name, this.#room].filter((field) => {
        const isValid = isName(valueOf(field));
        showValidity(field, isValid);
        return !isValid;
      });
      invalid[0]?.focus();
      if (invalid.length > 0) event.preventDefault();
      else if (identity.change(valueOf(this.#name), valueOf(this.#room))) onRename();
    };
  }

  chooseName(): void {
    this.#open();
    this.#name.select();
  }

  chooseRoom(): void {
    this.#open();
    this.#room.select();
  }

  #open(): void {
    this.#name.value = this.#identity.name;
    this.#room.value = this.#identity.room;
    for (const field of [this.#name, this.#room]) showValidity(field, true);
    this.#dialog.showModal();
  }
}

function valueOf({ value }: HTMLInputElement): string {
  return value.trim().normalize("NFC");
}

/** Marks only the invalid field, with the reason below it. */
function showValidity(field: HTMLInputElement, isValid: boolean): void {
  const problem = find(`${field.id}-problem`, HTMLElement);
  field.ariaInvalid = `${!isValid}`;
  problem.hidden = isValid;
  problem.textContent = isValid ? "" : field.id === "name" ? words.invalidName : words.invalidRoom;
}
