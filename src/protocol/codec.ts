/** What goes over the wires: frames in, commands out; entries and events in, frames out. */

import { ERROR_MESSAGES, type ErrorCode } from "./codes.ts";
import type { ServerEvent, ChatMessage, PresenceChange, Welcome } from "./events.ts";
import type { Content, StoredMessage } from "../store/message.ts";

/** `text` is the tutorial's; `json` the subprotocol below. */
export type WireFormat = "text" | "json";

/** The subprotocol by whose name a client asks for the JSON wire. */
export const SUBPROTOCOL = "hubbub.v1";

/** What surrounds the text in a frame, at most. */
const FRAME_ALLOWANCE_BYTES = 1024;
/** Ids named in one event; `count` counts them all. */
export const MAX_LISTED_MEMBERS = 100;

export type ClientCommand =
  | {
      readonly type: "message";
      readonly text: string;
      readonly seq: number | undefined;
      readonly skip: boolean;
    }
  | { readonly type: "ping" };

export interface ParseError {
  readonly error: ErrorCode;
  readonly seq?: number | undefined;
}

/** Names, numbers, brackets and blanks around a message's strings, as many as a program may write. */
export const MAX_AROUND_CHARACTERS = 4096;

/**
 * Whether there is more around the strings of a JSON text than any message takes: to parse brackets, names or numbers by
 * the hundred thousand takes many milliseconds.
 */
export function hasTooMuchAround(json: string): boolean {
  if (json.length <= MAX_AROUND_CHARACTERS) return false;
  let around = 0;
  for (let from = 0; ;) {
    const start = json.indexOf('"', from);
    around += (start < 0 ? json.length : start) - from;
    if (around > MAX_AROUND_CHARACTERS) return true;
    if (start < 0) return false;
    const end = endOfString(json, start + 1);
    if (end < 0) return false; // and so it is no JSON
    around += 2;
    from = end + 1;
  }
}

/** Where a JSON string ends; -1 if it does not. */
function endOfString(json: string, from: number): number {
  const quote = json.indexOf('"', from);
  if (json[quote - 1] !== "\\") return quote;
  for (let i = from; i < json.length; i++)
    if (json[i] === "\\") i++;
    else if (json[i] === '"') return i;
  return -1;
}

/** A text frame of the JSON wire. Unknown fields are ignored. */
export function parseFrame(frame: string, maxMessageBytes: number): ClientCommand | ParseError {
  if (hasTooMuchAround(frame)) return { error: "message-too-big" };
  let value: unknown;
  try {
    value = JSON.parse(frame);
  } catch {
    return { error: "not-json" };
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) return { error: "not-json" };
  const { type, text, seq, skip } = value as Partial<Record<string, unknown>>;
  if (type === "ping") return { type };
  if (type !== "message") return { error: "unknown-type" };
  const number = parseSeq(seq);
  if (number === "bad-seq") return { error: number };
  if (typeof text !== "string") return { error: "no-text", seq: number };
  if (exceedsBytes(text, maxMessageBytes)) return { error: "message-too-big", seq: number };
  return { type, text: text.toWellFormed(), seq: number, skip: skip === true };
}

export function parseSeq(seq: unknown): number | undefined | "bad-seq" {
  if (seq === undefined || (typeof seq === "number" && Number.isSafeInteger(seq) && seq > 0)) return seq;
  return "bad-seq";
}

/** Whether a text, counted in UTF-8, or so many bytes are more than that. */
export function exceedsBytes(content: Content, maxBytes: number): boolean {
  if (typeof content !== "string") return content.byteLength > maxBytes;
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  return content.length * 3 > maxBytes && Buffer.byteLength(content) > maxBytes;
}

/** The largest frame: the largest text with each of its bytes written as `\u0000`, and what surrounds it. */
export function maxFrameBytes(maxMessageBytes: number): number {
  return 6 * maxMessageBytes + FRAME_ALLOWANCE_BYTES;
}

export const textCodec = {
  message({ from, content }: StoredMessage): Content {
    return typeof content === "string" ? `Client #${from} says: ${content}` : content;
  },
  echo(content: string): string {
    return `Message text was: ${content}`;
  },
  youWrote(content: string): string {
    return `You wrote: ${content}`;
  },
  notSent(code: ErrorCode, content: Content): string {
    return `Not sent (${code}): ${typeof content === "string" ? content : `${content.byteLength} bytes`}`;
  },
  left(client: string): string {
    return `Client #${client} left the chat`;
  },
};

/** What a client learns of an entry. */
export function toChatMessage({ id, time, from, content }: StoredMessage): ChatMessage {
  return typeof content === "string"
    ? { id, time, from, text: content }
    : { id, time, from, data: content.toBase64() };
}

function encode(event: ServerEvent): string {
  return JSON.stringify(event);
}

export const jsonCodec = {
  message(entry: StoredMessage): string {
    return encode({ type: "message", ...toChatMessage(entry) });
  },
  welcome(welcome: Welcome): string {
    return encode({ type: "welcome", ...welcome });
  },
  presence(presence: PresenceChange): string {
    return encode({ type: "presence", ...presence });
  },
  ack(seq: number, id?: string): string {
    return encode({ type: "ack", seq, id });
  },
  error(code: ErrorCode, seq?: number, retryAfterSeconds?: number): string {
    return encode({ type: "error", code, message: ERROR_MESSAGES[code], seq, retryAfterSeconds });
  },
  pong: encode({ type: "pong" }),
};
