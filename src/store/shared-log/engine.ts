/** What a database has to offer so that nodes can share a log in it. */

import type { HistoryPage, PageQuery } from "../history.ts";
import type { PendingMessage, RemovalTarget, StoredEntry } from "../message.ts";
import type { Ban, ListedRoom } from "../store.ts";
import type { LogRecord } from "./log-record.ts";
import type { ClusterUpdate } from "./outbox.ts";

/** The database rejected the request, which had no effect. */
export class EngineRejection extends Error {}

/** The connection failed, or there was no reply in time: the request may have been executed. */
export class EngineUnreachable extends Error {}

/** What a node writes at once, under a number that makes it idempotent. */
export interface Batch {
  readonly node: string;
  readonly number: number;
  readonly updates: readonly ClusterUpdate[];
  readonly messages: readonly { readonly pending: PendingMessage }[];
}

export interface LogPage {
  readonly records: readonly LogRecord[];
  /** Where to continue. Rows that are not records may precede it. */
  readonly position: string;
}

export interface EngineHeartbeat {
  /** The node has joined, and was not removed. */
  readonly isKnown: boolean;
  /** The node's lease had not expired. */
  readonly wasAlive: boolean;
  /** The id of the log's last record. */
  readonly head: string;
  /** The id at which the data began; another one after the database has lost its data. */
  readonly epoch: string;
  /** The nodes without a lease that were not removed. */
  readonly expiredNodes: readonly string[];
  /** The database's clock: Unix time in milliseconds. */
  readonly nowMs: number;
  /** Messages up to this time are pruned; -Infinity if none are. */
  readonly cutoffMs: number;
}

export type Presence = readonly [client: string, node: string, connections: number];

export interface RoomSnapshot {
  /** Head of the log: what its records say is included. */
  readonly head: string;
  readonly lastId: string;
  readonly newestFirst: readonly StoredEntry[];
  readonly presence: readonly Presence[];
}

/**
 * Ids of records, messages and removals are one sequence, which only grows. Every request rejects with
 * {@link EngineRejection} or {@link EngineUnreachable} if it fails; any other error is a bug, and is logged as one.
 */
export interface Engine {
  /** For messages, such as `Redis at localhost:6379`. */
  readonly name: string;
  /**
   * Verifies that the database can be used, and prepares it.
   * @returns where messages are stored and how durably, as `MessageStore.durability` @throws StoreError
   */
  open(): Promise<string>;

  /** Adds a node, with a lease. */
  join(node: string): Promise<{ readonly head: string; readonly epoch: string }>;
  /** Renews the lease of a node, and deletes what is too old or too much. Rejects if the database accepts no writes. */
  heartbeat(node: string): Promise<EngineHeartbeat>;
  /** Gives up a node's lease. */
  leave(node: string): Promise<void>;
  /** Removes a node and its presence, as one record. @returns false if the node has a lease, or was removed before */
  removeNode(node: string): Promise<boolean>;

  /** Writes a batch as one record. @returns "eviction due" if it is written, and a heartbeat should follow */
  append(batch: Batch): Promise<"written" | "eviction due" | "written before" | "unknown node">;
  /** Only where a record takes effect with the next request: makes the last one take effect now. */
  applyPending?(): Promise<void>;
  /**
   * A few of the records after a position, oldest first. Requests one after the other: the next follows the reply.
   * @param after the id of a record, or a position that this method has returned
   * @param waitMs how long to wait for a record if there is none
   */
  readLog(after: string, waitMs: number): Promise<LogPage>;

  /** A consistent snapshot with the room's latest messages. */
  openRoom(room: string, maxMessages: number, maxBytes: number): Promise<RoomSnapshot>;
  readHistory(room: string, query: PageQuery): Promise<HistoryPage>;
  idBeforeLatest(room: string, count: number): Promise<string>;
  listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined>;
  lastSeq(client: string, session: string): Promise<number | null>;
  /** Greater than all before, whichever node asks. */
  nextFencingToken(): Promise<number>;
  /**
   * Written as one record, which has taken effect when this resolves. Repeating it has no other effect.
   * @returns how many messages were removed; undefined if the one message is not stored
   */
  remove(room: string, target: RemovalTarget): Promise<number | undefined>;
  /** Written as one record, which has taken effect when this resolves. */
  ban(ban: Ban): Promise<void>;
  /** Those that were not lifted; some may have ended. */
  readBans(): Promise<readonly Ban[]>;

  /** Requests in flight fail; the next ones use new connections. */
  reset(): void;
  close(): void;
}
