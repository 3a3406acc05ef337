/** A room with connections on this node. */

import { codecs } from "../protocol/codec.ts";
import type { ReadonlyHistory } from "../store/history.ts";
import type { StoredMessage } from "../store/message.ts";
import type { Cluster } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import { Broadcaster, type OutboundFrame, type PublishToTopic, type Subscriber } from "./broadcaster.ts";
import { ConnectionManager } from "./connection-manager.ts";
import { Presence } from "./presence.ts";

/** What all rooms share. */
export interface RoomContext {
  readonly cluster: Cluster | undefined;
  readonly publishToTopic: PublishToTopic;
  readonly flushMs: number;
  readonly clock: Clock;
}

export class Room {
  readonly manager: ConnectionManager;
  readonly presence: Presence;
  readonly broadcaster: Broadcaster;
  readonly #cluster: Cluster | undefined;
  /** Connections that are open or being upgraded; the room closes with the last one. */
  refCount = 0;
  #isDetached = false;
  #isShuttingDown = false;

  constructor(
    readonly name: string,
    readonly history: ReadonlyHistory,
    { cluster, publishToTopic, flushMs, clock }: RoomContext,
  ) {
    this.#cluster = cluster;
    this.broadcaster = new Broadcaster(name, publishToTopic, flushMs, clock);
    this.presence = new Presence(this.broadcaster, clock);
    this.manager = new ConnectionManager(this.broadcaster, this.presence);
    for (const [client, connections] of cluster?.remoteConnections(name) ?? [])
      this.presence.adjustCount(client, connections);
    this.presence.clearJoined();
  }

  add(connection: Subscriber): void {
    this.manager.connect(connection);
    this.#publishPresence(connection, 1);
  }

  remove(connection: Subscriber): void {
    if (this.manager.disconnect(connection) && !this.#isShuttingDown) this.#publishPresence(connection, -1);
  }

  #publishPresence({ client }: Subscriber, difference: number): void {
    if (!this.#isDetached) this.#cluster?.publishPresence(this.name, client, difference);
  }

  /** Broadcasts a message that the store has given its place in the order. */
  deliver(message: StoredMessage): void {
    this.presence.markSender(message.from);
    try {
      const frames: OutboundFrame[] = [];
      for (const codec of codecs)
        if (this.broadcaster.uses(codec))
          frames.push({ codec, frame: codec.message(message), isStored: true });
      this.manager.broadcast(frames, message.from);
    } catch (error) {
      this.broadcaster.closeUnreached(error);
    }
  }

  /** From here on nothing is announced: clients that leave because the server shuts down reconnect. */
  beginShutdown(): void {
    this.#isShuttingDown = true;
    this.presence.stopAnnouncing();
  }

  /** The store has lost its state: all clients reconnect, to another room of this name, and resume. */
  detach(): void {
    for (const connection of this.broadcaster.connections()) connection.close("restarting");
    this.#isDetached = true;
    this.broadcaster.close();
  }

  get isDetached(): boolean {
    return this.#isDetached;
  }

  close(): void {
    this.presence.stopAnnouncing();
    this.broadcaster.close();
  }
}
