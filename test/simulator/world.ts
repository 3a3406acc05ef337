/** Virtual time: one queue of events for all simulated processes, and the globals that read time and randomness. */

import { drainMicrotasks } from "bun:jsc";
import type { Clock } from "../../src/util/clock.ts";
import type { Random } from "../../src/util/random.ts";
import { randomFrom } from "../support/random.ts";

/** Unix time in milliseconds at the start of each simulation. */
const START_MS = Date.UTC(2026, 0, 1);
/** A simulation with more events than this per simulated second and process does not end: something runs in circles. */
const MAX_EVENTS = 4_000_000;

/** Random draws that a seed repeats. */
export class Dice {
  readonly next: () => number;

  constructor(seed: number) {
    this.next = randomFrom(seed);
  }

  /** From `low` to `high`, without `high`. */
  between(low: number, high: number): number {
    return low + this.next() * (high - low);
  }

  /** A whole number from `low` to `high`, with both. */
  whole(low: number, high: number): number {
    return low + Math.floor(this.next() * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    const item = list[Math.floor(this.next() * list.length)];
    if (item === undefined) throw new Error("nothing to pick from");
    return item;
  }
}

/** A process: what it has scheduled ends with it. */
export class Owner {
  isAlive = true;
  /** Its clock's difference from the world's. */
  clockSkewMs = 0;
  /** It is computing, or frozen, until then: its events wait. */
  busyUntil = 0;
  /** A browser calls it when the device is online again. */
  onOnline: ((event: { readonly type: "online" }) => void) | undefined;

  constructor(readonly name: string) {}
}

class ScheduledEvent implements Timer {
  isCancelled = false;
  /** When it was due, if that was before {@link at}: what waits for a busy process happens in this order. */
  due: number;

  constructor(
    public at: number,
    public order: number,
    readonly owner: Owner,
    readonly run: () => void,
    readonly intervalMs: number | undefined,
  ) {
    this.due = at;
  }

  ref() {
    return this;
  }
  unref() {
    return this;
  }
  hasRef() {
    return true;
  }
  refresh(): never {
    throw new Error("not simulated");
  }
  [Symbol.toPrimitive]() {
    return this.order;
  }
}

export class World {
  /** Milliseconds since the start. */
  now = 0;
  /** The process whose code runs. */
  current: Owner;
  events = 0;
  failure: string | undefined;
  readonly #heap: ScheduledEvent[] = [];
  /** Of what no process does. */
  readonly outside = new Owner("outside");
  #order = 0;

  constructor(
    readonly dice: Dice,
    readonly trace: ((line: string) => void) | undefined,
  ) {
    this.current = this.outside;
  }

  /** The first failure ends the simulation. */
  fail(what: string): void {
    this.failure ??= `${(this.now / 1000).toFixed(3)} s: ${what}`;
  }

  /** The time as the running process sees it, which includes what it has spent in this event. */
  get time(): number {
    return Math.max(this.now, this.current.busyUntil);
  }

  /** The running process computes for that long. */
  spend(ms: number): void {
    this.current.busyUntil = this.time + ms;
  }

  /** Runs code as a process, synchronously. */
  as<T>(owner: Owner, run: () => T): T {
    const before = this.current;
    this.current = owner;
    try {
      return run();
    } finally {
      this.current = before;
    }
  }

