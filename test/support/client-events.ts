/** Waiting for events and states of the client library, with a deadline. */

import type { Client, ClientEvents, ConnectionState } from "../../src/client/client.ts";
import { withDeadline } from "./deadline.ts";

/** The client's next event of that kind, with a deadline. */
export function emitted<E extends keyof ClientEvents>(client: Client, event: E): Promise<ClientEvents[E]> {
  const { promise, resolve } = Promise.withResolvers<ClientEvents[E]>();
  client.on(event, resolve);
  return withDeadline(promise, () => `no ${event} event`);
}

/** Waits until the client has that status, or its state meets the condition. */
export function becomes(
  client: Client,
  wanted: ConnectionState["status"] | ((state: ConnectionState) => boolean),
  deadlineMs?: number,
): Promise<ConnectionState> {
  const is = typeof wanted === "string" ? ({ status }: ConnectionState) => status === wanted : wanted;
  const { promise, resolve } = Promise.withResolvers<ConnectionState>();
  client.on("state", (state) => is(state) && resolve(state));
  if (is(client.state)) resolve(client.state);
  return withDeadline(promise, () => `expected ${wanted}, is ${JSON.stringify(client.state)}`, deadlineMs);
}
