/** A field for a name: shows while one types how the name will be written, or why there is none. */

import { parseName } from "../protocol/names.ts";
import { find, isComposing } from "./dom.ts";
import { words } from "./words.ts";

const MAX_CHARACTERS = 64;

export class NameField {
  readonly #input: HTMLInputElement;
  readonly #hint: HTMLElement;
  readonly #invalid: string;

  /** @param id of the input; its hint has the same id with `-hint` appended */
  constructor(id: string, invalid: string) {
    this.#input = find(id, HTMLInputElement);
    this.#hint = find(`${id}-hint`, HTMLElement);
    this.#invalid = invalid;
    this.#input.oninput = () => {
      const written = this.#input.value.trim();
      const name = toName(written);
      if (written === "" || name === written.normalize("NFC")) this.#show("");
      else this.#show(name === undefined ? this.#problem : words.writtenAs(name));
    };
    this.#input.onkeydown = (event) => {
      if (event.key === "Enter" && isComposing(event)) event.preventDefault();
    };
  }

  open(value: string): void {
    this.clear(value);
    this.#input.select();
    this.focus();
  }

  clear(value = ""): void {
    this.#input.value = value;
    this.#show("");
  }

  focus(): void {
    this.#input.focus();
  }

  get isEmpty(): boolean {
    return this.#input.value.trim() === "";
  }

  /** The name entered. Without one, the field gets the focus and says why. */
  take(): string | undefined {
    const name = toName(this.#input.value);
    if (name === undefined) {
      this.#show(this.#problem, true);
      this.#input.focus();
    }
    return name;
  }

  get #problem(): string {
    return `${this.#invalid} ${words.nameRule}`;
  }

  #show(hint: string, isInvalid = false): void {
    this.#input.ariaInvalid = `${isInvalid}`;
    this.#hint.classList.toggle("wrong", isInvalid);
    this.#hint.hidden = hint === "";
    this.#hint.textContent = hint;
  }
}

/** The text as a name. Where it is none, blanks become hyphens, and what a name cannot have is left out. */
function toName(text: string): string | undefined {
  const allowed = text
    .trim()
    .replace(/\s+/g, "-")
    .replace(/[^\p{L}\p{M}\p{N}_.-]|\p{Default_Ignorable_Code_Point}/gu, "")
    .replace(/^-+|-+$/g, "");
  for (const candidate of [text.trim(), [...allowed].slice(0, MAX_CHARACTERS).join("")]) {
    const parsed = parseName("client id", candidate);
    if ("name" in parsed) return parsed.name;
  }
  return undefined;
}
