/** Parses and validates what Redis returns, which other programs may have written. */

import type { Content } from "../../protocol/codec.ts";
import { isStoredName, type ArchivedSession } from "../archive.ts";
import { isMessageId } from "../message-id.ts";
import { isMessage, type StoredEntry, type StoredMessage } from "../message.ts";
import type { Presence } from "../shared-log/engine.ts";
import type { LogRecord, RecordPart } from "../shared-log/log-record.ts";
import type { Ban, ListedRoom } from "../store.ts";

/** Unix time in milliseconds. */
function isTime(value: unknown): value is string {
  return typeof value === "string" && /^\d{1,15}$/.test(value);
}

function isCount(value: unknown): value is string {
  return typeof value === "string" && /^\d{1,16}$/.test(value);
}

/** What should be an array; anything else counts as an empty one. */
export function arrayOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

/** A stream entry is `[id, [field, value, …]]`. */
function isRow(value: unknown): value is readonly [id: string, fields: readonly string[]] {
  const [id, fields] = arrayOf(value);
  return isMessageId(id) && Array.isArray(fields) && fields.every((field) => typeof field === "string");
}

/** The rows of an `XREAD` of one stream. */
export function streamRows(reply: unknown, stream: string): readonly unknown[] {
  return typeof reply === "object" && reply !== null ? arrayOf(Reflect.get(reply, stream)) : [];
}

/** The id of a row that may be foreign, with larger numbers than our ids have. */
export function rowId(row: unknown): string | undefined {
  const [id] = arrayOf(row);
  return typeof id === "string" ? id : undefined;
}

/** @returns undefined for a foreign record */
export function parseRecord(row: unknown): LogRecord | undefined {
  if (!isRow(row)) return undefined;
  const [id, fields] = row;
  const [first, header = ""] = fields;
  const [node, batch, prev, , time] = header.split(" ");
  if (first !== "h" || !isStoredName(node) || !isCount(batch) || !isMessageId(prev) || !isTime(time))
    return undefined;
  const parts: RecordPart[] = [];
  for (let i = 2; i < fields.length; i += 2) {
    const [field, value = ""] = [fields[i], fields[i + 1]];
    if (field === "k") continue; // only for the scripts
    const isEntry = field === "m" || field === "x";
    const part = isEntry ? parseEntry(value, fields[(i += 2) + 1], time) : parsePart(field, value);
    if (!part) return undefined;
    parts.push(part);
  }
  return { id, prev, node, batch: Number(batch), parts };
}

/** The highest seq of each session in a record, with the record's time. */
export function parseSessions(row: unknown): ArchivedSession[] {
  if (!isRow(row)) return [];
  const [, fields] = row;
  const time = fields[1]?.split(" ").at(-1);
  return fields.flatMap((field, i) => {
    if (i % 2 === 1 || field !== "k") return [];
    const [seq, id, client, session] = fields[i + 1]?.split(" ") ?? [];
    const isValid = isCount(seq) && isMessageId(id) && isStoredName(client) && isStoredName(session);
    return isValid && isTime(time) ? [{ client, session, seq: Number(seq), id, time: Number(time) }] : [];
  });
}

function parsePart(field: string | undefined, value: string): RecordPart | undefined {
  const [first, second, third] = value.split(" ");
  switch (field) {
    case "p":
      if (!isStoredName(first) || !isStoredName(second) || !isCount(third)) return undefined;
      return { kind: "presence", room: first, client: second, connections: Number(third) };
    case "s":
      if (!isStoredName(first) || !isStoredName(second) || !isCount(third)) return undefined;
      return { kind: "session", client: first, session: second, fencingToken: Number(third) };
    case "r":
      if (first === "out_of_order") return { kind: "result", result: { rejected: "out-of-order" } };
      if (first !== "duplicate" || !isCount(second)) return undefined;
      return {
        kind: "result",
        result: { duplicateSeq: Number(second), ...(isMessageId(third) ? { id: third } : {}) },
      };
    case "b": {
      const [, , ...rooms] = value.split(" ");
      const ban = toBan(first, second, rooms);
      return ban && { kind: "ban", ban };
    }
    case "d":
      return isStoredName(first) ? { kind: "nodeRemoved", node: first } : undefined;
    default:
      return undefined;
  }
}

function parseEntry(meta: string, content: string | undefined, time: string): RecordPart | undefined {
  const [id, prev, room, from] = meta.split(" ");
  const entry = toEntry({ id, prev, room, from, content, time });
  if (!entry) return undefined;
  return isMessage(entry)
    ? { kind: "result", result: { stored: entry } }
    : { kind: "removal", removal: entry };
}

type Unchecked = Readonly<Record<keyof StoredMessage, string | undefined>>;

