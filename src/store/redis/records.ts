/** What comes from Redis, read as carefully as what comes from anybody. */

import type { AppendResult, Content, StoredMessage } from "../message.ts";

/** One record of the log: what one node has written at once. */
export interface LogRecord {
  readonly id: string;
  /** The record before it. */
  readonly prev: string;
  /** Who wrote it, and which of its batches this was. */
  readonly node: string;
  readonly batch: number;
  readonly parts: readonly RecordPart[];
}

export type RecordPart =
  /** So many connections a client has in a room now, by that node. */
  | { readonly kind: "present"; readonly room: string; readonly client: string; readonly connections: number }
  | { readonly kind: "opened"; readonly client: string; readonly session: string; readonly ticket: number }
  /** What became of the batch's next draft. */
  | { readonly kind: "answer"; readonly answer: AppendResult }
  | { readonly kind: "dead"; readonly node: string };

/** Rows of a reply, as `[id, [field, value, …]]`; undefined is one that is none. */
type Row = readonly [id: string, fields: readonly string[]];

const ID = /^\d{1,15}-\d{1,16}$/;
const NAME = /^[^\s\p{C}]{1,256}$/u;

export function isMessageId(value: unknown): value is string {
  return typeof value === "string" && ID.test(value);
}

function isName(value: string | undefined): value is string {
  return value !== undefined && NAME.test(value);
}

function isRow(value: unknown): value is Row {
  if (!Array.isArray(value)) return false;
  const [id, fields]: unknown[] = value;
  return isMessageId(id) && Array.isArray(fields) && fields.every((field) => typeof field === "string");
}

/** The rows of an `XREAD` of one stream; empty if none came in time. */
export function streamRows(reply: unknown, stream: string): readonly unknown[] {
  if (typeof reply !== "object" || reply === null || !(stream in reply)) return [];
  const rows: unknown = Reflect.get(reply, stream);
  return Array.isArray(rows) ? rows : [];
}

/** The id of a row, whatever else is in it, and also if it is greater than any of ours. */
export function rowId(row: unknown): string | undefined {
  const id: unknown = Array.isArray(row) ? row[0] : undefined;
  return typeof id === "string" ? id : undefined;
}

/** Undefined if somebody else has written it. */
export function parseRecord(row: unknown): LogRecord | undefined {
  if (!isRow(row)) return undefined;
  const [id, fields] = row;
  const [mark, head = ""] = fields;
  const [node, batch, prev, , time] = head.split(" ");
  if (mark !== "h" || !isName(node) || !isCount(batch) || !isMessageId(prev) || !isTime(time))
    return undefined;
  const parts: RecordPart[] = [];
  for (let i = 2; i < fields.length; i += 2) {
    const [field, value = ""] = [fields[i], fields[i + 1]];
    if (field === "k") continue; // the latest of a session, for Redis itself
    const part = field === "m" ? readKept(value, fields[(i += 2) + 1], time) : readPart(field, value);
    if (!part) return undefined;
    parts.push(part);
  }
  return { id, prev, node, batch: Number(batch), parts };
}

function readPart(field: string | undefined, value: string): RecordPart | undefined {
  const words = value.split(" ");
  switch (field) {
    case "p": {
      const [room, client, connections] = words;
      if (!isName(room) || !isName(client) || !isCount(connections)) return undefined;
      return { kind: "present", room, client, connections: Number(connections) };
    }
    case "s": {
      const [client, session, ticket] = words;
      if (!isName(client) || !isName(session) || !isCount(ticket)) return undefined;
      return { kind: "opened", client, session, ticket: Number(ticket) };
    }
    case "r": {
      const [result, seq, id] = words;
      if (result === "out_of_order") return { kind: "answer", answer: { rejected: "out-of-order" } };
      if (result !== "duplicate" || !isCount(seq)) return undefined;
      return { kind: "answer", answer: { duplicateSeq: Number(seq), ...(isMessageId(id) ? { id } : {}) } };
    }
    case "d":
      return isName(value) ? { kind: "dead", node: value } : undefined;
    default:
      return undefined;
  }
}

