/** What the shared log needs, by calls of the functions in functions.sql. */

import { logError } from "../../ops/log.ts";
import type { Clock } from "../../util/clock.ts";
import type { Random } from "../../util/random.ts";
import {
  MAX_PAGE_BYTES,
  MAX_REPLAY_BYTES,
  takeLatest,
  takePage,
  type HistoryPage,
  type PageQuery,
} from "../history.ts";
import { isMessageId, randomSequence } from "../message-id.ts";
import { isNumbered, type PendingMessage, type RemovalTarget } from "../message.ts";
import {
  EngineRejection,
  EngineUnreachable,
  type Batch,
  type Engine,
  type EngineHeartbeat,
  type LogPage,
  type RoomSnapshot,
} from "../shared-log/engine.ts";
import { StoreError, type Ban, type ListedRoom, type StoreOptions } from "../store.ts";
import type { PostgresConfig } from "./config.ts";
import { PostgresConnection } from "./connection.ts";
import { NotificationListener } from "./listener.ts";
import {
  encodeContent,
  parseEntries,
  parseListedRooms,
  parsePresence,
  parseRecord,
  toArray,
  toId,
  toNumber,
  type LogRow,
} from "./rows.ts";
import { migrate, SCHEMA_VERSION } from "./schema.ts";
import { describeError, verifyPostgres } from "./verify.ts";

/** The connections for reads, of which most servers use one. */
const READ_CONNECTIONS = 3;
/** Creating the tables, or waiting for another server that does. */
const MIGRATION_REPLY_MS = 30_000;
const MAX_RECORDS = 20;
const DAY_MS = 24 * 60 * 60 * 1000;
/** How long sessions are remembered at least; longer if messages are. */
const MIN_SESSION_DAYS = 30;
/** A node that lags behind further closes its clients' connections, and they resume. */
const LOG_MS = 60_000;
const PRUNE_INTERVAL_MS = 5000;
/** The interval while there is more to prune. */
const PRUNE_MORE_MS = 20;
/** Small enough that a step does not delay anything noticeably, and large enough to prune more than arrives. */
const PRUNE_ROWS_PER_STEP = 1000;
const ERASE_ROWS_PER_STEP = 1000;
const SCANNED_ROWS_PER_STEP = 5000;
/** An erasure without a step for this long was interrupted. */
const ERASURE_IDLE_MS = 10_000;

interface PostgresContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly timing: { readonly leaseMs: number };
}

export class PostgresEngine implements Engine {
  readonly name: string;
  /** Batches, whose order is that of the log's lock. */
  readonly #writer: PostgresConnection;
  readonly #log: PostgresConnection;
  readonly #reads: readonly PostgresConnection[];
  readonly #listener: NotificationListener;
  #isClosed = false;
  #isPruning = false;
  #prunedMs = -Infinity;
  /** The session that was checked last for its age. */
  #prunedSession: readonly [client: string, session: string] = ["", ""];

  constructor(
    private readonly config: PostgresConfig,
    private readonly options: StoreOptions,
    private readonly context: PostgresContext,
  ) {
    const { clock, random } = context;
    const connect = () => new PostgresConnection(config, clock);
    this.name = `Postgres at ${config.name}`;
    this.#writer = connect();
    this.#log = connect();
    this.#reads = Array.from({ length: READ_CONNECTIONS }, connect);
    this.#listener = new NotificationListener(config, clock, random);
  }

