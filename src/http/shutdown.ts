/** How it ends: nobody new, nothing accepted lost, everyone told to come back, not all at once. */

import type { SocketData, SocketRegistry } from "./sockets.ts";
import type { Hub } from "../chat/hub.ts";
import { flushLog, logEvent, logError } from "../ops/log.ts";

/** How much of the time goes to letting everyone go; the rest is for what was written last. */
const CLOSE_SHARE = 0.8;
const POLL_MS = 10;

export interface RunningServer {
  readonly server: Bun.Server<SocketData>;
  /** Where messages are kept, and what that promises. */
  readonly durability: string;
  /** Lets everyone go, and ends when all that was accepted is kept. @returns whether every step of it succeeded */
  shutDown(): Promise<boolean>;
}

export async function shutDown(
  server: Bun.Server<SocketData>,
  hub: Hub,
  connections: SocketRegistry,
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
      logError(`Stopping: ${what} failed`, error);
    }
  };
  /** Nor is one that takes too long. */
  const stepInTime = (what: string, take: () => Promise<void>) =>
    step(what, async () => {
      const isDone = await Promise.race([take().then(() => true), end]);
      if (!isDone) logEvent("stopping", { late: what });
    });
  logEvent("stopping", { connections: connections.size });
  await step("closing the rooms", () => hub.beginShutdown());
  void step("closing the port", () => server.stop()); // takes no new connections; it would wait for the others
  await stepInTime("storing what was accepted", () => hub.drain());
  const dismissMs = CLOSE_SHARE * (endMs - performance.now());
  await step("closing the connections", () => connections.closeAll(dismissMs, () => hub.flush()));
  const isBusy = () => server.pendingWebSockets > 0 || server.pendingRequests > 0;
  while (isBusy() && performance.now() < endMs) await Bun.sleep(POLL_MS);
  await stepInTime("storing what came last", () => hub.drain());
  await stepInTime("closing the store", () => hub.close());
  flushLog();
  logEvent("stopped");
  return !hasFailed;
}

/**
 * The first signal lets everyone go, the second does not wait for that. A terminal that is closed sends SIGHUP;
 * without one, an operator does, who does not want it to stop.
 */
export function installSignalHandlers({ server, shutDown }: RunningServer, isOnTerminal: boolean): void {
  let isStopping = false;
  const onSignal = () => {
    if (isStopping) {
      void server.stop(true);
      process.exit(1);
    }
    isStopping = true;
    void shutDown().then((isDone) => process.exit(isDone ? 0 : 1));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT"] as const) process.on(signal, onSignal);
  process.on("SIGHUP", isOnTerminal ? onSignal : () => logEvent("ignored", { signal: "SIGHUP" }));
}