function readKept(meta: string, content: string | undefined, time: string): RecordPart | undefined {
  const [id, prev, room, from] = meta.split(" ");
  const message = isName(room) ? readEntry(id, room, prev, from, content, time) : undefined;
  return message && { kind: "answer", answer: { stored: message } };
}

function readEntry(
  id: string | undefined,
  room: string,
  prev: string | undefined,
  from: string | undefined,
  coded: string | undefined,
  time: string | undefined,
): StoredMessage | undefined {
  const content = decode(coded);
  if (!isMessageId(id) || !isMessageId(prev) || !isName(from) || content === undefined || !isTime(time))
    return undefined;
  return { id, prev, time: Number(time), room, from, content };
}

/** Entries of a room's stream; what somebody else has written there is none. */
export function parseMessages(rows: unknown, room: string): StoredMessage[] {
  const messages: StoredMessage[] = [];
  for (const row of Array.isArray(rows) ? rows : []) {
    if (!isRow(row)) continue;
    const [id, [p, prev, f, from, c, content, t, time]] = row;
    const isOurs = p === "p" && f === "f" && c === "c" && t === "t";
    const message = isOurs ? readEntry(id, room, prev, from, content, time) : undefined;
    if (message) messages.push(message);
  }
  return messages;
}

/** Redis' client takes and gives only texts. */
export function encodeContent(content: Content): string {
  return typeof content === "string" ? `t${content}` : `b${content.toBase64()}`;
}

function decode(coded: string | undefined): Content | undefined {
  if (coded?.startsWith("t")) return coded.slice(1);
  if (!coded?.startsWith("b")) return undefined;
  try {
    return Uint8Array.fromBase64(coded.slice(1));
  } catch {
    return undefined;
  }
}

/** Unix time in milliseconds. */
function isTime(value: unknown): value is string {
  return typeof value === "string" && /^\d{1,15}$/.test(value);
}

function isCount(value: unknown): value is string {
  return typeof value === "string" && /^\d{1,16}$/.test(value);
}

/** Who is in a room by way of other nodes: client, node, connections, and so on. */
export function parsePresence(values: unknown): [client: string, node: string, connections: number][] {
  const flat: unknown[] = Array.isArray(values) ? values : [];
  const present: [string, string, number][] = [];
  for (let i = 0; i < flat.length; i += 3) {
    const [client, node, connections] = [`${flat[i]}`, `${flat[i + 1]}`, flat[i + 2]];
    if (isName(client) && isName(node) && isCount(connections))
      present.push([client, node, Number(connections)]);
  }
  return present;
}

export function parseLastSeq(value: unknown): number | null {
  const seq = typeof value === "string" ? Number(value.split(" ", 1)[0]) : NaN;
  return Number.isSafeInteger(seq) && seq > 0 ? seq : null;
}

/** What the script `renew` answers. */
export function parseHeartbeat(reply: unknown) {
  const [isKnown, wasAlive, top, born, missing, full, now, room]: unknown[] = Array.isArray(reply)
    ? reply
    : [];
  const [evicted, trimmed]: unknown[] = Array.isArray(room) ? room : [];
  return {
    isKnown: isKnown === 1,
    wasAlive: wasAlive === 1,
    top: isMessageId(top) ? top : "0-0",
    born: isMessageId(born) ? born : "",
    missing: Array.isArray(missing) ? missing.map(String) : [],
    full: typeof full === "string" ? full : "",
    /** Redis' clock. */
    nowMs: Number(now),
    /** Rooms that went, and rooms that lost their older half, since Redis is nearly full. */
    evicted: Number(evicted ?? 0),
    trimmed: Number(trimmed ?? 0),
    /** Why it is not known how full it is. */
    blind: typeof room === "string" ? room : "",
  };
}
