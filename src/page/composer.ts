/** The field in which a message is written, and its draft, which survives a reload. */

import { find, isComposing } from "./dom.ts";
import { load, save, TAB } from "./storage.ts";
import { formatBytes, words } from "./words.ts";

export class Composer {
  /** As the server's welcome says. */
  maxMessageBytes = 65_536;

  readonly #text = find("messageText", HTMLTextAreaElement);
  readonly #problem = find("problem", HTMLElement);
  readonly #key: string;

  constructor(room: string, send: (text: string) => void) {
    this.#key = `draft.${room}`;
    const form = find("composer", HTMLFormElement);
    this.#text.value = load(TAB, this.#key);
    const touchOnly = matchMedia("(hover: none) and (pointer: coarse)");
    const nameEnter = () => (this.#text.enterKeyHint = touchOnly.matches ? "enter" : "send");
    touchOnly.onchange = nameEnter;
    nameEnter();
    this.#text.oninput = () => {
      save(TAB, this.#key, this.#text.value);
      this.#fit();
      this.#check();
    };
    let leavesByTab = false;
    this.#text.onkeydown = (event) => {
      if (event.key === "Tab" && !leavesByTab && this.#isInFence && !event.shiftKey) {
        event.preventDefault();
        // Unlike a change of the value, it can be undone.
        document.execCommand("insertText", false, "\t");
      }
      // Nobody is trapped: after Escape, Tab leaves the field.
      leavesByTab = event.key === "Escape";
      if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
      // Without a hardware keyboard there is no Shift+Enter: Enter breaks the line, and the button sends.
      if (touchOnly.matches && !event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      form.requestSubmit();
    };
    form.onsubmit = (event) => {
      event.preventDefault();
      this.focus();
      const text = this.#text.value.toWellFormed();
      if (text.trim() === "" || !this.#check()) return;
      send(text);
      this.#text.value = "";
      save(TAB, this.#key, "");
      this.#fit();
    };
    this.#fit();
    if (matchMedia("(hover: hover)").matches) this.focus();
  }

  /** Off while no message can ever be sent; the draft stays. */
  set isOff(isOff: boolean) {
    this.#text.disabled = find("send", HTMLButtonElement).disabled = isOff;
  }

  focus(): void {
    this.#text.focus();
  }

  /** Whether the cursor is inside a fence that was opened above it. */
  get #isInFence(): boolean {
    const before = this.#text.value.slice(0, this.#text.selectionStart);
    return (before.match(/^```.*\n/gm)?.length ?? 0) % 2 === 1;
  }

  /** Shows why the text cannot be sent, if it cannot. @returns whether it can */
  #check(): boolean {
    const bytes = new TextEncoder().encode(this.#text.value).length;
    const fits = bytes <= this.maxMessageBytes;
    this.#problem.hidden = fits;
    this.#problem.textContent = fits
      ? ""
      : words.tooLong(formatBytes(bytes), formatBytes(this.maxMessageBytes));
    return fits;
  }

  /** For browsers that do not resize the field by CSS. */
  #fit(): void {
    if (CSS.supports("field-sizing", "content")) return;
    this.#text.style.setProperty("height", "auto");
    this.#text.style.setProperty("height", `${this.#text.scrollHeight + 2}px`);
  }
}
