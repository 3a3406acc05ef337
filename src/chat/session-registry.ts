/**
 * The connections of each session. A newer one replaces the older ones, on this node and others, once its client has
 * answered a ping on it: a request that its client has given up may arrive, or be answered by the store, after the next
 * one, and must not close the connection that the client uses.
 */

import { sessionKey } from "../store/dedup.ts";
import type { Cluster } from "../store/store.ts";
import type { Connection } from "./connection.ts";

export class SessionRegistry {
  /** Most often one; more until the newest has answered a ping. */
  readonly #connections = new Map<string, readonly Connection[]>();

  constructor(private readonly cluster: Cluster | undefined) {}

  /** Adds a connection that has opened. @returns false if a newer one holds the session */
  add(connection: Connection): boolean {
    const key = keyOf(connection);
    if (key === undefined) return true;
    const others = this.#connections.get(key) ?? [];
    if (others.some((other) => other.hasPonged && isNewer(other, connection))) return false;
    connection.replacedCount = others.filter(
      (other) => other.room === connection.room && isNewer(connection, other),
    ).length;
    this.#connections.set(key, [...others, connection]);
    connection.socket?.ping();
    return true;
  }

  release(connection: Connection): void {
    const key = keyOf(connection);
    if (key === undefined) return;
    const others = this.#connections.get(key)?.filter((other) => other !== connection) ?? [];
    if (others.length > 0) this.#connections.set(key, others);
    else this.#connections.delete(key);
  }

  /** The client has answered a ping on the connection, which replaces the session's older ones. */
  onPong(connection: Connection): void {
    const { client, session, fencingToken, hasPonged } = connection;
    if (session === undefined || hasPonged) return;
    connection.hasPonged = true;
    for (const other of this.#of(client, session)) if (isNewer(connection, other)) other.close("replaced");
    this.cluster?.announceSession(client, session, fencingToken);
  }

  /** A connection on another node holds a session. */
  onRemoteClaim(client: string, session: string, fencingToken: number): void {
    for (const local of this.#of(client, session))
      if (local.fencingToken < fencingToken) local.close("replaced");
      // The other node has missed the announcement of the newer connection here.
      else if (local.hasPonged) this.cluster?.announceSession(client, session, local.fencingToken);
  }

  #of(client: string, session: string): readonly Connection[] {
    return this.#connections.get(sessionKey(client, session)) ?? [];
  }
}

function isNewer(one: Connection, other: Connection): boolean {
  return one.fencingToken > other.fencingToken;
}

function keyOf({ client, session }: Connection): string | undefined {
  return session === undefined ? undefined : sessionKey(client, session);
}
