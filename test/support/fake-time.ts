/** Timers and clocks of the test's own process that move only when the test says so. */

import { afterEach, beforeEach, jest } from "bun:test";

/** For every test of the file, or of the `describe` around it. */
export function useFakeTime(): void {
  beforeEach(() => void jest.useFakeTimers());
  afterEach(() => void jest.useRealTimers());
}

/** Advances the clock 1 ms at a time, so that promises settle between timers. */
export async function passes(ms: number, eachMs = () => {}): Promise<void> {
  for (let step = 0; step < ms; step++) {
    jest.advanceTimersByTime(1);
    await Promise.resolve();
    eachMs();
  }
}
