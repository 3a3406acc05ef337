/** One WebSocket in a room: a {@link Subscription} that also sends, and that the other clients see. */

import { logError } from "../ops/log.ts";
import { jsonCodec, textCodec, type Codec, type WireFormat, type Content } from "../protocol/codec.ts";
import type { Right } from "../protocol/events.ts";
import { isNumbered, type AppendResult, type PendingMessage, type StoredEntry } from "../store/message.ts";
import type { AppendCallback } from "../store/store.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import type { Member } from "./broadcaster.ts";
import type { ReplayRequest } from "./replay.ts";
import { Replies } from "./replies.ts";
import type { Room } from "./room.ts";
import { SeqOrder } from "./seq-order.ts";
import { isSlowConsumer } from "./slow-consumer.ts";
import { Subscription, type ReplayStart } from "./subscription.ts";

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

/** A request that was authorized. */
export interface Admission extends JoinRequest {
  readonly can: readonly Right[];
  readonly address?: string | undefined;
}

export class Connection extends Subscription implements Member, AppendCallback {
  readonly client: string;
  readonly session: string | undefined;
  readonly codec: Codec;
  readonly can: readonly Right[];
  readonly address: string | undefined;
  /** Its client has sent a frame on it, if only a pong. False if it has no session. */
  isInUse = false;
  /** How many connections in the room it replaces once it is in use. */
  replacedCount = 0;
  /** Estimated memory of the messages that have no result yet. */
  pendingBytes = 0;
  /** Called once, at the store's next result. */
  onNextResult: (() => void) | undefined;
  #isPongPending = false;
  #seqOrder: SeqOrder | undefined;
  #replies: Replies | undefined;
  /** A frame had to wait in the socket's buffer since {@link closeIfSlow} ran last. */
  #hadBackpressure = false;

  constructor(
    request: Admission,
    room: Room,
    /** Limits what the client sends. */
    readonly bucket: TokenBucket,
    replayRequest: ReplayRequest,
    /** The highest seq stored for the session; null if it is unknown. */
    private readonly sent: number | null,
    /** Of two connections of a session, the newer one has the higher token, whichever nodes they are on. */
    readonly fencingToken: number,
    private readonly onReleased: (connection: Connection) => void,
  ) {
    super(room, replayRequest);
    this.client = request.client;
    this.session = request.session;
    this.can = request.can;
    this.address = request.address;
    this.codec = request.wire === "json" ? jsonCodec : textCodec;
  }

  get seqOrder(): SeqOrder {
    return (this.#seqOrder ??= new SeqOrder());
  }

  get replies(): Replies {
    return (this.#replies ??= new Replies(this));
  }

  protected encodeWelcome(start: ReplayStart): string | undefined {
    const { room, client, session, sent, can } = this;
    const { maxMessageBytes, pingSeconds } = room.context.options;
    const { connections, ...present } = room.presence.forWelcome(client);
    return this.codec.welcome?.({
      client,
      room: room.name,
      ...start,
      ...(session === undefined ? {} : { sent }),
      ...present,
      connections: connections - this.replacedCount,
      can,
      pingSeconds,
      maxMessageBytes,
    });
  }

  override sendReplayed(entry: StoredEntry): boolean {
    this.#replies?.sendHeld(entry.id);
    return super.sendReplayed(entry);
  }

  override onReplayed(): void {
    super.onReplayed();
    this.#replies?.sendHeld();
    if (this.#isPongPending) this.send(jsonCodec.pong);
  }

  /** A pong follows every message stored before it, so it waits for a replay; queued messages are sent before it. */
  sendPong(): void {
    if (this.isReplaying) this.#isPongPending = true;
    else this.room.broadcaster.sendAfterQueued(jsonCodec.pong, this);
  }

  override send(frame: Content): number {
    const sent = super.send(frame);
    if (sent < 0) this.#hadBackpressure = true;
    return sent;
  }

  /** A message goes to the store, which calls {@link onResult}. */
  expectResult(pending: PendingMessage): void {
    this.pendingBytes += estimateSize(pending);
    this.replies.expect(pending);
  }

  onResult(pending: PendingMessage, result: AppendResult): void {
    this.pendingBytes -= estimateSize(pending);
    const { onNextResult } = this;
    this.onNextResult = undefined;
    onNextResult?.();
    try {
      if (isNumbered(pending)) this.seqOrder.onResult(pending.seq, result);
      this.replies.onResult(pending, result);
    } catch (error) {
      // The other clients receive the message all the same.
      logError("A reply failed", error);
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

  protected override enter(): void {
    this.room.manager.connect(this);
  }

  protected override leave(): void {
    this.room.manager.disconnect(this);
  }

  protected release(): void {
    this.onReleased(this);
  }
}

/** In bytes; one for each character, which most texts take. */
function estimateSize({ content }: PendingMessage): number {
  return PENDING_MESSAGE_BYTES + content.length;
}
