/**
 * The text wire's lines for one sender alone, "You wrote" and "Not sent", in the tutorial's order: none overtakes what
 * the sender's earlier messages lead to, nor the replay that it is still receiving.
 */

import { compareIds, type PendingMessage } from "../store/message.ts";
import type { Connection } from "./connection.ts";

export class PersonalLines {
  /** In the order of sending: messages that the store has not answered yet, and the rejections among and after them. */
  readonly #unanswered = new Map<object, string | undefined>();
  /** Held during a replay, each with the id of the entry that it follows. */
  readonly #held = new Set<{ readonly line: string; readonly after: string }>();
  #characters = 0;

  constructor(private readonly connection: Connection) {}

  /** Of lines that wait. */
  get characters(): number {
    return this.#characters;
  }

  given(pending: PendingMessage): void {
    this.#unanswered.set(pending, undefined);
  }

  /** @param line none for a binary message */
  stored(pending: PendingMessage, line: string | undefined, after: string): void {
    this.#sendRejections();
    this.#unanswered.delete(pending);
    if (line !== undefined) this.#send(line, after);
    // Its broadcast comes first: that follows in this turn.
    if (this.#hasRejection()) queueMicrotask(() => this.#sendRejections());
  }

  /** By the store, or before it was given to the store. */
  rejected(line: string, pending: object = {}): void {
    this.#unanswered.set(pending, line);
    this.#wait(line);
    this.#sendRejections();
  }

  /** Those that belong before an entry of the replay, or all of them when it is over. */
  sendHeld(before?: string): void {
    for (const each of this.#held) {
      if (before !== undefined && compareIds(each.after, before) >= 0) return;
      this.#held.delete(each);
      this.#characters -= each.line.length;
      this.connection.send(each.line);
    }
  }

  #hasRejection(): boolean {
    for (const line of this.#unanswered.values()) return line !== undefined;
    return false;
  }

  /** Those before which nothing is unanswered. */
  #sendRejections(): void {
    for (const [pending, line] of this.#unanswered) {
      if (line === undefined) return;
      this.#unanswered.delete(pending);
      this.#characters -= line.length;
      this.#send(line, this.connection.room.history.lastId);
    }
  }

  #send(line: string, after: string): void {
    const { room } = this.connection;
    if (!room.replaying.has(this.connection)) return room.broadcaster.sendAfterOwn(line, this.connection);
    this.#held.add({ line, after });
    this.#wait(line);
  }

  #wait(line: string): void {
    this.#characters += line.length;
    this.connection.hadBackpressure = true;
  }
}
