/**
 * Replay: sends the room's stored messages to a connection that has just joined, as fast as its socket takes them, up to
 * the moment when it is subscribed to broadcasts.
 */

import { logError } from "../ops/log.ts";
import type { CloseReason } from "../protocol/codes.ts";
import { compareIds } from "../store/message-id.ts";
import type { StoredEntry } from "../store/message.ts";
import { StoreUnavailable } from "../store/store.ts";
import type { Room } from "./room.ts";

const MAX_STORE_PAGE_SIZE = 100;
/** After this many, yield to the event loop. */
const MAX_SENDS_PER_TICK = 1000;
/** How soon to read the store again when this node has not received any of what follows. */
const STORE_POLL_MS = 20;

/** If more messages are asked for than the room's history has, a replay starts at most this many back in the store. */
const MAX_REPLAY_FROM_STORE = 1000;

/** What the client asks for, and what the store knew about it before the upgrade. */
export interface ReplayRequest {
  /** The last message that the client received, to resume after it. */
  readonly after: string | undefined;
  /** How many of the latest messages to replay when it does not resume. */
  readonly history: number;
  /** By the store, nothing is missing after `after`. */
  readonly isAfterStored: boolean;
  /** By the store, a message after `after` is lost to damage; the room's history does not show that. */
  readonly isDamaged: boolean;
  /** The id before the latest `history` messages, if some of them are older than the room's history. */
  readonly idBefore: string | undefined;
}

/** @throws StoreUnavailable */
export async function prepareReplay(
  { after, history }: { readonly after?: string; readonly history: number },
  room: Room,
): Promise<ReplayRequest> {
  const { store } = room.context;
  const page = after === undefined ? undefined : await store.readHistory(room.name, { after, limit: 1 });
  const { recovered: isAfterStored = false, isDamaged = false } = page ?? {};
  const count = Math.min(history, MAX_REPLAY_FROM_STORE);
  const isCached = isAfterStored || count <= room.history.messageCount;
  const idBefore = isCached ? undefined : await store.idBeforeLatest?.(room.name, count);
  return { after, history, isAfterStored, isDamaged, idBefore };
}

/** The connection that receives the replay. */
export interface ReplayTarget {
  readonly room: Room;
  readonly isOpen: boolean;
  /** @returns whether the socket takes more; if not, {@link Replay.run} is called again when it drains */
  sendReplayed(entry: StoredEntry): boolean;
  /** All stored messages are sent. Nothing else runs before the call, so the next message can be broadcast to it. */
  onReplayed(): void;
  close(reason: CloseReason): void;
}

export class Replay {
  /** Nothing is missing between `after` and the first message. */
  readonly recovered: boolean;
  /** The id just before the first message. */
  readonly last: string;
  /** Of the next message, in the room's history. */
  #offset: number;
  /** Set while the next message may be older than the room's history: the last id sent. The store is read then. */
  #afterId: string | undefined;
  /** Twice what was sent of the last page: the rest of a page, which may be 1 MiB, is discarded. */
  #pageSize = MAX_STORE_PAGE_SIZE;
  #isReadingStore = false;
  #isDone = false;

  constructor(
    private readonly target: ReplayTarget,
    { after, history: count, isAfterStored, isDamaged, idBefore }: ReplayRequest,
  ) {
    const { history } = target.room;
    const offset = after === undefined || isDamaged ? undefined : history.offsetAfter(after);
    this.recovered = offset !== undefined || isAfterStored;
    if (offset === undefined) this.#afterId = this.recovered ? after : idBefore;
    this.#offset = offset ?? history.offsetOfLatest(count);
    this.last = this.#afterId ?? history.idBeforeOffset(this.#offset);
  }

  /** Sends as much as the socket takes. */
  run(): void {
    const { target } = this;
    const { history } = target.room;
    if (this.#isDone || !target.isOpen) return;
    if (this.#afterId !== undefined) return void this.#guard(this.#runFromStore());
    for (let count = 1; this.#offset < history.nextOffset; count++) {
      const entry = history.get(this.#offset);
      if (!entry) return target.close("historyUnavailable");
      this.#offset++;
      const isWritable = target.sendReplayed(entry);
      if (isWritable && count < MAX_SENDS_PER_TICK) continue;
      // By the next run, the history may no longer contain the next message.
      this.#afterId = entry.id;
      if (isWritable) void this.#guard(this.#nextTurn().then(() => this.run()));
      return;
    }
    this.#isDone = true;
    target.onReplayed();
  }

  /** Sends pages from the store until the room's history has the next message. */
  async #runFromStore(): Promise<void> {
    if (this.#isReadingStore) return;
    this.#isReadingStore = true;
    const { target } = this;
    const { name, history, context } = target.room;
    let isWritable = true;
    while (target.isOpen && this.#afterId !== undefined && isWritable) {
      const offset = history.offsetAfter(this.#afterId);
      if (offset !== undefined) {
        this.#continueFrom(offset);
        break;
      }
      const page = await context.store.readHistory(name, { after: this.#afterId, limit: this.#pageSize });
      await this.#nextTurn(); // the store may answer without one
      if (!target.isOpen) return;
      // A gap: the client reconnects, and learns of it by `recovered`.
      if (!page.recovered && (!page.isDamaged || this.recovered)) return target.close("historyUnavailable");
      if (page.entries.length === 0 && page.isDamaged) {
        this.#continueFrom(history.firstOffset);
        break;
      }
      // The store may be ahead of this node, and on the text wire, the reply to a message comes before its broadcast.
      const lastReceived = page.entries.findLastIndex(({ id }) => compareIds(id, history.lastId) <= 0);
      const received = page.entries.slice(0, lastReceived + 1);
      if (received.length === 0) await context.clock.sleep(STORE_POLL_MS);
      let sent = 0;
      for (const entry of received) {
        if (!isWritable) break;
        this.#afterId = entry.id;
        isWritable = target.sendReplayed(entry);
        sent++;
      }
      this.#pageSize = Math.min(MAX_STORE_PAGE_SIZE, Math.max(1, 2 * sent));
    }
    this.#isReadingStore = false;
    if (this.#afterId === undefined) this.run();
  }

  #continueFrom(offset: number): void {
    this.#offset = offset;
    this.#afterId = undefined;
  }

  #nextTurn(): Promise<void> {
    return new Promise((resolve) => this.target.room.context.clock.setImmediate(resolve));
  }

  /** Closes the connection if the replay fails outside of a socket handler; the client reconnects and resumes. */
  async #guard(run: Promise<void>): Promise<void> {
    try {
      await run;
    } catch (error) {
      if (error instanceof StoreUnavailable) return this.target.close("historyUnavailable");
      logError("A replay failed", error);
      this.target.close("undelivered");
    }
  }
}