  async open(): Promise<string> {
    const { config } = this;
    const connection = new PostgresConnection(config, this.context.clock, MIGRATION_REPLY_MS);
    try {
      const durability = await verifyPostgres(connection, config);
      await migrate(connection, config);
      await this.#listener.listen();
      const notify = (payload: string) =>
        connection.query("SELECT pg_notify($1, $2)", [this.#listener.channel, payload]);
      if (!(await this.#listener.hearsItself(notify)))
        throw new StoreError(
          `Postgres at ${config.name} delivers no notifications, as behind PgBouncer in transaction mode: connect to it directly, or in session mode.`,
        );
      return durability;
    } catch (error) {
      this.close();
      const sentence = describeError(error, config);
      throw sentence === undefined || error instanceof StoreError ? error : new StoreError(sentence);
    } finally {
      connection.close();
    }
  }

  async join(node: string): Promise<{ head: string; epoch: string }> {
    const [row] = await this.#call<{ head: string; epoch: string }>(
      "join_node($1, $2)",
      node,
      this.context.timing.leaseMs,
    );
    if (!row) throw new EngineRejection("the schema's tables are empty");
    return { head: toId(row.head), epoch: toId(row.epoch) };
  }

  async heartbeat(node: string): Promise<EngineHeartbeat> {
    const [row] = await this.#call<{
      is_known: boolean;
      was_alive: boolean;
      head: string;
      epoch: string;
      expired: string[] | null;
      now: string;
    }>("heartbeat($1, $2, $3)", node, this.context.timing.leaseMs, this.#listener.nextEcho());
    if (!row) throw new EngineRejection("the schema's tables are empty");
    void this.#pruneSometimes();
    const nowMs = Number(row.now);
    const { keepDays } = this.options;
    return {
      isKnown: row.is_known,
      wasAlive: row.was_alive,
      head: toId(row.head),
      epoch: toId(row.epoch),
      expiredNodes: row.expired ?? [],
      nowMs,
      cutoffMs: keepDays > 0 ? nowMs - keepDays * DAY_MS : -Infinity,
    };
  }

  async leave(node: string): Promise<void> {
    await this.#call("leave($1)", node);
  }

  async removeNode(node: string): Promise<boolean> {
    const [row] = await this.#call<{ removed: boolean }>(
      `remove_node(${SCHEMA_VERSION}, $1, $2) AS removed`,
      node,
      this.#firstSequence,
    );
    return row?.removed === true;
  }

  async append({ node, number, updates, messages }: Batch) {
    const parts = updates.map((update) =>
      "room" in update
        ? ["p", update.room, update.client, update.connections]
        : ["s", update.client, update.session, update.fencingToken],
    );
    const column = (valueOf: (pending: PendingMessage) => string | number | undefined) =>
      toArray(messages.map(({ pending }) => valueOf(pending)));
    const contents = messages.map(({ pending }) => encodeContent(pending.content));
    const [row] = await this.#call<{ result: "written" | "written before" | "unknown node" }>(
      `append(${SCHEMA_VERSION}, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS result`,
      node,
      number,
      this.#firstSequence,
      parts.length > 0 ? JSON.stringify(parts) : null,
      column(({ room }) => room),
      column(({ from }) => from),
      column((pending) => (isNumbered(pending) ? pending.session : undefined)),
      column(({ seq }) => seq),
      column(({ requiresSeq }) => requiresSeq),
      toArray(contents.map(([kind]) => kind)),
      toArray(contents.map(([, content]) => content)),
    );
    if (!row) throw new EngineUnreachable("the reply is empty");
    return row.result;
  }

  async readLog(after: string, waitMs: number): Promise<LogPage> {
    if (waitMs > 0) await this.#listener.waitForNews(after, waitMs);
    this.#listener.startReading();
    try {
      const rows = await this.#select<LogRow>(this.#log, "read_log($1, $2)", toNumber(after), MAX_RECORDS);
      if (rows.length === MAX_RECORDS) this.#listener.expectMore();
      const records = rows.map(parseRecord);
      return { records, position: records.at(-1)?.id ?? after };
    } catch (error) {
      this.#listener.expectMore();
      throw error;
    }
  }

  async openRoom(room: string, maxMessages: number, maxBytes: number): Promise<RoomSnapshot> {
    const [row] = await this.#call<{ head: string; last_id: string; entries: unknown; presence: unknown }>(
      "open_room($1, $2, $3)",
      room,
      maxMessages,
      maxBytes,
    );
    if (!row) throw new EngineRejection("the schema's tables are empty");
    return {
      head: toId(row.head),
      lastId: toId(row.last_id),
      newestFirst: parseEntries(row.entries),
      presence: parsePresence(row.presence),
    };
  }

