/** What Postgres returns, and what it is given: ids as numbers, contents, entries and records as JSON. */

import type { Content } from "../../protocol/codec.ts";
import { isStoredName } from "../archive.ts";
import { isMessageId } from "../message-id.ts";
import { isMessage, type AppendResult, type StoredEntry } from "../message.ts";
import type { Presence } from "../shared-log/engine.ts";
import type { LogRecord, RecordPart } from "../shared-log/log-record.ts";
import type { ListedRoom } from "../store.ts";

/** An id is one number in Postgres: milliseconds * 10^16 + sequence. */
const SEQUENCE_DIGITS = 16;

export function toNumber(id: string): string {
  const [ms = "", sequence = ""] = id.split("-");
  return ms + sequence.padStart(SEQUENCE_DIGITS, "0");
}

export function toId(number: string): string {
  const [ms, sequence] = [number.slice(0, -SEQUENCE_DIGITS), number.slice(-SEQUENCE_DIGITS)];
  return `${ms || "0"}-${sequence.replace(/^0+(?=\d)/, "")}`;
}

/** The columns `kind` and content of a message, the latter as text: Base64, unless it is one that Postgres can store as text. */
export function encodeContent(content: Content): readonly [kind: "t" | "n" | "b", content: string] {
  if (typeof content !== "string") return ["b", content.toBase64()];
  return content.includes("\0") ? ["n", new TextEncoder().encode(content).toBase64()] : ["t", content];
}

/** The columns of a stored entry. */
export function encodeEntry(entry: StoredEntry) {
  const { id, prev, time, room } = entry;
  const place = { id: toNumber(id), prev: toNumber(prev), time, room };
  if (isMessage(entry)) {
    const [kind, content] = entry.content === undefined ? ["x"] : encodeContent(entry.content);
    return { ...place, sender: entry.from, kind, content };
  }
  const { removes } = entry;
  return "from" in removes
    ? { ...place, sender: removes.from, kind: "a" }
    : { ...place, sender: NO_CLIENT, kind: "m", content: removes.message };
}

/** The sender of a removal of one message. */
const NO_CLIENT = "-";

/** A `text[]` or `bigint[]` as Postgres reads it ("Array Value Input" in its manual). */
export function toArray(values: readonly (string | number | undefined)[]): string {
  const elements = values.map((value) =>
    typeof value === "string" ? `"${value.replace(/["\\]/g, "\\$&")}"` : (value ?? "NULL"),
  );
  return `{${elements.join(",")}}`;
}

/** What should be an array; anything else counts as an empty one. */
function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** Entries as the view `entries` has them; foreign ones are skipped. */
export function parseEntries(json: unknown): StoredEntry[] {
  return arrayOf(json).flatMap((row) => parseEntry(arrayOf(row)) ?? []);
}

function parseEntry([id, prev, time, room, from, kind, text, data]: readonly unknown[]):
  StoredEntry | undefined {
  if (!isStoredName(room) || !isStoredName(from) || typeof time !== "number") return undefined;
  const place = { id: toId(String(id)), prev: toId(String(prev)), time, room };
  switch (kind) {
    case "t":
      return typeof text === "string" ? { ...place, from, content: text } : undefined;
    case "n":
      return { ...place, from, content: new TextDecoder().decode(bytesOf(data)) };
    case "b":
      return { ...place, from, content: bytesOf(data) };
    case "x":
      return { ...place, from, content: undefined };
    case "a":
      return { ...place, removes: { from, upTo: place.prev } };
    case "m":
      return isMessageId(text) ? { ...place, removes: { message: text } } : undefined;
    default:
      return undefined;
  }
}

/** Postgres breaks Base64 into lines, which the decoder ignores. */
function bytesOf(data: unknown): Uint8Array<ArrayBuffer> {
  return Uint8Array.fromBase64(typeof data === "string" ? data : "");
}

/** A row of read_log(). */
export interface LogRow {
  readonly id: string;
  readonly prev: string;
  readonly node: string;
  readonly batch: string;
  readonly parts: unknown;
  readonly results: unknown;
  readonly entries: unknown;
}

export function parseRecord({ id, prev, node, batch, parts, results, entries }: LogRow): LogRecord {
  return {
    id: toId(id),
    prev: toId(prev),
    node,
    batch: Number(batch),
    parts: [
      ...arrayOf(parts).flatMap((part) => parsePart(arrayOf(part)) ?? []),
      ...mergeResults(parseEntries(entries), arrayOf(results).map(arrayOf)),
    ],
  };
}

/** In the order of the batch's messages. @param rejected the others, each with its place in the batch */
function mergeResults(
  entries: readonly StoredEntry[],
  rejected: readonly (readonly unknown[])[],
): RecordPart[] {
  const parts = entries.map((entry): RecordPart =>
    isMessage(entry) ? { kind: "result", result: { stored: entry } } : { kind: "removal", removal: entry },
  );
  for (const [place, ...result] of rejected)
    parts.splice(Number(place), 0, { kind: "result", result: parseResult(result) });
  return parts;
}

function parseResult([result, seq, id]: readonly unknown[]): AppendResult {
  if (result !== "duplicate") return { rejected: "out-of-order" };
  return { duplicateSeq: Number(seq), ...(typeof id === "string" ? { id: toId(id) } : {}) };
}

function parsePart([kind, ...rest]: readonly unknown[]): RecordPart | undefined {
  const [first, second, third] = rest;
  if (!isStoredName(first)) return undefined;
  switch (kind) {
    case "p":
      return isStoredName(second)
        ? { kind: "presence", room: first, client: second, connections: Number(third) }
        : undefined;
    case "s":
      return isStoredName(second)
        ? { kind: "session", client: first, session: second, fencingToken: Number(third) }
        : undefined;
    case "b":
      return {
        kind: "ban",
        ban: { client: first, untilMs: Number(second), rooms: String(third).split(" ") },
      };
    case "d":
      return { kind: "nodeRemoved", node: first };
    default:
      return undefined;
  }
}

/** @param json arrays of client, node and connections */
export function parsePresence(json: unknown): Presence[] {
  return arrayOf(json).flatMap((row): Presence[] => {
    const [client, node, connections] = arrayOf(row);
    return isStoredName(client) && isStoredName(node) ? [[client, node, Number(connections)]] : [];
  });
}

/** @param json arrays of room, id and time */
export function parseListedRooms(json: readonly unknown[]): ListedRoom[] {
  return json.flatMap((row) => {
    const [room, id, time] = arrayOf(row);
    return isStoredName(room) ? { room, id: toId(String(id)), time: Number(time) } : [];
  });
}
