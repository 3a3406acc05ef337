/** What this node tells the others of its clients: who is in which room, and which sessions were opened. */

/** What the other nodes are to know: how many connections a client has in a room here; that a session was opened. */
export type ClusterUpdate =
  | { readonly room: string; readonly client: string; readonly connections: number }
  | { readonly client: string; readonly session: string; readonly ticket: number };

/** Clients that this node has sent away have so long to come back before they are said to have gone. */
const AWAY_MS = 15_000;

export class ClusterOutbox {
  /** How many connections each client has here, by room. */
  readonly #localPresence = new Map<string, Map<string, number>>();
  readonly #changed = new Map<string, ClusterUpdate>();
  /** Clients that were sent away, each with when that has to be told. */
  readonly #expectedBack = new Map<string, { readonly change: ClusterUpdate; readonly untilMs: number }>();
  #isSendingAway = false;

  /** @param changed there is something to write */
  constructor(private readonly changed: () => void) {}

  setPresence(room: string, client: string, connections: number): void {
    const change = { room, client, connections };
    const clients = this.#localPresence.get(room) ?? new Map<string, number>();
    if (connections > 0) this.#localPresence.set(room, clients.set(client, connections));
    else {
      clients.delete(client);
      if (clients.size === 0) this.#localPresence.delete(room);
    }
    if (this.#isSendingAway && connections === 0)
      this.#expectedBack.set(keyOf(change), { change, untilMs: performance.now() + AWAY_MS });
    else {
      this.#expectedBack.delete(keyOf(change));
      this.#change(change);
    }
  }

  announceSession(client: string, session: string, ticket: number): void {
    this.#change({ client, session, ticket });
  }

  #change(change: ClusterUpdate): void {
    this.#changed.set(keyOf(change), change);
    this.changed();
  }

  /** Whoever goes while that is done was sent away, and is expected back. */
  expectReconnects(all: () => void): void {
    this.#isSendingAway = true;
    try {
      all();
    } finally {
      this.#isSendingAway = false;
    }
  }

  drain(count: number): readonly ClusterUpdate[] {
    const taken = this.#changed.entries().take(count).toArray();
    for (const [key] of taken) this.#changed.delete(key);
    return taken.map(([, change]) => change);
  }

  /** They may not have been written; what is newer stands. */
  requeue(changes: readonly ClusterUpdate[]): void {
    for (const change of changes)
      if (!this.#changed.has(keyOf(change))) this.#changed.set(keyOf(change), change);
  }

  /** Redis may not have what it was told. */
  republishAll(): void {
    for (const [room, clients] of this.#localPresence)
      for (const [client, connections] of clients) this.#change({ room, client, connections });
  }

  /** Those who were sent away and have not come back in their time. */
  publishOverdueLeaves(): void {
    const nowMs = performance.now();
    for (const [key, { change, untilMs }] of this.#expectedBack) {
      if (untilMs > nowMs) return;
      this.#expectedBack.delete(key);
      this.#change(change);
    }
  }
}

/** What is newer of the same takes the place of what is older. */
function keyOf(change: ClusterUpdate): string {
  return "room" in change ? `${change.room} ${change.client}` : `session ${change.client} ${change.session}`;
}
