/** File descriptors: each connection takes one, and without any left nobody gets in, not even to be rejected. */

import { logEvent } from "../ops/log.ts";
import { lazyFs } from "../util/lazy-node.ts";

/** Descriptors that are not for WebSockets: the store, the log, HTTP requests, and connections that are rejected. */
const RESERVED_SHARE = 1 / 8;
const [MIN_RESERVED, MAX_RESERVED] = [32, 1024];
/** With fewer than this share of the reserve left, connections that only wait for a next request are closed. */
const LOW_SHARE = 1 / 4;
const LOOK_MS = 100;

/** How many descriptors this process may have: Infinity where there is no such limit, or none that can be read. */
export function maxDescriptors(): number {
  // Bun has raised the soft limit to the hard one before any of this runs.
  const report: object = process.report.getReport();
  if (!("userLimits" in report) || !isRecord(report.userLimits)) return Infinity;
  const { open_files: files } = report.userLimits;
  return isRecord(files) && typeof files.soft === "number" ? files.soft : Infinity;
}

/** How many WebSockets leave enough for the rest; 0 for any number. */
export function connectionsFor(descriptors: number): number {
  return descriptors === Infinity ? 0 : Math.max(1, descriptors - reservedOf(descriptors));
}

function reservedOf(descriptors: number): number {
  return Math.min(Math.max(Math.floor(descriptors * RESERVED_SHARE), MIN_RESERVED), MAX_RESERVED);
}

/** The descriptors that are open now; undefined where that cannot be told. */
export function openDescriptors(): number | undefined {
  try {
    return lazyFs().readdirSync("/dev/fd").length - 1; // without the one that reads the folder
  } catch {
    return undefined;
  }
}

/** Makes room when descriptors run out: at their end, accepting would fail over and over, and take a whole core. */
export function watchDescriptors(server: { closeIdleConnections(): number }, descriptors: number): void {
  if (descriptors === Infinity) return;
  const low = descriptors - Math.ceil(LOW_SHARE * reservedOf(descriptors));
  let isLow = false;
  setInterval(() => {
    const wasLow = isLow;
    isLow = lowestFree() >= low;
    if (!isLow) return;
    const closed = server.closeIdleConnections();
    if (!wasLow)
      logEvent("file descriptors run out", { limit: descriptors, "idle connections closed": closed });
  }, LOOK_MS).unref();
}

/** The lowest number that no descriptor has, which the next one gets: at least as many are open. */
function lowestFree(): number {
  try {
    const descriptor = lazyFs().openSync("/dev/null", "r");
    lazyFs().closeSync(descriptor);
    return descriptor;
  } catch {
    return Infinity;
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null;
}
