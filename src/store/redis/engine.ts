/** The shared log in Redis: calls the scripts inside it, and validates their replies. */

import { logEvent } from "../../ops/log.ts";
import { sessionKey } from "../dedup.ts";
import {
  MAX_PAGE_BYTES,
  MAX_REPLAY_BYTES,
  takeLatest,
  takePage,
  type HistoryPage,
  type PageQuery,
} from "../history.ts";
import { isMessageId, randomSequence } from "../message-id.ts";
import { isNumbered, type RemovalTarget } from "../message.ts";
import type { Ban, ListedRoom, StoreOptions } from "../store.ts";
import { describeDurability, verifyRedis, type RedisConfig } from "./config.ts";
import { RedisConnection, redisTiming } from "./connection.ts";
import {
  EngineRejection,
  EngineUnreachable,
  type Batch,
  type Engine,
  type EngineHeartbeat,
  type LogPage,
  type RoomSnapshot,
} from "../shared-log/engine.ts";
import type { LogRecord } from "../shared-log/log-record.ts";
import {
  arrayOf,
  encodeContent,
  parseBans,
  parseHeartbeat,
  parseLastSeq,
  parseListedRooms,
  parseEntries,
  parsePresence,
  parseRecord,
  rowId,
  streamRows,
} from "./records.ts";
import { scripts, type RedisScript } from "./scripts.ts";
import type { SharedLogContext } from "../shared-log/timing.ts";

/** Of one read of the log. */
const MAX_RECORDS = 20;
const MAX_SESSIONS = 100_000;
const DAY_MS = 24 * 60 * 60 * 1000;
const MAX_SESSION_AGE_MS = DAY_MS;
const MAX_ROOMS = 50_000;
const FOREIGN_KEYS = "the keys with this prefix are not Hubbub's";

export class RedisEngine implements Engine {
  readonly name: string;
  readonly #connection: RedisConnection;
  /** For reading the log alone, because a read that waits blocks its connection. */
  readonly #logConnection: RedisConnection;
  readonly #logKey: string;
  #memoryError = "";
  /** What was evicted since that was last logged. */
  #evictions = { evicted: 0, trimmed: 0, sessions: 0 };
  #evictionsLoggedMs = -Infinity;

  constructor(
    private readonly config: RedisConfig,
    private readonly options: StoreOptions,
    private readonly context: SharedLogContext,
  ) {
    const connect = () => new RedisConnection(config.url, config.prefix, context.clock);
    this.name = `Redis at ${config.name}`;
    this.#connection = connect();
    this.#logConnection = connect();
    this.#logKey = `${config.prefix}log`;
  }

