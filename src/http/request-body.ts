/** Request bodies that are still arriving. Each holds a file descriptor, so slow ones are rejected when these run low. */

import { HttpProblem } from "./problem.ts";
import type { Clock } from "../util/clock.ts";

/** A body of one message arrives well within this. */
const SLOW_MS = 1000;

interface PendingBody {
  readonly startMs: number;
  reject(problem: HttpProblem): void;
}

export class PendingBodies {
  /** The oldest first. */
  readonly #pending = new Set<PendingBody>();

  constructor(private readonly clock: Clock) {}

  /** The result of `reading`. @throws HttpProblem 503 if it is slow while descriptors run low */
  async wait<T>(reading: Promise<T>): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>();
    const pending = { startMs: this.clock.elapsed(), reject };
    this.#pending.add(pending);
    try {
      return await Promise.race([reading, promise]);
    } finally {
      this.#pending.delete(pending);
    }
  }

  rejectSlow(): void {
    const latestMs = this.clock.elapsed() - SLOW_MS;
    for (const { startMs, reject } of this.#pending) {
      if (startMs > latestMs) return;
      reject(new HttpProblem("full", "The server is full. Try again in a moment."));
    }
  }
}
