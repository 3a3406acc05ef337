/** The Redis store: any number of nodes with one order of messages. A message counts as stored when it comes back in the log. */

import { logEvent, logError } from "../../ops/log.ts";
import { ClusterMembership, type ClusterListener, type Heartbeat } from "./cluster.ts";
import { verifyRedis, describeDurability, type RedisConfig } from "../redis/config.ts";
import { RedisConnection } from "../redis/connection.ts";
import { LogReader, type LogListener } from "./log-reader.ts";
import { ClusterOutbox } from "./outbox.ts";
import type { LogRecord, RecordPart } from "./log-record.ts";
import { RedisRooms } from "./rooms.ts";
import { ScriptCalls } from "../redis/engine.ts";
import type { RedisContext } from "./timing.ts";
import { BatchWriter } from "./writer.ts";
import type { HistoryPage, PageQuery, ReadonlyHistory } from "../history.ts";
import type { PendingMessage, RemovalTarget } from "../message.ts";
import {
  StoreError,
  type Ban,
  type AppendCallback,
  type Cluster,
  type ListedRoom,
  type MessageStore,
  type StoreListener,
  type StoreOptions,
} from "../store.ts";

export class RedisStore implements MessageStore, Cluster, LogListener, ClusterListener {
  durability = "";
  readonly #failing = new Set<"writes" | "log">();
  readonly #scripts: ScriptCalls;
  readonly #log: LogReader;
  readonly #outbox: ClusterOutbox;
  readonly #rooms: RedisRooms;
  readonly #membership: ClusterMembership;
  readonly #writer: BatchWriter;

  constructor(
    private readonly config: RedisConfig,
    options: StoreOptions,
    private readonly listener: StoreListener,
    context: RedisContext,
  ) {
    const connect = () => new RedisConnection(config.url, config.prefix, context);
    this.#scripts = new ScriptCalls(connect(), context, options, () => this.#membership.probe());
    this.#log = new LogReader(connect(), context, this);
    this.#outbox = new ClusterOutbox(context, () => this.#writer.scheduleFlush());
    this.#membership = new ClusterMembership(this.#scripts, context, this.#log, this);
    this.#rooms = new RedisRooms(this.#scripts, this.#membership.ownNodeIds, options.history, listener);
    this.#writer = new BatchWriter(this.#scripts, context, this.#membership, this.#outbox, this);
  }

  async open(): Promise<void> {
    const { connection } = this.#scripts;
    await verifyRedis(connection, this.config);
    try {
      this.durability = await describeDurability(connection, this.config.name);
      this.#log.seek(await this.#membership.start());
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new StoreError(`Redis at ${this.config.name} cannot be used: ${reason}`);
    }
    void this.#log.run();
  }

  get isReady(): boolean {
    return this.#failing.size === 0;
  }

  acquireRoom(room: string): Promise<ReadonlyHistory> {
    return this.#rooms.open(room);
  }

  releaseRoom(room: string): void {
    this.#rooms.close(room);
  }

  append(pending: PendingMessage, callback: AppendCallback): void {
    this.#writer.append(pending, callback);
  }

  remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    return this.#scripts.remove(room, target);
  }

  readonly bans = {
    read: () => this.#scripts.readBans(),
    save: (ban: Ban) => this.#scripts.ban(ban),
  };

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#writer.acceptedSettled(); // messages of that session may be in flight
    return this.#scripts.lastSeq(client, session);
  }

  readHistory(room: string, query: PageQuery): Promise<HistoryPage> {
    return this.#scripts.readHistory(room, query);
  }

  idBeforeLatest(room: string, count: number): Promise<string> {
    return this.#scripts.idBeforeLatest(room, count);
  }

  listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    return this.#scripts.listRooms(after, limit);
  }

  async drain(): Promise<void> {
    await this.#writer.acceptedSettled();
    // If Redis is unavailable, senders learn that their messages are unconfirmed before their connections close.
    if (!this.isReady) this.#writer.abandonBatch();
  }

  async close(): Promise<void> {
    await this.#membership.close();
    this.#scripts.connection.close();
    this.#log.close();
  }

  remoteConnections(room: string): Iterable<readonly [client: string, connections: number]> {
    return this.#rooms.remoteConnections(room);
  }

  async listClients(room: string): Promise<ReadonlySet<string>> {
    const { presence } = await this.#scripts.openRoom(room, 0, 0);
    return new Set(
      presence.flatMap(([client, node]) => (this.#membership.ownNodeIds.has(node) ? [] : [client])),
    );
  }

  publishPresence(room: string, client: string, difference: number): void {
    this.#outbox.adjustPresence(room, client, difference);
  }

  nextFencingToken(): Promise<number> {
    return this.#scripts.nextFencingToken();
  }

  announceSession(client: string, session: string, fencingToken: number): void {
    this.#outbox.announceSession(client, session, fencingToken);
  }

  onRecord(record: LogRecord): void {
    const ownMessages = this.#writer.onRecord(record);
    let next = 0;
    for (const part of record.parts)
      try {
        if (part.kind === "result") {
          const own = ownMessages[next++];
          own?.callback.onResult(own.pending, part.result);
        }
        this.#applyPart(record, part);
      } catch (error) {
        logError("A part of a record could not be processed", error);
      }
  }

  #applyPart({ id, node }: LogRecord, part: RecordPart): void {
    const isOwn = this.#membership.ownNodeIds.has(node);
    switch (part.kind) {
      case "result":
        if ("stored" in part.result)
          this.#rooms.apply(part.result.stored.room, id, { entry: part.result.stored });
        break;
      case "removal":
        this.#rooms.apply(part.removal.room, id, { entry: part.removal });
        break;
      case "presence":
        if (!isOwn) this.#rooms.apply(part.room, id, { ...part, node });
        break;
      case "session":
        if (!isOwn) this.listener.onSessionClaimed(part.client, part.session, part.fencingToken);
        break;
      case "ban":
        this.listener.onBan(part.ban);
        break;
      case "nodeRemoved":
        this.#rooms.applyNodeRemoval(part.node, id);
        break;
      default:
        part satisfies never;
    }
  }

  onGap(recordId: string): void {
    this.#membership.onLogGap(recordId);
    this.#resyncClients("records are missing");
  }

  onUnreadable(reason: string): void {
    this.#fail("log", reason);
  }

  onReadable(): void {
    this.#recover("log");
  }

  onUnavailable(reason: string): void {
    if (this.#fail("writes", reason)) {
      // The connections may lead to a former primary.
      this.#scripts.connection.reset();
      this.#log.reset();
    }
    this.#membership.probe();
  }

  onAvailable({ newHead, isPresenceLost, nowMs, cutoffMs }: Heartbeat): void {
    this.#rooms.prune(cutoffMs, nowMs);
    if (isPresenceLost) this.#outbox.republishAll();
    if (newHead !== undefined) {
      this.#log.seek(newHead);
      this.#resyncClients("Redis has lost data");
    }
    this.#recover("writes");
    this.#outbox.publishOverdueLeaves();
  }

  /** @returns whether nothing failed before */
  #fail(what: "writes" | "log", reason: string): boolean {
    const wasReady = this.isReady;
    if (wasReady) logEvent("store unavailable", { reason });
    this.#failing.add(what);
    this.#writer.rejectQueued();
    return wasReady;
  }

  #recover(what: "writes" | "log"): void {
    if (!this.#failing.delete(what) || !this.isReady) return;
    logEvent("store available");
    this.#writer.scheduleFlush();
  }

  /** Messages may have been missed: clients have to reconnect, and resume. */
  #resyncClients(reason: string): void {
    logEvent("log gap", { reason });
    this.#outbox.expectReconnects(() => this.listener.onStateLost());
    this.#rooms.reloadAll();
  }
}
