/**
 * What a sender receives about its own messages: on the JSON wire `ack` and `error` events, on the text wire the lines
 * "You wrote" and "Not sent". The lines keep the tutorial's order: none overtakes the broadcasts of the sender's earlier
 * messages, nor the replay that the sender is still receiving.
 */

import type { SentMessage } from "../protocol/codec.ts";
import type { ErrorCode } from "../protocol/codes.ts";
import { compareIds } from "../store/message-id.ts";
import type { AppendResult, PendingMessage } from "../store/message.ts";
import type { Member } from "./broadcaster.ts";
import type { Room } from "./room.ts";

interface Sender extends Member {
  readonly room: Room;
  readonly isReplaying: boolean;
}

export class Replies {
  /** In the order of sending: messages without a result (undefined), and the rejections among and after them. */
  readonly #unsent = new Map<SentMessage, string | undefined>();
  /** Lines held during a replay, each with the id of the message that it follows. */
  readonly #held: { readonly line: string; readonly afterId: string }[] = [];
  #waitingBytes = 0;

  constructor(private readonly sender: Sender) {}

  /** Size of the lines that wait. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** A message goes to the store, and {@link onResult} follows. */
  expect(pending: PendingMessage): void {
    if (this.sender.codec.ordersReplies) this.#unsent.set(pending, undefined);
  }

  onResult(pending: PendingMessage, result: AppendResult): void {
    const { codec, room } = this.sender;
    if ("rejected" in result) return this.reject(result.rejected, pending);
    const { id, prev } = "stored" in result ? result.stored : { id: result.id, prev: room.history.lastId };
    this.#sendRejections();
    this.#unsent.delete(pending);
    const reply = codec.stored(pending, id);
    if (reply !== undefined) this.#send(reply, prev);
    // The message's broadcast follows in this turn, and comes before the next rejection.
    if (this.#unsent.size > 0) queueMicrotask(() => this.#sendRejections());
  }

  /** @param message the pending message, or the content of a frame that did not become one */
  reject(code: ErrorCode, message: SentMessage, retryAfterSeconds?: number): void {
    const reply = this.sender.codec.rejected(code, message, retryAfterSeconds);
    this.#unsent.set(message, reply);
    this.#waitingBytes += Buffer.byteLength(reply);
    this.#sendRejections();
  }

  /** Sends the rejections that no earlier message holds up. */
  #sendRejections(): void {
    for (const [message, line] of this.#unsent) {
      if (line === undefined) return;
      this.#unsent.delete(message);
      this.#waitingBytes -= Buffer.byteLength(line);
      this.#send(line, this.sender.room.history.lastId);
    }
  }

  /** @param afterId the id that the reply follows */
  #send(line: string, afterId: string): void {
    const { sender } = this;
    if (!sender.codec.ordersReplies) return void sender.send(line);
    if (!sender.isReplaying) return sender.room.manager.sendPersonalMessage(line, sender);
    this.#held.push({ line, afterId });
    this.#waitingBytes += Buffer.byteLength(line);
  }

  /** Sends the held lines that belong before a message of the replay; without an id, all of them. */
  sendHeld(beforeId?: string): void {
    const index = this.#held.findIndex(
      ({ afterId }) => beforeId !== undefined && compareIds(afterId, beforeId) >= 0,
    );
    for (const { line } of this.#held.splice(0, index < 0 ? this.#held.length : index)) {
      this.#waitingBytes -= Buffer.byteLength(line);
      this.sender.send(line);
    }
  }
}
