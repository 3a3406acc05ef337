/**
 * What a sender receives about its own messages: on the JSON wire `ack` and `error` events, on the text wire the lines
 * "You wrote" and "Not sent". The lines keep the tutorial's order: none overtakes the broadcasts of the sender's earlier
 * messages, nor the replay that the sender is still receiving.
 */

import type { Content } from "../protocol/codec.ts";
import type { ErrorCode } from "../protocol/codes.ts";
import { compareIds } from "../store/message-id.ts";
import type { AppendResult, PendingMessage } from "../store/message.ts";
import type { Subscriber } from "./broadcaster.ts";
import type { Room } from "./room.ts";

interface Sender extends Subscriber {
  readonly room: Room;
  readonly isReplaying: boolean;
  needsSlowCheck: boolean;
}

export class Replies {
  /** In the order of sending: messages without a result (undefined), and the rejections among and after them. */
  readonly #unsent = new Map<object, string | undefined>();
  /** Lines held during a replay, each with the id of the message that it follows. */
  readonly #held = new Set<{ readonly line: string; readonly afterId: string }>();
  #heldBytes = 0;

  constructor(private readonly sender: Sender) {}

  /** Size of the lines that wait. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** A message goes to the store, and {@link onResult} follows. */
  expect(pending: PendingMessage): void {
    if (this.sender.codec.ordersReplies) this.#unsent.set(pending, undefined);
  }

  onResult(pending: PendingMessage, result: AppendResult): void {
    if ("rejected" in result) {
      const { content, seq } = pending;
      this.#reject(this.sender.codec.rejected(result.rejected, content, seq), pending);
    } else if ("stored" in result) this.#acknowledge(pending, result.stored.id, result.stored.prev);
    else this.#acknowledge(pending, result.id, this.sender.room.history.lastId);
  }

  /** Rejects a frame before it gets as far as the store. */
  reject(code: ErrorCode, content: Content, seq?: number, retryAfterSeconds?: number): void {
    this.#reject(this.sender.codec.rejected(code, content, seq, retryAfterSeconds), {});
  }

  /** @param afterId the id that the reply follows */
  #acknowledge(pending: PendingMessage, id: string | undefined, afterId: string): void {
    const { sender } = this;
    const reply = sender.codec.stored(pending, id);
    if (!sender.codec.ordersReplies) {
      if (reply !== undefined) sender.send(reply);
      return;
    }
    this.#sendRejections();
    this.#unsent.delete(pending);
    if (reply !== undefined) this.#send(reply, afterId);
    // The message's broadcast follows in this turn, and comes before the next rejection.
    if (this.#unsent.values().next().value !== undefined) queueMicrotask(() => this.#sendRejections());
  }

  /** @param pending the message that the store rejected, or a new object in its place */
  #reject(reply: string, pending: object): void {
    if (!this.sender.codec.ordersReplies) return void this.sender.send(reply);
    this.#unsent.set(pending, reply);
    this.#countHeld(reply);
    this.#sendRejections();
  }

  /** Sends the held lines that belong before a message of the replay; without an id, all of them. */
  sendHeld(beforeId?: string): void {
    for (const each of this.#held) {
      if (beforeId !== undefined && compareIds(each.afterId, beforeId) >= 0) return;
      this.#held.delete(each);
      this.#heldBytes -= Buffer.byteLength(each.line);
      this.sender.send(each.line);
    }
  }

  /** Sends the rejections that no earlier message holds up. */
  #sendRejections(): void {
    for (const [pending, line] of this.#unsent) {
      if (line === undefined) return;
      this.#unsent.delete(pending);
      this.#heldBytes -= Buffer.byteLength(line);
      this.#send(line, this.sender.room.history.lastId);
    }
  }

  #send(line: string, afterId: string): void {
    const { room, isReplaying } = this.sender;
    if (!isReplaying) return room.manager.sendPersonalMessage(line, this.sender);
    this.#held.add({ line, afterId });
    this.#countHeld(line);
  }

  #countHeld(line: string): void {
    this.#heldBytes += Buffer.byteLength(line);
    this.sender.needsSlowCheck = true;
  }
}
