/** Parses and validates what Redis returns, which other programs may have written. */

import type { Content } from "../../protocol/codec.ts";
import { isMessageId } from "../message-id.ts";
import type { AppendResult, StoredMessage } from "../message.ts";

/** A record of the log: a batch of one node. */
export interface LogRecord {
  readonly id: string;
  /** The id of the record before it. */
  readonly prev: string;
  /** The node that wrote it, and the batch's number. */
  readonly node: string;
  readonly batch: number;
  readonly parts: readonly RecordPart[];
}

export type RecordPart =
  /** The number of connections that a client has in a room on the record's node. */
  | {
      readonly kind: "presence";
      readonly room: string;
      readonly client: string;
      readonly connections: number;
    }
  | {
      readonly kind: "session";
      readonly client: string;
      readonly session: string;
      readonly fencingToken: number;
    }
  /** The result of the batch's next message. */
  | { readonly kind: "result"; readonly result: AppendResult }
  | { readonly kind: "nodeRemoved"; readonly node: string };

/** A stream entry as `[id, [field, value, …]]`. */
type Row = readonly [id: string, fields: readonly string[]];

const NAME = /^[^\s\p{C}]{1,256}$/u;

function isName(value: string | undefined): value is string {
  return value !== undefined && NAME.test(value);
}

function isRow(value: unknown): value is Row {
  if (!Array.isArray(value)) return false;
  const [id, fields]: unknown[] = value;
  return isMessageId(id) && Array.isArray(fields) && fields.every((field) => typeof field === "string");
}

/** The rows of an `XREAD` of one stream. */
export function streamRows(reply: unknown, stream: string): readonly unknown[] {
  if (typeof reply !== "object" || reply === null || !(stream in reply)) return [];
  const rows: unknown = Reflect.get(reply, stream);
  return Array.isArray(rows) ? rows : [];
}

/** The id of a row that may be foreign, with larger numbers than our ids have. */
export function rowId(row: unknown): string | undefined {
  const id: unknown = Array.isArray(row) ? row[0] : undefined;
  return typeof id === "string" ? id : undefined;
}

/** @returns undefined for a foreign record */
export function parseRecord(row: unknown): LogRecord | undefined {
  if (!isRow(row)) return undefined;
  const [id, fields] = row;
  const [first, header = ""] = fields;
  const [node, batch, prev, , time] = header.split(" ");
  if (first !== "h" || !isName(node) || !isCount(batch) || !isMessageId(prev) || !isTime(time))
    return undefined;
  const parts: RecordPart[] = [];
  for (let i = 2; i < fields.length; i += 2) {
    const [field, value = ""] = [fields[i], fields[i + 1]];
    if (field === "k") continue; // only for the scripts
    const part = field === "m" ? parseStored(value, fields[(i += 2) + 1], time) : parsePart(field, value);
    if (!part) return undefined;
    parts.push(part);
  }
  return { id, prev, node, batch: Number(batch), parts };
}

function parsePart(field: string | undefined, value: string): RecordPart | undefined {
  const words = value.split(" ");
  switch (field) {
    case "p": {
      const [room, client, connections] = words;
      if (!isName(room) || !isName(client) || !isCount(connections)) return undefined;
      return { kind: "presence", room, client, connections: Number(connections) };
    }
    case "s": {
      const [client, session, token] = words;
      if (!isName(client) || !isName(session) || !isCount(token)) return undefined;
      return { kind: "session", client, session, fencingToken: Number(token) };
    }
    case "r": {
      const [result, seq, id] = words;
      if (result === "out_of_order") return { kind: "result", result: { rejected: "out-of-order" } };
      if (result !== "duplicate" || !isCount(seq)) return undefined;
      return { kind: "result", result: { duplicateSeq: Number(seq), ...(isMessageId(id) ? { id } : {}) } };
    }
    case "d":
      return isName(value) ? { kind: "nodeRemoved", node: value } : undefined;
    default:
      return undefined;
  }
}

