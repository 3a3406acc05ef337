/**
 * The conversation: messages and notices in the room's order, and below them the user's own messages that are not
 * acknowledged yet. Owns what is known about each entry, and how they are grouped.
 */

import type { ReceivedMessage } from "../client/client.ts";
import type { RemovedMessages } from "../protocol/events.ts";
import { avatar, hue } from "./avatar.ts";
import { contentBubble, type Content } from "./bubble.ts";
import { create, find } from "./dom.ts";
import type { Entries } from "./entries.ts";
import type { FindMentions } from "./mentions.ts";
import type { Scroller } from "./scroller.ts";
import { displayName, locale, words } from "./words.ts";

/** Consecutive messages of one client within this time share one name. */
const GROUP_MS = 5 * 60_000;
const MAX_ENTRIES = 5_000;
/** More than that are removed together: the browser lays out all that remain. */
const TRIM_ENTRIES = 100;
/** A client's first message may arrive before the event that it has joined, by no more than this. */
const JOIN_DELAY_MS = 5_000;
const MAX_NAMES = 3;
const DAY = { weekday: "long", day: "numeric", month: "long" } as const;
/** Ids are two numbers, separated by a hyphen. */
const { compare: compareIds } = new Intl.Collator("en", { numeric: true });

interface MessageFacts {
  readonly client: string;
  readonly sentAt: Date;
  readonly id?: string;
  /** Unix time in milliseconds; 0 for history, undefined until the server has sent it. */
  readonly receivedAt?: number;
}

interface PresenceFacts {
  readonly joined: Set<string>;
  readonly left: Set<string>;
}

export class Conversation {
  /** Whether the server may have messages before the first one shown. */
  hasEarlier = true;
  /** How often moderators have removed messages. */
  removals = 0;

  readonly #entries: Entries;
  readonly #scroller: Scroller;
  readonly #findMentions: FindMentions;
  readonly #log = find("log", HTMLElement);
  readonly #progress = find("progress", HTMLElement);
  readonly #empty = find("empty", HTMLElement);
  readonly #messages = new WeakMap<Element, MessageFacts>();
  readonly #presence = new WeakMap<Element, PresenceFacts>();
  /** In the outbox's order. */
  readonly #pending = new Set<Element>();
  readonly #clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit" });
  readonly #thisYear = new Intl.DateTimeFormat(locale, DAY);
  readonly #otherYear = new Intl.DateTimeFormat(locale, { ...DAY, year: "numeric" });
  #wasWelcomed = false;
  #isReplaying = true;

  constructor(entries: Entries, scroller: Scroller, findMentions: FindMentions) {
    this.#entries = entries;
    this.#scroller = scroller;
    this.#findMentions = findMentions;
  }

  /** A reader is not asked to say hello. */
  set isReadOnly(isReadOnly: boolean) {
    this.#empty.textContent = isReadOnly ? words.noMessages : words.empty;
  }

  /** The history is arriving: nothing of it is news. */
  get isReplaying(): boolean {
    return this.#isReplaying;
  }

  /** @param isHistory whether everything until {@link endReplay} is history, not news */
  startReplay(isHistory: boolean): void {
    this.#setReplaying(isHistory);
    this.#wasWelcomed = true;
  }

  endReplay(): void {
    this.#setReplaying(false);
    this.#showEmpty();
  }

  /**
   * Adds a message that the server has sent, above the pending ones.
   * @param own the entry that has shown it so far, if it is the user's own: removed, but its bubble stays, as a new
   *   image would flicker
   */
  addMessage(message: ReceivedMessage, isOwn: boolean, own?: HTMLElement): HTMLElement {
    const bubble = message.removed ? undefined : (own?.querySelector<HTMLElement>(".bubble") ?? undefined);
    const entry = this.#createReceived(message, isOwn, this.#isReplaying ? 0 : Date.now(), bubble);
    if (own) this.remove(own);
    this.insert(entry);
    return entry;
  }

