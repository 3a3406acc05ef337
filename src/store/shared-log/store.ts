/** The store of any number of nodes, which have one order of messages. A message counts as stored when it comes back in the log. */

import { logEvent, logError } from "../../ops/log.ts";
import { ClusterMembership, type ClusterListener, type Heartbeat } from "./cluster.ts";
import { EngineUnreachable, type Engine } from "./engine.ts";
import { Faults } from "./faults.ts";
import { LogReader, type LogListener } from "./log-reader.ts";
import { ClusterOutbox } from "./outbox.ts";
import type { LogRecord, RecordPart } from "./log-record.ts";
import { OpenRooms } from "./rooms.ts";
import type { SharedLogContext } from "./timing.ts";
import { BatchWriter } from "./writer.ts";
import type { HistoryPage, PageQuery, ReadonlyHistory } from "../history.ts";
import type { PendingMessage, RemovalTarget } from "../message.ts";
import {
  StoreError,
  StoreUnavailable,
  type Ban,
  type AppendCallback,
  type Cluster,
  type ListedRoom,
  type MessageStore,
  type StoreListener,
  type StoreOptions,
} from "../store.ts";

export class SharedLogStore implements MessageStore, Cluster, LogListener, ClusterListener {
  durability = "";
  readonly #failing = new Set<"writes" | "log">();
  readonly #faults = new Faults();
  readonly #log: LogReader;
  readonly #outbox: ClusterOutbox;
  readonly #rooms: OpenRooms;
  readonly #membership: ClusterMembership;
  readonly #writer: BatchWriter;

  constructor(
    private readonly engine: Engine,
    options: StoreOptions,
    private readonly listener: StoreListener,
    context: SharedLogContext,
  ) {
    this.#log = new LogReader(engine, context, this);
    this.#outbox = new ClusterOutbox(context, () => this.#writer.scheduleFlush());
    this.#membership = new ClusterMembership(engine, context, this.#log, this);
    this.#rooms = new OpenRooms(
      { openRoom: (...args) => this.#request(() => engine.openRoom(...args)) },
      this.#membership.ownNodeIds,
      options.history,
      listener,
    );
    this.#writer = new BatchWriter(engine, context, this.#membership, this.#outbox, this);
  }

  async open(): Promise<void> {
    try {
      this.durability = await this.engine.open();
      this.#log.seek(await this.#membership.start());
    } catch (error) {
      if (error instanceof StoreError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new StoreError(`${this.engine.name} cannot be used: ${reason}`);
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

  async remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    await this.#writer.acceptedSettled(); // messages to remove may be in flight
    return this.#request(() => this.engine.remove(room, target));
  }

  readonly bans = {
    read: () => this.#request(() => this.engine.readBans()),
    save: (ban: Ban) => this.#request(() => this.engine.ban(ban)),
  };

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#writer.acceptedSettled(); // messages of that session may be in flight
    return this.#request(() => this.engine.lastSeq(client, session));
  }

  readHistory(room: string, query: PageQuery): Promise<HistoryPage> {
    return this.#request(() => this.engine.readHistory(room, query));
  }

  idBeforeLatest(room: string, count: number): Promise<string> {
    return this.#request(() => this.engine.idBeforeLatest(room, count));
  }

  listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    return this.#request(() => this.engine.listRooms(after, limit));
  }

  async drain(): Promise<void> {
    await this.#writer.acceptedSettled();
    // If the database is unavailable, senders learn that their messages are unconfirmed before their connections close.
    if (!this.isReady) this.#writer.abandonBatch();
  }

  async close(): Promise<void> {
    await this.#membership.close();
    this.#log.close();
    this.engine.close();
  }

  remoteConnections(room: string): Iterable<readonly [client: string, connections: number]> {
    return this.#rooms.remoteConnections(room);
  }

  async listClients(room: string): Promise<ReadonlySet<string>> {
    const { presence } = await this.#request(() => this.engine.openRoom(room, 0, 0));
    return new Set(
      presence.flatMap(([client, node]) => (this.#membership.ownNodeIds.has(node) ? [] : [client])),
    );
  }

  publishPresence(room: string, client: string, difference: number): void {
    this.#outbox.adjustPresence(room, client, difference);
  }

  nextFencingToken(): Promise<number> {
    return this.#request(() => this.engine.nextFencingToken());
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
        if ("from" in part.removal.removes)
          this.listener.onRemovedAll(part.removal.room, part.removal.removes.from);
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
      this.engine.reset();
    }
    this.#membership.probe();
  }

  onAvailable({ newHead, isPresenceLost, nowMs, cutoffMs }: Heartbeat): void {
    this.#rooms.prune(cutoffMs, nowMs);
    if (isPresenceLost) this.#outbox.republishAll();
    if (newHead !== undefined) {
      this.#log.seek(newHead);
      this.#resyncClients(`${this.engine.name} has lost data`);
    }
    this.#recover("writes");
    this.#outbox.publishOverdueLeaves();
  }

  /** Retried once, over a new connection, if there is no reply. @throws StoreUnavailable */
  async #request<T>(send: () => Promise<T>): Promise<T> {
    try {
      return await send().catch((error: unknown) => {
        if (error instanceof EngineUnreachable) return send();
        throw error;
      });
    } catch (error) {
      this.#faults.check("The store could not be read", error);
      this.#membership.probe();
      throw new StoreUnavailable();
    }
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