function parseStored(meta: string, content: string | undefined, time: string): RecordPart | undefined {
  const [id, prev, room, from] = meta.split(" ");
  const stored = isName(room) ? toMessage(id, room, prev, from, content, time) : undefined;
  return stored && { kind: "result", result: { stored } };
}

function toMessage(
  id: string | undefined,
  room: string,
  prev: string | undefined,
  from: string | undefined,
  encoded: string | undefined,
  time: string | undefined,
): StoredMessage | undefined {
  const content = decodeContent(encoded);
  if (!isMessageId(id) || !isMessageId(prev) || !isName(from) || content === undefined || !isTime(time))
    return undefined;
  return { id, prev, time: Number(time), room, from, content };
}

/** The messages among the entries of a room's stream; foreign entries are skipped. */
export function parseMessages(rows: unknown, room: string): StoredMessage[] {
  const messages: StoredMessage[] = [];
  for (const row of Array.isArray(rows) ? rows : []) {
    if (!isRow(row)) continue;
    const [id, [p, prev, f, from, c, content, t, time]] = row;
    const isForeign = p !== "p" || f !== "f" || c !== "c" || t !== "t";
    const message = isForeign ? undefined : toMessage(id, room, prev, from, content, time);
    if (message) messages.push(message);
  }
  return messages;
}

/** Bun's Redis client transmits only text, so bytes are sent as Base64. */
export function encodeContent(content: Content): string {
  return typeof content === "string" ? `t${content}` : `b${content.toBase64()}`;
}

function decodeContent(encoded: string | undefined): Content | undefined {
  if (encoded?.startsWith("t")) return encoded.slice(1);
  if (!encoded?.startsWith("b")) return undefined;
  try {
    return Uint8Array.fromBase64(encoded.slice(1));
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

/** @param values client, node, connections, client, node, … */
export function parsePresence(values: unknown): [client: string, node: string, connections: number][] {
  const flat: unknown[] = Array.isArray(values) ? values : [];
  const presence: [string, string, number][] = [];
  for (let i = 0; i < flat.length; i += 3) {
    const [client, node, connections] = [`${flat[i]}`, `${flat[i + 1]}`, flat[i + 2]];
    if (isName(client) && isName(node) && isCount(connections))
      presence.push([client, node, Number(connections)]);
  }
  return presence;
}

export function parseLastSeq(value: unknown): number | null {
  const seq = typeof value === "string" ? Number(value.split(" ", 1)[0]) : NaN;
  return Number.isSafeInteger(seq) && seq > 0 ? seq : null;
}

/** The reply of lua/heartbeat.lua. */
export function parseHeartbeat(reply: unknown) {
  const [isKnown, wasAlive, head, epoch, expiredNodes, rejection, now, eviction]: unknown[] = Array.isArray(
    reply,
  )
    ? reply
    : [];
  const [evicted, trimmed, sessions]: unknown[] = Array.isArray(eviction) ? eviction : [];
  return {
    isKnown: isKnown === 1,
    /** The lease had not expired. */
    wasAlive: wasAlive === 1,
    head: isMessageId(head) ? head : "0-0",
    epoch: isMessageId(epoch) ? epoch : "",
    expiredNodes: Array.isArray(expiredNodes) ? expiredNodes.map(String) : [],
    /** Why Redis rejects writes, or "". */
    rejection: typeof rejection === "string" ? rejection : "",
    /** Redis' clock. */
    nowMs: Number(now),
    /** Because Redis is nearly full: rooms evicted, rooms that lost their older half, and sessions evicted. */
    evictions: {
      evicted: Number(evicted ?? 0),
      trimmed: Number(trimmed ?? 0),
      sessions: Number(sessions ?? 0),
    },
    /** Why the memory in use is unknown, or "". */
    memoryError: typeof eviction === "string" ? eviction : "",
  };
}
