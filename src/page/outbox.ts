/**
 * The user's own messages until they are broadcast: pending, acknowledged, or undecided because the server has
 * rejected them or forgotten whether it stored them. Stored per tab and room, so a reload loses nothing.
 */

import type { Client, ConnectOptions, OutboxItem } from "../client/client.ts";
import type { Conversation } from "./conversation.ts";
import { create, linkButton } from "./dom.ts";
import type { Identity } from "./identity.ts";
import { load, save, TAB } from "./storage.ts";
import { words } from "./words.ts";

/** Within this time most messages are acknowledged: "Sending…" would only flicker. */
const SENDING_SHOWN_AFTER_MS = 300;

const PROGRESS = new Map<string | undefined, string>([
  ["open", words.sending],
  ["closed", words.notSentYet],
]);

/** A message of the user's own, and when it was written; Unix time in milliseconds. */
interface Written extends Pick<OutboxItem, "text" | "data"> {
  readonly writtenAt: number;
}

interface StoredOutbox {
  readonly me: string;
  readonly session: string;
  readonly outbox: readonly OutboxItem[];
  readonly undecided: readonly Written[];
}

export class Outbox {
  readonly #identity: Identity;
  readonly #conversation: Conversation;
  /** Called after the user has sent or deleted something. */
  readonly #onSend: () => void;
  readonly #onDelete: () => void;
  #client: Client | undefined;
  /** In the client's order. */
  readonly #pending = new Map<OutboxItem, HTMLElement>();
  /** By message id: the broadcast follows. */
  readonly #acknowledged = new Map<string, HTMLElement>();
  readonly #undecided = new Map<HTMLElement, Written>();
  /** A message has been pending for longer than most are. */
  #isLate = false;

