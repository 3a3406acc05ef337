/** What goes over the wires: frames in, commands out; entries and events in, frames out. */

import type { Incoming, Presence, Welcome } from "./events.ts";
import type { Content, Entry } from "./store.ts";

/** `text` is the tutorial's; `json` the subprotocol below. */
export type Wire = "text" | "json";

/** The subprotocol by whose name a client asks for the JSON wire. */
export const SUBPROTOCOL = "hubbub.v1";

/** The largest message: its text in UTF-8, or its bytes. */
export const MAX_MESSAGE_BYTES = 64 * 1024;
/** The largest frame: such a text with each of its bytes written as `\u0000`, and what surrounds it. */
export const MAX_FRAME_BYTES = 6 * MAX_MESSAGE_BYTES + 1024;
/** How often a connection is asked for a sign of life. */
export const PING_SECONDS = 25;
/** Ids named in one event; `count` counts them all. */
export const MAX_NAMES = 100;

/** The `code` of an `error` event, and its sentence. The README's table is held to this one by a test. */
export const errors = {
  "not-json": "A message is a JSON object in a text frame.",
  "unknown-type": 'The type is "message" or "ping".',
  "no-text": "A message has a text, which is a string.",
  "bad-seq": "A seq is a whole number from 1 to 9007199254740991.",
  "message-too-big": `A message has at most ${MAX_MESSAGE_BYTES} bytes, its text counted in UTF-8.`,
  "out-of-order": "An earlier seq was refused: send that one again first, or go on without it with skip.",
  unavailable: "It could not be kept just now: send it again in a moment.",
} as const;

export type ErrorCode = keyof typeof errors;

/** Why the server closes a connection. The README's table is held to this one by a test. */
export const closes = {
  1009: "The message is too big.",
  1011: "Something went wrong on our side: please come back.",
  1013: "Reading too slowly: please come back and resume.",
  4001: "Replaced by a newer connection of this session.",
} as const;

export type CloseCode = keyof typeof closes;

export type Command =
  | {
      readonly type: "message";
      readonly text: string;
      readonly seq: number | undefined;
      readonly skip: boolean;
    }
  | { readonly type: "ping" };

export interface Malformed {
  readonly error: ErrorCode;
  readonly seq?: number | undefined;
}

/** A text frame of the JSON wire. Unknown fields are ignored. */
export function parse(frame: string): Command | Malformed {
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
  if (seq !== undefined && !(typeof seq === "number" && Number.isSafeInteger(seq) && seq > 0))
    return { error: "bad-seq" };
  if (typeof text !== "string") return { error: "no-text", seq };
  if (isTooBig(text)) return { error: "message-too-big", seq };
  return { type, text: text.toWellFormed(), seq, skip: skip === true };
}

export function isTooBig(content: Content): boolean {
  if (typeof content !== "string") return content.byteLength > MAX_MESSAGE_BYTES;
  // A UTF-16 unit takes one to three bytes in UTF-8; most texts need no counting.
  return content.length * 3 > MAX_MESSAGE_BYTES && Buffer.byteLength(content) > MAX_MESSAGE_BYTES;
}

export const text = {
  message({ from, content }: Entry): Content {
    return typeof content === "string" ? `Client #${from} says: ${content}` : content;
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

function encode(event: Incoming): string {
  return JSON.stringify(event);
}

export const json = {
  message({ id, time, from, content }: Entry): string {
    return typeof content === "string"
      ? encode({ type: "message", id, time, from, text: content })
      : encode({ type: "message", id, time, from, data: content.toBase64() });
  },
  welcome(welcome: Omit<Welcome, "pingSeconds" | "maxMessageBytes">): string {
    return encode({
      type: "welcome",
      ...welcome,
      pingSeconds: PING_SECONDS,
      maxMessageBytes: MAX_MESSAGE_BYTES,
    });
  },
  presence(presence: Presence): string {
    return encode({ type: "presence", ...presence });
  },
  ack(seq: number, id?: string): string {
    return encode({ type: "ack", seq, id });
  },
  error(code: ErrorCode, seq?: number): string {
    return encode({ type: "error", code, message: errors[code], seq });
  },
  pong: encode({ type: "pong" }),
};