function toEntry({ id, prev, room, from, time, content: encoded = "" }: Unchecked): StoredEntry | undefined {
  if (!isMessageId(id) || !isMessageId(prev) || !isStoredName(room) || !isStoredName(from) || !isTime(time))
    return undefined;
  const place = { id, prev, time: Number(time), room };
  if (encoded === REMOVED) return { ...place, from, content: undefined };
  if (encoded === REMOVES_FROM) return { ...place, removes: { from, upTo: prev } };
  if (encoded.startsWith(REMOVES_MESSAGE)) {
    const message = encoded.slice(REMOVES_MESSAGE.length);
    return isMessageId(message) ? { ...place, removes: { message } } : undefined;
  }
  const content = decodeContent(encoded);
  return content === undefined ? undefined : { ...place, from, content };
}

/** The entries of a room's stream; foreign ones are skipped. */
export function parseEntries(rows: unknown, room: string): StoredEntry[] {
  return arrayOf(rows).flatMap((row) => {
    if (!isRow(row)) return [];
    const [id, [p, prev, f, from, c, content, t, time]] = row;
    if (p !== "p" || f !== "f" || c !== "c" || t !== "t") return [];
    return toEntry({ id, prev, room, from, content, time }) ?? [];
  });
}

/** Client and content of an entry, as the room's stream has them. */
export function encodeEntry(entry: StoredEntry): [from: string, content: string] {
  if (isMessage(entry))
    return [entry.from, entry.content === undefined ? REMOVED : encodeContent(entry.content)];
  const { removes } = entry;
  return "from" in removes ? [removes.from, REMOVES_FROM] : [NO_CLIENT, REMOVES_MESSAGE + removes.message];
}

/** What stands in the place of the content, where the first letter says what it is. */
const REMOVED = "x";
const REMOVES_MESSAGE = "m";
const REMOVES_FROM = "a";
const NO_CLIENT = "-";

/** Bun's Redis client transmits only text, so bytes are sent as Base64. */
export function encodeContent(content: Content): string {
  return typeof content === "string" ? `t${content}` : `b${content.toBase64()}`;
}

function decodeContent(encoded: string): Content | undefined {
  if (encoded.startsWith("t")) return encoded.slice(1);
  if (!encoded.startsWith("b")) return undefined;
  try {
    return Uint8Array.fromBase64(encoded.slice(1));
  } catch {
    return undefined;
  }
}

/** @param values client, node, connections, client, node, … */
export function parsePresence(values: unknown): Presence[] {
  const flat = arrayOf(values);
  const presence: Presence[] = [];
  for (let i = 0; i < flat.length; i += 3) {
    const [client, node, connections] = flat.slice(i, i + 3);
    if (isStoredName(client) && isStoredName(node) && isCount(connections))
      presence.push([client, node, Number(connections)]);
  }
  return presence;
}

function toBan(
  client: string | undefined,
  untilMs: string | undefined,
  rooms: readonly string[],
): Ban | undefined {
  if (!isStoredName(client) || !isTime(untilMs) || rooms.length === 0) return undefined;
  return { client, rooms, untilMs: Number(untilMs) };
}

/** The reply of lua/read-bans.lua. */
export function parseBans(reply: unknown): Ban[] {
  const pairs =
    typeof reply === "object" && reply !== null && !Array.isArray(reply)
      ? Object.entries(reply).flat()
      : arrayOf(reply);
  const bans: Ban[] = [];
  for (let i = 0; i + 1 < pairs.length; i += 2) {
    const [client, ...rooms] = String(pairs[i]).split(" ");
    const ban = toBan(client, String(pairs[i + 1]), rooms);
    if (ban) bans.push(ban);
  }
  return bans;
}

/** The reply of lua/list-rooms.lua. */
export function parseListedRooms(rows: readonly unknown[]): ListedRoom[] {
  return rows.flatMap((row) => {
    const [room, id, time] = arrayOf(row);
    return isStoredName(room) && isMessageId(id) && isTime(time) ? { room, id, time: Number(time) } : [];
  });
}

export function parseLastSeq(value: unknown): number | null {
  const seq = Number.parseInt(String(value));
  return Number.isSafeInteger(seq) && seq > 0 ? seq : null;
}

/** The reply of lua/heartbeat.lua. */
export function parseHeartbeat(reply: unknown) {
  const [isKnown, wasAlive, head, epoch, expiredNodes, rejection, now, eviction] = arrayOf(reply);
  const [evicted = 0, trimmed = 0, sessions = 0] = arrayOf(eviction).map(Number);
  return {
    isKnown: isKnown === 1,
    /** The lease had not expired. */
    wasAlive: wasAlive === 1,
    head: isMessageId(head) ? head : "0-0",
    epoch: isMessageId(epoch) ? epoch : "",
    expiredNodes: arrayOf(expiredNodes).map(String),
    /** Why Redis rejects writes, or "". */
    rejection: String(rejection ?? ""),
    /** Redis' clock. */
    nowMs: Number(now),
    /** Because Redis is nearly full: rooms evicted, rooms that lost their older half, and sessions evicted. */
    evictions: { evicted, trimmed, sessions },
    /** Why the memory in use is unknown, or "". */
    memoryError: typeof eviction === "string" ? eviction : "",
  };
}
