/** The connection to the room: passes the client's events to the parts of the page, and opens it under another name. */

import { connect, type Client, type ConnectOptions, type ReceivedMessage } from "../client/client.ts";
import type { Removal, Welcome } from "../protocol/events.ts";
import type { Announcer } from "./announcer.ts";
import type { Composer } from "./composer.ts";
import type { Conversation } from "./conversation.ts";
import { EarlierMessages } from "./earlier-messages.ts";
import type { Identity } from "./identity.ts";
import type { Moderation } from "./moderation.ts";
import type { Notifications } from "./notifications.ts";
import type { Outbox } from "./outbox.ts";
import type { People } from "./people.ts";
import type { Rooms } from "./rooms.ts";
import type { Scroller } from "./scroller.ts";
import type { StatusLine } from "./status-line.ts";
import type { Unread } from "./unread.ts";
import { displayName, words } from "./words.ts";

const HISTORY = 100;

interface Parts {
  readonly identity: Identity;
  readonly announcer: Announcer;
  readonly scroller: Scroller;
  readonly conversation: Conversation;
  readonly unread: Unread;
  readonly people: People;
  readonly outbox: Outbox;
  readonly composer: Composer;
  readonly rooms: Rooms;
  readonly notifications: Notifications;
  readonly statusLine: StatusLine;
  readonly moderation: Moderation;
}

export class Chat {
  readonly #parts: Parts;
  readonly #earlier: EarlierMessages;
  #client: Client | undefined;
  /** The client id of the connection. */
  #openedAs = "";
  /** The id of the last message received. */
  #lastId: string | undefined;
  #wasWelcomed = false;
  /** Messages of others since the welcome. */
  #caughtUp = 0;

  constructor(parts: Parts) {
    this.#parts = parts;
    this.#earlier = new EarlierMessages(parts.conversation, parts.scroller, parts.announcer);
  }

  /** Continues what this tab has stored. */
  start(): void {
    this.#parts.outbox.restore((options) => this.#open(options));
    this.#parts.statusLine.update();
  }

  /** Reconnects with the name or token that was just chosen. */
  reopen(): void {
    const { identity, outbox, statusLine } = this.#parts;
    statusLine.detach();
    this.close();
    this.#open(outbox.detach(identity.name === this.#openedAs));
    outbox.save();
  }

  close(): void {
    this.#client?.close();
  }

  /** What can be seen has been read: everything, if it is the end. */
  markRead(): void {
    const { conversation, rooms, scroller } = this.#parts;
    if (document.hidden || conversation.isReplaying || !scroller.isFollowing) return;
    if (this.#lastId !== undefined) rooms.markRead(this.#lastId);
  }

  /** While the history arrives, its top may be in view because the rest is not there yet. */
  onScroll(isNearEnd: boolean): void {
    const { conversation, scroller } = this.#parts;
    if (isNearEnd ? !conversation.isReplaying : !scroller.isFollowing) this.#loadEarlier();
  }

  #open(options: Pick<ConnectOptions, "session" | "outbox">): void {
    const { identity, outbox, people, statusLine } = this.#parts;
    const client = connect({
      id: identity.name,
      room: identity.room,
      history: HISTORY,
      ...(identity.token ? { token: identity.token } : {}),
      ...(this.#lastId === undefined ? {} : { after: this.#lastId }),
      ...options,
    });
    this.#client = client;
    this.#openedAs = identity.name;
    showState(client.state.status);
    client
      .on("state", ({ status }) => client === this.#client && showState(status))
      .on("welcome", (welcome) => this.#onWelcome(welcome))
      .on("message", (message) => this.#onMessage(message))
      .on("removed", (removal) => this.#onRemoved(removal))
      .on("replayed", () => this.#onReplayed())
      .on("presence", (change) => people.change(change));
    statusLine.attach(client);
    outbox.attach(client);
  }

  #onWelcome(welcome: Welcome): void {
    const { composer, conversation, identity, moderation, outbox, people, statusLine } = this.#parts;
    moderation.isAllowed = welcome.can.includes("moderate");
    identity.client = welcome.client;
    composer.maxMessageBytes = welcome.maxMessageBytes;
    composer.isReadOnly = conversation.isReadOnly = !welcome.can.includes("write");
    outbox.save(); // with the session's numbers that were just assigned
    this.#lastId ??= welcome.last;
    people.reset(welcome.members, welcome.count);
    if (this.#wasWelcomed && welcome.recovered === false) conversation.markGap();
    this.#caughtUp = 0;
    statusLine.onWelcome(welcome);
    conversation.startReplay(!this.#wasWelcomed);
    this.#wasWelcomed = true;
  }

  #onMessage(message: ReceivedMessage): void {
    const { announcer, conversation, notifications, outbox, scroller, unread } = this.#parts;
    const isOwn = this.#isOwn(message);
    this.#lastId = message.id;
    const entry = conversation.addMessage(message, isOwn, outbox.takeAcknowledged(message.id));
    this.markRead();
    if (isOwn || conversation.isReplaying) return;
    this.#caughtUp++;
    const mentionsMe = entry.matches(".mentions-me");
    if (mentionsMe) notifications.show(displayName(message.from), message.text ?? "");
    if (document.hidden || !scroller.isFollowing) unread.add(entry, mentionsMe);
    if (!scroller.isFollowing) scroller.countNew();
    const attachment = entry.querySelector(".image") ? words.image : words.file;
    announcer.announce(words.announce(displayName(message.from), message.text ?? attachment));
  }

  #onRemoved(removal: Removal): void {
    this.#lastId = removal.id;
    this.#parts.conversation.markRemoved(removal);
  }

  #onReplayed(): void {
    const { conversation, outbox, scroller, statusLine } = this.#parts;
    if (conversation.isReplaying) outbox.moveUndecidedToEnd();
    conversation.endReplay();
    if (scroller.isFollowing) scroller.toEnd();
    this.#loadEarlier();
    statusLine.onReplayed(this.#caughtUp);
    this.markRead();
  }

  #loadEarlier(): void {
    const client = this.#client;
    if (!client) return;
    void this.#earlier.loadIfNear(
      (before) => client.historyBefore(before),
      (message) => this.#isOwn(message),
    );
  }

  #isOwn({ from }: ReceivedMessage): boolean {
    return from === this.#parts.identity.client;
  }
}

/** For styles, for tests, and for inspecting the page. */
function showState(status: Client["state"]["status"]): void {
  document.documentElement.dataset["state"] = status;
}
