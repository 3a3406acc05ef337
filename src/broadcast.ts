/** An entry goes out to everyone in its room, in the frames of both wires; who does not keep up is found. */

import { countSent } from "./metrics.ts";
import { json, text, type Wire } from "./protocol.ts";
import type { Content, Entry } from "./store.ts";
import { isBehind, MAX_UNREAD_BYTES, type Room, type Visitor } from "./visitor.ts";

/** How soon a reader that does not keep up is looked for. */
const LOOK_FOR_SLOW_MS = 50;

/** @param dismiss what happens to a reader that does not keep up */
export function broadcast(room: Room, entry: Entry, dismiss: (slow: Visitor) => void): void {
  // What nobody hears need not be encoded.
  const inText = room.manager.speakers("text") > 0 ? send(room, "text", text.message(entry)) : 0;
  const inJson = room.manager.speakers("json") > 0 ? send(room, "json", json.message(entry)) : 0;
  if (inText < 0 || inJson < 0) watchForSlow(room, entry, dismiss);
}

function send(room: Room, wire: Wire, message: Content): number {
  let listeners = room.manager.speakers(wire);
  for (const visitor of room.catchingUp) if (visitor.wire === wire) listeners--;
  countSent(message, listeners);
  return room.manager.broadcast(wire, message);
}

/** Looks who it is, now and then, and sooner the more is being said. */
function watchForSlow(room: Room, { content }: Entry, dismiss: (slow: Visitor) => void): void {
  room.bytesUnwatched += content.length;
  if (room.bytesUnwatched > MAX_UNREAD_BYTES / 4) return dismissSlow(room, dismiss);
  room.timers.slow ??= setTimeout(() => dismissSlow(room, dismiss), LOOK_FOR_SLOW_MS);
}

function dismissSlow(room: Room, dismiss: (slow: Visitor) => void): void {
  clearTimeout(room.timers.slow);
  delete room.timers.slow;
  room.bytesUnwatched = 0;
  for (const visitor of room.manager.connections())
    if (visitor.socket && isBehind(visitor.socket)) dismiss(visitor);
}
