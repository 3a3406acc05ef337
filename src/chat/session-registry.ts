/** Which connection has a session: the newest one, on this node or another. */

import type { Others } from "../store/store.ts";
import type { Visitor } from "./connection.ts";

export class Holders {
  readonly #holders = new Map<string, Visitor>();

  /** @param dismiss what happens to a connection that has its session no longer */
  constructor(
    private readonly others: Others | undefined,
    private readonly dismiss: (older: Visitor) => void,
  ) {}

  /** @returns false if a newer connection of its session has come in before it */
  take(visitor: Visitor): boolean {
    const session = keyOf(visitor);
    if (!session) return true;
    const other = this.#holders.get(session);
    if (other && other.ticket > visitor.ticket) return false;
    this.#holders.set(session, visitor);
    if (other) this.dismiss(other);
    if (this.others) visitor.socket?.ping();
    return true;
  }

  leave(visitor: Visitor): void {
    const session = keyOf(visitor);
    if (session && this.#holders.get(session) === visitor) this.#holders.delete(session);
  }

  /**
   * It answers: then its session is no longer with another node. Whoever asked to come in may have gone long ago,
   * and be with the other one by now.
   */
  showLife(visitor: Visitor): void {
    const { client, session, ticket, hasShownLife } = visitor;
    visitor.hasShownLife = true;
    if (session !== undefined && !hasShownLife) this.others?.opened(client, session, ticket);
  }

  /** A session was opened by another node. */
  replace(client: string, session: string, ticket: number): void {
    const here = this.#holders.get(`${client} ${session}`);
    if (!here) return;
    if (here.ticket < ticket) this.dismiss(here);
    // It was not there yet when the other node was told of this one.
    else if (here.hasShownLife) this.others?.opened(client, session, here.ticket);
  }
}

function keyOf({ client, session }: Visitor): string | undefined {
  return session === undefined ? undefined : `${client} ${session}`;
}
