/** Who the user is and in which room, from the address, a token or an earlier visit. */

import { tokenSubject } from "../client/client.ts";
import { parseName } from "../protocol/names.ts";
import { find } from "./dom.ts";
import { BROWSER, load, save, TAB } from "./storage.ts";

export class Identity {
  readonly room: string;
  /** "" without one. */
  readonly token: string;
  readonly #address = new URL(location.href);
  #name: string;
  /** The name was generated, so no other client has it. */
  #isGenerated: boolean;
  /** Names that this page has given up: the list of people mentions neither their leaving nor their return. */
  readonly #formerNames = new Set<string>();

  constructor() {
    const { searchParams } = this.#address;
    this.room = (searchParams.get("room") || "lobby").normalize("NFC");
    // The token leaves the address, where others might see it.
    this.token = save(TAB, "token", searchParams.get("token") || load(TAB, "token"));
    searchParams.delete("token");
    history.replaceState(null, "", this.#address);
    const chosen = (searchParams.get("id") || load(BROWSER, "name")).normalize("NFC");
    this.#isGenerated = chosen === "";
    this.#name = tokenSubject(this.token) ?? (chosen || generatedId());
    this.#show();
  }

  get name(): string {
    return this.#name;
  }

  get isGenerated(): boolean {
    return this.#isGenerated;
  }

  isFormerName(name: string): boolean {
    return this.#formerNames.has(name);
  }

  /** Another client has taken a former name. */
  releaseFormerName(name: string): void {
    this.#formerNames.delete(name);
  }

  /** Stores the name for later visits. Another room loads the page again. @returns whether the name has changed on this page */
  change(name: string, room: string): boolean {
    const { searchParams } = this.#address;
    if (name !== this.#name) save(BROWSER, "name", name);
    if (searchParams.has("id")) searchParams.set("id", name);
    if (room !== this.room) {
      searchParams.set("room", room);
      location.href = this.#address.href;
      return false;
    }
    if (name === this.#name) return false;
    history.replaceState(null, "", this.#address);
    this.#formerNames.add(this.#name);
    this.#formerNames.delete(name);
    this.#name = name;
    this.#isGenerated = false;
    this.#show();
    return true;
  }

  #show(): void {
    find("ws-id", HTMLElement).textContent = this.#name;
    find("room", HTMLElement).textContent = this.room;
  }
}

export function isName(text: string): boolean {
  return "name" in parseName("client id", text);
}

/** The tutorial's milliseconds and three random digits: two tabs opened at once get different ids. */
function generatedId(): string {
  const [random = 0] = crypto.getRandomValues(new Uint16Array(1));
  const digits = `${random % 1000}`.padStart(3, "0");
  return load(TAB, "id") || save(TAB, "id", `${Date.now()}${digits}`);
}
