/** The Redis store: any number of nodes, one conversation. What is kept is what comes back through the log. */

import { logEvent, logError } from "../../ops/log.ts";
import { verifyRedis, describeDurability, type RedisConfig } from "./config.ts";
import { ClusterOutbox } from "./outbox.ts";
import { Faults, RedisConnection } from "./connection.ts";
import { LogReader } from "./log-reader.ts";
import { ClusterMembership } from "./cluster.ts";
import {
  isMessageId,
  parseMessages,
  parsePresence,
  parseLastSeq,
  type LogRecord,
  type RecordPart,
} from "./records.ts";
import { RedisRooms } from "./rooms.ts";
import { scripts } from "./scripts.ts";
import { BatchWriter } from "./writer.ts";
import {
  takePage,
  MAX_PAGE_BYTES,
  type HistoryPage,
  type ReadonlyHistory,
  type PageQuery,
} from "../history.ts";
import { sessionKey } from "../dedup.ts";
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

const SETTLE_LOOK_MS = 5;
/** How far a replay goes back at most, where more is asked for than the room's history has in memory. */
const MAX_REPLAY_BYTES = 8 * 1024 * 1024;

export class RedisStore implements MessageStore {
  durability = "";
  readonly cluster: Cluster;
  /** Redis takes what it is given. */
  #isTaking = true;
  /** What it was given can be heard of. */
  #isHearing = true;
  readonly #faults = new Faults();
  readonly #line: RedisConnection;
  readonly #changes: ClusterOutbox;
  readonly #nodes: ClusterMembership;
  readonly #writer: BatchWriter;
  readonly #rooms: RedisRooms;
  readonly #log: LogReader;

