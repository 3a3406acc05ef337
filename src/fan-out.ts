/**
 * What goes out to a room. The write to each socket is what costs, and Bun does at most one a tick: so a quiet room
 * is written to at once, and in a busy one what is said during a pause shares the next write.
 */

import type { ConnectionManager } from "./manager.ts";
import { countSent } from "./metrics.ts";
import type { Wire } from "./protocol.ts";
import type { Content } from "./store.ts";
import { isBehind, MAX_UNREAD_BYTES, type Visitor } from "./visitor.ts";

/** So much does not wait any longer, the frames of both wires counted in characters: 64 KiB were no faster, and later. */
const MAX_WAITING = 16 * 1024;
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
  #waitingLength = 0;
  /** The pause since the last write, until it is over. */
  #pausing: object | undefined;
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
    if (!this.#pausing) return this.#write(outgoing);
    for (const each of outgoing) {
      this.#waiting.push(each);
      this.#waitingLength += each.message.length;
    }
    if (this.#waitingLength >= MAX_WAITING) this.flush();
  }

  /** Does not wait any longer. */
  flush(): void {
    const waiting = this.#takeWaiting();
    if (waiting.length > 0) this.#write(waiting);
  }

  #takeWaiting(): Outgoing[] {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#waitingLength = 0;
    return waiting;
  }

  /** Nobody is there any more: what waits is for nobody, nor for who comes into a new room of that name. */
  end(): void {
    this.#takeWaiting();
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
    if (this.flushMs > 0) void this.#pause();
    if (isSlow) this.#watchForSlow();
    else this.#bytesUnwatched = 0;
  }

  async #pause(): Promise<void> {
    const pause = (this.#pausing = {});
    // Only in one of the next two turns does Bun write to the sockets, which in a crowd alone takes many milliseconds.
    for (let turn = 0; turn < 2; turn++) await new Promise(setImmediate);
    await Bun.sleep(this.flushMs);
    if (this.#pausing !== pause) return; // something could not wait
    this.#pausing = undefined;
    this.flush();
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