  async readHistory(room: string, { after, before, limit }: PageQuery): Promise<HistoryPage> {
    // Of the rows' bytes; the page itself is limited by takePage.
    const limits = [limit + 1, 2 * MAX_PAGE_BYTES];
    if (after === undefined) {
      const end = before === undefined ? null : toNumber(before);
      const [row] = await this.#call<{ entries: unknown }>(
        "page_before($1, $2, $3, $4)",
        room,
        end,
        ...limits,
      );
      return takeLatest(parseEntries(row?.entries), limit);
    }
    if (!isMessageId(after)) return { entries: [], more: false, recovered: false };
    const [row] = await this.#call<{ is_resumable: boolean; is_damaged: boolean; entries: unknown }>(
      "page_after($1, $2, $3, $4)",
      room,
      toNumber(after),
      ...limits,
    );
    const page = takePage(parseEntries(row?.entries), limit);
    if (!row?.is_resumable) return { ...page, recovered: false };
    return { ...page, recovered: !row.is_damaged, ...(row.is_damaged ? { isDamaged: true } : {}) };
  }

  async idBeforeLatest(room: string, count: number): Promise<string> {
    const [row] = await this.#call<{ id: string }>(
      "id_before_latest($1, $2, $3)",
      room,
      count,
      MAX_REPLAY_BYTES,
    );
    return toId(row?.id ?? "0");
  }

  async listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    const [row] = await this.#call<{ rooms: unknown }>("list_rooms($1, $2)", after ?? null, limit);
    return Array.isArray(row?.rooms) ? parseListedRooms(row.rooms) : undefined;
  }

  async lastSeq(client: string, session: string): Promise<number | null> {
    const [row] = await this.#call<{ seq: string }>("last_seq($1, $2)", client, session);
    return row ? Number(row.seq) : null;
  }

  async nextFencingToken(): Promise<number> {
    const [row] = await this.#call<{ token: string }>("next_fencing_token()");
    return Number(row?.token);
  }

  async remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    if ("from" in target) return this.#removeAll(room, target.from);
    if (!isMessageId(target.message)) return undefined;
    const [row] = await this.#call<{ count: number | null }>(
      `remove_message(${SCHEMA_VERSION}, $1, $2, $3, $4) AS count`,
      room,
      toNumber(target.message),
      target.message,
      this.#firstSequence,
    );
    return row?.count ?? undefined;
  }

  /** There may be a million: they are removed for all readers at once, and from the table step by step. */
  async #removeAll(room: string, from: string): Promise<number> {
    const isFound = await this.#hasErasable(room, from);
    // Otherwise one may be under way, of which the answer was lost.
    const [row] = isFound
      ? await this.#call<{ id: string }>(
          `begin_erasure(${SCHEMA_VERSION}, $1, $2, $3) AS id`,
          room,
          from,
          this.#firstSequence,
        )
      : await this.#call<{ id: string | null }>("find_erasure($1, $2) AS id", room, from);
    return row?.id ? this.#finishErasure(row.id) : 0;
  }

  async #hasErasable(room: string, from: string): Promise<boolean> {
    for (let after: string | null = "0"; after !== null;) {
      const [part]: readonly { is_found: boolean | null; up_to: string | null }[] = await this.#call(
        "find_erasable($1, $2, $3, $4)",
        room,
        from,
        after,
        SCANNED_ROWS_PER_STEP,
      );
      if (part?.is_found) return true;
      after = part?.up_to ?? null;
    }
    return false;
  }

  /** @returns how many messages it has erased */
  async #finishErasure(removal: string): Promise<number> {
    for (;;) {
      const [step] = await this.#call<{ is_complete: boolean; count: string }>(
        "erase_step($1, $2, $3)",
        removal,
        SCANNED_ROWS_PER_STEP,
        ERASE_ROWS_PER_STEP,
      );
      if (!step || step.is_complete) return Number(step?.count ?? 0);
    }
  }

  async ban({ client, rooms, untilMs }: Ban): Promise<void> {
    await this.#call(
      `ban(${SCHEMA_VERSION}, $1, $2, $3, $4)`,
      client,
      rooms.join(" "),
      untilMs,
      this.#firstSequence,
    );
  }

  async readBans(): Promise<readonly Ban[]> {
    const rows = await this.#call<{ client: string; rooms: string; until: string }>("read_bans()");
    return rows.map(({ client, rooms, until }) => ({
      client,
      rooms: rooms.split(" "),
      untilMs: Number(until),
    }));
  }

  reset(): void {
    for (const connection of [this.#writer, this.#log, ...this.#reads]) connection.reset();
    this.#listener.reset();
  }

  close(): void {
    this.#isClosed = true;
    for (const connection of [this.#writer, this.#log, ...this.#reads]) connection.close();
    this.#listener.close();
  }

  /** In the background: a heartbeat does not wait for it. */
  async #pruneSometimes(): Promise<void> {
    const { clock } = this.context;
    if (this.#isPruning || clock.elapsed() - this.#prunedMs < PRUNE_INTERVAL_MS) return;
    this.#isPruning = true;
    try {
      while ((await this.#prune()) && !this.#isClosed) await clock.sleep(PRUNE_MORE_MS);
    } catch (error) {
      // The next heartbeat tells whether Postgres is available.
      if (!(error instanceof EngineRejection || error instanceof EngineUnreachable))
        logError("Old messages could not be pruned", error);
    } finally {
      this.#isPruning = false;
      this.#prunedMs = clock.elapsed();
    }
  }

  /** One small step. @returns whether there is more */
  async #prune(): Promise<boolean> {
    const { keepDays } = this.options;
    const [step] = await this.#call<{
      pruned: number;
      client: string;
      session: string;
      erasure: string | null;
    }>(
      "prune($1, $2, $3, $4, $5, $6, $7)",
      keepDays * DAY_MS,
      Math.max(MIN_SESSION_DAYS, keepDays) * DAY_MS,
      LOG_MS,
      ERASURE_IDLE_MS,
      PRUNE_ROWS_PER_STEP,
      ...this.#prunedSession,
    );
    if (!step) return false; // another node does it
    this.#prunedSession = [step.client, step.session];
    if (step.erasure) await this.#finishErasure(step.erasure);
    return step.pruned >= PRUNE_ROWS_PER_STEP;
  }

  get #firstSequence(): number {
    return randomSequence(this.context.random);
  }

  #call<Row extends object>(call: string, ...values: readonly unknown[]): Promise<readonly Row[]> {
    return this.#select(call.startsWith("append(") ? this.#writer : this.#leastBusy, call, ...values);
  }

  #select<Row extends object>(
    connection: PostgresConnection,
    call: string,
    ...values: readonly unknown[]
  ): Promise<readonly Row[]> {
    const { schema } = this.config;
    const query = `SELECT * FROM "${schema}".check_version(${SCHEMA_VERSION}), "${schema}".${call}`;
    return connection.query<Row>(query, values);
  }

  get #leastBusy(): PostgresConnection {
    return this.#reads.reduce((least, other) => (other.inFlight < least.inFlight ? other : least));
  }
}