  constructor(
    private readonly address: RedisConfig,
    options: StoreOptions,
    private readonly follower: StoreListener,
  ) {
    const { url, prefix } = address;
    this.#line = new RedisConnection(url, prefix);
    this.#log = new LogReader(url, prefix, {
      heard: (record) => this.#onRecord(record),
      skipped: (record) => {
        this.#nodes.onLogGap(record);
        this.#resyncClients("the log has a gap");
      },
      deaf: (why) => {
        if (this.isReady) logEvent("store lost", { why });
        this.#isHearing = false;
        this.#writer.rejectQueued();
      },
      reading: () => this.#recover(() => (this.#isHearing = true)),
    });
    const changes = new ClusterOutbox(() => this.#writer.scheduleFlush());
    this.#changes = changes;
    this.#nodes = new ClusterMembership(this.#line, changes, options.keepDays, {
      position: () => this.#log.last,
      found: (newest) => this.#onAvailable(newest),
      lost: (why) => this.#onUnavailable(why),
      aged: (limitMs, nowMs) => this.#rooms.forgetOld(limitMs, nowMs),
    });
    this.#writer = new BatchWriter(
      this.#line,
      this.#nodes,
      changes,
      options.history,
      () => this.isReady,
      (why) => this.#onUnavailable(why),
    );
    this.#rooms = new RedisRooms(
      (name, maxBytes) =>
        this.#try(() => this.#line.askIdempotent(scripts.openRoom, name, options.history, maxBytes)),
      this.#nodes.ownNodeIds,
      options.history,
      follower,
    );
    this.cluster = {
      remoteConnections: (room) => this.#rooms.presentIn(room),
      listClients: (room) => this.#clientsIn(room),
      publishPresence: (room, client, connections) => changes.setPresence(room, client, connections),
      nextFencingToken: () => this.#ticket(),
      announceSession: (client, session, ticket) => changes.announceSession(client, session, ticket),
    };
  }

  async open(): Promise<void> {
    await verifyRedis(this.#line, this.address);
    try {
      this.durability = await describeDurability(this.#line, this.address);
      this.#log.seek(await this.#nodes.start());
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new StoreError(`Redis at ${this.address.name} cannot be used: ${why}`);
    }
    void this.#log.run();
  }

  get isReady(): boolean {
    return this.#isTaking && this.#isHearing;
  }

  acquireRoom(room: string): Promise<ReadonlyHistory> {
    return this.#rooms.open(room);
  }

  releaseRoom(room: string): void {
    this.#rooms.close(room);
  }

  append(pending: PendingMessage, sender: AppendCallback): void {
    this.#writer.append(pending, sender);
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    await this.#allAnswered(); // what is on its way may be of that session
    return this.#try(async () =>
      parseLastSeq(await this.#line.askIdempotent(scripts.lastSeq, sessionKey(client, session))),
    );
  }

  async readHistory(room: string, { after, before, limit }: PageQuery): Promise<HistoryPage> {
    return this.#try(async () => {
      if (after !== undefined && !isMessageId(after)) return { messages: [], more: false, recovered: false };
      if (after !== undefined) {
        const reply = await this.#line.askIdempotent(
          scripts.readAfter,
          room,
          limit + 1,
          2 * MAX_PAGE_BYTES,
          after,
        );
        const [recovered, rows]: unknown[] = Array.isArray(reply) ? reply : [];
        return { ...takePage(parseMessages(rows, room), limit), recovered: recovered === 1 };
      }
      const rows = await this.#line.askIdempotent(
        scripts.readBefore,
        room,
        limit + 1,
        2 * MAX_PAGE_BYTES,
        before ?? "",
      );
      const page = takePage(parseMessages(rows, room), limit);
      return { ...page, messages: page.messages.reverse() };
    });
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    return this.#try(async () =>
      String(await this.#line.askIdempotent(scripts.idBeforeLatest, room, count, MAX_REPLAY_BYTES)),
    );
  }

  async drain(): Promise<void> {
    await this.#allAnswered();
    // Whoever waits for the rest is to hear that nobody knows, before they are sent away.
    if (!this.isReady) this.#writer.abandonBatch();
  }

  async #allAnswered(): Promise<void> {
    const { accepted } = this.#writer; // what is given later is waited for by nobody here, or a busy node never settles
    while (this.#writer.settled < accepted && this.isReady) await Bun.sleep(SETTLE_LOOK_MS);
  }

  async close(): Promise<void> {
    await this.#nodes.end();
    this.#line.close();
    this.#log.end();
  }

  async #clientsIn(name: string): Promise<ReadonlySet<string>> {
    const reply = await this.#try(() => this.#line.askIdempotent(scripts.openRoom, name, 0, 0));
    const present = parsePresence(Array.isArray(reply) ? reply[3] : undefined);
    return new Set(present.flatMap(([client, node]) => (this.#nodes.ownNodeIds.has(node) ? [] : [client])));
  }

  /** Redis' clock, in microseconds. */
  #ticket(): Promise<number> {
    return this.#try(async () => {
      const reply = await this.#line.askIdempotent(scripts.serverTime);
      const [seconds, microseconds]: unknown[] = Array.isArray(reply) ? reply : [];
      return Number(seconds) * 1e6 + Number(microseconds);
    });
  }

  /** @throws StoreUnavailable */
  async #try<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (error) {
      this.#faults.check("Redis could not be asked", error);
      this.#nodes.probe();
      throw new StoreUnavailable();
    }
  }

  #onRecord(record: LogRecord): void {
    const pendingMessages = this.#writer.onRecord(record);
    let next = 0;
    for (const part of record.parts)
      try {
        this.#applyPart(record, part, part.kind === "answer" ? pendingMessages[next++] : undefined);
      } catch (error) {
        logError("What is kept could not be told", error); // and the rest still can
      }
  }

  #applyPart(
    { id, node }: LogRecord,
    part: RecordPart,
    waiting: { draft: PendingMessage; sender: AppendCallback } | undefined,
  ): void {
    const isOwn = this.#nodes.ownNodeIds.has(node);
    switch (part.kind) {
      case "answer":
        waiting?.sender.onResult(waiting.draft, part.answer);
        if ("stored" in part.answer)
          this.#rooms.apply(part.answer.stored.room, id, { stored: part.answer.stored });
        break;
      case "present":
        if (!isOwn) this.#rooms.apply(part.room, id, { ...part, node });
        break;
      case "opened":
        if (!isOwn) this.follower.onSessionClaimed(part.client, part.session, part.ticket);
        break;
      case "dead":
        this.#rooms.applyNodeDeath(part.node, id);
        break;
      default:
        part satisfies never;
    }
  }

  #onUnavailable(why: string): void {
    if (this.isReady) {
      logEvent("store lost", { why });
      // They may lead to a primary that is none any more.
      this.#line.reset();
      this.#log.drop();
    }
    this.#isTaking = false;
    this.#writer.rejectQueued();
    this.#nodes.probe();
  }

  #recover(recover: () => void): void {
    const wasReady = this.isReady;
    recover();
    if (wasReady || !this.isReady) return;
    logEvent("store found");
    this.#writer.scheduleFlush();
  }

  /** @param newest the end of the log, if it is not the one that was followed */
  #onAvailable(newest: string | undefined): void {
    if (newest !== undefined) {
      this.#log.seek(newest);
      this.#resyncClients("Redis has lost what it had");
    }
    this.#recover(() => (this.#isTaking = true));
  }

  /** Nobody here can be told what is missing; who comes again is. */
  #resyncClients(why: string): void {
    logEvent("store skipped", { why });
    this.#changes.expectReconnects(() => this.follower.onStateLost());
    this.#rooms.reloadAll();
  }
}
