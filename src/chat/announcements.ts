/** Who has come and gone, told to a room: gathered for a moment, so that many at once are no storm. */

import { json, MAX_NAMES, text } from "../protocol/codec.ts";
import type { Room } from "./connection.ts";

/**
 * A leave waits this long: others join it, and a client that is back by then has not left. Announced one by
 * one, 10,000 clients that go at once stall a server for 15 s.
 */
const LEAVE_GATHER_MS = 100;
const PRESENCE_GATHER_MS = 200;
/** Announcements × listeners that are given out in one go; the rest follows after a moment, in which others have their turn. */
const MAX_DELIVERIES_AT_ONCE = 10_000;
const REST_AFTER_MS = 10;

/** On the tutorial's wire each leave is a line of its own. */
export function tellLeaves(room: Room, afterMs = LEAVE_GATHER_MS / 2): void {
  if (!room.manager.hasGone) return;
  room.timers.leaves ??= setTimeout(() => {
    delete room.timers.leaves;
    const atOnce = Math.ceil(MAX_DELIVERIES_AT_ONCE / Math.max(room.manager.size, 1));
    let announced = 0;
    try {
      for (const client of room.manager.takeGone(atOnce, performance.now() - LEAVE_GATHER_MS)) {
        announced++;
        room.fanOut.add([{ to: "text", message: text.left(client), isEntry: false }]);
      }
    } finally {
      tellLeaves(room, announced === atOnce ? REST_AFTER_MS : undefined);
    }
  }, afterMs);
}

/** On the JSON wire both ways come as one event. */
export function tellPresence(room: Room): void {
  if (!room.manager.hasPresence) return;
  room.timers.presence ??= setTimeout(() => {
    delete room.timers.presence;
    if (!room.manager.hasPresence) return;
    const presence = room.manager.takePresence(MAX_NAMES);
    if (room.manager.speakers("json") > 0)
      room.fanOut.add([{ to: "json", message: json.presence(presence), isEntry: false }]);
    tellPresence(room);
  }, PRESENCE_GATHER_MS);
}

export function stopTelling({ timers }: Room): void {
  for (const timer of Object.values(timers)) clearTimeout(timer);
}
