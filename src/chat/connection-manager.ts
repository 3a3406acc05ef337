/** The tutorial's ConnectionManager: this node's connections in a room. With those on other nodes, it feeds {@link Presence}. */

import type { Content } from "../protocol/codec.ts";
import type { Broadcaster, OutboundFrame, Subscriber } from "./broadcaster.ts";
import type { Presence } from "./presence.ts";

export class ConnectionManager {
  /** Connections on other nodes, by client and node. */
  readonly #remoteCounts = new Map<string, Map<string, number>>();

  constructor(
    private readonly broadcaster: Broadcaster,
    private readonly presence: Presence,
  ) {}

  connect(connection: Subscriber): void {
    this.broadcaster.add(connection);
    this.presence.adjustCount(connection.client, 1);
  }

  disconnect(connection: Subscriber): void {
    if (this.broadcaster.remove(connection)) this.presence.adjustCount(connection.client, -1);
  }

  /** Sends to one connection; a message of its client that was broadcast before arrives before. */
  sendPersonalMessage(message: Content, connection: Subscriber): void {
    this.broadcaster.sendAfterOwn(message, connection);
  }

  /** @param from the client whose message it is */
  broadcast(frames: readonly OutboundFrame[], from: string): void {
    this.broadcaster.enqueue(frames, from);
  }

  /** Sets how many connections a client has on another node. */
  setRemoteCount(client: string, node: string, connections: number): void {
    const nodes = this.#remoteCounts.get(client) ?? new Map<string, number>();
    const before = nodes.get(node) ?? 0;
    if (connections > 0) this.#remoteCounts.set(client, nodes.set(node, connections));
    else if (nodes.delete(node) && nodes.size === 0) this.#remoteCounts.delete(client);
    this.presence.adjustCount(client, connections - before);
  }

  /** Sets the remote counts of a room that has just opened, which announces none of these clients. */
  initRemoteCounts(counts: Iterable<readonly [client: string, node: string, connections: number]>): void {
    for (const [client, node, connections] of counts) this.setRemoteCount(client, node, connections);
    this.presence.clearJoined();
  }

  /** The client's connections on this node. */
  localConnectionCount(client: string): number {
    let count = this.presence.connectionCount(client);
    for (const remote of this.#remoteCounts.get(client)?.values() ?? []) count -= remote;
    return count;
  }
}
