/** Which connection has a session: the newest one, on this node or another. */

import type { Cluster } from "../store/store.ts";
import { sessionKey } from "../store/dedup.ts";
import type { Connection } from "./connection.ts";

export class SessionRegistry {
  readonly #holders = new Map<string, Connection>();

  /** @param dismiss what happens to a connection that has its session no longer */
  constructor(
    private readonly others: Cluster | undefined,
    private readonly dismiss: (older: Connection) => void,
  ) {}

  /** @returns false if a newer connection of its session has come in before it */
  claim(connection: Connection): boolean {
    const session = keyOf(connection);
    if (!session) return true;
    const other = this.#holders.get(session);
    if (other && other.fencingToken > connection.fencingToken) return false;
    this.#holders.set(session, connection);
    if (other) this.dismiss(other);
    if (this.others) connection.socket?.ping();
    return true;
  }

  release(connection: Connection): void {
    const session = keyOf(connection);
    if (session && this.#holders.get(session) === connection) this.#holders.delete(session);
  }

  /**
   * It answers: then its session is no longer with another node. Whoever asked to come in may have gone long ago,
   * and be with the other one by now.
   */
  confirm(connection: Connection): void {
    const { client, session, fencingToken, hasPonged } = connection;
    connection.hasPonged = true;
    if (session !== undefined && !hasPonged) this.others?.announceSession(client, session, fencingToken);
  }

  /** A session was opened by another node. */
  onRemoteClaim(client: string, session: string, ticket: number): void {
    const here = this.#holders.get(sessionKey(client, session));
    if (!here) return;
    if (here.fencingToken < ticket) this.dismiss(here);
    // It was not there yet when the other node was told of this one.
    else if (here.hasPonged) this.others?.announceSession(client, session, here.fencingToken);
  }
}

function keyOf({ client, session }: Connection): string | undefined {
  return session === undefined ? undefined : sessionKey(client, session);
}
