/**
 * What goes out to a room. The write to each socket is what costs, and Bun does at most one a tick: so a quiet room
 * is written to at once, and in a busy one the messages of some milliseconds share a write.
 */

import type { ConnectionManager } from "./manager.ts";
import { countSent } from "./metrics.ts";
import type { Wire } from "./protocol.ts";
import type { Content } from "./store.ts";
import { isBehind, MAX_UNREAD_BYTES, type Visitor } from "./visitor.ts";

/** So much does not wait any longer: four times as much is no faster, and twice as late. */
const MAX_WAITING_BYTES = 16 * 1024;
/** How soon a reader that does not keep up is looked for. */
const LOOK_FOR_SLOW_MS = 50;

/** To all in the room who speak a wire. */
export interface Outgoing {
  readonly to: Wire;
  readonly message: Content;
  /** It is in the history, too, where who has just come reads it. */
  readonly isEntry: boolean;
}

export class FanOut {
  #waiting: Outgoing[] = [];
  #waitingBytes = 0;
  #writtenMs = -Infinity;
  #timer: Timer | undefined;
  #slowTimer: Timer | undefined;
  /** Said since it was last looked who does not keep up. */
  #bytesUnwatched = 0;

  /** @param dismiss what happens to a reader that does not keep up */
  constructor(
    private readonly manager: ConnectionManager<Visitor>,
    private readonly catchingUp: ReadonlySet<Visitor>,
    private readonly flushMs: number,
    private readonly dismiss: (slow: Visitor) => void,
  ) {}

  /** Goes out together, after all that waits. */
  add(outgoing: readonly Outgoing[]): void {
    const isQuiet = this.#waiting.length === 0 && performance.now() - this.#writtenMs >= this.flushMs;
    if (isQuiet) return this.#write(outgoing);
    for (const each of outgoing) {
      this.#waiting.push(each);
      this.#waitingBytes += each.message.length;
    }
    if (this.#waitingBytes >= MAX_WAITING_BYTES) this.flush();
    // From here, and not from the last write: what that took of the time, as it does in a crowd, is no pause.
    else this.#timer ??= setTimeout(() => this.flush(), this.flushMs);
  }

  /** Does not wait any longer. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#waitingBytes = 0;
    if (waiting.length > 0) this.#write(waiting);
  }

  end(): void {
    clearTimeout(this.#timer);
    clearTimeout(this.#slowTimer);
  }

  #write(outgoing: readonly Outgoing[]): void {
    const { manager, catchingUp } = this;
    let isSlow = false;
    for (const { to, message, isEntry } of outgoing) {
      if (isEntry) countSent(message, this.#listeners(to));
      // Who is catching up is not subscribed yet, and would never hear of it.
      else for (const visitor of catchingUp) if (visitor.wire === to) visitor.send(message);
      isSlow = manager.broadcast(to, message) < 0 || isSlow;
      this.#bytesUnwatched += message.length;
    }
    this.#writtenMs = performance.now();
    if (isSlow) this.#watchForSlow();
    else this.#bytesUnwatched = 0;
  }

  /** Looks who it is, now and then, and sooner the more is being said. */
  #watchForSlow(): void {
    if (this.#bytesUnwatched > MAX_UNREAD_BYTES / 4) return this.#dismissSlow();
    this.#slowTimer ??= setTimeout(() => this.#dismissSlow(), LOOK_FOR_SLOW_MS);
  }

  #dismissSlow(): void {
    clearTimeout(this.#slowTimer);
    this.#slowTimer = undefined;
    this.#bytesUnwatched = 0;
    for (const visitor of this.manager.connections())
      if (visitor.socket && isBehind(visitor.socket)) this.dismiss(visitor);
  }

  #listeners(wire: Wire): number {
    let count = this.manager.speakers(wire);
    for (const visitor of this.catchingUp) if (visitor.wire === wire) count--;
    return count;
  }
}
