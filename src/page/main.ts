/** The page: creates its parts and connects them. */

import { Announcer } from "./announcer.ts";
import { Chat } from "./chat.ts";
import { Composer } from "./composer.ts";
import { Conversation } from "./conversation.ts";
import { find } from "./dom.ts";
import { Entries } from "./entries.ts";
import { Identity } from "./identity.ts";
import { Invitation } from "./invitation.ts";
import { mentionFinder } from "./mentions.ts";
import { MessageFocus } from "./message-focus.ts";
import { Moderation } from "./moderation.ts";
import { NameCard } from "./name-card.ts";
import { Notifications } from "./notifications.ts";
import { Outbox } from "./outbox.ts";
import { People } from "./people.ts";
import { Rooms } from "./rooms.ts";
import { Scroller } from "./scroller.ts";
import { StatusLine } from "./status-line.ts";
import { Unread } from "./unread.ts";
import { localize } from "./words.ts";

localize();

const identity = new Identity();
const announcer = new Announcer();
const scroller = new Scroller(
  () => {
    unread.clear();
    chat.markRead();
  },
  (isNearEnd) => chat.onScroll(isNearEnd),
);
const entries = new Entries();
const conversation = new Conversation(
  entries,
  scroller,
  mentionFinder(
    (name) => people.has(name),
    () => identity.name,
  ),
);
const notifications = new Notifications(identity.room);
const unread = new Unread(conversation, scroller, identity.room);
const people = new People(identity, conversation);
const outbox = new Outbox(
  identity,
  conversation,
  () => scroller.toEnd(),
  () => composer.focus(),
);
const composer = new Composer(identity.room, (content) => {
  nameCard.settle();
  outbox.send(content);
});
const nameCard = new NameCard(
  identity,
  () => chat.reopen(),
  () => composer.focus(),
);
const rooms = new Rooms(identity);
new Invitation(identity);
const statusLine = new StatusLine(identity, composer, announcer, {
  chooseName: () => nameCard.open(),
  withdrawName: () => nameCard.withdraw(),
  chooseRoom: () => rooms.open(),
  useToken: (token) => {
    identity.useToken(token);
    chat.reopen();
  },
});
const chat = new Chat({
  identity,
  announcer,
  scroller,
  conversation,
  unread,
  people,
  outbox,
  composer,
  rooms,
  notifications,
  statusLine,
  moderation: new Moderation(identity, conversation),
});
new MessageFocus(entries, () => composer.focus());

find("new", HTMLButtonElement).onclick = () => {
  scroller.toEnd();
  composer.focus();
};
for (const id of ["rooms", "list", "invitation", "moderation"])
  find(id, HTMLDialogElement).onclose = () => composer.focus();

document.addEventListener("visibilitychange", () => chat.markRead());

// A reload keeps pending messages, closing the tab does not.
addEventListener("beforeunload", (event) => {
  if (outbox.hasPending || composer.hasFiles) event.preventDefault();
});
// A browser may keep a page that was left, and would keep its connection open.
addEventListener("pagehide", () => chat.close());
addEventListener("pageshow", ({ persisted }) => persisted && location.reload());

chat.start();
nameCard.askOnce();
