/**
 * The Hubbub client: one connection to a room that reconnects by itself. It runs in browsers and in Bun and imports
 * nothing at run time, so that the server can serve it as it is.
 *
 *     import { connect } from "https://chat.example/hubbub.js";
 *     const room = connect({ id: "ann", room: "tea" });
 *     room.on("message", ({ from, text }) => console.log(from, text));
 *     room.send("hi");
 *
 * Bun does not import over HTTP: there, use a copy of the file and set `server`.
 *
 * Sent messages stay in the outbox until the server has acknowledged them, across any number of connections, and are
 * stored exactly once. Messages are received once each, in the room's order; `welcome` says if some are missing.
 */
export interface ConnectOptions {
  /** Origin of the server, such as `http://localhost:8000`. Default: where this module was loaded from. */
  readonly server?: string;
  /** The client id: 1 to 64 letters, digits, `_`, `-` or `.`. */
  readonly id: string;
  /** Default: `lobby`. */
  readonly room?: string;
  /**
   * A token, if the server requires one, or a function that gets one. Its `sub` must be the id. The function is called
   * before the first connection, and again after the server has rejected the token, as it does once it has expired.
   */
  readonly token?: string | (() => string | Promise<string>);
  /** Name of this sender's numbered stream of messages. Default: a random one. To continue one, pass its `outbox` too. */
  readonly session?: string;
  /** Unacknowledged messages of the session, as an earlier {@link Client} left them. */
  readonly outbox?: readonly OutboxItem[];
  /** Id of the last message received earlier: the server resumes after it. */
  readonly after?: string;
  /**
   * What to do with messages in flight when the server has forgotten the session: true resends them, which may
   * duplicate some; false (the default) drops them and emits `unconfirmed`.
   */
  readonly resendUnknown?: boolean;
  /** How many of the latest messages to replay first. Default: the server's `--history`. */
  readonly history?: number;
}
/** A message that is not acknowledged yet. Plain data: it can be stored, and passed to a later client as `outbox`. */
export interface OutboxItem {
  readonly text?: string;
  /** Of a binary message, instead of a text: its bytes in base64. */
  readonly data?: string;
  /** Its number in the session, set when it is first sent. */
  seq?: number;
  /** When it was first sent; Unix time in milliseconds. */
  firstSentAt?: number;
}
/**
 * - `connecting`: an attempt is under way, or about to start.
 * - `open`: the server has sent its welcome.
 * - `reconnecting`: the connection was lost or refused; the next attempt is at `retryAt` (Unix time in milliseconds).
 * - `closed`: by {@link Client.close}, or for good by the server. Then `statusCode` is the HTTP status or the
 *   WebSocket close code, and `code` the `Hubbub-Code` of a rejection, such as `bad-name`.
 *
 * `reason` is a sentence that can be shown to users.
 */
export type ConnectionState =
  | {
      readonly status: "connecting" | "open";
      readonly reason?: undefined;
    }
  | {
      readonly status: "reconnecting";
      readonly retryAt: number;
      readonly reason: string;
    }
  | ClosedState;
export interface ClosedState {
  readonly status: "closed";
  readonly reason: string;
  readonly statusCode?: number;
  readonly code?: string;
}
/** A message of the room. A binary one has `data`, and the same as `bytes`, instead of a text; a removed one has neither. */
export interface ReceivedMessage extends ChatMessage {
  readonly bytes?: Uint8Array<ArrayBuffer> | undefined;
}
export interface ClientEvents {
  state: ConnectionState;
  /** A connection is established; the replay follows. `recovered: false` means that messages may be missing. */
  welcome: Welcome;
  /** A message of the room, replayed or live, one's own included. */
  message: ReceivedMessage;
  /** The replay of a new connection is complete: `count` messages of it. What follows is live. */
  replayed: {
    readonly count: number;
  };
  presence: PresenceChange;
  /** A moderator has removed messages that were received earlier: one, or all of a client up to an id. */
  removed: Removal;
  /** The message is stored. `id` is its message id, or undefined if it was acknowledged through a later connection. */
  acknowledged: {
    readonly item: OutboxItem;
    readonly id?: string | undefined;
  };
  /** The message was not stored and is not resent. `code` is an error code of the protocol, `message` a sentence. */
  rejected: {
    readonly item: OutboxItem;
    readonly code: string;
    readonly message: string;
  };
  /** The server has forgotten the session, so the message may or may not have been stored. It is not resent. */
  unconfirmed: OutboxItem;
}
/**
 * Connects to a room. Returns at once; the first attempt starts after the current task, so that handlers can be added.
 * @throws if the server's address is not an http or https URL
 */
export declare function connect(options: ConnectOptions): Client;
/** A connection to a room, made by {@link connect}. */
export declare class Client {
  #private;
  /** Name of the session: the one given, or a random one. */
  readonly session: string;
  /** Messages that are not acknowledged yet, in the order of sending. Read it, do not change it. */
  outbox: OutboxItem[];
  state: ConnectionState;
  constructor(options: ConnectOptions);
  /** Adds a handler. What a handler throws is logged and does not affect the others. @returns this client */
  on<E extends keyof ClientEvents>(event: E, handler: (event: ClientEvents[E]) => void): this;
  /**
   * Adds a message to the outbox and sends it as soon as the connection is open. The result is emitted as
   * `acknowledged`, `rejected` or `unconfirmed`, with the returned item.
   * @param content a text, or the bytes of a binary message
   */
  send(content: string | Uint8Array | ArrayBuffer): OutboxItem;
  /**
   * Reads a page of the room's history over HTTP: up to 100 messages before the given one, oldest first.
   * @param before a message id
   * @returns the messages, and whether there are older ones
   * @throws an Error with the server's sentence, or one saying that a proxy answered instead; the error of `fetch` if
   *   there is no connection
   */
  historyBefore(before: string): Promise<{
    messages: ReceivedMessage[];
    more: boolean;
  }>;
  /** Connects now instead of at `retryAt`; also after the server has closed the connection for good. */
  retryNow(): void;
  /** Closes the connection for good. The outbox stays readable, so that it can be stored. */
  close(reason?: string): void;
  /** Runs at every ping interval: reconnects if the last ping is unanswered, otherwise pings again. */
  checkAlive(): void;
}
/** The client id (`sub`) that a token names, without verifying it; undefined if it is not a token. */
export declare function tokenSubject(token: string): string | undefined;
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
export type RemovedMessages =
  | {
      readonly message: string;
    }
  | {
      readonly from: string;
      readonly upTo: string;
    };
/** A removal; its id is a place in the order, as a message's. */
export type Removal = {
  readonly id: string;
} & RemovedMessages;
export interface PresenceChange {
  readonly joined: readonly string[];
  readonly left: readonly string[];
  readonly count: number;
}
export type ServerEvent =
  | ({
      readonly type: "welcome";
    } & Welcome)
  | ({
      readonly type: "message";
    } & ChatMessage)
  | ({
      readonly type: "presence";
    } & PresenceChange)
  | ({
      readonly type: "removed";
    } & Removal)
  | {
      readonly type: "ack";
      readonly seq: number;
      readonly id?: string | undefined;
    }
  | {
      readonly type: "error";
      readonly code: string;
      readonly message: string;
      readonly seq?: number | undefined;
      readonly retryAfterSeconds?: number | undefined;
    }
  | {
      readonly type: "pong";
    };
