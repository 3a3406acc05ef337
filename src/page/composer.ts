/** Where a message is written: its field, whose draft survives a reload, and the files to send with it. */

import { Attachments } from "./attachments.ts";
import { find, isComposing } from "./dom.ts";
import { load, save, TAB } from "./storage.ts";
import { formatBytes, words } from "./words.ts";

export class Composer {
  readonly #attachments = new Attachments(() => this.focus());
  /** What is sent once its files are ready, and how many messages that are. */
  #queue = Promise.resolve();
  #queued = 0;
  readonly #text = find("messageText", HTMLTextAreaElement);
  readonly #problem = find("problem", HTMLElement);
  readonly #key: string;

  constructor(room: string, send: (content: string | Uint8Array) => void) {
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
      const isBlank = text.trim() === "";
      if ((isBlank && this.#attachments.isEmpty) || !this.#check()) return;
      this.#attachments.hideProblem();
      const sendText = () => isBlank || send(text);
      if (this.#attachments.isEmpty && this.#queued === 0) sendText();
      else this.#sendInOrder(this.#attachments.take(), send, sendText);
      this.#text.value = "";
      save(TAB, this.#key, "");
      this.#fit();
    };
    // Typing goes into this field, wherever the focus is.
    addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
      const isCharacter = key.length === 1 && key !== " " && !ctrlKey && !metaKey && !altKey;
      const isElsewhere = target instanceof Element && !target.closest("input, textarea, dialog");
      if (isCharacter && isElsewhere) this.focus();
    });
    this.#fit();
    if (matchMedia("(hover: hover)").matches) this.focus();
  }

  /** Off while no message can ever be sent; the draft stays. */
  set isOff(isOff: boolean) {
    this.#text.disabled = isOff;
    for (const id of ["attach", "send"]) find(id, HTMLButtonElement).disabled = isOff;
  }

  /** As the server's welcome says: a reader has no message field. */
  set isReadOnly(isReadOnly: boolean) {
    find("composer", HTMLFormElement).hidden = isReadOnly;
    find("read-only", HTMLElement).hidden = !isReadOnly;
    this.#attachments.isReadOnly = isReadOnly;
  }

  /** As the server's welcome says. */
  get maxMessageBytes(): number {
    return this.#attachments.maxMessageBytes;
  }

  set maxMessageBytes(bytes: number) {
    this.#attachments.maxMessageBytes = bytes;
  }

  /** Whether something would be lost with the page: unlike the text, files are not stored before they are sent. */
  get hasFiles(): boolean {
    return !this.#attachments.isEmpty || this.#queued > 0;
  }

  focus(): void {
    this.#text.focus();
  }

  /** Files may take a moment; what is written meanwhile follows them. */
  #sendInOrder(
    files: Promise<readonly Uint8Array[]>,
    send: (content: Uint8Array) => void,
    sendText: () => void,
  ): void {
    this.#queued++;
    this.#queue = this.#queue.then(async () => {
      for (const bytes of await files) send(bytes);
      sendText();
      this.#queued--;
    });
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
