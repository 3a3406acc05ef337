/** What was said before is sent to who has just come, as much at a time as the network takes; then they hear the room. */

import { report } from "../ops/log.ts";
import { countSent } from "../ops/metrics.ts";
import { json, text, type Close } from "../protocol/codec.ts";
import type { Entry, Store } from "../store/store.ts";
import type { Visitor } from "./connection.ts";

/** Entries read from the store, or sent, in one go; then others have their turn. */
const READ_AT_ONCE = 100;
const SEND_AT_ONCE = 1000;
/** How soon the store is asked again when it is ahead of what this node has heard. */
const LAG_MS = 20;

type Dismiss = (visitor: Visitor, why: Close) => void;

/**
 * Between the last look at the history and the subscription nothing else runs: nothing is missed or heard twice.
 * @param dismiss closes the connection: when entries are forgotten before they could be sent, which resuming tells; and
 * when a replay fails, which resuming repeats
 */
export function catchUp(visitor: Visitor, store: Store, dismiss: Dismiss): void {
  const { room, socket } = visitor;
  if (!socket || !room.catchingUp.has(visitor)) return;
  if (visitor.behind !== undefined) return void later(readOn(visitor, store, dismiss), visitor, dismiss);
  for (let count = 1; visitor.position < room.history.end; count++) {
    const entry = room.history.at(visitor.position);
    if (!entry) return dismiss(visitor, "tooSlow");
    visitor.position++;
    const isTaken = send(visitor, entry);
    if (isTaken && count < SEND_AT_ONCE) continue;
    visitor.behind = entry.id; // when this goes on, the history may no longer have what follows, but the store may
    if (isTaken)
      void later(
        othersTurn().then(() => catchUp(visitor, store, dismiss)),
        visitor,
        dismiss,
      );
    return; // otherwise `drain` goes on
  }
  room.catchingUp.delete(visitor);
  visitor.sendHeldLines();
  if (visitor.isOwedPong) visitor.send(json.pong);
  visitor.isOwedPong = false;
  room.fanOut.subscribe(visitor);
}

/** What is older than the history that is kept ready: page by page from the store, until it joins that. */
async function readOn(visitor: Visitor, store: Store, dismiss: Dismiss): Promise<void> {
  const { room } = visitor;
  if (visitor.isReading) return;
  visitor.isReading = true;
  let isTaken = true;
  while (visitor.socket && visitor.behind !== undefined && isTaken) {
    const position = room.history.positionAfter(visitor.behind);
    if (position !== undefined) {
      visitor.position = position;
      visitor.behind = undefined;
      break;
    }
    const page = await store.read(room.name, { after: visitor.behind, limit: READ_AT_ONCE });
    // A store that answers at once would leave no room for anything else.
    await othersTurn();
    if (!visitor.socket) return;
    const isComplete = page !== "unavailable" && (page.recovered || (page.isDamaged && !visitor.isResuming));
    if (!isComplete) return dismiss(visitor, "tooSlow");
    if (page.entries.length === 0 && page.isDamaged) {
      // What follows cannot be read.
      visitor.position = room.history.start;
      visitor.behind = undefined;
      break;
    }
    if (page.entries.length === 0) await Bun.sleep(LAG_MS); // heard by another node, and on its way to this one
    for (const entry of page.entries) {
      if (!isTaken) break; // `drain` goes on
      visitor.behind = entry.id;
      isTaken = send(visitor, entry);
    }
  }
  visitor.isReading = false;
  if (visitor.behind === undefined) catchUp(visitor, store, dismiss);
}

/** No handler waits for it, and so none would close what it leaves half-way. */
async function later(work: Promise<void>, visitor: Visitor, dismiss: Dismiss): Promise<void> {
  try {
    await work;
  } catch (error) {
    report("A replay failed", error);
    dismiss(visitor, "undelivered");
  }
}

function othersTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** @returns whether the network takes more */
function send(visitor: Visitor, entry: Entry): boolean {
  visitor.sendHeldLines(entry.id);
  const message = visitor.wire === "json" ? json.message(entry) : text.message(entry);
  countSent(message, 1);
  return visitor.send(message) !== -1;
}
