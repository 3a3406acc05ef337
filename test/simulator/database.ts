/**
 * A database for the shared log, in memory: what the nodes' engines have in common, and what goes wrong with it. All of
 * its state follows from its log, so that losing data is losing the last records.
 */

import { DedupTable, sessionKey } from "../../src/store/dedup.ts";
import { History, takeLatest, type HistoryPage, type PageQuery } from "../../src/store/history.ts";
import { compareIds, IdGenerator } from "../../src/store/message-id.ts";
import {
  type AppendResult,
  type PendingMessage,
  type Removal,
  type RemovalTarget,
  type StoredEntry,
} from "../../src/store/message.ts";
import {
  EngineRejection,
  EngineUnreachable,
  type Batch,
  type Engine,
  type EngineHeartbeat,
  type LogPage,
  type Presence,
  type RoomSnapshot,
} from "../../src/store/shared-log/engine.ts";
import type { LogRecord, RecordPart } from "../../src/store/shared-log/log-record.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import type { Ban, ListedRoom } from "../../src/store/store.ts";
import { Owner, type World } from "./world.ts";

export interface DatabaseSettings {
  readonly kind: "shared-log";
  readonly nodes: number;
  /** Each request and each reply takes up to that long. */
  readonly delayMs: number;
  /** The share of requests that are executed, and whose reply is lost with the connection. */
  readonly lostReplyShare: number;
  /** Each room retains only `--history` messages, as with Redis. */
  readonly isTrimmed: boolean;
}

const REPLY_MS = 3000;
const MAX_RECORDS = 20;
const SESSION_TTL_MS = 24 * 3_600_000;
const NEVER = "0-0";
/** Replies that ask for a heartbeat. */
const EVICTION_SHARE = 0.02;

/** A record, and which session numbers it makes known. */
interface Row {
  readonly record: LogRecord;
  readonly timeMs: number;
  readonly sessions: readonly { readonly pending: PendingMessage; readonly id: string }[];
}

interface NodeState {
  lastBatch: number;
  leaseUntilMs: number;
}

export class Database {
  readonly owner = new Owner("database");
  /** It accepts no writes. */
  isRejecting = false;
  /** From the end of the faults on, no reply is lost. */
  isReliable = false;
  /** Nothing reaches it, and all connections are gone. */
  isDown = false;
  #rows: Row[] = [];
  /** Older records are trimmed from the log; what they did is not. */
  #firstLogged = 0;
  #epoch = "";
  #nodes = new Map<string, NodeState>();
  readonly #ids: IdGenerator;
  #fencingToken = 0;
  #rooms = new Map<string, History>();
  #sessions = new DedupTable(SESSION_TTL_MS);
  /** Room, node, client. */
  #presence = new Map<string, Map<string, Map<string, number>>>();
  #bans = new Map<string, Ban>();
  readonly #waiting = new Set<() => void>();

  constructor(
    readonly world: World,
    readonly settings: DatabaseSettings,
    private readonly history: number,
  ) {
    this.#ids = new IdGenerator(Math.floor(world.dice.next() * 1000));
  }

  get nowMs(): number {
    return this.world.dateOf(this.owner);
  }

