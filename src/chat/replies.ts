/**
 * The text wire's lines for one sender, "You wrote" and "Not sent", in the tutorial's order: a line never overtakes
 * the broadcasts of the sender's earlier messages, nor the replay that the sender is still receiving.
 */

import { compareIds } from "../store/message-id.ts";
import type { PendingMessage } from "../store/message.ts";
import type { Subscriber } from "./broadcaster.ts";
import type { Room } from "./room.ts";

interface Recipient extends Subscriber {
  readonly room: Room;
  readonly isReplaying: boolean;
  hadBackpressure: boolean;
}

export class PersonalLines {
  /** In the order of sending: messages without a result (undefined), and the rejections among and after them. */
  readonly #unsent = new Map<object, string | undefined>();
  /** Lines held during a replay, each with the id of the message that it follows. */
  readonly #held = new Set<{ readonly line: string; readonly afterId: string }>();
  #characters = 0;

  constructor(private readonly recipient: Recipient) {}

  /** Size of the lines that wait. */
  get characters(): number {
    return this.#characters;
  }

  expect(pending: PendingMessage): void {
    this.#unsent.set(pending, undefined);
  }

  /**
   * @param line undefined for a binary message
   * @param afterId the id that the line follows
   */
  stored(pending: PendingMessage, line: string | undefined, afterId: string): void {
    this.#sendRejections();
    this.#unsent.delete(pending);
    if (line !== undefined) this.#send(line, afterId);
    // The message's broadcast follows in this turn, and comes before the next rejection.
    if (this.#unsent.values().next().value !== undefined) queueMicrotask(() => this.#sendRejections());
  }

  /** @param pending the message, if the store rejected it; without one, it did not get as far as the store */
  rejected(line: string, pending: object = {}): void {
    this.#unsent.set(pending, line);
    this.#wait(line);
    this.#sendRejections();
  }

  /** Sends the held lines that belong before a message of the replay; without an id, all of them. */
  sendHeld(beforeId?: string): void {
    for (const each of this.#held) {
      if (beforeId !== undefined && compareIds(each.afterId, beforeId) >= 0) return;
      this.#held.delete(each);
      this.#characters -= each.line.length;
      this.recipient.send(each.line);
    }
  }

  /** Sends the rejections that no earlier message holds up. */
  #sendRejections(): void {
    for (const [pending, line] of this.#unsent) {
      if (line === undefined) return;
      this.#unsent.delete(pending);
      this.#characters -= line.length;
      this.#send(line, this.recipient.room.history.lastId);
    }
  }

  #send(line: string, afterId: string): void {
    const { room, isReplaying } = this.recipient;
    if (!isReplaying) return room.manager.sendPersonalMessage(line, this.recipient);
    this.#held.add({ line, afterId });
    this.#wait(line);
  }

  #wait(line: string): void {
    this.#characters += line.length;
    this.recipient.hadBackpressure = true;
  }
}
