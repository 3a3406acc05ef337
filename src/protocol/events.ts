/** The events that the server sends on the JSON wire, as types for the server and the client library. README.md specifies them. */

/** What a client may do: read a room, write to it, remove what others wrote, read the metrics. */
export type Right = "read" | "write" | "moderate" | "metrics";

export interface Welcome {
  readonly client: string;
  readonly room: string;
  /** The id just before the first message that follows. */
  readonly last: string;
  /** Only when resuming: whether nothing is missing since. */
  readonly recovered?: boolean;
  /** Only with a session: its highest stored seq; null if the session is unknown. */
  readonly sent?: number | null;
  /** Clients in the room; `members` lists up to 100 of them. */
  readonly count: number;
  readonly members: readonly string[];
  /** This client's connections in the room, including this one. */
  readonly connections: number;
  /** What the client may do. */
  readonly can: readonly Right[];
  readonly pingSeconds: number;
  readonly maxMessageBytes: number;
}

export interface ChatMessage {
  readonly id: string;
  /** Unix time in milliseconds. */
  readonly time: number;
  readonly from: string;
  readonly text?: string;
  /** A binary message, in base64. */
  readonly data?: string;
  /** A moderator has removed the message: it has neither text nor data. */
  readonly removed?: true;
}

/** What a moderator has removed: one message, or all messages of a client up to an id. */
export type RemovedMessages = { readonly message: string } | { readonly from: string; readonly upTo: string };

/** A removal; its id is a place in the order, as a message's. */
export type Removal = { readonly id: string } & RemovedMessages;

export interface PresenceChange {
  readonly joined: readonly string[];
  readonly left: readonly string[];
  readonly count: number;
}

export type ServerEvent =
  | ({ readonly type: "welcome" } & Welcome)
  | ({ readonly type: "message" } & ChatMessage)
  | ({ readonly type: "presence" } & PresenceChange)
  | ({ readonly type: "removed" } & Removal)
  | { readonly type: "ack"; readonly seq: number; readonly id?: string | undefined }
  | {
      readonly type: "error";
      readonly code: string;
      readonly message: string;
      readonly seq?: number | undefined;
      readonly retryAfterSeconds?: number | undefined;
    }
  | { readonly type: "pong" };
