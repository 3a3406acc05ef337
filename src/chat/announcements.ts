/** Who has come and gone, told to a room: gathered for a moment, so that many at once are no storm. */

import { jsonCodec, MAX_LISTED_MEMBERS, textCodec } from "../protocol/codec.ts";
import type { Room } from "./connection.ts";

/**
 * A leave waits this long: others join it, and a client that is back by then has not left. Announced one by
 * one, 10,000 clients that go at once stall a server for 15 s.
 */
const LEAVE_DEBOUNCE_MS = 100;
const PRESENCE_INTERVAL_MS = 200;
/** Announcements × listeners that are given out in one go; the rest follows after a moment, in which others have their turn. */
const MAX_DELIVERIES_PER_TICK = 10_000;
const REST_AFTER_MS = 10;

/** On the tutorial's wire each leave is a line of its own. */
export function scheduleLeaves(room: Room, afterMs = LEAVE_DEBOUNCE_MS / 2): void {
  if (!room.manager.hasPendingLeaves) return;
  room.timers.leaves ??= setTimeout(() => {
    delete room.timers.leaves;
    const atOnce = Math.ceil(MAX_DELIVERIES_PER_TICK / Math.max(room.manager.size, 1));
    let announced = 0;
    try {
      for (const client of room.manager.drainLeaves(atOnce, performance.now() - LEAVE_DEBOUNCE_MS)) {
        announced++;
        room.broadcaster.enqueue([{ to: "text", message: textCodec.left(client), isStored: false }]);
      }
    } finally {
      scheduleLeaves(room, announced === atOnce ? REST_AFTER_MS : undefined);
    }
  }, afterMs);
}

/** On the JSON wire both ways come as one event. */
export function schedulePresence(room: Room): void {
  if (!room.manager.hasPendingPresence) return;
  room.timers.presence ??= setTimeout(() => {
    delete room.timers.presence;
    if (!room.manager.hasPendingPresence) return;
    const presence = room.manager.drainPresence(MAX_LISTED_MEMBERS);
    if (room.manager.countByWire("json") > 0)
      room.broadcaster.enqueue([{ to: "json", message: jsonCodec.presence(presence), isStored: false }]);
    schedulePresence(room);
  }, PRESENCE_INTERVAL_MS);
}

export function cancelTimers({ timers }: Room): void {
  for (const timer of Object.values(timers)) clearTimeout(timer);
}