  constructor(identity: Identity, conversation: Conversation, onSend: () => void, onDelete: () => void) {
    this.#identity = identity;
    this.#conversation = conversation;
    this.#onSend = onSend;
    this.#onDelete = onDelete;
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  /**
   * Continues what an earlier visit of this tab has stored. Only a reload continues its session: a tab that was
   * duplicated or reopened may not be the only one to hold it.
   * @param connect opens the connection with these options, and attaches its client
   */
  restore(connect: (options: Pick<ConnectOptions, "session" | "outbox">) => void): void {
    const stored: Partial<StoredOutbox> = JSON.parse(load(TAB, this.#key) || "{}");
    const { me, session, outbox = [], undecided = [] } = stored;
    const [navigation] = performance.getEntriesByType("navigation");
    const isReload = navigation instanceof PerformanceNavigationTiming && navigation.type === "reload";
    const continues = isReload && me === this.#identity.name;
    connect(continues ? { ...(session === undefined ? {} : { session }), outbox } : {});
    for (const written of [...undecided, ...(continues ? [] : outbox)]) this.#undecide(written, words.unsure);
    this.save();
  }

  /** Shows the client's pending messages, and follows what becomes of them. */
  attach(client: Client): void {
    this.#client = client;
    for (const item of client.outbox) this.#showPending(item);
    client
      .on("acknowledged", ({ item, id }) => this.#onAcknowledged(item, id))
      .on("rejected", ({ item, message }) => this.#onUndecided(item, words.notSent(message)))
      .on("unconfirmed", (item) => this.#onUndecided(item, words.unsure))
      .on("state", () => client === this.#client && this.#showProgress());
  }

  /**
   * Ends with the client.
   * @param continues whether another client continues its session; under another name, what it has sent may have been
   *   stored under the former one, and becomes undecided
   * @returns what the next client continues with
   */
  detach(continues: boolean): Pick<ConnectOptions, "session" | "outbox"> {
    const items = [...this.#pending.keys()];
    for (const entry of this.#pending.values()) {
      this.#conversation.settle(entry);
      this.#conversation.remove(entry);
    }
    this.#pending.clear();
    this.#showProgress();
    if (continues && this.#client) return { session: this.#client.session, outbox: items };
    for (const item of items) if (item.seq !== undefined) this.#undecide(item, words.unsure);
    return { outbox: items.filter(({ seq }) => seq === undefined) };
  }

  send(content: string | Uint8Array): void {
    if (!this.#client) return;
    this.#showPending(this.#client.send(content));
    this.save();
    this.#onSend();
  }

  /** @returns the entry of an acknowledged message, which is about to be shown where the room's order puts it */
  takeAcknowledged(id: string): HTMLElement | undefined {
    const entry = this.#acknowledged.get(id);
    this.#acknowledged.delete(id);
    return entry;
  }

  /** Undecided messages stand below the history. */
  moveUndecidedToEnd(): void {
    for (const entry of this.#undecided.keys()) this.#conversation.insert(entry);
  }

  save(): void {
    if (!this.#client) return;
    const { session, outbox } = this.#client;
    const stored: StoredOutbox = {
      me: this.#identity.name,
      session,
      outbox,
      undecided: [...this.#undecided.values()],
    };
    save(TAB, this.#key, JSON.stringify(stored));
  }

  get #key(): string {
    return `outbox.${this.#identity.room}`;
  }

  #showPending(item: OutboxItem): void {
    Object.assign(item, { writtenAt: writtenAtOf(item) }); // stored with it
    const entry = this.#createEntry(item);
    this.#conversation.addPending(entry);
    this.#pending.set(item, entry);
    this.#showProgress();
    setTimeout(() => {
      this.#isLate ||= this.#pending.has(item);
      this.#showProgress();
    }, SENDING_SHOWN_AFTER_MS);
  }

  /** One sentence, below the last pending message, says why they all are pending. */
  #showProgress(): void {
    this.#isLate &&= this.#pending.size > 0;
    this.#conversation.markPending(
      !this.#isLate ? "" : (PROGRESS.get(this.#client?.state.status) ?? words.waiting),
    );
  }

  #onAcknowledged(item: OutboxItem, id: string | undefined): void {
    const entry = this.#takePending(item);
    this.save();
    if (!entry) return;
    this.#conversation.settle(entry, "acknowledged");
    if (id) this.#acknowledged.set(id, entry);
    // It was stored by an earlier connection, and arrives like any other message.
    else this.#conversation.remove(entry);
  }

  #onUndecided(item: OutboxItem, reason: string): void {
    this.#undecide(item, reason, this.#takePending(item));
    this.save();
  }

  #takePending(item: OutboxItem): HTMLElement | undefined {
    const entry = this.#pending.get(item);
    this.#pending.delete(item);
    this.#showProgress();
    return entry;
  }

  #createEntry(item: OutboxItem): HTMLElement {
    const { text, data } = item;
    const content = data === undefined ? { text: text ?? "" } : { bytes: fromBase64(data) };
    return this.#conversation.createOwn(this.#identity.client, content, new Date(writtenAtOf(item)));
  }

  /** Only the writer can decide whether to send it again. */
  #undecide(item: OutboxItem, reason: string, entry = this.#createEntry(item)): void {
    const { text, data } = item;
    this.#conversation.settle(entry, "undecided");
    this.#undecided.set(entry, {
      ...(data === undefined ? { text: text ?? "" } : { data }),
      writtenAt: writtenAtOf(item),
    });
    this.#conversation.insert(entry);
    const remove = () => {
      this.#undecided.delete(entry);
      this.save();
      this.#conversation.remove(entry);
      this.#onDelete();
    };
    const retry = () => {
      remove();
      this.send(data === undefined ? (text ?? "") : fromBase64(data));
    };
    showState(entry, reason, linkButton(words.retry, retry), linkButton(words.remove, remove));
  }
}

/** Now, unless an earlier visit or name has noted another time. */
function writtenAtOf(item: OutboxItem): number {
  return "writtenAt" in item && typeof item.writtenAt === "number" ? item.writtenAt : Date.now();
}

function fromBase64(data: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0));
}

function showState(entry: HTMLElement, text: string, ...buttons: readonly HTMLButtonElement[]): void {
  const state = create("div", "state unsure", text);
  for (const button of buttons) state.append(" ", button);
  entry.append(state);
}
