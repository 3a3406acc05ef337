/** What this node has to publish to the others: its clients' presence and opened sessions. */

import type { SharedLogContext } from "./timing.ts";

export type ClusterUpdate =
  /** The number of connections that a client has in a room on this node. */
  | { readonly room: string; readonly client: string; readonly connections: number }
  /** A session was opened here; the fencing token orders it. */
  | { readonly client: string; readonly session: string; readonly fencingToken: number };

export class ClusterOutbox {
  /** Connections by client by room. */
  readonly #localPresence = new Map<string, Map<string, number>>();
  /** The latest update of each presence and session. */
  readonly #queue = new Map<string, ClusterUpdate>();
  /** Leaves of clients that this node closed; published unless the client reconnects in time. Oldest first. */
  readonly #delayedLeaves = new Map<string, { readonly update: ClusterUpdate; readonly dueMs: number }>();
  #isClosingClients = false;

  /** @param onUpdate called when there is something to publish */
  constructor(
    private readonly context: Pick<SharedLogContext, "clock" | "timing">,
    private readonly onUpdate: () => void,
  ) {}

  adjustPresence(room: string, client: string, difference: number): void {
    const clients = this.#localPresence.get(room) ?? new Map<string, number>();
    const connections = Math.max(0, (clients.get(client) ?? 0) + difference);
    const update = { room, client, connections };
    const key = keyOf(update);
    if (connections > 0) this.#localPresence.set(room, clients.set(client, connections));
    else {
      clients.delete(client);
      if (clients.size === 0) this.#localPresence.delete(room);
    }
    const { clock, timing } = this.context;
    if (this.#isClosingClients && connections === 0)
      this.#delayedLeaves.set(key, { update, dueMs: clock.elapsed() + timing.reconnectMs });
    else {
      this.#delayedLeaves.delete(key);
      this.#enqueue(update);
    }
  }

  announceSession(client: string, session: string, fencingToken: number): void {
    this.#enqueue({ client, session, fencingToken });
  }

  /** Clients that leave during `closeAll` are expected to reconnect: their leaves are delayed. */
  expectReconnects(closeAll: () => void): void {
    this.#isClosingClients = true;
    try {
      closeAll();
    } finally {
      this.#isClosingClients = false;
    }
  }

  drain(maxCount: number): readonly ClusterUpdate[] {
    const drained = this.#queue.entries().take(maxCount).toArray();
    for (const [key] of drained) this.#queue.delete(key);
    return drained.map(([, update]) => update);
  }

  /** For updates that may not have been written; newer ones take precedence. */
  requeue(updates: readonly ClusterUpdate[]): void {
    for (const update of updates) if (!this.#queue.has(keyOf(update))) this.#queue.set(keyOf(update), update);
  }

  /** When the database may have lost this node's presence. */
  republishAll(): void {
    for (const [room, clients] of this.#localPresence)
      for (const [client, connections] of clients) this.#enqueue({ room, client, connections });
  }

  publishOverdueLeaves(): void {
    const nowMs = this.context.clock.elapsed();
    for (const [key, { update, dueMs }] of this.#delayedLeaves) {
      if (dueMs > nowMs) return;
      this.#delayedLeaves.delete(key);
      this.#enqueue(update);
    }
  }

  #enqueue(update: ClusterUpdate): void {
    this.#queue.set(keyOf(update), update);
    this.onUpdate();
  }
}

function keyOf(update: ClusterUpdate): string {
  return "room" in update ? `${update.room} ${update.client}` : `session ${update.client} ${update.session}`;
}
