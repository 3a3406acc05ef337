/**
 * What goes out to a room. The write to each socket is what costs, and Bun does at most one a tick: so a quiet room
 * is written to at once, and in a busy one what is said during a pause shares the next write. A crowd is written to
 * section by section, with turns for others in between.
 */

import type { ConnectionManager } from "./manager.ts";
import { countSent } from "./metrics.ts";
import type { Wire } from "./protocol.ts";
import type { Content } from "./store.ts";
import { isBehind, MAX_UNREAD_BYTES, type Visitor } from "./visitor.ts";

/** So much does not wait any longer, the frames of both wires counted in characters: 64 KiB were no faster, and later. */
const MAX_WAITING = 16 * 1024;
/** The pause is longer by a third of what the writes took, so that a crowd leaves others a quarter of the time; by so much at most. */
const MAX_REST_MS = 100;
/** How soon a reader that does not keep up is looked for. */
const LOOK_FOR_SLOW_MS = 50;

/** To all in the room who speak a wire. */
export interface Outgoing {
  readonly to: Wire;
  readonly message: Content;
  /** It is in the history, too, where who has just come reads it. */
  readonly isEntry: boolean;
}

/** What waits for a section of the room's connections. */
interface Section {
  waiting: { readonly to: Wire | Visitor; readonly message: Content }[];
  length: number;
}

export class FanOut {
  /** By the manager's numbers. */
  readonly #sections: Section[] = [];
  /** The writes to all sections and the pause after them, until it is over. */
  #round: object | undefined;
  #isPausing = false;
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
    let length = 0;
    for (const { to, message, isEntry } of outgoing) {
      if (isEntry) countSent(message, this.#listeners(to));
      // Who is catching up is not subscribed yet, and would never hear of it.
      else for (const visitor of this.catchingUp) if (visitor.wire === to) visitor.send(message);
      length += message.length;
    }
    this.#bytesUnwatched += length;
    let isMuch = false;
    for (const [number, size] of this.manager.sections.entries()) {
      if (size === 0) continue;
      const section = (this.#sections[number] ??= { waiting: [], length: 0 });
      section.waiting.push(...outgoing);
      section.length += length;
      isMuch ||= section.length >= MAX_WAITING;
    }
    if (this.flushMs === 0) this.flush();
    else if (!this.#round || (this.#isPausing && isMuch)) void this.#goRound();
  }

  /** To one of them, after all that waits. */
  sendAfter(message: Content, visitor: Visitor): void {
    const waiting = this.#sections[visitor.section]?.waiting ?? [];
    if (waiting.length > 0) waiting.push({ to: visitor, message });
    else visitor.send(message);
  }

  /** In that section, or any, nothing waits any longer. */
  flush(section?: number): void {
    if (section !== undefined) this.#write(section);
    else for (const number of this.#sections.keys()) this.#write(number);
  }

  /** Nobody is there any more: what waits is for nobody, nor for who comes into a new room of that name. */
  end(): void {
    this.#sections.length = 0;
    clearTimeout(this.#slowTimer);
  }

  async #goRound(): Promise<void> {
    const round = (this.#round = {});
    do {
      this.#isPausing = false;
      const startMs = performance.now();
      for (const number of this.#sections.keys()) {
        if (!this.#write(number)) continue;
        // Only in one of the next two turns does Bun write to the sockets, which takes milliseconds.
        for (let turn = 0; turn < 2; turn++) await new Promise(setImmediate);
        if (this.#round !== round) return; // something could not wait
      }
      this.#isPausing = true;
      await Bun.sleep(this.flushMs + Math.min((performance.now() - startMs) / 3, MAX_REST_MS));
      if (this.#round !== round) return;
    } while (this.#sections.some(({ waiting }) => waiting.length > 0));
    this.#round = undefined;
  }

  /** @returns whether anything was waiting */
  #write(number: number): boolean {
    const section = this.#sections[number];
    if (!section || section.waiting.length === 0) return false;
    const { waiting } = section;
    section.waiting = [];
    section.length = 0;
    let isSlow = false;
    for (const { to, message } of waiting)
      if (typeof to === "object") to.send(message);
      else isSlow = this.manager.broadcast(to, number, message) < 0 || isSlow;
    if (isSlow) this.#watchForSlow();
    else if (!this.#slowTimer) this.#bytesUnwatched = 0;
    return true;
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
