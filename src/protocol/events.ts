/** What the server says on the JSON wire, as types alone: it encodes them, and the client hears them. */

export interface Welcome {
  readonly client: string;
  readonly room: string;
  /** The id just before the first message that follows. */
  readonly last: string;
  /** Only where one goes on: whether nothing is missing in between. */
  readonly recovered?: boolean;
  /** Only with a session: the highest number kept of it, or null if nothing is known of it. */
  readonly sent?: number | null;
  /** Clients in the room; `members` names some of them. */
  readonly count: number;
  readonly members: readonly string[];
  /** This client's own in the room, this one included. */
  readonly connections: number;
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
}

export interface PresenceChange {
  readonly joined: readonly string[];
  readonly left: readonly string[];
  readonly count: number;
}

export type ServerEvent =
  | ({ readonly type: "welcome" } & Welcome)
  | ({ readonly type: "message" } & ChatMessage)
  | ({ readonly type: "presence" } & PresenceChange)
  | { readonly type: "ack"; readonly seq: number; readonly id?: string | undefined }
  | {
      readonly type: "error";
      readonly code: string;
      readonly message: string;
      readonly seq?: number | undefined;
      readonly retryAfterSeconds?: number | undefined;
    }
  | { readonly type: "pong" };
