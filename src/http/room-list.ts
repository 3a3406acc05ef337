/** Summaries of rooms, for `GET /rooms`: named ones, or all that a client may read. */

import { HttpProblem } from "./problem.ts";
import type { Hub } from "../chat/hub.ts";
import { isMessage } from "../store/message.ts";
import type { ListedRoom } from "../store/store.ts";

/** Rooms read from the store at a time. */
const ROOMS_PER_READ = 200;

interface RoomSummary {
  readonly room: string;
  /** Clients in the room. */
  readonly count: number;
  /** Id and time of the latest message; null if none is stored. */
  readonly lastId: string | null;
  readonly lastTime: number | null;
}

/** @throws StoreUnavailable */
export function summarizeRooms(hub: Hub, rooms: readonly string[]): Promise<RoomSummary[]> {
  return Promise.all(
    rooms.map(async (room) => {
      const { entries } = await hub.store.readHistory(room, { limit: 1 });
      return summarize(hub, room, entries.find(isMessage));
    }),
  );
}

async function summarize(
  hub: Hub,
  room: string,
  latest?: { id: string; time: number },
): Promise<RoomSummary> {
  const { count } = await hub.getPresence(room);
  return { room, count, lastId: latest?.id ?? null, lastTime: latest?.time ?? null };
}

/**
 * A page of the rooms that have messages, that of the latest message first.
 * @param after the last room of the page before
 * @param beforeRead called before each further read: a server may have many rooms that the client may not read
 * @throws HttpProblem 400, StoreUnavailable
 */
export async function listRooms(
  hub: Hub,
  after: string | undefined,
  limit: number,
  isVisible: (room: string) => boolean,
  beforeRead: () => Promise<void>,
): Promise<{ rooms: RoomSummary[]; more: boolean }> {
  // Whether a room exists that the client may not read is a secret, too.
  const isKnown = after === undefined || isVisible(after);
  let read = isKnown ? await hub.store.listRooms(after, ROOMS_PER_READ) : undefined;
  if (!read) throw new HttpProblem("bad-name", "after must be the last room of the page before.");
  /** By name: a room that gets a message meanwhile moves, and may be read twice. */
  const visible = new Map<string, ListedRoom>();
  while (read && read.length > 0) {
    for (const listed of read) if (isVisible(listed.room)) visible.set(listed.room, listed);
    if (visible.size > limit) break;
    await beforeRead();
    read = await hub.store.listRooms(read.at(-1)?.room, ROOMS_PER_READ);
  }
  const page = [...visible.values()].slice(0, limit).map((latest) => summarize(hub, latest.room, latest));
  return { rooms: await Promise.all(page), more: visible.size > limit };
}
