/** Room patterns: a room's name, or the beginning of one and a `*`, which stands for the rest. */

import { parseName } from "../protocol/names.ts";

const WILDCARD = "*";
const EXCLUSION = "!";

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
  return patterns.values().some((pattern) => matches(pattern, room));
}

/** @param room or a pattern: whether all its rooms match */
function matches(pattern: string, room: string): boolean {
  return pattern === room || (pattern.endsWith(WILDCARD) && room.startsWith(pattern.slice(0, -1)));
}

/** The rooms of some patterns, except those of others. */
export class RoomSelection {
  /** One spelling for each selection; {@link of} reads it. */
  readonly patterns: readonly string[];
  readonly key: string;

  private constructor(
    private readonly included: readonly string[],
    private readonly excluded: readonly string[],
  ) {
    this.patterns = [...included, ...excluded.map((pattern) => EXCLUSION + pattern)];
    this.key = this.patterns.join(" ");
  }

  /** @param patterns excluded ones begin with `!`, which no name contains */
  static of(patterns: Iterable<string>): RoomSelection {
    const all = [...new Set(patterns)].sort();
    const [excluded, included] = [all.filter(isExclusion), all.filter((pattern) => !isExclusion(pattern))];
    return new RoomSelection(
      included,
      excluded.map((pattern) => pattern.slice(EXCLUSION.length)),
    );
  }

  get isEmpty(): boolean {
    return this.included.length === 0;
  }

  has(room: string): boolean {
    const isMatch = (pattern: string) => matches(pattern, room);
    return this.included.some(isMatch) && !this.excluded.some(isMatch);
  }

  /** Whether it has all rooms of the other. May be false for one that only several patterns together cover. */
  hasAll({ included, excluded }: RoomSelection): boolean {
    return included.every(
      (inner) =>
        this.included.some((pattern) => matches(pattern, inner)) &&
        this.excluded.every(
          (pattern) => !overlap(pattern, inner) || excluded.some((other) => matches(other, pattern)),
        ),
    );
  }

  /** Without all rooms that the other includes, even those that it excludes again. */
  without(other: RoomSelection): RoomSelection {
    const included = this.included.filter(
      (pattern) => !other.included.some((excluded) => matches(excluded, pattern)),
    );
    const excluded = other.included.filter((pattern) => included.some((each) => matches(each, pattern)));
    return new RoomSelection(included, [...new Set([...this.excluded, ...excluded])].sort());
  }
}

function isExclusion(pattern: string): boolean {
  return pattern.startsWith(EXCLUSION);
}

function overlap(one: string, other: string): boolean {
  return matches(one, other) || matches(other, one);
}
