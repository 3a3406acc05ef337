/** Who the user is and in which room, from the address, a token or an earlier visit. */

import { tokenSubject } from "../client/client.ts";
import { parseName } from "../protocol/names.ts";
import { find } from "./dom.ts";
import { BROWSER, load, save, TAB } from "./storage.ts";
import { displayName } from "./words.ts";

export class Identity {
  readonly room: string;
  /** "" without one. */
  #token: string;
  readonly #address = new URL(location.href);
  #name: string;
  /** What the server calls the user: a guest has another id than the chosen name. */
  #client: string;
  /** The name was generated, so no other client has it. */
  #isGenerated: boolean;
  /** Names that this page has given up: the list of people mentions neither their leaving nor their return. */
  readonly #formerNames = new Set<string>();

  constructor() {
    const { searchParams } = this.#address;
    this.room = (searchParams.get("room") || "lobby").normalize("NFC");
    // The token leaves the address, where others might see it.
    this.#token = save(TAB, "token", searchParams.get("token") || load(TAB, "token"));
    searchParams.delete("token");
    history.replaceState(null, "", this.#address);
    const chosen = (searchParams.get("id") || load(BROWSER, "name")).normalize("NFC");
    this.#isGenerated = chosen === "" && this.#token === "";
    this.#name = tokenSubject(this.#token) ?? (chosen || generatedId());
    this.#client = this.#name;
    this.#show();
  }

  get name(): string {
    return this.#name;
  }

  /** The client id; the name, until the server says otherwise. */
  get client(): string {
    return this.#client;
  }

  /** As the server's welcome says. */
  set client(client: string) {
    this.#client = client;
    this.#show();
  }

  get token(): string {
    return this.#token;
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

  /** Stores the name for later visits. @returns whether it has changed on this page */
  changeName(name: string): boolean {
    save(BROWSER, "name", name);
    if (name === this.#name) return false;
    const { searchParams } = this.#address;
    if (searchParams.has("id")) searchParams.set("id", name);
    history.replaceState(null, "", this.#address);
    this.#setName(name);
    return true;
  }

  /** @param text a token, or a link that has one */
  useToken(text: string): void {
    this.#token = save(TAB, "token", URL.parse(text)?.searchParams.get("token") ?? text.trim());
    this.#setName(tokenSubject(this.#token) ?? this.#name);
  }

  /** Loads the page again. */
  enterRoom(room: string): void {
    location.href = this.addressOf(room);
  }

  /** The page's address in a room, for the same user. */
  addressOf(room: string): string {
    const address = new URL(this.#address);
    address.searchParams.set("room", room);
    return address.href;
  }

  /** The link to the room for others. */
  linkOf(origin: string): string {
    return `${origin}/client?${new URLSearchParams({ room: this.room })}`;
  }

  #setName(name: string): void {
    this.#formerNames.add(this.#client);
    this.#formerNames.delete(name);
    this.#name = this.#client = name;
    this.#isGenerated = false;
    this.#show();
  }

  #show(): void {
    // A token is for one client id.
    find("me", HTMLButtonElement).disabled = this.#token !== "";
    find("ws-id", HTMLElement).textContent = displayName(this.#client);
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
