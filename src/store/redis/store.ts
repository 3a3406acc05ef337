/** The Redis store: any number of nodes with one order of messages. A message counts as stored when it comes back in the log. */

import { logEvent, logError } from "../../ops/log.ts";
import { ClusterMembership } from "./cluster.ts";
import { verifyRedis, describeDurability, type RedisConfig } from "./config.ts";
import { Faults, RedisConnection, type RedisContext } from "./connection.ts";
import { LogReader } from "./log-reader.ts";
import { ClusterOutbox } from "./outbox.ts";
import { parseMessages, parsePresence, parseLastSeq, type LogRecord, type RecordPart } from "./records.ts";
import { RedisRooms } from "./rooms.ts";
import { scripts, type RedisScript } from "./scripts.ts";
import { BatchWriter } from "./writer.ts";
import { sessionKey } from "../dedup.ts";
import {
  takePage,
  MAX_PAGE_BYTES,
  type HistoryPage,
  type ReadonlyHistory,
  type PageQuery,
} from "../history.ts";
import { isMessageId } from "../message-id.ts";
import type { PendingMessage } from "../message.ts";
import {
  StoreError,
  StoreUnavailable,
  type StoreListener,
  type Cluster,
  type AppendCallback,
  type MessageStore,
  type StoreOptions,
} from "../store.ts";

/** How much history a replay sends at most if more is requested than the cache has. */
const MAX_REPLAY_BYTES = 8 * 1024 * 1024;

export class RedisStore implements MessageStore {
  durability = "";
  readonly cluster: Cluster;
  #canWrite = true;
  #canReadLog = true;
  readonly #ownNodeIds = new Set<string>();
  readonly #faults = new Faults();
  readonly #context: RedisContext;
  readonly #log: LogReader;
  readonly #outbox: ClusterOutbox;
  readonly #rooms: RedisRooms;
  readonly #membership: ClusterMembership;
  readonly #writer: BatchWriter;

