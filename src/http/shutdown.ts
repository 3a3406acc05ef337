/** Graceful shutdown: stop accepting, drain the store, close connections gradually. */

import type { SocketData, SocketRegistry } from "./socket-registry.ts";
import type { Hub } from "../chat/hub.ts";
import { flushLog, logError, logEvent } from "../ops/log.ts";
import type { Clock } from "../util/clock.ts";

/** Share of the drain time for closing connections. The rest is for storing what arrived meanwhile. */
const CLOSE_SHARE = 0.8;
const POLL_MS = 10;

export interface RunningServer {
  readonly server: Bun.Server<SocketData>;
  /** Where messages are stored, and how durably: the end of a sentence for the operator. */
  readonly durability: string;
  /** Reads the files of keys again; undefined if there are none. */
  reloadKeys?(): void;
  /** Closes all connections; resolves once everything accepted is stored. @returns whether every step succeeded */
  shutDown(): Promise<boolean>;
}

export async function shutDown(
  server: Pick<Bun.Server<SocketData>, "stop" | "pendingWebSockets" | "pendingRequests">,
  hub: Hub,
  sockets: SocketRegistry,
  drainSeconds: number,
  clock: Clock,
): Promise<boolean> {
  const endMs = clock.elapsed() + drainSeconds * 1000;
  const deadline = clock.sleep(drainSeconds * 1000);
  let hasFailed = false;
  /** A step that fails does not prevent the others. */
  const step = async (what: string, run: () => unknown) => {
    try {
      await run();
    } catch (error) {
      hasFailed = true;
      logError(`Shutdown: ${what} failed`, error);
    }
  };
  /** Nor does one that takes too long. */
  const stepInTime = (what: string, run: () => Promise<void>) =>
    step(what, async () => {
      const isDone = await Promise.race([run().then(() => true), deadline]);
      if (!isDone) logEvent("stopping", { late: what });
    });
  logEvent("stopping", { connections: sockets.size });
  await step("closing the rooms", () => hub.beginShutdown());
  void step("closing the port", () => server.stop()); // closes it at once; resolves when all connections are closed
  await stepInTime("storing accepted messages", () => hub.drain());
  const closeMs = CLOSE_SHARE * (endMs - clock.elapsed());
  await step("closing the connections", () => sockets.closeAll(closeMs, () => hub.flush()));
  const isBusy = () => server.pendingWebSockets > 0 || server.pendingRequests > 0;
  while (isBusy() && clock.elapsed() < endMs) await clock.sleep(POLL_MS);
  await stepInTime("storing the last messages", () => hub.drain());
  await stepInTime("closing the store", async () => hub.store.close());
  flushLog();
  logEvent("stopped");
  return !hasFailed;
}

/**
 * The first signal shuts down, the second exits at once. SIGHUP, which a closed terminal sends, reloads the keys of a
 * server that was not started on one; without files of keys, it is ignored.
 */
export function installSignalHandlers(running: RunningServer, isOnTerminal: boolean): void {
  let isStopping = false;
  const onSignal = () => {
    if (isStopping) {
      void running.server.stop(true);
      process.exit(1);
    }
    isStopping = true;
    void running.shutDown().then((hasSucceeded) => process.exit(hasSucceeded ? 0 : 1));
  };
  for (const signal of ["SIGINT", "SIGTERM", "SIGQUIT"] as const) process.on(signal, onSignal);
  const reload = running.reloadKeys ?? (() => logEvent("ignored", { signal: "SIGHUP" }));
  process.on("SIGHUP", isOnTerminal ? onSignal : reload);
}
