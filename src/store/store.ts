/** What a store is: it accepts messages and removals, assigns their ids, and emits all of them in one order. */

import type { HistoryPage, PageQuery, ReadonlyHistory } from "./history.ts";
import type { AppendResult, PendingMessage, RemovalTarget, StoredEntry } from "./message.ts";

/**
 * Results may be reported at once or later, but messages are decided in the order in which they were appended.
 * A read that is not possible at the moment rejects with {@link StoreUnavailable}.
 */
export interface MessageStore {
  /** Where messages are stored and how durable that is: the end of a sentence for the operator, set once it is open. */
  readonly durability: string;
  /** Called before anything else. @throws StoreError */
  open?(): Promise<void>;
  /** The room's latest messages, kept up to date and protected from eviction until {@link releaseRoom} is called as often. */
  acquireRoom(room: string): Promise<ReadonlyHistory>;
  releaseRoom(room: string): void;
  append(pending: PendingMessage, callback: AppendCallback): void;
  /**
   * Erases the content of messages, which keep their places, and adds one entry that says so; none if there is nothing
   * to remove. Messages that were accepted before are included, whether they are stored yet or not.
   * @returns how many messages were removed; undefined if the one message is not stored @throws StoreUnavailable
   */
  remove(room: string, target: RemovalTarget): Promise<number | undefined>;
  /** The highest `seq` stored of that session, or null if the session is unknown. */
  lastSeq(client: string, session: string): Promise<number | null>;
  /** A page of a room's messages, whether the room is acquired or not. */
  readHistory(room: string, query: PageQuery): Promise<HistoryPage>;
  /**
   * Rooms that have messages, that of the latest message first.
   * @param after continue after this room @returns undefined if that room is not one of them
   */
  listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined>;
  /** The id before a room's latest `count` messages. Only where a room may have more than its acquired history. */
  idBeforeLatest?(room: string, count: number): Promise<string>;
  /** Only where bans outlive the process, or reach other nodes. */
  readonly bans?: BanStore;
  /** Whether it can store messages at the moment. */
  readonly isReady: boolean;
  /** Waits until every append has its result. */
  drain(): Promise<void>;
  /** Releases what it holds. Reads that are still under way reject. */
  close(): void | Promise<void>;
}

/** A client that a moderator has disconnected must not return before a time. */
export interface Ban {
  /** A client id; or that of a guest, `@` and an address that it was connected from. */
  readonly client: string;
  /** Room patterns; those after a `!` are excluded. */
  readonly rooms: readonly string[];
  /** Unix time in milliseconds, by the clock of the server; 0: the ban was lifted. */
  readonly untilMs: number;
}

interface BanStore {
  /** Those that were not lifted; some may have ended. @throws StoreUnavailable */
  read(): Promise<readonly Ban[]>;
  /** @throws StoreUnavailable */
  save(ban: Ban): Promise<void>;
}

/** A room, and id and time of its latest message. */
export interface ListedRoom {
  readonly room: string;
  readonly id: string;
  readonly time: number;
}

export interface AppendCallback {
  onResult(pending: PendingMessage, result: AppendResult): void;
}

/** What a store reports, everything in its one order. */
export interface StoreListener {
  readonly onEntry: EntryListener;
  /** On another node, a client has opened that number of connections in a room, or closed them if it is negative. */
  onRemotePresence(room: string, client: string, difference: number): void;
  /** Another node claimed a session. */
  onSessionClaimed(client: string, session: string, fencingToken: number): void;
  /** A client was banned, on whichever node. */
  onBan(ban: Ban): void;
  /** All messages of a client in a room were removed, on whichever node. */
  onRemovedAll(room: string, client: string): void;
  /** Messages may have been missed: all clients have to reconnect, and resume. */
  onStateLost(): void;
}

/** Receives each stored message once, just after its sender received the result, and each removal once. */
export type EntryListener = (entry: StoredEntry) => void;

/** What a `--store` URL opens. */
export interface Backend {
  readonly store: MessageStore;
  /** Only where several nodes can share the store. */
  readonly cluster?: Cluster;
}

/** The other nodes that share the store. */
export interface Cluster {
  /** Connections in an acquired room on other nodes, as of the last call of {@link StoreListener.onRemotePresence}. */
  remoteConnections(room: string): Iterable<readonly [client: string, connections: number]>;
  /** Who is in a room through other nodes, whether it is acquired here or not. @throws StoreUnavailable */
  listClients(room: string): Promise<ReadonlySet<string>>;
  /** A client has opened that number of connections in a room on this node, or closed them if it is negative. */
  publishPresence(room: string, client: string, difference: number): void;
  /** A number greater than all before, whichever node asks. @throws StoreUnavailable */
  nextFencingToken(): Promise<number>;
  /** Publishes that a session was claimed on this node, by a client that has answered a ping since. */
  announceSession(client: string, session: string, fencingToken: number): void;
}

export interface StoreOptions {
  /** How many of a room's latest messages are cached for newcomers; the memory store and Redis retain no more. */
  readonly history: number;
  /** Older messages are pruned; 0: never. */
  readonly keepDays: number;
}

/** The store cannot be used. The message is a sentence for the operator. */
export class StoreError extends Error {}

/** The store cannot be read at the moment. The store logs why; a retry may succeed. */
export class StoreUnavailable extends Error {
  constructor() {
    super("the store is unavailable");
  }
}