  /** The content of messages that a moderator has removed is no longer shown. */
  markRemoved(removed: RemovedMessages): void {
    this.removals++;
    this.#scroller.holdStill(() => {
      for (const entry of this.#entries) {
        const { id, client } = this.#messages.get(entry) ?? {};
        if (id === undefined) continue;
        // Later messages may be shown already: without a resume, the replay repeats old removals.
        const isRemoved =
          "message" in removed
            ? id === removed.message
            : client === removed.from && compareIds(id, removed.upTo) <= 0;
        if (!isRemoved) continue;
        releaseContent(entry);
        entry.classList.remove("mentions-me");
        entry.querySelector(".bubble")?.replaceWith(removedBubble());
        this.#entries.update(entry);
      }
    });
  }

  /** The id and the client of a message that can be removed. */
  removable(entry: Element): { readonly id: string; readonly client: string } | undefined {
    const { id, client } = this.#messages.get(entry) ?? {};
    const isRemoved = entry.querySelector(".removed") !== null;
    return id === undefined || client === undefined || isRemoved ? undefined : { id, client };
  }

  /** Adds earlier messages above everything else, without moving what is visible. */
  prepend(messages: readonly ReceivedMessage[], isOwn: (message: ReceivedMessage) => boolean): void {
    this.#scroller.holdStill(() => {
      for (const message of messages.toReversed()) {
        const entry = this.#createReceived(message, isOwn(message), 0);
        this.#entries.insert(entry, this.#entries.first);
        this.arrange(entry);
        this.arrange(this.#entries.next(entry));
      }
    });
  }

  /** Creates an entry for a message of the user's own that the server has not sent. */
  createOwn(client: string, content: Content, sentAt: Date): HTMLElement {
    return this.#create({ client, sentAt }, contentBubble(content, this.#findMentions), true);
  }

  addPending(entry: HTMLElement): void {
    entry.classList.add("pending");
    this.insert(entry);
    this.#pending.add(entry);
  }

  /** The server has acknowledged or rejected it. An acknowledged entry stays in its place until it is broadcast. */
  settle(entry: HTMLElement, state?: "acknowledged" | "undecided"): void {
    this.#pending.delete(entry);
    entry.classList.remove("pending");
    if (state) entry.classList.add(state);
  }

  /** Marks the pending entries as late, with the reason below the last; "" for none. */
  markPending(reason: string): void {
    this.#log.classList.toggle("late", reason !== "");
    this.#progress.textContent = reason;
  }

  /** Puts an entry above the pending ones, or above another; it may already be in the list. */
  insert(entry: Element, before: Element | null = this.#defaultPlace(entry)): void {
    this.#empty.hidden = true;
    const wasBefore = this.#entries.next(entry);
    this.#separate(entry);
    this.#entries.insert(entry, before);
    for (const each of [entry, this.#entries.next(entry), wasBefore]) this.arrange(each);
    this.#trim();
  }

  remove(entry: Element): void {
    const next = this.#entries.next(entry);
    this.#separate(entry);
    releaseContent(entry);
    this.#entries.remove(entry);
    this.arrange(next);
    this.#showEmpty();
  }

  /** Updates the name and the date of the first message from this entry on. */
  arrange(entry: Element | null): void {
    const [message, facts] = this.#findMessage(entry, "next");
    if (!message || !facts) return;
    const above = this.#entries.previous(message);
    const previous = above && this.#messages.get(above);
    const [earlierMessage, earlier] = this.#findMessage(above, "previous");
    const isSameDay = earlier?.sentAt.toDateString() === facts.sentAt.toDateString();
    const continues =
      isSameDay &&
      previous?.client === facts.client &&
      facts.sentAt.getTime() - previous.sentAt.getTime() < GROUP_MS;
    message.classList.toggle("first", !continues);
    // A class, because with thousands of messages `:has` takes half a second for each that arrives.
    earlierMessage?.classList.toggle("continued", continues);
    for (const part of message.querySelectorAll<HTMLElement>(".who, .avatar")) part.hidden = continues;
    for (const day of message.querySelectorAll<HTMLElement>(".day")) day.hidden = isSameDay;
    this.#entries.update(message);
  }

  /** Nothing continues a message that leaves its place, nor the one above until it is arranged again. */
  #separate(entry: Element): void {
    const [above] = this.#findMessage(this.#entries.previous(entry), "previous");
    for (const each of [above, entry]) each?.classList.remove("continued");
  }

  /** The id of the first message shown. */
  get firstId(): string | undefined {
    for (const entry of this.#entries) {
      const id = this.#messages.get(entry)?.id;
      if (id !== undefined) return id;
    }
    return undefined;
  }

  markGap(): void {
    if (!this.#lastBroadcast?.classList.contains("gap"))
      this.insert(create("li", "notice rule gap", words.gap));
  }

  /** Shows that a client has joined or left. Changes that follow each other share one notice. */
  showPresence(change: "joined" | "left", name: string): void {
    const firstMessage = change === "joined" ? this.#firstRecentMessage(name) : undefined;
    let notice = firstMessage ? this.#entries.previous(firstMessage) : this.#lastBroadcast;
    let facts = notice ? this.#presence.get(notice) : undefined;
    if (!notice || !facts) {
      notice = create("li", "notice");
      facts = { joined: new Set(), left: new Set() };
      this.#presence.set(notice, facts);
      this.insert(notice, firstMessage);
    }
    facts[change === "joined" ? "left" : "joined"].delete(name);
    facts[change].add(name);
    const phrases = [phrase(facts.joined, words.joined), phrase(facts.left, words.left)].filter(
      (parts) => parts.length > 0,
    );
    notice.replaceChildren(...phrases.flatMap((parts, i) => (i > 0 ? [" · ", ...parts] : parts)));
  }

  get #lastBroadcast(): Element | null {
    const pending = this.#firstPending;
    return pending ? this.#entries.previous(pending) : this.#entries.last;
  }

  get #firstPending(): Element | null {
    return this.#pending.values().next().value ?? null;
  }

  #defaultPlace(entry: Element): Element | null {
    return entry.classList.contains("pending") ? null : this.#firstPending;
  }

  #trim(): void {
    if (!this.#scroller.isFollowing || this.#entries.count <= MAX_ENTRIES + TRIM_ENTRIES) return;
    while (this.#entries.count > MAX_ENTRIES) {
      let oldest = this.#entries.first;
      while (oldest?.classList.contains("undecided")) oldest = this.#entries.next(oldest);
      if (!oldest || oldest.matches(".pending, .acknowledged")) break;
      this.remove(oldest);
      this.hasEarlier = true;
    }
  }

  /** Only after the welcome is it known that nothing was written yet. */
  #showEmpty(): void {
    this.#empty.hidden = !this.#wasWelcomed || this.#entries.count > 0;
  }

  #setReplaying(isReplaying: boolean): void {
    this.#isReplaying = isReplaying;
    this.#log.ariaBusy = `${isReplaying}`;
  }

  #createReceived(
    message: ReceivedMessage,
    isOwn: boolean,
    receivedAt: number,
    bubble = message.removed ? removedBubble() : contentBubble(message, this.#findMentions),
  ): HTMLElement {
    const { id, time, from: client } = message;
    return this.#create({ client, sentAt: new Date(time), id, receivedAt }, bubble, isOwn);
  }

  #create(facts: MessageFacts, content: HTMLElement, isOwn: boolean): HTMLElement {
    const { client, sentAt } = facts;
    const isThisYear = sentAt.getFullYear() === new Date().getFullYear();
    const calendar = isThisYear ? this.#thisYear : this.#otherYear;
    const time = create("time", "", this.#clock.format(sentAt));
    time.dateTime = sentAt.toISOString();
    const entry = create(
      "li",
      isOwn ? "message own" : "message",
      create("div", "notice rule day", calendar.format(sentAt)),
      avatar(client),
      create("div", "who", create("bdi", isOwn ? "name unseen" : "name", displayName(client))),
      time,
      content,
    );
    if (!isOwn && content.querySelector("mark.me")) entry.classList.add("mentions-me");
    entry.tabIndex = -1;
    entry.style.setProperty("--hue", hue(client));
    this.#messages.set(entry, facts);
    return entry;
  }

  #findMessage(
    start: Element | null,
    direction: "next" | "previous",
  ): readonly [Element, MessageFacts] | readonly [] {
    for (let entry = start; entry; entry = this.#entries[direction](entry)) {
      const facts = this.#messages.get(entry);
      if (facts) return [entry, facts];
    }
    return [];
  }

  #firstRecentMessage(client: string): Element | undefined {
    const since = Date.now() - JOIN_DELAY_MS;
    let first: Element | undefined;
    for (let entry = this.#lastBroadcast; entry; entry = this.#entries.previous(entry)) {
      const facts = this.#messages.get(entry);
      if ((facts?.receivedAt ?? since) < since) break;
      if (facts?.client === client) first = entry;
    }
    return first;
  }
}

function removedBubble(): HTMLElement {
  return create("div", "bubble removed", words.messageRemoved);
}

function releaseContent(entry: Element): void {
  for (const { href } of entry.querySelectorAll<HTMLAnchorElement>("a[download]")) URL.revokeObjectURL(href);
  for (const { src } of entry.querySelectorAll("img")) URL.revokeObjectURL(src);
}

/** “ann, bob and 2 others joined”; nothing for no names. */
function phrase(names: ReadonlySet<string>, verb: string): (Node | string)[] {
  if (names.size === 0) return [];
  const shown = [...names].slice(0, MAX_NAMES).map(displayName);
  if (names.size > MAX_NAMES) shown.push(words.others(names.size - MAX_NAMES));
  const parts = new Intl.ListFormat(locale).formatToParts(shown);
  return [...parts.map(({ type, value }) => (type === "element" ? create("bdi", "", value) : value)), verb];
}
