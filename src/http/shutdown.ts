/** How it ends: nobody new, nothing accepted lost, everyone told to come back, not all at once. */

import type { Connection, Connections } from "./sockets.ts";
import type { Hub } from "../chat/hub.ts";
import { endLog, note, report } from "../ops/log.ts";

/** How much of the time goes to letting everyone go; the rest is for what was written last. */
const DISMISS_SHARE = 0.8;
const LOOK_MS = 10;

export interface Running {
  readonly server: Bun.Server<Connection>;
  /** Where messages are kept, and what that promises. */
  readonly promise: string;
  /** Lets everyone go, and ends when all that was accepted is kept. @returns whether every step of it succeeded */
  stop(): Promise<boolean>;
}

export async function stop(
  server: Bun.Server<Connection>,
  hub: Hub,
  connections: Connections,
  drainSeconds: number,
): Promise<boolean> {
  const endMs = performance.now() + drainSeconds * 1000;
  const end = Bun.sleep(drainSeconds * 1000);
  let hasFailed = false;
  /** A step that fails is no reason to leave out the others. */
  const step = async (what: string, take: () => unknown) => {
    try {
      await take();
    } catch (error) {
      hasFailed = true;
      report(`Stopping: ${what} failed`, error);
    }
  };
  /** Nor is one that takes too long. */
  const stepInTime = (what: string, take: () => Promise<void>) =>
    step(what, async () => {
      const isDone = await Promise.race([take().then(() => true), end]);
      if (!isDone) note("stopping", { late: what });
    });
  note("stopping", { connections: connections.size });
  await step("closing the rooms", () => hub.stop());
  void step("closing the port", () => server.stop()); // takes no new connections; it would wait for the others
  await stepInTime("storing what was accepted", () => hub.settle());
  const dismissMs = DISMISS_SHARE * (endMs - performance.now());
  await step("closing the connections", () => connections.dismissAll(dismissMs, () => hub.flush()));
  const isBusy = () => server.pendingWebSockets > 0 || server.pendingRequests > 0;
  while (isBusy() && performance.now() < endMs) await Bun.sleep(LOOK_MS);
  await stepInTime("storing what came last", () => hub.settle());
  await stepInTime("closing the store", () => hub.end());
  endLog();
  note("stopped");
  return !hasFailed;
}

/**
 * The first signal lets everyone go, the second does not wait for that. A terminal that is closed sends SIGHUP;
 * without one, an operator does, who does not want it to stop.
 */
export function stopOnSignals({ server, stop }: Running, isOnTerminal: boolean): void {
  let isStopping = false;
  const onSignal = () => {
    if (isStopping) {
      void server.stop(true);
      process.exit(1);
    }
    isStopping = true;
    void stop().then((isDone) => process.exit(isDone ? 0 : 1));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT"] as const) process.on(signal, onSignal);
  process.on("SIGHUP", isOnTerminal ? onSignal : () => note("ignored", { signal: "SIGHUP" }));
}
