/** The intervals and deadlines of the shared log, in milliseconds. Those of one connection are its engine's. */

import type { Clock } from "../../util/clock.ts";
import type { Random } from "../../util/random.ts";

export const sharedLogTiming = {
  /** A node renews its lease this often. */
  heartbeatMs: 2000,
  /** How long a lease lasts without being renewed. */
  leaseMs: 8000,
  /** After another node's lease has expired: for the node to renew it after all, or its clients to reconnect elsewhere. */
  graceMs: 7000,
  /** While the database is unavailable, the interval at which it is tried. */
  probeMs: 250,
  /** How long clients that this node closed have to reconnect before their leave is published. */
  reconnectMs: 15_000,

  /** Reads and heartbeats tolerate a single rejection (the database changes its role), and cut connections for this long. */
  outageMs: 2000,

  /** How long one read of the log waits for records. */
  blockMs: 1000,
  readRetryMs: 100,

  /** A batch without a reply is written again, which has no effect if it was written before. */
  writeRetryMs: 50,
  /** After this long without success, the database counts as unavailable. */
  writeOutageMs: 500,
  /** After this long, the messages of a batch are reported as unconfirmed. */
  writeDeadlineMs: 5000,
  /** How often it is checked whether all accepted messages are settled. */
  drainPollMs: 5,
};

/** What the parts of the store share. */
export interface SharedLogContext {
  readonly clock: Clock;
  readonly random: Random;
  readonly timing: Readonly<typeof sharedLogTiming>;
}
