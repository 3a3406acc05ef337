/** How it ends: nobody new, nothing accepted lost, everyone told to come back, not all at once. */

import type { Connection, Connections } from "./connections.ts";
import type { Hub } from "./hub.ts";
import { endLog, note } from "./log.ts";

/** How much of the time goes to letting everyone go; the rest is for what was written last. */
const DISMISS_SHARE = 0.8;
const LOOK_MS = 10;

export interface Running {
  readonly server: Bun.Server<Connection>;
  /** Where messages are kept, and what that promises. */
  readonly promise: string;
  /** Lets everyone go, and ends when all that was accepted is kept. */
  stop(): Promise<void>;
}

export async function stop(
  server: Bun.Server<Connection>,
  hub: Hub,
  connections: Connections,
  drainSeconds: number,
): Promise<void> {
  const endMs = performance.now() + drainSeconds * 1000;
  const end = Bun.sleep(drainSeconds * 1000);
  note("stopping", { connections: connections.size });
  hub.stop();
  void server.stop(); // takes no new connections; it would wait for the others
  await Promise.race([hub.settle(), end]);
  await connections.dismissAll(DISMISS_SHARE * (endMs - performance.now()), () => hub.flush());
  const isBusy = () => server.pendingWebSockets > 0 || server.pendingRequests > 0;
  while (isBusy() && performance.now() < endMs) await Bun.sleep(LOOK_MS);
  await Promise.race([hub.settle(), end]);
  await Promise.race([hub.end(), end]);
  endLog();
  note("stopped");
}

/** The first signal lets everyone go, the second does not wait for that. */
export function stopOnSignals({ server, stop }: Running): void {
  let isStopping = false;
  for (const signal of ["SIGINT", "SIGTERM"] as const)
    process.on(signal, () => {
      if (isStopping) {
        void server.stop(true);
        process.exit(1);
      }
      isStopping = true;
      void stop().then(() => process.exit(0));
    });
}
