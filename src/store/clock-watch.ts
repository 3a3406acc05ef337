/** Logs when ids run ahead of the store's clock, and when they no longer do. */

import { logEvent } from "../ops/log.ts";

/** Daily corrections of a clock are smaller, and not worth a line. */
const MIN_LEAD_MS = 1000;

export class ClockWatch {
  #isAhead = false;

  /** @param idMs the milliseconds of the id assigned last; 0 for none */
  check(idMs: number, nowMs: number): void {
    const leadMs = idMs - nowMs;
    if (this.#isAhead ? leadMs > 0 : leadMs < MIN_LEAD_MS) return;
    this.#isAhead = !this.#isAhead;
    if (this.#isAhead) logEvent("ids ahead of clock", { seconds: Math.round(leadMs / 1000) });
    else logEvent("ids follow clock");
  }
}