  get #head(): string {
    return this.#rows.at(-1)?.record.id ?? (this.#epoch || NEVER);
  }

  // Faults

  /** Every node that has not read them by now finds a gap. */
  trimLog(kept: number): void {
    this.#firstLogged = Math.max(this.#firstLogged, this.#rows.length - kept);
  }

  /** As after a crash without the last records, or without any. @returns the entries that are gone */
  loseRecords(count: number): StoredEntry[] {
    const kept = Math.max(0, this.#rows.length - count);
    const lost = this.#rows.slice(kept).flatMap(({ record }) => entriesOf(record));
    const rows = this.#rows.slice(0, kept);
    const nodes = this.#nodes;
    this.#rows = [];
    this.#nodes = new Map();
    this.#rooms = new Map();
    this.#sessions = new DedupTable(SESSION_TTL_MS);
    this.#presence = new Map();
    this.#bans = new Map();
    this.#firstLogged = Math.min(this.#firstLogged, kept);
    for (const [node, { leaseUntilMs }] of nodes) this.#nodes.set(node, { lastBatch: 0, leaseUntilMs });
    for (const row of rows) this.#apply(row);
    return lost;
  }

  loseEverything(): StoredEntry[] {
    const lost = this.loseRecords(Infinity);
    this.#epoch = "";
    this.#nodes.clear();
    return lost;
  }

  // Requests

  join(node: string): { head: string; epoch: string } {
    this.#epoch ||= this.#ids.next(this.nowMs);
    this.#nodes.set(node, { lastBatch: 0, leaseUntilMs: this.nowMs + sharedLogTiming.leaseMs });
    return { head: this.#head, epoch: this.#epoch };
  }

  heartbeat(node: string): EngineHeartbeat {
    const { nowMs } = this;
    const state = this.#nodes.get(node);
    const wasAlive = state !== undefined && state.leaseUntilMs > nowMs;
    if (state) state.leaseUntilMs = nowMs + sharedLogTiming.leaseMs;
    const expiredNodes = [...this.#nodes].flatMap(([id, { leaseUntilMs }]) =>
      leaseUntilMs <= nowMs ? [id] : [],
    );
    const isKnown = state !== undefined;
    return {
      isKnown,
      wasAlive,
      head: this.#head,
      epoch: this.#epoch,
      expiredNodes,
      nowMs,
      cutoffMs: -Infinity,
    };
  }

  leave(node: string): void {
    const state = this.#nodes.get(node);
    if (state) state.leaseUntilMs = 0;
  }

  removeNode(node: string): boolean {
    const state = this.#nodes.get(node);
    if (!state || state.leaseUntilMs > this.nowMs) return false;
    this.#write("-", 0, [{ kind: "nodeRemoved", node }]);
    return true;
  }

  append({ node, number, updates, messages }: Batch) {
    const state = this.#nodes.get(node);
    if (!state) return "unknown node";
    if (number <= state.lastBatch) return "written before";
    const { nowMs } = this;
    const parts: RecordPart[] = updates.map((update) =>
      "room" in update ? { kind: "presence", ...update } : { kind: "session", ...update },
    );
    const sessions: { pending: PendingMessage; id: string }[] = [];
    const lastIds = new Map<string, string>();
    for (const { pending } of messages) {
      const { room, from, content } = pending;
      let result: AppendResult | undefined = this.#sessions.check(pending, nowMs);
      if (!result) {
        const id = this.#ids.next(nowMs);
        const prev = lastIds.get(room) ?? this.#room(room).lastId;
        lastIds.set(room, id);
        this.#sessions.record(pending, id, nowMs);
        sessions.push({ pending, id });
        result = { stored: { id, prev, time: nowMs, room, from, content } };
      }
      parts.push({ kind: "result", result });
    }
    this.#write(node, number, parts, sessions);
    return this.world.dice.chance(EVICTION_SHARE) ? "eviction due" : "written";
  }

  remove(room: string, target: RemovalTarget): number | undefined {
    const history = this.#room(room);
    const found = history.findRemovable(target);
    if (!found?.count) return found ? 0 : "from" in target ? 0 : undefined;
    const { nowMs } = this;
    const { removes } = found;
    const removal: Removal = {
      id: this.#ids.next(nowMs),
      prev: history.lastId,
      time: nowMs,
      room,
      removes,
    };
    this.#write("-", 0, [{ kind: "removal", removal }]);
    return found.count;
  }

  ban(ban: Ban): void {
    this.#write("-", 0, [{ kind: "ban", ban }]);
  }

  readBans(): readonly Ban[] {
    return [...this.#bans.values()].filter(({ untilMs }) => untilMs > 0);
  }

  nextFencingToken(): number {
    return ++this.#fencingToken;
  }

  lastSeq(client: string, session: string): number | null {
    return this.#sessions.lastSeq(client, session, this.nowMs);
  }

  openRoom(room: string, maxMessages: number): RoomSnapshot {
    const presence: Presence[] = [];
    for (const [node, clients] of this.#presence.get(room) ?? [])
      if ((this.#nodes.get(node)?.leaseUntilMs ?? 0) > this.nowMs)
        for (const [client, connections] of clients) presence.push([client, node, connections]);
    const history = this.#rooms.get(room);
    const newestFirst = [...(history?.oldestFirst() ?? [])].reverse();
    const latest = maxMessages > 0 ? takeLatest(newestFirst, maxMessages).entries.reverse() : [];
    return { head: this.#head, lastId: history?.lastId ?? this.#epoch, newestFirst: latest, presence };
  }

  readHistory(room: string, query: PageQuery): HistoryPage {
    return this.#room(room).page(query);
  }

  idBeforeLatest(room: string, count: number): string {
    const history = this.#room(room);
    return history.idBeforeOffset(history.offsetOfLatest(count));
  }

  listRooms(): readonly ListedRoom[] {
    return [...this.#rooms].flatMap(([room, { latestMessage }]) =>
      latestMessage ? [{ room, id: latestMessage.id, time: latestMessage.time }] : [],
    );
  }

  recordsAfter(after: string): LogPage {
    const from = this.#rows.findIndex(({ record }) => compareIds(record.id, after) > 0);
    const first = from < 0 ? this.#rows.length : Math.max(from, this.#firstLogged);
    const records = this.#rows.slice(first, first + MAX_RECORDS).map(({ record }) => record);
    return { records, position: records.at(-1)?.id ?? after };
  }

  /** Calls it once when there is a new record. */
  onRecord(run: () => void): void {
    this.#waiting.add(run);
  }

  offRecord(run: () => void): void {
    this.#waiting.delete(run);
  }

  #room(name: string): History {
    let history = this.#rooms.get(name);
    const maxMessages = this.settings.isTrimmed ? this.history : Infinity;
    if (!history) this.#rooms.set(name, (history = new History(this.#epoch, maxMessages, Infinity)));
    return history;
  }

  #write(node: string, batch: number, parts: readonly RecordPart[], sessions: Row["sessions"] = []): void {
    const prev = this.#head;
    const { nowMs } = this;
    const record: LogRecord = { id: this.#ids.next(nowMs), prev, node, batch, parts };
    this.#apply({ record, timeMs: nowMs, sessions });
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const run of waiting) run();
  }

  #apply(row: Row): void {
    this.#rows.push(row);
    const { node, batch, parts } = row.record;
    const state = this.#nodes.get(node);
    if (state) state.lastBatch = Math.max(state.lastBatch, batch);
    for (const entry of entriesOf(row.record)) this.#room(entry.room).push(entry);
    for (const { pending, id } of row.sessions) this.#sessions.record(pending, id, row.timeMs);
    for (const part of parts)
      if (part.kind === "presence") this.#setPresence(node, part);
      else if (part.kind === "ban")
        this.#bans.set(sessionKey(part.ban.client, part.ban.rooms.join(" ")), part.ban);
      else if (part.kind === "nodeRemoved") {
        this.#nodes.delete(part.node);
        for (const nodes of this.#presence.values()) nodes.delete(part.node);
      }
  }

  #setPresence(
    node: string,
    { room, client, connections }: { room: string; client: string; connections: number },
  ): void {
    const nodes = this.#presence.get(room) ?? new Map<string, Map<string, number>>();
    this.#presence.set(room, nodes);
    const clients = nodes.get(node) ?? new Map<string, number>();
    nodes.set(node, clients);
    if (connections > 0) clients.set(client, connections);
    else clients.delete(client);
  }
}

function entriesOf({ parts }: LogRecord): StoredEntry[] {
  return parts.flatMap((part): StoredEntry[] => {
    if (part.kind === "removal") return [part.removal];
    return part.kind === "result" && "stored" in part.result ? [part.result.stored] : [];
  });
}

/** A connection's requests arrive in order, and so do its replies. */
class Channel {
  lastArrivalMs = 0;
  lastReplyMs = 0;
}

export class SimulatedEngine implements Engine {
  readonly name = "the simulated database";
  /** Nothing gets through between this node and the database. */
  isCut = false;
  #requests = new Channel();
  #log = new Channel();
  readonly #inFlight = new Set<(error: Error) => void>();
  #isClosed = false;

  constructor(
    private readonly database: Database,
    /** The node's process. */
    private readonly owner: Owner,
  ) {}

  open = () => this.#request(() => "in the simulated database");
  join = (node: string) => this.#write(() => this.database.join(node));
  heartbeat = (node: string) => this.#write(() => this.database.heartbeat(node));
  leave = (node: string) => this.#write(() => this.database.leave(node));
  removeNode = (node: string) => this.#write(() => this.database.removeNode(node));
  append = (batch: Batch) => this.#write(() => this.database.append(batch));
  remove = (room: string, target: RemovalTarget) => this.#write(() => this.database.remove(room, target));
  ban = (ban: Ban) => this.#write(() => this.database.ban(ban));
  readBans = () => this.#request(() => this.database.readBans());
  nextFencingToken = () => this.#request(() => this.database.nextFencingToken());
  lastSeq = (client: string, session: string) => this.#request(() => this.database.lastSeq(client, session));
  openRoom = (room: string, maxMessages: number) =>
    this.#request(() => this.database.openRoom(room, maxMessages));
  readHistory = (room: string, query: PageQuery) =>
    this.#request(() => this.database.readHistory(room, query));
  idBeforeLatest = (room: string, count: number) =>
    this.#request(() => this.database.idBeforeLatest(room, count));
  listRooms = () => this.#request(() => this.database.listRooms());

  readLog(after: string, waitMs: number): Promise<LogPage> {
    const { database } = this;
    const { world } = database;
    const execute = (reply: (page: LogPage) => void) => {
      const page = database.recordsAfter(after);
      if (page.records.length > 0 || waitMs === 0) return reply(page);
      const answer = () => {
        database.offRecord(answer);
        timer.isCancelled = true;
        reply(database.recordsAfter(after));
      };
      database.onRecord(answer);
      const timer = world.schedule(database.owner, world.time + waitMs, answer);
    };
    return this.#send(this.#log, execute, waitMs);
  }

  reset(): void {
    this.#requests = new Channel();
    this.#log = new Channel();
    for (const fail of [...this.#inFlight]) fail(new EngineUnreachable("the connection was reset"));
  }

  close(): void {
    this.#isClosed = true;
    this.reset();
  }

  #write<T>(run: () => T): Promise<T> {
    return this.#request(() => {
      if (this.database.isRejecting) throw new EngineRejection("the database accepts no writes");
      return run();
    });
  }

  #request<T>(run: () => T): Promise<T> {
    return this.#send(this.#requests, (reply: (result: T) => void) => reply(run()), 0);
  }

  /** @param execute runs in the database */
  #send<T>(channel: Channel, execute: (reply: (result: T) => void) => void, waitMs: number): Promise<T> {
    const { database, owner } = this;
    const { world, settings } = database;
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const settle = (finish: () => void) => {
      if (!this.#inFlight.delete(fail)) return;
      timeout.isCancelled = true;
      finish();
    };
    const fail = (error: Error) => settle(() => reject(error));
    const timeout = world.schedule(owner, world.time + waitMs + REPLY_MS, () =>
      fail(new EngineUnreachable("no reply in time")),
    );
    this.#inFlight.add(fail);
    const soon = () => world.dice.next() * settings.delayMs;
    const answer = (finish: () => void) => {
      if (this.isCut) return;
      channel.lastReplyMs = Math.max(channel.lastReplyMs, world.time + soon());
      world.schedule(owner, channel.lastReplyMs, () => settle(finish));
    };
    const disconnected = () => new EngineUnreachable("the connection failed");
    const unreachable = () => fail(disconnected());
    if (this.#isClosed || database.isDown) {
      world.schedule(owner, world.time + soon(), unreachable);
      return promise;
    }
    if (this.isCut) return promise;
    channel.lastArrivalMs = Math.max(channel.lastArrivalMs, world.time + soon());
    world.schedule(database.owner, channel.lastArrivalMs, () => {
      if (this.isCut || !owner.isAlive) return;
      if (database.isDown) return void world.schedule(owner, world.time, unreachable);
      const isLost = world.dice.chance(database.isReliable ? 0 : settings.lostReplyShare);
      try {
        execute((result) => answer(() => (isLost ? reject(disconnected()) : resolve(result))));
      } catch (error) {
        answer(() => reject(error));
      }
    });
    return promise;
  }
}
