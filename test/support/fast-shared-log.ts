/**
 * Preloaded: the shared log waits a fraction of its usual times, for tests of leases, grace periods and deadlines. Long
 * enough for a busy machine: a process that is stalled for less than a second has to go unnoticed.
 */

import { postgresTiming } from "../../src/store/postgres/connection.ts";
import { redisTiming } from "../../src/store/redis/connection.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";

Object.assign(redisTiming, { replyMs: 1000 } satisfies Partial<typeof redisTiming>);
Object.assign(postgresTiming, { silenceMs: 1000 } satisfies Partial<typeof postgresTiming>);
Object.assign(sharedLogTiming, {
  heartbeatMs: 400,
  leaseMs: 2000,
  graceMs: 2000,
  probeMs: 100,
  blockMs: 500,
  readRetryMs: 50,
  outageMs: 1000,
  writeOutageMs: 250,
  writeDeadlineMs: 4000,
} satisfies Partial<typeof sharedLogTiming>);