  schedule(owner: Owner, at: number, run: () => void, intervalMs?: number): ScheduledEvent {
    const event = new ScheduledEvent(at, ++this.#order, owner, run, intervalMs);
    this.#push(event);
    return event;
  }

  /** Runs all events up to that time, or to the first failure. */
  runUntil(until: number): void {
    while (this.failure === undefined) {
      const event = this.#heap[0];
      if (event === undefined || event.at > until) break;
      this.#pop();
      const { owner } = event;
      if (event.isCancelled || !owner.isAlive) continue;
      if (owner.busyUntil > event.at) {
        event.at = owner.busyUntil;
        this.#push(event);
        continue;
      }
      this.now = event.at;
      this.current = owner;
      if (++this.events > MAX_EVENTS) return this.fail("too many events: something runs in circles");
      event.run();
      drainMicrotasks();
      if (event.intervalMs === undefined || event.isCancelled) continue;
      event.at = event.due = this.time + event.intervalMs;
      event.order = ++this.#order;
      this.#push(event);
    }
    this.current = this.outside;
    if (this.failure === undefined) this.now = until;
  }

  clockOf(owner: Owner): Clock {
    return {
      now: () => this.dateOf(owner),
      elapsed: () => Math.max(this.now, owner.busyUntil),
      setTimeout: (run, ms) => this.schedule(owner, this.time + Math.max(ms, 1), run),
      setInterval: (run, ms) => this.schedule(owner, this.time + Math.max(ms, 1), run, Math.max(ms, 1)),
      clear: (timer) => cancel(timer),
      setImmediate: (run) => void this.schedule(owner, this.time, run),
      sleep: (ms) =>
        new Promise((resolve) => void this.schedule(owner, this.time + Math.max(ms, 1), resolve)),
    };
  }

  /** What its clock says: Unix time in milliseconds. */
  dateOf(owner: Owner): number {
    return Math.floor(START_MS + Math.max(this.now, owner.busyUntil) + owner.clockSkewMs);
  }

  randomOf(): Random {
    const { next } = this.dice;
    const uuid = () =>
      `00000000-0000-4000-8000-${Math.floor(next() * 2 ** 48)
        .toString(16)
        .padStart(12, "0")}`;
    return { next, uuid };
  }

  /** What the code of clients finds in `globalThis`. */
  globals(): Record<string, unknown> {
    const setTimer = (run: () => void, ms = 0, intervalMs?: number) =>
      this.schedule(this.current, this.time + Math.max(ms, 1), run, intervalMs);
    return {
      setTimeout: (run: () => void, ms?: number) => setTimer(run, ms),
      setInterval: (run: () => void, ms = 1) => setTimer(run, ms, Math.max(ms, 1)),
      clearTimeout: cancel,
      clearInterval: cancel,
      // Those of the real process would keep all clients in memory that crash.
      addEventListener: (type: string, listener: NonNullable<Owner["onOnline"]>) => {
        if (type === "online") this.current.onOnline = listener;
      },
      removeEventListener: (type: string) => {
        if (type === "online") this.current.onOnline = undefined;
      },
    };
  }

  /** Replaces the globals for as long as `run` takes. */
  within<T>(globals: Record<string, unknown>, run: () => T): T {
    const { error } = console;
    const originals = Object.fromEntries(
      Object.keys(globals).map((name) => [name, Reflect.get(globalThis, name)]),
    );
    const dateNow = Date.now;
    const performanceNow = performance.now;
    const mathRandom = Math.random;
    Object.assign(globalThis, globals);
    Date.now = () => this.dateOf(this.current);
    performance.now = () => this.time;
    Math.random = this.dice.next;
    console.error = (...parts) => this.fail(`an error was logged: ${parts.map(String).join(" ")}`);
    try {
      return run();
    } finally {
      Object.assign(globalThis, originals);
      Date.now = dateNow;
      performance.now = performanceNow;
      Math.random = mathRandom;
      console.error = error;
    }
  }

  #push(event: ScheduledEvent): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    while (index > 0) {
      const parentIndex = (index - 1) >> 1;
      const parent = heap[parentIndex];
      if (parent === undefined || !isBefore(event, parent)) break;
      heap[index] = parent;
      index = parentIndex;
    }
    heap[index] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let index = 0;
    for (;;) {
      let childIndex = 2 * index + 1;
      let child = heap[childIndex];
      if (child === undefined) break;
      const right = heap[childIndex + 1];
      if (right !== undefined && isBefore(right, child)) {
        child = right;
        childIndex++;
      }
      if (!isBefore(child, last)) break;
      heap[index] = child;
      index = childIndex;
    }
    heap[index] = last;
  }
}

function isBefore(one: ScheduledEvent, other: ScheduledEvent): boolean {
  if (one.at !== other.at) return one.at < other.at;
  if (one.due !== other.due) return one.due < other.due;
  return one.order < other.order;
}

function cancel(timer: unknown): void {
  if (timer instanceof ScheduledEvent) timer.isCancelled = true;
}
