/** Calls the scripts inside Redis for the store: each method runs one, and validates its reply. */

import { sessionKey } from "../dedup.ts";
import { MAX_PAGE_BYTES, takeLatest, takePage, type HistoryPage, type PageQuery } from "../history.ts";
import { isMessageId } from "../message-id.ts";
import { isNumbered, type RemovalTarget } from "../message.ts";
import { StoreUnavailable, type Ban, type ListedRoom, type StoreOptions } from "../store.ts";
import { Faults, RedisReplyError, type RedisConnection } from "./connection.ts";
import type { Batch, RoomSnapshot } from "../shared-log/engine.ts";
import {
  arrayOf,
  encodeContent,
  parseBans,
  parseHeartbeat,
  parseLastSeq,
  parseListedRooms,
  parseEntries,
  parsePresence,
} from "./records.ts";
import { scripts, type RedisScript } from "./scripts.ts";
import type { RedisContext } from "../shared-log/timing.ts";

const MAX_SESSIONS = 100_000;
const DAY_MS = 24 * 60 * 60 * 1000;
const MAX_SESSION_AGE_MS = DAY_MS;
const MAX_ROOMS = 50_000;
/** How much history a replay sends at most if more is requested than the cache has. */
const MAX_REPLAY_BYTES = 8 * 1024 * 1024;
/** Ids start at a random sequence below this, so that one is hardly assigned again after data loss. */
const MAX_FIRST_SEQUENCE = 1000;

export class ScriptCalls {
  readonly #faults = new Faults();

  constructor(
    readonly connection: RedisConnection,
    private readonly context: RedisContext,
    private readonly options: StoreOptions,
    private readonly onReadFailed: () => void,
  ) {}

