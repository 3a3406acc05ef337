/** File descriptors: each connection takes one, and without a free one not even a rejection can be sent. */

import type { BodyReader } from "./request-body.ts";
import { logEvent } from "../ops/log.ts";
import type { Clock } from "../util/clock.ts";
import { lazyFs } from "../util/lazy-node.ts";

/** Descriptors reserved for everything but WebSockets: the store, the log, HTTP requests, rejections. */
const RESERVED_SHARE = 1 / 8;
const [MIN_RESERVED, MAX_RESERVED] = [32, 1024];
/** With less than this share of the reserve free, idle HTTP connections are closed. */
const LOW_SHARE = 1 / 4;
const CHECK_MS = 100;

/** The limit of this process; Infinity if there is none or it cannot be read. */
export function maxDescriptors(): number {
  const { userLimits }: { userLimits?: { open_files?: { soft?: unknown } } } = process.report.getReport();
  const files = userLimits?.open_files?.soft; // at its start, Bun raises the soft limit to the hard one
  return typeof files === "number" ? files : Infinity;
}

/** How many WebSockets leave the reserve free; 0 means unlimited. */
export function maxConnectionsFor(descriptors: number): number {
  return descriptors === Infinity ? 0 : Math.max(1, descriptors - reserveOf(descriptors));
}

function reserveOf(descriptors: number): number {
  return Math.min(Math.max(Math.floor(descriptors * RESERVED_SHARE), MIN_RESERVED), MAX_RESERVED);
}

/**
 * Closes idle HTTP connections and rejects slow bodies when descriptors run low. Without any left, accepting would fail
 * in a loop that takes a whole core.
 */
export function watchDescriptors(
  server: { closeIdleConnections(): number },
  bodies: BodyReader,
  descriptors: number,
  clock: Clock,
): void {
  if (descriptors === Infinity) return;
  const low = descriptors - Math.ceil(LOW_SHARE * reserveOf(descriptors));
  let isLow = false;
  clock
    .setInterval(() => {
      const wasLow = isLow;
      isLow = lowestFreeDescriptor() >= low;
      if (!isLow) return;
      bodies.rejectSlow();
      const closed = server.closeIdleConnections();
      if (!wasLow) logEvent("file descriptors low", { limit: descriptors, idle_connections_closed: closed });
    }, CHECK_MS)
    .unref();
}

/** The number that the next descriptor gets. At least as many are open. */
function lowestFreeDescriptor(): number {
  try {
    const descriptor = lazyFs().openSync("/dev/null", "r");
    lazyFs().closeSync(descriptor);
    return descriptor;
  } catch {
    return Infinity;
  }
}
