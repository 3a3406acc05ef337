/** Summaries of rooms, for `GET /rooms`: named ones, or all that a client may read. */

import { HttpProblem } from "./problem.ts";
import type { Hub } from "../chat/hub.ts";

/** Names read from the store at a time. */
const NAMES_PER_READ = 1000;

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
      const [{ count }, { messages }] = await Promise.all([
        hub.getPresence(room),
        hub.store.readHistory(room, { limit: 1 }),
      ]);
      const [latest] = messages;
      return { room, count, lastId: latest?.id ?? null, lastTime: latest?.time ?? null };
    }),
  );
}

/**
 * A page of the rooms that have messages, that of the latest message first.
 * @param after the last room of the page before
 * @throws HttpProblem 400, StoreUnavailable
 */
export async function listRooms(
  hub: Hub,
  after: string | undefined,
  limit: number,
  isVisible: (room: string) => boolean,
): Promise<{ rooms: RoomSummary[]; more: boolean }> {
  const visible: string[] = [];
  let names: readonly string[] | undefined;
  do {
    const last: string | undefined = names?.at(-1) ?? after;
    names = await hub.store.roomNames(last, NAMES_PER_READ);
    if (!names && last === after)
      throw new HttpProblem("bad-name", "after must be the last room of the page before.");
    visible.push(...(names ?? []).filter(isVisible));
  } while (names?.length === NAMES_PER_READ && visible.length <= limit);
  return { rooms: await summarizeRooms(hub, visible.slice(0, limit)), more: visible.length > limit };
}
