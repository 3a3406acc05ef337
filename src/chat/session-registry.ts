/** Which connection holds a session: the newest one, on this node or another. */

import { sessionKey } from "../store/dedup.ts";
import type { Cluster } from "../store/store.ts";
import type { Connection } from "./connection.ts";

export class SessionRegistry {
  readonly #holders = new Map<string, Connection>();

  constructor(private readonly cluster: Cluster | undefined) {}

  /** Closes the session's older connection on this node. @returns false if a newer connection holds the session */
  claim(connection: Connection): boolean {
    const key = keyOf(connection);
    if (key === undefined) return true;
    const previous = this.#holders.get(key);
    if (previous && previous.fencingToken > connection.fencingToken) return false;
    this.#holders.set(key, connection);
    previous?.close("replaced");
    if (this.cluster) connection.socket?.ping();
    return true;
  }

  release(connection: Connection): void {
    const key = keyOf(connection);
    if (key !== undefined && this.#holders.get(key) === connection) this.#holders.delete(key);
  }

  /**
   * The connection has answered a ping: only now the other nodes learn that it holds the session, because a client whose
   * upgrade took long may have gone on to another node meanwhile.
   */
  onPong(connection: Connection): void {
    const { client, session, fencingToken, hasPonged } = connection;
    connection.hasPonged = true;
    if (session !== undefined && !hasPonged) this.cluster?.announceSession(client, session, fencingToken);
  }

  /** A connection on another node has claimed a session. */
  onRemoteClaim(client: string, session: string, fencingToken: number): void {
    const local = this.#holders.get(sessionKey(client, session));
    if (!local) return;
    if (local.fencingToken < fencingToken) local.close("replaced");
    // The other node has missed the announcement of the newer connection here.
    else if (local.hasPonged) this.cluster?.announceSession(client, session, local.fencingToken);
  }
}

function keyOf({ client, session }: Connection): string | undefined {
  return session === undefined ? undefined : sessionKey(client, session);
}
