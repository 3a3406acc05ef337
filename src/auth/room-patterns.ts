/** Room patterns: a room's name, or the beginning of one and a `*`, which stands for the rest. */

import { parseName } from "../protocol/names.ts";

const WILDCARD = "*";

export const ALL_ROOMS: ReadonlySet<string> = new Set([WILDCARD]);

/** @returns the pattern in the normal form of names; undefined if it is invalid */
export function parseRoomPattern(pattern: unknown): string | undefined {
  if (typeof pattern !== "string" || pattern === WILDCARD) return pattern === WILDCARD ? pattern : undefined;
  const isPrefix = pattern.endsWith(WILDCARD);
  // A name follows the same rules up to its end, so a prefix is valid if a letter makes it one.
  const parsed = parseName("room", isPrefix ? `${pattern.slice(0, -1)}x` : pattern);
  if ("detail" in parsed) return undefined;
  return isPrefix ? `${parsed.name.slice(0, -1)}${WILDCARD}` : parsed.name;
}

export function coversRoom(patterns: ReadonlySet<string>, room: string): boolean {
  if (patterns.has(room) || patterns.has(WILDCARD)) return true;
  return patterns
    .values()
    .some((pattern) => pattern.endsWith(WILDCARD) && room.startsWith(pattern.slice(0, -1)));
}
