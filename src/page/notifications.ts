/** System notifications of mentions while the page is hidden, once the user has allowed them. */

import { BROWSER, load, save } from "./storage.ts";
import { words } from "./words.ts";

const MAX_CHARACTERS = 200;

export class Notifications {
  readonly #room: string;
  readonly #buttons = document.querySelectorAll<HTMLButtonElement>(".notify");

  constructor(room: string) {
    this.#room = room;
    for (const button of this.#buttons) button.onclick = () => void this.#toggle();
    this.#show();
  }

  /** Shows a mention, unless the page can be seen. */
  show(from: string, text: string): void {
    if (!document.hidden || !this.#isOn) return;
    try {
      const shown = new Notification(`${from} · ${this.#room}`, {
        body: text.slice(0, MAX_CHARACTERS),
        tag: `hubbub.${this.#room}`, // the next one takes its place
      });
      shown.onclick = () => {
        window.focus();
        shown.close();
      };
    } catch {
      // Some phones allow them only to service workers.
    }
  }

  get #isOn(): boolean {
    return isSupported() && Notification.permission === "granted" && load(BROWSER, "notify") === "on";
  }

  async #toggle(): Promise<void> {
    const isOn = !this.#isOn;
    if (isOn) await Notification.requestPermission();
    save(BROWSER, "notify", isOn ? "on" : "");
    this.#show();
  }

  #show(): void {
    const isBlocked = isSupported() && Notification.permission === "denied";
    for (const button of this.#buttons) {
      button.hidden = !isSupported();
      button.disabled = isBlocked;
      button.ariaPressed = `${this.#isOn}`;
      button.textContent = isBlocked ? words.notifyBlocked : this.#isOn ? words.notifyOn : words.notify;
    }
  }
}

/** Not on a LAN address, which is no secure context. */
function isSupported(): boolean {
  return isSecureContext && "Notification" in window;
}