  async open(): Promise<string> {
    await verifyRedis(this.#connection, this.config);
    return describeDurability(this.#connection, this.config.name);
  }

  async join(node: string): Promise<{ head: string; epoch: string }> {
    const [head, epoch] = arrayOf(
      await this.#run(scripts.join, node, this.context.timing.leaseMs, this.#firstSequence),
    );
    if (!isMessageId(head) || !isMessageId(epoch)) throw new EngineRejection(FOREIGN_KEYS);
    return { head, epoch };
  }

  async heartbeat(node: string): Promise<EngineHeartbeat> {
    const maxAgeMs = this.options.keepDays * DAY_MS;
    const reply = await this.#run(
      scripts.heartbeat,
      ...[node, this.context.timing.leaseMs, maxAgeMs, MAX_SESSION_AGE_MS, MAX_ROOMS, MAX_SESSIONS],
    );
    const { rejection, evictions, memoryError, ...heartbeat } = parseHeartbeat(reply);
    this.#onEvictions(evictions);
    if (memoryError && !rejection && memoryError !== this.#memoryError)
      logEvent("Redis memory unknown", { reason: memoryError });
    this.#memoryError = memoryError;
    if (rejection) throw new EngineRejection(rejection);
    return { ...heartbeat, cutoffMs: maxAgeMs > 0 ? heartbeat.nowMs - maxAgeMs : -Infinity };
  }

  async removeNode(node: string): Promise<boolean> {
    return (await this.#run(scripts.removeNode, node)) === 1;
  }

  async leave(node: string): Promise<void> {
    await this.#run(scripts.leave, node);
  }

  async append({ node, number, updates, messages }: Batch) {
    const presence = updates.flatMap((update) =>
      "room" in update ? [update.room, update.client, update.connections] : [],
    );
    const sessions = updates.flatMap((update) =>
      "session" in update ? [update.client, update.session, update.fencingToken] : [],
    );
    const reply = await this.#run(
      scripts.append,
      ...[node, number, this.#firstSequence, this.options.history],
      ...[presence.length / 3, sessions.length / 3, ...presence, ...sessions],
      ...messages.flatMap(({ pending }) => {
        const { room, from, seq = "", requiresSeq = "", content } = pending;
        const session = isNumbered(pending) ? pending.session : "";
        return [room, from, session, seq, requiresSeq, encodeContent(content)];
      }),
    );
    const isOther = reply === "eviction due" || reply === "written before" || reply === "unknown node";
    return isOther ? reply : "written";
  }

  /** Applies the last record of the log to the other keys. Otherwise the next script does. */
  async applyPending(): Promise<void> {
    await this.#run(scripts.applyPending);
  }

  async readLog(after: string, waitMs: number): Promise<LogPage> {
    const block = waitMs > 0 ? ["BLOCK", `${waitMs}`] : [];
    const args = ["COUNT", `${MAX_RECORDS}`, ...block, "STREAMS", this.#logKey, after];
    const reply = await this.#logConnection.send("XREAD", args, waitMs + redisTiming.replyMs);
    const rows = streamRows(reply, this.#logKey);
    const parsed = rows.map(parseRecord);
    const records: LogRecord[] = [];
    let position = after;
    for (const [i, record] of parsed.entries()) {
      const next = parsed.find((other, at) => at > i && other !== undefined);
      // Whether this record is orphaned shows only in the next one: read it again together with that.
      if (!next && i > 0 && rows.length === MAX_RECORDS) break;
      position = rowId(rows[i]) ?? position;
      if (!record) logEvent("foreign record", { key: this.#logKey, id: position });
      // Redis lost it in a crash, wrote the next record without it, and restored it later (README.md).
      else if (record.prev === next?.prev) logEvent("orphaned record", { key: this.#logKey, id: record.id });
      else records.push(record);
    }
    return { records, position };
  }

  async remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    const [from, message] = "from" in target ? [target.from, ""] : ["-", target.message];
    const { history } = this.options;
    const reply = await this.#run(scripts.remove, room, history, from, message, this.#firstSequence);
    await this.#applyWritten();
    return typeof reply === "number" && reply >= 0 ? reply : undefined;
  }

  async ban({ client, rooms, untilMs }: Ban): Promise<void> {
    await this.#run(scripts.ban, client, untilMs, rooms.join(" "), this.#firstSequence);
    await this.#applyWritten();
  }

  async readBans(): Promise<readonly Ban[]> {
    return parseBans(await this.#run(scripts.readBans));
  }

  async openRoom(room: string, maxMessages: number, maxBytes: number): Promise<RoomSnapshot> {
    const reply = await this.#run(scripts.openRoom, room, maxMessages, maxBytes);
    const [head, lastId, rows, presence] = arrayOf(reply);
    if (!isMessageId(head) || !isMessageId(lastId)) throw new EngineRejection(FOREIGN_KEYS);
    return { head, lastId, newestFirst: parseEntries(rows, room), presence: parsePresence(presence) };
  }

  async readHistory(room: string, { after, before = "", limit }: PageQuery): Promise<HistoryPage> {
    // Of the rows' bytes; the page itself is limited by takePage.
    const limits = [limit + 1, 2 * MAX_PAGE_BYTES];
    if (after === undefined) {
      const newestFirst = await this.#run(scripts.readBefore, room, ...limits, before);
      return takeLatest(parseEntries(newestFirst, room), limit);
    }
    if (!isMessageId(after)) return { entries: [], more: false, recovered: false };
    const [recovered, rows] = arrayOf(await this.#run(scripts.readAfter, room, ...limits, after));
    return { ...takePage(parseEntries(rows, room), limit), recovered: recovered === 1 };
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    return String(await this.#run(scripts.idBeforeLatest, room, count, MAX_REPLAY_BYTES));
  }

  async listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    const reply = await this.#run(scripts.listRooms, after ?? "", limit);
    return Array.isArray(reply) ? parseListedRooms(reply) : undefined;
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    return parseLastSeq(await this.#run(scripts.lastSeq, sessionKey(client, session)));
  }

  /** Redis' clock, in microseconds. */
  async nextFencingToken(): Promise<number> {
    const [seconds, microseconds] = arrayOf(await this.#run(scripts.serverTime));
    return Number(seconds) * 1e6 + Number(microseconds);
  }

  get #firstSequence(): number {
    return randomSequence(this.context.random);
  }

  #run(script: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    return this.#connection.run(script, ...args);
  }

  /** Retried here, because a second call of the whole method would count nothing more to remove. */
  async #applyWritten(): Promise<void> {
    await this.applyPending().catch((error: unknown) => {
      if (error instanceof EngineUnreachable) return this.applyPending();
      throw error;
    });
  }

  #onEvictions({ evicted, trimmed, sessions }: ReturnType<typeof parseHeartbeat>["evictions"]): void {
    this.#evictions.evicted += evicted;
    this.#evictions.trimmed += trimmed;
    this.#evictions.sessions += sessions;
    const { clock, timing } = this.context;
    if (clock.elapsed() - this.#evictionsLoggedMs >= timing.heartbeatMs) this.#logEvictions();
  }

  #logEvictions(): void {
    const { evicted, trimmed, sessions } = this.#evictions;
    if (evicted + trimmed + sessions === 0) return;
    logEvent("Redis nearly full", { evicted, trimmed, sessions });
    this.#evictions = { evicted: 0, trimmed: 0, sessions: 0 };
    this.#evictionsLoggedMs = this.context.clock.elapsed();
  }

  reset(): void {
    this.#connection.reset();
    this.#logConnection.reset();
  }

  close(): void {
    this.#logEvictions();
    this.#connection.close();
    this.#logConnection.close();
  }
}
