/** A receiver of a room's messages: first a replay, as fast as its socket takes it, then what is broadcast. */

import { recordDelivery, resumesTotal } from "../ops/metrics.ts";
import type { Content, Encoder } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import { isMessage, type StoredEntry } from "../store/message.ts";
import { encodeEntry, type Subscriber } from "./broadcaster.ts";
import { Replay, type ReplayRequest, type ReplayTarget } from "./replay.ts";
import type { Room } from "./room.ts";
import { closeSocket, type ConnectionSocket } from "./socket.ts";

/** Where the messages start that the receiver gets. */
export interface ReplayStart {
  /** The id just before the first message. */
  readonly last: string;
  /** Only when resuming: whether nothing is missing since. */
  readonly recovered?: boolean;
}

export abstract class Subscription implements Subscriber, ReplayTarget {
  abstract readonly codec: Encoder;
  socket: ConnectionSocket | undefined;
  shard = 0;
  #replay: Replay | undefined;
  #isClosed = false;

  constructor(
    readonly room: Room,
    private replayRequest: ReplayRequest | undefined,
  ) {}

  get isOpen(): boolean {
    return this.socket !== undefined;
  }

  get isReplaying(): boolean {
    return this.#replay !== undefined;
  }

  /** The socket is open. {@link welcome} follows, or {@link close}. */
  open(socket: ConnectionSocket): void {
    this.socket = socket;
    if (!this.room.isDetached) this.enter();
  }

  /** Sends the welcome, where there is one, and starts the replay. */
  welcome(): void {
    const { replayRequest } = this;
    if (!replayRequest) return;
    this.replayRequest = undefined; // frees memory: there are many subscriptions
    const replay = new Replay(this, replayRequest);
    const { last, recovered } = replay;
    const isResuming = replayRequest.after !== undefined;
    if (isResuming) resumesTotal.count(`${recovered}`);
    const welcome = this.encodeWelcome({ last, ...(isResuming ? { recovered } : {}) });
    if (welcome !== undefined) this.send(welcome);
    this.#replay = replay;
    replay.run();
  }

  onDrain(): void {
    this.#replay?.run();
  }

  sendReplayed(entry: StoredEntry): boolean {
    const frame = encodeEntry(this.codec, entry);
    if (frame === undefined) return true;
    recordDelivery(frame, isMessage(entry), 1);
    return this.send(frame) !== -1;
  }

  onReplayed(): void {
    this.#replay = undefined;
    this.room.broadcaster.subscribe(this);
  }

  send(frame: Content): number {
    return this.socket?.send(frame) ?? 0;
  }

  /** Closes the socket; it receives nothing more. */
  close(reason: CloseReason): void {
    if (!this.socket) return;
    this.room.broadcaster.unsubscribe(this);
    closeSocket(this.socket, reason);
    this.onClosed();
  }

  /** The socket is closed, or was never opened. */
  onClosed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const { isOpen } = this;
    this.socket = undefined;
    this.#replay = undefined;
    if (isOpen) this.leave();
    this.release();
  }

  protected abstract encodeWelcome(start: ReplayStart): string | undefined;

  protected enter(): void {
    this.room.broadcaster.add(this);
  }

  protected leave(): void {
    this.room.broadcaster.remove(this);
  }

  /** Nothing uses it any more. */
  protected abstract release(): void;
}
