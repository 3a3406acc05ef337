/**
 * The two wires, one codec each: frames from clients become commands, messages and events become frames. README.md is
 * their specification.
 */

import { ERROR_MESSAGES, type CloseReason, type ErrorCode } from "./codes.ts";
import type { ChatMessage, PresenceChange, RemovedMessages, ServerEvent, Welcome } from "./events.ts";

/** `text` is the tutorial's wire, `json` the subprotocol {@link SUBPROTOCOL}. */
export type WireFormat = "text" | "json";
/** Of event streams: Server-Sent Events, and JSON lines. */
export type StreamFormat = "sse" | "ndjson";

export const SUBPROTOCOL = "hubbub.v1";

/** A frame may be larger than its text by this. */
const FRAME_ALLOWANCE_BYTES = 1024;
/** Ids listed in a `welcome` or `presence` event; its `count` is exact. */
export const MAX_LISTED_MEMBERS = 100;

/** A frame, or what a message contains: text, which is well-formed Unicode, or bytes. */
export type Content = string | Uint8Array<ArrayBuffer>;

/** What receivers see of a message. */
export interface Message {
  readonly id: string;
  /** Unix time in milliseconds. */
  readonly time: number;
  readonly from: string;
  /** Undefined if the message was removed. */
  readonly content: Content | undefined;
}

/** What receivers see of a removal. */
export interface Removal {
  readonly id: string;
  readonly removes: RemovedMessages;
}

/** What the reply to its sender is made of. */
export interface SentMessage {
  readonly content: Content;
  readonly seq?: number | undefined;
}

export type ClientCommand =
  | {
      readonly type: "message";
      readonly content: Content;
      readonly seq?: number | undefined;
      readonly skip?: boolean;
    }
  | { readonly type: "ping" };

/** The sender receives an error, or, on a wire that has none for this, a close code. */
type ParseError =
  { readonly error: ErrorCode; readonly seq?: number | undefined } | { readonly close: CloseReason };

/** How messages are written. Both methods return undefined where the wire has nothing to write. */
export interface Encoder {
  readonly name: WireFormat | StreamFormat;
  message(message: Message): Content | undefined;
  removed(removal: Removal): string | undefined;
}

/** How one wire reads and writes. */
export interface Codec extends Encoder {
  readonly name: WireFormat;
  parse(frame: Content, maxMessageBytes: number): ClientCommand | ParseError;
  /** Tells the sender that its message is stored, under `id` if that is known; undefined where the wire tells nothing. */
  stored(message: SentMessage, id: string | undefined): string | undefined;
  /** Tells the sender that its message is not stored, or that its frame is no message. */
  rejected(code: ErrorCode, message: SentMessage, retryAfterSeconds?: number): string;
  /** Whether the place of these two among the messages has a meaning; on the JSON wire a `seq` says what they are about. */
  readonly ordersReplies: boolean;
  welcome?(welcome: Welcome): string;
}

/** Characters of a JSON frame outside of its strings, or besides its text: more than any program needs. */
export const MAX_OVERHEAD_CHARACTERS = 4096;

/**
 * Whether a JSON text has more outside of its strings than any message needs. Parsing brackets, names or numbers by the
 * hundred thousand would block the event loop for many milliseconds.
 */
export function hasTooMuchOverhead(json: string): boolean {
  if (json.length <= MAX_OVERHEAD_CHARACTERS) return false;
  let overhead = 0;
  for (let from = 0; ;) {
    const start = json.indexOf('"', from);
    overhead += (start < 0 ? json.length : start) - from;
    if (overhead > MAX_OVERHEAD_CHARACTERS) return true;
    if (start < 0) return false;
    const end = endOfString(json, start + 1);
    if (end < 0) return false; // not JSON
    overhead += 2;
    from = end + 1;
  }
}

/** The index of a JSON string's closing quote; -1 if there is none. */
function endOfString(json: string, from: number): number {
  const quote = json.indexOf('"', from);
  if (json[quote - 1] !== "\\") return quote;
  for (let i = from; i < json.length; i++)
    if (json[i] === "\\") i++;
    else if (json[i] === '"') return i;
  return -1;
}

/** Unknown fields are ignored. */
function parseJson(frame: string, maxMessageBytes: number): ClientCommand | ParseError {
  if (hasTooMuchOverhead(frame)) return { error: "message-too-big" };
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return { error: "not-json" };
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return { error: "not-json" };
  const { type, text, data, seq, skip } = value as Partial<Record<string, unknown>>;
  if (type === "ping") return { type };
  if (type !== "message") return { error: "unknown-type" };
  const number = parseSeq(seq);
  if (number === "bad-seq") return { error: number };
  const parsed = parseContent(text, data, maxMessageBytes);
  if ("error" in parsed) return { error: parsed.error, seq: number };
  return { type, content: parsed.content, seq: number, skip: skip === true };
}

