/** What was said before is sent to who has just come, as much at a time as the network takes; then they hear the room. */

import { logError } from "../ops/log.ts";
import { recordDelivery } from "../ops/metrics.ts";
import { jsonCodec, textCodec } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import type { StoredMessage } from "../store/message.ts";
import { StoreUnavailable, type MessageStore } from "../store/store.ts";
import type { Connection } from "./connection.ts";

/** Entries read from the store, or sent, in one go; then others have their turn. */
const STORE_PAGE_SIZE = 100;
const MAX_SENDS_PER_TICK = 1000;
/** How soon the store is asked again when it is ahead of what this node has heard. */
const STORE_POLL_MS = 20;

type Dismiss = (connection: Connection, why: CloseReason) => void;

/**
 * Between the last look at the history and the subscription nothing else runs: nothing is missed or heard twice.
 * @param dismiss closes the connection: when entries are forgotten before they could be sent, which resuming tells; and
 * when a replay fails, which resuming repeats
 */
export function replay(connection: Connection, store: MessageStore, dismiss: Dismiss): void {
  const { room, socket } = connection;
  if (!socket || !room.replaying.has(connection)) return;
  if (connection.replayAfterId !== undefined)
    return void later(replayFromStore(connection, store, dismiss), connection, dismiss);
  for (let count = 1; connection.replayOffset < room.history.nextOffset; count++) {
    const message = room.history.get(connection.replayOffset);
    if (!message) return dismiss(connection, "tooSlow");
    connection.replayOffset++;
    const isTaken = send(connection, message);
    if (isTaken && count < MAX_SENDS_PER_TICK) continue;
    connection.replayAfterId = message.id; // when this goes on, the history may no longer have what follows, but the store may
    if (isTaken)
      void later(
        othersTurn().then(() => replay(connection, store, dismiss)),
        connection,
        dismiss,
      );
    return; // otherwise `drain` goes on
  }
  room.replaying.delete(connection);
  connection.sendHeldLines();
  if (connection.pongPending) connection.send(jsonCodec.pong);
  connection.pongPending = false;
  room.broadcaster.subscribe(connection);
}

/** What is older than the history that is kept ready: page by page from the store, until it joins that. */
async function replayFromStore(connection: Connection, store: MessageStore, dismiss: Dismiss): Promise<void> {
  const { room } = connection;
  if (connection.isReadingStore) return;
  connection.isReadingStore = true;
  let isTaken = true;
  while (connection.socket && connection.replayAfterId !== undefined && isTaken) {
    const position = room.history.offsetAfter(connection.replayAfterId);
    if (position !== undefined) {
      connection.replayOffset = position;
      connection.replayAfterId = undefined;
      break;
    }
    const page = await store.readHistory(room.name, {
      after: connection.replayAfterId,
      limit: STORE_PAGE_SIZE,
    });
    // A store that answers at once would leave no room for anything else.
    await othersTurn();
    if (!connection.socket) return;
    const isComplete = page.recovered || (page.isDamaged && !connection.isResuming);
    if (!isComplete) return dismiss(connection, "tooSlow");
    if (page.messages.length === 0 && page.isDamaged) {
      // What follows cannot be read.
      connection.replayOffset = room.history.firstOffset;
      connection.replayAfterId = undefined;
      break;
    }
    if (page.messages.length === 0) await Bun.sleep(STORE_POLL_MS); // heard by another node, and on its way to this one
    for (const message of page.messages) {
      if (!isTaken) break; // `drain` goes on
      connection.replayAfterId = message.id;
      isTaken = send(connection, message);
    }
  }
  connection.isReadingStore = false;
  if (connection.replayAfterId === undefined) replay(connection, store, dismiss);
}

/** No handler waits for it, and so none would close what it leaves half-way. */
async function later(work: Promise<void>, connection: Connection, dismiss: Dismiss): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (error instanceof StoreUnavailable) return dismiss(connection, "tooSlow");
    logError("A replay failed", error);
    dismiss(connection, "undelivered");
  }
}

function othersTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** @returns whether the network takes more */
function send(connection: Connection, entry: StoredMessage): boolean {
  connection.sendHeldLines(entry.id);
  const message = connection.wire === "json" ? jsonCodec.message(entry) : textCodec.message(entry);
  recordDelivery(message, 1);
  return connection.send(message) !== -1;
}
