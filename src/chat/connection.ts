/** One connection in a room: what it asked for, where it is, and what it is sent. */

import type { ConnectionManager, Member } from "./connection-manager.ts";
import type { Broadcaster } from "./broadcaster.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import { logError } from "../ops/log.ts";
import { PersonalLines } from "./personal-lines.ts";
import { jsonCodec, textCodec, type WireFormat } from "../protocol/codec.ts";
import type { ErrorCode } from "../protocol/codes.ts";
import { closeSocket, SLOW_CONSUMER_BYTES, type ConnectionSocket } from "./socket.ts";
import { SendOrder } from "./send-order.ts";
import type { ReadonlyHistory } from "../store/history.ts";
import type { AppendResult, Content, PendingMessage } from "../store/message.ts";
import type { AppendCallback } from "../store/store.ts";

/** What surrounds a message at the store, about. */
const DRAFT_BYTES = 200;

/** What a client asks for with its address. */
export interface JoinRequest {
  readonly client: string;
  readonly room: string;
  readonly wire: WireFormat;
  readonly session?: string;
  /** The last entry heard before, to go on from there. */
  readonly after?: string;
  /** How many of the latest messages to hear first, when not going on. */
  readonly history: number;
}

export interface Room {
  readonly name: string;
  readonly history: ReadonlyHistory;
  readonly manager: ConnectionManager<Connection>;
  /** Those that still hear what was said before them. */
  readonly replaying: Set<Connection>;
  readonly broadcaster: Broadcaster<Connection>;
  readonly timers: { leaves?: Timer; presence?: Timer };
  refCount: number;
}

/** What somebody comes for, and what the store knows of it. */
export interface ResumeState {
  readonly after: string | undefined;
  readonly history: number;
  /** The highest number that the store has of its session. */
  readonly sent: number | null;
  /** Whether nothing is missing after the entry that it asks to go on from. */
  readonly isAfterKept: boolean;
  /** Something is, and the store knows it better than the history. */
  readonly isDamaged: boolean;
  /** Where its latest messages begin, if some of them are older than the history that is kept ready. */
  readonly idBefore: string | undefined;
}

/** One connection in a room. */
export class Connection implements Member, AppendCallback {
  readonly client: string;
  readonly wire: WireFormat;
  readonly session: string | undefined;
  socket: ConnectionSocket | undefined;
  shard = 0;
  /** The next position of the room's history to be sent, while catching up. */
  replayOffset = 0;
  /** The entry sent last, while those that follow it are older than what is kept ready; then the store is read. */
  replayAfterId: string | undefined;
  isReadingStore = false;
  /** It was told that nothing is missing after what it heard last. */
  isResuming = false;
  /** It asked for a sign of life while catching up. */
  pongPending = false;
  /** Something sent to it had to wait since this was last looked at. */
  hadBackpressure = false;
  #sequence: SendOrder | undefined;
  #lines: PersonalLines | undefined;
  hasPonged = false;

  constructor(
    { client, wire, session }: JoinRequest,
    readonly room: Room,
    readonly bucket: TokenBucket,
    /** Dropped once it is in: there are many connections, and it is not needed again. */
    public resume: ResumeState | undefined,
    /** The newer of two connections of a session has the higher one, on whichever nodes they are. */
    readonly fencingToken: number,
  ) {
    this.client = client;
    this.wire = wire;
    this.session = session;
  }

  get sendOrder(): SendOrder {
    return (this.#sequence ??= new SendOrder());
  }

  get lines(): PersonalLines {
    return (this.#lines ??= new PersonalLines(this));
  }

  /** Lines that a replay holds up: those that belong before its next entry, or all when it is over. */
  sendHeldLines(before?: string): void {
    this.#lines?.sendHeld(before);
  }

  /** Whether it is a slow consumer, which is closed and resumes. One that catches up never is by what it is sent: that waits for the network. */
  get isBehind(): boolean {
    const unreadBytes = this.socket?.getBufferedAmount() ?? 0;
    return unreadBytes + (this.#lines?.characters ?? 0) > SLOW_CONSUMER_BYTES;
  }

  send(message: Content): number {
    const sent = this.socket?.send(message) ?? 0;
    if (sent < 0) this.hadBackpressure = true;
    return sent;
  }

  /** Tells that something was not said, and why. */
  sendRejected(code: ErrorCode, content: Content, seq?: number, retryAfterSeconds?: number): void {
    if (this.wire === "text") this.lines.rejected(textCodec.notSent(code, content));
    else this.send(jsonCodec.error(code, seq, retryAfterSeconds));
  }

  /** What its messages take at the store, until they are answered. */
  unansweredBytes = 0;
  onAnswered: (() => void) | undefined;

  given({ content }: PendingMessage): void {
    this.unansweredBytes += DRAFT_BYTES + content.length;
  }

  /** The store's answer to this sender. A fault here costs this connection: the others receive the message all the same. */
  onResult(pending: PendingMessage, result: AppendResult): void {
    this.unansweredBytes -= DRAFT_BYTES + pending.content.length;
    const { onAnswered } = this;
    this.onAnswered = undefined;
    onAnswered?.();
    try {
      this.#acknowledge(pending, result);
    } catch (error) {
      logError("An answer failed", error);
      if (this.socket) closeSocket(this.socket, "failed");
    }
  }

  /** What it wrote is kept, was kept before, or is not kept. */
  #acknowledge(pending: PendingMessage, result: AppendResult): void {
    const { seq, content } = pending;
    if (seq !== undefined && pending.session !== undefined) this.sendOrder.onResult(seq, result);
    if (this.wire === "text") {
      if ("rejected" in result) this.lines.rejected(textCodec.notSent(result.rejected, content), pending);
      else {
        const line = typeof content === "string" ? textCodec.youWrote(content) : undefined;
        this.lines.stored(pending, line, "stored" in result ? result.stored.prev : this.room.history.lastId);
      }
    } else if ("rejected" in result) this.sendRejected(result.rejected, content, seq);
    else if (seq !== undefined)
      this.send(jsonCodec.ack(seq, "stored" in result ? result.stored.id : result.id));
  }
}
