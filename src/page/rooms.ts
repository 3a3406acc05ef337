/** The dialog with the rooms visited before, what is unread in each, and those that the server lists. */

import { create, find } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { NameField } from "./name-field.ts";
import { BROWSER, load, save } from "./storage.ts";
import { words } from "./words.ts";

/** As many as the server describes in one response. */
const MAX_ROOMS = 30;
/** More unread messages are not counted. */
const MAX_UNREAD = 99;
const SAVE_DELAY_MS = 1_000;

interface RoomSummary {
  readonly room: string;
  readonly count: number;
  readonly lastId: string | null;
}

/** By room, the one visited last first: the id of the last message read. */
type Visits = Map<string, string>;

export class Rooms {
  readonly #identity: Identity;
  readonly #dialog = find("rooms", HTMLDialogElement);
  readonly #list = find("room-list", HTMLElement);
  readonly #field = new NameField("room-name", words.invalidRoom);
  #lastRead = "";
  #saving: ReturnType<typeof setTimeout> | undefined;

  constructor(identity: Identity) {
    this.#identity = identity;
    find("switch", HTMLElement).onclick = () => this.open();
    find("close-rooms", HTMLElement).onclick = () => this.#dialog.close();
    this.#dialog.onsubmit = (event) => {
      const room = this.#field.take();
      if (room === undefined) event.preventDefault();
      else if (room !== identity.room) identity.enterRoom(room);
    };
    addEventListener("pagehide", () => this.#save());
  }

  /** All messages of this room up to this one have been read. */
  markRead(id: string): void {
    this.#lastRead = id;
    this.#saving ??= setTimeout(() => this.#save(), SAVE_DELAY_MS);
  }

  open(): void {
    this.#save();
    this.#dialog.showModal();
    this.#field.clear();
    // On a phone the keyboard would cover the list.
    if (matchMedia("(hover: hover)").matches) this.#field.focus();
    const visits = loadVisits();
    const { room } = this.#identity;
    const names = [room, ...[...visits.keys()].filter((each) => each !== room)].slice(0, MAX_ROOMS);
    this.#list.replaceChildren();
    for (const name of names) this.#entryOf(name);
    void this.#describe(names, visits);
  }

  /** Adds what the server knows. Without a connection, the list stays as it is. */
  async #describe(names: readonly string[], visits: Visits): Promise<void> {
    const query = new URLSearchParams(names.map((name) => ["room", name]));
    const named = await this.#read<{ rooms: RoomSummary[]; listed: boolean }>(`/rooms?${query}`);
    for (const { room, count, lastId } of named?.rooms ?? []) {
      this.#setCount(room, count);
      const read = visits.get(room);
      if (room === this.#identity.room || !read || !lastId || lastId === read) continue;
      void this.#showUnread(room, read);
    }
    if (!named?.listed) return;
    const all = await this.#read<{ rooms: RoomSummary[] }>(`/rooms?limit=${MAX_ROOMS}`);
    for (const { room, count } of all?.rooms ?? []) this.#setCount(room, count);
  }

  #setCount(room: string, count: number): void {
    const text = this.#entryOf(room).querySelector(".here");
    if (text) text.textContent = count > 0 ? words.here(count) : "";
  }

  async #showUnread(room: string, after: string): Promise<void> {
    const path = `/rooms/${encodeURIComponent(room)}/messages?after=${after}&limit=${MAX_UNREAD + 1}`;
    const page = await this.#read<{ messages: { from: string }[]; more: boolean }>(path);
    const count = page?.messages.filter(({ from }) => from !== this.#identity.client).length ?? 0;
    const text = this.#entryOf(room).querySelector(".badge");
    if (!text || count === 0) return;
    text.textContent = words.unreadCount(count > MAX_UNREAD || page?.more ? `${MAX_UNREAD}+` : `${count}`);
  }

  /** The room's entry in the list, made if there is none. */
  #entryOf(room: string): Element {
    for (const entry of this.#list.children)
      if (entry.querySelector("bdi")?.textContent === room) return entry;
    const link = create("a", "", create("bdi", "", room), create("span", "here"), create("span", "badge"));
    link.href = this.#identity.addressOf(room);
    if (room === this.#identity.room) {
      link.ariaCurrent = "page";
      link.onclick = (event) => {
        event.preventDefault();
        this.#dialog.close();
      };
    }
    const entry = create("li", "", link);
    this.#list.append(entry);
    return entry;
  }

  /** @returns undefined if the server does not answer, or refuses to */
  async #read<T>(path: string): Promise<T | undefined> {
    const { token } = this.#identity;
    try {
      const response = await fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
      return response.ok ? await response.json() : undefined;
    } catch {
      return undefined;
    }
  }

  #save(): void {
    clearTimeout(this.#saving);
    this.#saving = undefined;
    if (this.#lastRead === "") return;
    const visits = loadVisits();
    visits.delete(this.#identity.room);
    const latest = [[this.#identity.room, this.#lastRead], ...visits].slice(0, MAX_ROOMS);
    save(BROWSER, "rooms", JSON.stringify(latest));
  }
}

function loadVisits(): Visits {
  try {
    return new Map(JSON.parse(load(BROWSER, "rooms") || "[]"));
  } catch {
    return new Map();
  }
}
