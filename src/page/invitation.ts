/** The invitation to the room: its link, copied at once, and as a QR code for phones. */

import { encodeQr } from "../util/qr.ts";
import { copyText } from "./clipboard.ts";
import { find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { fetchServerOrigin, isLoopback } from "./server-address.ts";
import { words } from "./words.ts";

/** Light modules around the code (ISO/IEC 18004). */
const QUIET_ZONE = 4;

export class Invitation {
  readonly #identity: Identity;
  readonly #dialog = find("invitation", HTMLDialogElement);
  readonly #link = find("link", HTMLInputElement);
  readonly #hint = find("link-hint", HTMLElement);
  #origin = location.origin;

  constructor(identity: Identity) {
    this.#identity = identity;
    find("invite", HTMLElement).onclick = () => this.#open();
    find("copy-link", HTMLElement).onclick = () => void this.#copy();
    void this.#findOrigin();
  }

  #open(): void {
    this.#dialog.showModal();
    this.#show();
    void this.#copy(); // while the browser still takes it for the result of the click
    void this.#findOrigin(); // the machine may have moved to another network
  }

  #show(): void {
    const link = this.#identity.linkOf(this.#origin);
    if (link === this.#link.value) return;
    this.#link.value = link;
    drawQr(link);
  }

  async #copy(): Promise<void> {
    const isCopied = await copyText(this.#link.value, () => this.#link.select());
    this.#link.select();
    const result = isCopied ? words.linkCopied : words.linkSelected;
    this.#hint.textContent = this.#identity.token ? `${result} ${words.needsToken}` : result;
  }

  /** Others cannot open this machine as `localhost`: the server knows its name for them, if it has one. */
  async #findOrigin(): Promise<void> {
    if (!isLoopback(location.hostname)) return;
    const origin = await fetchServerOrigin();
    if (origin === undefined || isLoopback(new URL(origin).hostname)) return;
    this.#origin = origin;
    if (!this.#dialog.open || this.#link.value === this.#identity.linkOf(this.#origin)) return;
    this.#show();
    void this.#copy();
  }
}

function drawQr(link: string): void {
  const code = encodeQr(link) ?? [];
  const size = code.length + 2 * QUIET_ZONE;
  const modules = code.flatMap((row, y) => row.map((isDark, x) => (isDark ? `M${x} ${y}h1v1h-1z` : "")));
  const drawing = find("qr", SVGElement);
  drawing.setAttribute("viewBox", `${-QUIET_ZONE} ${-QUIET_ZONE} ${size} ${size}`);
  drawing.firstElementChild?.setAttribute("d", modules.join(""));
}