  constructor(
    private readonly config: RedisConfig,
    { history, keepDays }: StoreOptions,
    private readonly listener: StoreListener,
    { clock, random, timing }: Omit<RedisContext, "connection">,
  ) {
    const connect = () => new RedisConnection(config.url, config.prefix, timing, clock);
    this.#context = { connection: connect(), clock, random, timing };
    this.#log = new LogReader(connect(), timing, clock, {
      onRecord: (record) => this.#onRecord(record),
      onGap: (recordId) => {
        this.#membership.onLogGap(recordId);
        this.#resyncClients("records are missing");
      },
      onUnreadable: (reason) => {
        if (this.isReady) logEvent("store unavailable", { reason });
        this.#canReadLog = false;
        this.#writer.rejectQueued();
      },
      onReadable: () => this.#recover(() => (this.#canReadLog = true)),
    });
    this.#outbox = new ClusterOutbox(clock, timing.reconnectMs, () => this.#writer.scheduleFlush());
    this.#rooms = new RedisRooms(
      (room, maxBytes) => this.#read(scripts.openRoom, room, history, maxBytes),
      this.#ownNodeIds,
      history,
      listener,
    );
    this.#membership = new ClusterMembership(
      this.#context,
      this.#ownNodeIds,
      this.#log,
      this.#outbox,
      this.#rooms,
      keepDays,
      {
        onAvailable: (newHead) => this.#onAvailable(newHead),
        onUnavailable: (reason) => this.#onUnavailable(reason),
      },
    );
    this.#writer = new BatchWriter(
      this.#context,
      this.#membership,
      this.#outbox,
      history,
      () => this.isReady,
      (reason) => this.#onUnavailable(reason),
    );
    this.cluster = {
      remoteConnections: (room) => this.#rooms.remoteConnections(room),
      listClients: (room) => this.#listClients(room),
      publishPresence: (room, client, difference) => this.#outbox.adjustPresence(room, client, difference),
      nextFencingToken: () => this.#nextFencingToken(),
      announceSession: (client, session, fencingToken) =>
        this.#outbox.announceSession(client, session, fencingToken),
    };
  }

  async open(): Promise<void> {
    const { connection } = this.#context;
    await verifyRedis(connection, this.config);
    try {
      this.durability = await describeDurability(connection, this.config);
      this.#log.seek(await this.#membership.start());
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new StoreError(`Redis at ${this.config.name} cannot be used: ${reason}`);
    }
    void this.#log.run();
  }

  get isReady(): boolean {
    return this.#canWrite && this.#canReadLog;
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

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#acceptedSettled(); // messages of that session may be in flight
    return parseLastSeq(await this.#read(scripts.lastSeq, sessionKey(client, session)));
  }

  async readHistory(room: string, { after, before = "", limit }: PageQuery): Promise<HistoryPage> {
    // Of the rows' bytes; the page itself is limited by takePage.
    const limits = [limit + 1, 2 * MAX_PAGE_BYTES];
    if (after === undefined) {
      const rows = await this.#read(scripts.readBefore, room, ...limits, before);
      const page = takePage(parseMessages(rows, room), limit);
      return { ...page, messages: page.messages.reverse() };
    }
    if (!isMessageId(after)) return { messages: [], more: false, recovered: false };
    const reply = await this.#read(scripts.readAfter, room, ...limits, after);
    const [recovered, rows]: unknown[] = Array.isArray(reply) ? reply : [];
    return { ...takePage(parseMessages(rows, room), limit), recovered: recovered === 1 };
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    return String(await this.#read(scripts.idBeforeLatest, room, count, MAX_REPLAY_BYTES));
  }

  async drain(): Promise<void> {
    await this.#acceptedSettled();
    // If Redis is unavailable, senders learn that their messages are unconfirmed before their connections close.
    if (!this.isReady) this.#writer.abandonBatch();
  }

  async close(): Promise<void> {
    await this.#membership.close();
    this.#context.connection.close();
    this.#log.close();
  }

  /** Waits for the messages accepted so far; a busy node never settles those that follow. */
  async #acceptedSettled(): Promise<void> {
    const { clock, timing } = this.#context;
    const { accepted } = this.#writer;
    while (this.#writer.settled < accepted && this.isReady) await clock.sleep(timing.drainPollMs);
  }

  async #listClients(room: string): Promise<ReadonlySet<string>> {
    const reply = await this.#read(scripts.openRoom, room, 0, 0);
    const presence = parsePresence(Array.isArray(reply) ? reply[3] : undefined);
    return new Set(presence.flatMap(([client, node]) => (this.#ownNodeIds.has(node) ? [] : [client])));
  }

  /** Redis' clock, in microseconds. */
  async #nextFencingToken(): Promise<number> {
    const reply = await this.#read(scripts.serverTime);
    const [seconds, microseconds]: unknown[] = Array.isArray(reply) ? reply : [];
    return Number(seconds) * 1e6 + Number(microseconds);
  }

  /** @throws StoreUnavailable */
  async #read(script: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    try {
      return await this.#context.connection.askIdempotent(script, ...args);
    } catch (error) {
      this.#faults.check("Redis could not be read", error);
      this.#membership.probe();
      throw new StoreUnavailable();
    }
  }

  #onRecord(record: LogRecord): void {
    const ownMessages = this.#writer.onRecord(record);
    let next = 0;
    for (const part of record.parts)
      try {
        if (part.kind === "result") {
          const own = ownMessages[next++];
          own?.sender.onResult(own.pending, part.result);
        }
        this.#applyPart(record, part);
      } catch (error) {
        logError("A part of a record could not be processed", error);
      }
  }

  #applyPart({ id, node }: LogRecord, part: RecordPart): void {
    const isOwn = this.#ownNodeIds.has(node);
    switch (part.kind) {
      case "result":
        if ("stored" in part.result) this.#rooms.apply(part.result.stored.room, id, part.result);
        break;
      case "presence":
        if (!isOwn) this.#rooms.apply(part.room, id, { ...part, node });
        break;
      case "session":
        if (!isOwn) this.listener.onSessionClaimed(part.client, part.session, part.fencingToken);
        break;
      case "nodeRemoved":
        this.#rooms.applyNodeRemoval(part.node, id);
        break;
      default:
        part satisfies never;
    }
  }

  #onUnavailable(reason: string): void {
    if (this.isReady) {
      logEvent("store unavailable", { reason });
      // The connections may lead to a former primary.
      this.#context.connection.reset();
      this.#log.reset();
    }
    this.#canWrite = false;
    this.#writer.rejectQueued();
    this.#membership.probe();
  }

  /** @param newHead the end of the log, if Redis has lost the data that this node followed */
  #onAvailable(newHead: string | undefined): void {
    if (newHead !== undefined) {
      this.#log.seek(newHead);
      this.#resyncClients("Redis has lost data");
    }
    this.#recover(() => (this.#canWrite = true));
  }

  #recover(recover: () => void): void {
    const wasReady = this.isReady;
    recover();
    if (wasReady || !this.isReady) return;
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
