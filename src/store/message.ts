/** Messages, pending until the store has accepted them and stored from then on, and removals of messages. */

import type { Content } from "../protocol/codec.ts";
import type { RemovedMessages } from "../protocol/events.ts";

/** A message before it is stored. */
export interface PendingMessage {
  readonly room: string;
  readonly from: string;
  readonly content: Content;
  /** The sender's numbered stream of messages, and this message's number in it: see {@link isNumbered}. */
  readonly session: string | undefined;
  readonly seq: number | undefined;
  /** The number before this one, if its result is still pending: unless that was stored, this one is rejected. */
  readonly requiresSeq: number | undefined;
}

/** With a session and a seq, a message keeps its sender's order, and duplicates of it are recognized; if one is missing, neither holds. */
export function isNumbered<M extends Pick<PendingMessage, "session" | "seq">>(
  message: M,
): message is M & { readonly session: string; readonly seq: number } {
  return message.session !== undefined && message.seq !== undefined;
}

export interface StoredMessage {
  /** See message-id.ts. */
  readonly id: string;
  /** The id before it in its room, which makes gaps detectable. */
  readonly prev: string;
  /** The store's clock when the message was stored, independent of the id: Unix time in milliseconds. */
  readonly time: number;
  readonly room: string;
  readonly from: string;
  /** Undefined once a moderator has removed the message, which keeps its place in the order. */
  readonly content: Content | undefined;
}

/** A moderator's removal of messages: an entry in the order of its room, as a message is. */
export interface Removal {
  readonly id: string;
  readonly prev: string;
  readonly time: number;
  readonly room: string;
  readonly removes: RemovedMessages;
}

/** What has a place in the order of a room. */
export type StoredEntry = StoredMessage | Removal;

export function isMessage(entry: StoredEntry): entry is StoredMessage {
  return !("removes" in entry);
}

/** What a moderator asks to remove: one message, or all messages of a client so far. */
export type RemovalTarget = { readonly message: string } | { readonly from: string };

/** `"unconfirmed"`: the message may or may not have been stored, or may still be. Resending it with its `seq` settles that. */
export type RejectReason = "out-of-order" | "unavailable" | "unconfirmed";

/** The result of an append. The id of a duplicate is known only if it is the latest message of its session. */
export type AppendResult =
  | { readonly stored: StoredMessage }
  | { readonly duplicateSeq: number; readonly id?: string }
  | { readonly rejected: RejectReason };
