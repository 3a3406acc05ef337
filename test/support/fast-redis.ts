/**
 * Preloaded: the Redis store waits a fraction of its usual times, for tests of leases, grace periods and deadlines. Long
 * enough for a busy machine: a process that is stalled for less than a second has to go unnoticed.
 */

import { redisTiming } from "../../src/store/shared-log/timing.ts";

Object.assign(redisTiming, {
  heartbeatMs: 400,
  leaseMs: 2000,
  graceMs: 2000,
  probeMs: 100,
  replyMs: 1000,
  blockMs: 500,
  readRetryMs: 50,
  outageMs: 1000,
  writeOutageMs: 250,
  writeDeadlineMs: 4000,
} satisfies Partial<typeof redisTiming>);
