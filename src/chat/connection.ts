/** One WebSocket in a room. */

import { logError } from "../ops/log.ts";
import { recordDelivery, resumesTotal } from "../ops/metrics.ts";
import { jsonCodec, textCodec, type Codec, type WireFormat, type Content } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import { isNumbered, type AppendResult, type PendingMessage, type StoredMessage } from "../store/message.ts";
import type { AppendCallback } from "../store/store.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import type { Subscriber } from "./broadcaster.ts";
import { Replay, type ReplayRequest, type ReplayTarget } from "./replay.ts";
import { Replies } from "./replies.ts";
import type { Room } from "./room.ts";
import { SeqOrder } from "./seq-order.ts";
import { isSlowConsumer } from "./slow-consumer.ts";
import { closeSocket, type ConnectionSocket } from "./socket.ts";

/** Memory that a pending message takes besides its content, estimated. */
const PENDING_MESSAGE_BYTES = 200;

/** What a client asks for in its URL. */
export interface JoinRequest {
  readonly client: string;
  readonly room: string;
  readonly wire: WireFormat;
  readonly session?: string;
  /** The id of the last message that the client received, to resume after it. */
  readonly after?: string;
  /** How many of the latest messages to replay when it does not resume. */
  readonly history: number;
}

export class Connection implements Subscriber, ReplayTarget, AppendCallback {
  readonly client: string;
  readonly session: string | undefined;
  readonly codec: Codec;
  socket: ConnectionSocket | undefined;
  shard = 0;
  hasPonged = false;
  /** Estimated memory of the messages that the store has not answered yet. */
  unansweredBytes = 0;
  /** Called once, at the store's next result. */
  onAnswered: (() => void) | undefined;
  #replay: Replay | undefined;
  #isPongPending = false;
  #seqOrder: SeqOrder | undefined;
  #replies: Replies | undefined;
  /** A frame had to wait in the socket's buffer since {@link closeIfSlow} ran last. */
  #hadBackpressure = false;
  #isClosed = false;

  constructor(
    request: JoinRequest,
    readonly room: Room,
    /** Limits what the client sends. */
    readonly bucket: TokenBucket,
    private replayRequest: ReplayRequest | undefined,
    /** The highest seq stored for the session; null if it is unknown. */
    private readonly sent: number | null,
    /** Of two connections of a session, the newer one has the higher token, whichever nodes they are on. */
    readonly fencingToken: number,
    private readonly release: (connection: Connection) => void,
  ) {
    this.client = request.client;
    this.session = request.session;
    this.codec = request.wire === "json" ? jsonCodec : textCodec;
  }

  get isOpen(): boolean {
    return this.socket !== undefined;
  }

  get isReplaying(): boolean {
    return this.#replay !== undefined;
  }

  get seqOrder(): SeqOrder {
    return (this.#seqOrder ??= new SeqOrder());
  }

  get replies(): Replies {
    return (this.#replies ??= new Replies(this));
  }

  /** The WebSocket is open: the client is in the room. {@link welcome} follows, or {@link close}. */
  open(socket: ConnectionSocket): void {
    this.socket = socket;
    if (!this.room.isDetached) this.room.manager.connect(this);
  }

  /** Sends the welcome, where the wire has one, and starts the replay. */
  welcome(): void {
    const { room, client, session, sent, replayRequest } = this;
    if (!replayRequest) return;
    this.replayRequest = undefined; // there are many connections
    const { maxMessageBytes, pingSeconds } = room.context.options;
    const replay = new Replay(this, replayRequest);
    const { last, recovered } = replay;
    const isResuming = replayRequest.after !== undefined;
    if (isResuming) resumesTotal.count(`${recovered}`);
    const welcome = this.codec.welcome?.({
      client,
      room: room.name,
      last,
      ...(isResuming ? { recovered } : {}),
      ...(session === undefined ? {} : { sent }),
      ...room.presence.forWelcome(client),
      pingSeconds,
      maxMessageBytes,
    });
    if (welcome !== undefined) this.send(welcome);
    this.#replay = replay;
    replay.run();
  }

  onDrain(): void {
    this.#replay?.run();
  }

  sendReplayed(message: StoredMessage): boolean {
    this.#replies?.sendHeld(message.id);
    const frame = this.codec.message(message);
    recordDelivery(frame, 1);
    return this.send(frame) !== -1;
  }

  onReplayed(): void {
    this.#replay = undefined;
    this.#replies?.sendHeld();
    if (this.#isPongPending) this.send(jsonCodec.pong);
    this.room.broadcaster.subscribe(this);
  }

  /** A pong follows every message stored before it, so it waits for a replay; queued messages are sent before it. */
  sendPong(): void {
    if (this.isReplaying) this.#isPongPending = true;
    else this.room.broadcaster.sendAfterQueued(jsonCodec.pong, this);
  }

  send(frame: Content): number {
    const sent = this.socket?.send(frame) ?? 0;
    if (sent < 0) this.#hadBackpressure = true;
    return sent;
  }

  /** A message goes to the store, which calls {@link onResult}. */
  expectResult(pending: PendingMessage): void {
    this.unansweredBytes += estimateSize(pending);
    this.replies.expect(pending);
  }

  onResult(pending: PendingMessage, result: AppendResult): void {
    this.unansweredBytes -= estimateSize(pending);
    const { onAnswered } = this;
    this.onAnswered = undefined;
    onAnswered?.();
    try {
      if (isNumbered(pending)) this.seqOrder.onResult(pending.seq, result);
      this.replies.onResult(pending, result);
    } catch (error) {
      // The other clients receive the message all the same.
      logError("An answer failed", error);
      this.close("failed");
    }
  }

  /** Closes a slow consumer. A replay never makes one: it waits for the socket. */
  closeIfSlow(): void {
    const waitingBytes = this.#replies?.waitingBytes ?? 0;
    if (!this.socket || (!this.#hadBackpressure && waitingBytes === 0)) return;
    this.#hadBackpressure = false;
    if (isSlowConsumer(this.socket, waitingBytes)) this.close("tooSlow");
  }

  /** Closes the WebSocket; the client receives nothing more. */
  close(reason: CloseReason): void {
    if (!this.socket) return;
    this.room.broadcaster.unsubscribe(this);
    closeSocket(this.socket, reason);
    this.onClosed();
  }

  /** The WebSocket is closed, or the upgrade failed. */
  onClosed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { isOpen } = this;
    this.socket = undefined;
    this.#replay = undefined;
    if (isOpen) this.room.manager.disconnect(this);
    this.release(this);
  }
}

/** In bytes; one for each character, which most texts take. */
function estimateSize({ content }: PendingMessage): number {
  return PENDING_MESSAGE_BYTES + content.length;
}