  /** Adds a node. @returns the head of the log, and the id at which its data began */
  async join(node: string): Promise<{ head: string; epoch: string }> {
    const [head, epoch] = arrayOf(
      await this.connection.run(scripts.join, node, this.context.timing.leaseMs, this.#firstSequence),
    );
    if (!isMessageId(head) || !isMessageId(epoch))
      throw new RedisReplyError("the keys with this prefix are not Hubbub's");
    return { head, epoch };
  }

  /** Renews the lease of a node, and deletes what is too old or too much. */
  async heartbeat(node: string) {
    const maxAgeMs = this.options.keepDays * DAY_MS;
    const reply = await this.connection.run(
      scripts.heartbeat,
      ...[node, this.context.timing.leaseMs, maxAgeMs, MAX_SESSION_AGE_MS, MAX_ROOMS, MAX_SESSIONS],
    );
    const heartbeat = parseHeartbeat(reply);
    /** Messages up to this time are pruned. */
    const cutoffMs = maxAgeMs > 0 ? heartbeat.nowMs - maxAgeMs : -Infinity;
    return { ...heartbeat, cutoffMs };
  }

  /** @returns false if the node has a lease, or was removed before */
  async removeNode(node: string): Promise<boolean> {
    return (await this.connection.run(scripts.removeNode, node)) === 1;
  }

  /** Gives up a node's lease. */
  async leave(node: string): Promise<void> {
    await this.connection.run(scripts.leave, node);
  }

  /** @returns "written", "eviction due" (written, and a heartbeat should follow), "written before" or "unknown node" */
  append({ node, number, updates, messages }: Batch): Promise<unknown> {
    const presence = updates.flatMap((update) =>
      "room" in update ? [update.room, update.client, update.connections] : [],
    );
    const sessions = updates.flatMap((update) =>
      "session" in update ? [update.client, update.session, update.fencingToken] : [],
    );
    return this.connection.run(
      scripts.append,
      ...[node, number, this.#firstSequence, this.options.history],
      ...[presence.length / 3, sessions.length / 3, ...presence, ...sessions],
      ...messages.flatMap(({ pending }) => {
        const { room, from, seq = "", requiresSeq = "", content } = pending;
        const session = isNumbered(pending) ? pending.session : "";
        return [room, from, session, seq, requiresSeq, encodeContent(content)];
      }),
    );
  }

  /**
   * Removes messages as one record, which is applied at once.
   * @returns how many; undefined if the one message is not stored @throws StoreUnavailable
   */
  async remove(room: string, target: RemovalTarget): Promise<number | undefined> {
    const [from, message] = "from" in target ? [target.from, ""] : ["-", target.message];
    const { history } = this.options;
    const reply = await this.#read(scripts.remove, room, history, from, message, this.#firstSequence);
    await this.#read(scripts.applyPending);
    return typeof reply === "number" && reply >= 0 ? reply : undefined;
  }

  /** @throws StoreUnavailable */
  async ban({ client, rooms, untilMs }: Ban): Promise<void> {
    await this.#read(scripts.ban, client, untilMs, rooms.join(" "), this.#firstSequence);
    await this.#read(scripts.applyPending);
  }

  /** @throws StoreUnavailable */
  async readBans(): Promise<readonly Ban[]> {
    return parseBans(await this.#read(scripts.readBans));
  }

  /** Applies the last record of the log to the other keys now. Otherwise the next script does. */
  async applyPending(): Promise<void> {
    await this.connection.run(scripts.applyPending);
  }

  /** A consistent snapshot with the room's latest messages. @throws StoreUnavailable */
  async openRoom(room: string, maxMessages: number, maxBytes: number): Promise<RoomSnapshot> {
    const reply = await this.#read(scripts.openRoom, room, maxMessages, maxBytes);
    const [head, lastId, rows, presence] = arrayOf(reply);
    if (!isMessageId(head) || !isMessageId(lastId)) throw new StoreUnavailable();
    return { head, lastId, newestFirst: parseEntries(rows, room), presence: parsePresence(presence) };
  }

  /** @throws StoreUnavailable */
  async readHistory(room: string, { after, before = "", limit }: PageQuery): Promise<HistoryPage> {
    // Of the rows' bytes; the page itself is limited by takePage.
    const limits = [limit + 1, 2 * MAX_PAGE_BYTES];
    if (after === undefined) {
      const newestFirst = await this.#read(scripts.readBefore, room, ...limits, before);
      return takeLatest(parseEntries(newestFirst, room), limit);
    }
    if (!isMessageId(after)) return { entries: [], more: false, recovered: false };
    const [recovered, rows] = arrayOf(await this.#read(scripts.readAfter, room, ...limits, after));
    return { ...takePage(parseEntries(rows, room), limit), recovered: recovered === 1 };
  }

  /** @throws StoreUnavailable */
  async idBeforeLatest(room: string, count: number): Promise<string> {
    return String(await this.#read(scripts.idBeforeLatest, room, count, MAX_REPLAY_BYTES));
  }

  /** @throws StoreUnavailable */
  async listRooms(after: string | undefined, limit: number): Promise<readonly ListedRoom[] | undefined> {
    const reply = await this.#read(scripts.listRooms, after ?? "", limit);
    return Array.isArray(reply) ? parseListedRooms(reply) : undefined;
  }

  /** @throws StoreUnavailable */
  async lastSeq(client: string, session: string): Promise<number | null> {
    return parseLastSeq(await this.#read(scripts.lastSeq, sessionKey(client, session)));
  }

  /** Redis' clock, in microseconds. @throws StoreUnavailable */
  async nextFencingToken(): Promise<number> {
    const [seconds, microseconds] = arrayOf(await this.#read(scripts.serverTime));
    return Number(seconds) * 1e6 + Number(microseconds);
  }

  get #firstSequence(): number {
    return Math.floor(this.context.random.next() * MAX_FIRST_SEQUENCE);
  }

  /** Retried once, over a new connection, if there is no reply. */
  async #read(script: RedisScript, ...args: readonly (string | number)[]): Promise<unknown> {
    const run = () => this.connection.run(script, ...args);
    try {
      return await run().catch((error: unknown) => {
        if (error instanceof RedisReplyError) throw error;
        return run();
      });
    } catch (error) {
      this.#faults.check("Redis could not be read", error);
      this.onReadFailed();
      throw new StoreUnavailable();
    }
  }
}
