/**
 * The connections of each session. A newer one replaces the older ones, on this node and others, once it is in use: its
 * client has sent a frame on it, if only the answer to a ping. A request that its client has given up may arrive, or be
 * answered by the store, after the next one, and must not close the connection that the client uses.
 */

import { sessionKey } from "../store/dedup.ts";
import type { Cluster } from "../store/store.ts";
import type { Connection } from "./connection.ts";

export class SessionRegistry {
  /** Most often one; more until the newest is in use. Changed in place, since a client may open thousands. */
  readonly #connections = new Map<string, Connection[]>();

  constructor(private readonly cluster: Cluster | undefined) {}

  /** Adds a connection that has opened. @returns false if a newer one holds the session */
  add(connection: Connection): boolean {
    const { client, session } = connection;
    if (session === undefined) return true;
    const others = this.#of(client, session);
    for (const other of others)
      if (isNewer(connection, other)) connection.replacedCount += Number(other.room === connection.room);
      else if (other.isInUse) return false;
    others.push(connection);
    this.#connections.set(sessionKey(client, session), others);
    connection.socket?.ping();
    return true;
  }

  release(connection: Connection): void {
    const { client, session } = connection;
    if (session === undefined) return;
    const others = this.#of(client, session);
    const index = others.indexOf(connection);
    if (index >= 0) others.splice(index, 1);
    if (others.length === 0) this.#connections.delete(sessionKey(client, session));
  }

  /** The client has sent a frame on the connection, which replaces the session's older ones. */
  onFrame(connection: Connection): void {
    const { client, session, fencingToken, isInUse } = connection;
    if (session === undefined || isInUse) return;
    connection.isInUse = true;
    for (const other of this.#of(client, session).filter((other) => isNewer(connection, other)))
      other.close("replaced");
    this.cluster?.announceSession(client, session, fencingToken);
  }

  /** A connection on another node holds a session. */
  onRemoteClaim(client: string, session: string, fencingToken: number): void {
    for (const local of [...this.#of(client, session)])
      if (local.fencingToken < fencingToken) local.close("replaced");
      // The other node has missed the announcement of the newer connection here.
      else if (local.isInUse) this.cluster?.announceSession(client, session, local.fencingToken);
  }

  #of(client: string, session: string): Connection[] {
    return this.#connections.get(sessionKey(client, session)) ?? [];
  }
}

function isNewer(one: Connection, other: Connection): boolean {
  return one.fencingToken > other.fencingToken;
}