/** The content of a frame or a request body, from its fields `text`, and `data` in base64; null counts as left out. */
export function parseContent(
  text: unknown,
  data: unknown,
  maxMessageBytes: number,
): { readonly content: Content } | { readonly error: "no-text" | "bad-data" | "message-too-big" } {
  if (typeof text === "string" && (data ?? null) === null) {
    if (exceedsBytes(text, maxMessageBytes)) return { error: "message-too-big" };
    return { content: text.toWellFormed() };
  }
  if (typeof data !== "string" || (text ?? null) !== null) return { error: "no-text" };
  const padding = data.endsWith("==") ? 2 : data.endsWith("=") ? 1 : 0;
  const byteCount = Math.floor(((data.length - padding) * 3) / 4);
  if (byteCount > maxMessageBytes) return { error: "message-too-big" };
  try {
    const content = Uint8Array.fromBase64(data);
    // It skips whitespace, which base64 cannot contain (RFC 4648, section 3.3).
    if (content.length === byteCount) return { content };
  } catch {
    // a SyntaxError
  }
  return { error: "bad-data" };
}

/** The `seq` of a frame or a request body: a whole number from 1, or none. */
export function parseSeq(seq: unknown): number | undefined | "bad-seq" {
  if (seq === undefined || (typeof seq === "number" && Number.isSafeInteger(seq) && seq > 0)) return seq;
  return "bad-seq";
}

/** Whether content is larger than `maxBytes`; text counts in UTF-8. */
export function exceedsBytes(content: Content, maxBytes: number): boolean {
  if (typeof content !== "string") return content.byteLength > maxBytes;
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  return content.length * 3 > maxBytes && Buffer.byteLength(content) > maxBytes;
}

/** The frame limit: the largest text with each byte escaped as `\u0000`, and some JSON besides it. */
export function maxFrameBytes(maxMessageBytes: number): number {
  return 6 * maxMessageBytes + FRAME_ALLOWANCE_BYTES;
}

/** The tutorial's wire. */
export const textCodec = {
  name: "text",
  ordersReplies: true,
  parse(content: Content, maxMessageBytes: number): ClientCommand | ParseError {
    return exceedsBytes(content, maxMessageBytes) ? { close: "tooBig" } : { type: "message", content };
  },
  message({ from, content }: Message): Content | undefined {
    return typeof content === "string" ? `Client #${from} says: ${content}` : content;
  },
  removed(): undefined {},
  stored({ content }: SentMessage): string | undefined {
    return typeof content === "string" ? `You wrote: ${content}` : undefined;
  },
  rejected(code: ErrorCode, { content }: SentMessage): string {
    return `Not sent (${code}): ${typeof content === "string" ? content : `${content.byteLength} bytes`}`;
  },
  left(client: string): string {
    return `Client #${client} left the chat`;
  },
  /** The reply of `/websocket`. */
  echo(content: string): string {
    return `Message text was: ${content}`;
  },
} satisfies Codec & Record<string, unknown>;

/** The `hubbub.v1` subprotocol. */
export const jsonCodec = {
  name: "json",
  ordersReplies: false,
  parse(frame: Content, maxMessageBytes: number): ClientCommand | ParseError {
    if (typeof frame === "string") return parseJson(frame, maxMessageBytes);
    if (exceedsBytes(frame, maxMessageBytes)) return { error: "message-too-big" };
    return { type: "message", content: frame };
  },
  message(message: Message): string {
    return encode({ type: "message", ...toChatMessage(message) });
  },
  removed({ id, removes }: Removal): string {
    return encode({ type: "removed", id, ...removes });
  },
  stored({ seq }: SentMessage, id: string | undefined): string | undefined {
    return seq === undefined ? undefined : encode({ type: "ack", seq, id });
  },
  rejected(code: ErrorCode, { seq }: SentMessage, retryAfterSeconds?: number): string {
    return encode({ type: "error", code, message: ERROR_MESSAGES[code], seq, retryAfterSeconds });
  },
  welcome(welcome: Welcome): string {
    return encode({ type: "welcome", ...welcome });
  },
  presence(change: PresenceChange): string {
    return encode({ type: "presence", ...change });
  },
  pong: encode({ type: "pong" }),
} satisfies Codec & Record<string, unknown>;

/** A message as the JSON wire and the HTTP API show it. */
export function toChatMessage({ id, time, from, content }: Message): ChatMessage {
  if (content === undefined) return { id, time, from, removed: true };
  return typeof content === "string"
    ? { id, time, from, text: content }
    : { id, time, from, data: content.toBase64() };
}

function encode(event: ServerEvent): string {
  return JSON.stringify(event);
}
