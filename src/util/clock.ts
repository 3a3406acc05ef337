/** Time and timers. The server has one clock, passed down from where it starts; tests and simulations pass their own. */
export interface Clock {
  /** Unix time in milliseconds. */
  now(): number;
  /** Milliseconds since a fixed moment; unlike {@link now} it never goes back. */
  elapsed(): number;
  setTimeout(run: () => void, ms: number): Timer;
  setInterval(run: () => void, ms: number): Timer;
  /** Cancels a timeout or an interval. */
  clear(timer: Timer | undefined): void;
  /** Runs after the I/O of the current turn of the event loop. */
  setImmediate(run: () => void): void;
  sleep(ms: number): Promise<void>;
}

/** The globals are read at each call, so that a test can replace them. */
export const systemClock: Clock = {
  now: () => Date.now(),
  elapsed: () => performance.now(),
  setTimeout: (run, ms) => setTimeout(run, ms),
  setInterval: (run, ms) => setInterval(run, ms),
  clear: (timer) => clearTimeout(timer),
  setImmediate: (run) => void setImmediate(run),
  sleep: (ms) => Bun.sleep(ms),
};
