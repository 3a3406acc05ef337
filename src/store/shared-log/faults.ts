/** How failed requests are judged: which are bugs, and which are an outage. */

import { logError } from "../../ops/log.ts";
import type { Clock } from "../../util/clock.ts";
import { EngineRejection, EngineUnreachable } from "./engine.ts";
import type { SharedLogContext } from "./timing.ts";

/** Logs errors that are neither rejections nor lost connections but bugs: each once, until {@link clear}. */
export class Faults {
  #reported = "";

  /** @returns the error's message */
  check(what: string, error: unknown): string {
    const reason = error instanceof Error ? error.message : String(error);
    const isExpected = error instanceof EngineRejection || error instanceof EngineUnreachable;
    if (!isExpected && reason !== this.#reported) {
      this.#reported = reason;
      logError(what, error);
    }
    return reason;
  }

  clear(): void {
    this.#reported = "";
  }
}

/** Tells an outage from what is tolerated: a single failure, and connections that are cut for `outageMs`. */
export class OutageDetector {
  #failures = 0;
  #firstFailureMs = 0;

  constructor(private readonly context: SharedLogContext) {}

  /** @returns whether this is an outage */
  onFailure(error: unknown): boolean {
    const nowMs = this.context.clock.elapsed();
    if (++this.#failures === 1) this.#firstFailureMs = nowMs;
    const isTolerated =
      error instanceof EngineUnreachable && nowMs - this.#firstFailureMs < this.context.timing.outageMs;
    return this.#failures > 1 && !isTolerated;
  }

  onSuccess(): void {
    this.#failures = 0;
  }
}

/**
 * The reply to a request that may never settle: a frozen database answers nothing.
 * @throws what the request throws, or EngineUnreachable after that many milliseconds
 */
export async function replyWithin<T>(ms: number, clock: Clock, request: Promise<T>): Promise<T> {
  const { promise: timeout, reject } = Promise.withResolvers<never>();
  const deadline = clock.setTimeout(() => reject(new EngineUnreachable("no reply in time")), ms);
  try {
    return await Promise.race([request, timeout]);
  } finally {
    clock.clear(deadline);
  }
}
