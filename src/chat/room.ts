/** A room with connections on this node. */

import type { ReadonlyHistory } from "../store/history.ts";
import { isMessage, type StoredEntry } from "../store/message.ts";
import type { Cluster, MessageStore } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import { Broadcaster, type PublishToTopic } from "./broadcaster.ts";
import { ConnectionManager } from "./connection-manager.ts";
import { Presence } from "./presence.ts";

/** What all rooms and connections share. */
export interface ChatContext {
  readonly store: MessageStore;
  /** Undefined if no other node can share the store. */
  readonly cluster: Cluster | undefined;
  readonly publishToTopic: PublishToTopic;
  readonly options: ChatOptions;
  readonly clock: Clock;
}

export interface ChatOptions {
  readonly maxMessageBytes: number;
  readonly pingSeconds: number;
  /** How long the frames of a busy room wait for others to share a write. */
  readonly flushMs: number;
}

export class Room {
  readonly broadcaster: Broadcaster;
  readonly presence: Presence;
  readonly manager: ConnectionManager;
  /** Connections that are open or being upgraded; the room closes with the last one. */
  refCount = 0;
  /** See {@link detach}. */
  isDetached = false;

  constructor(
    readonly name: string,
    readonly history: ReadonlyHistory,
    readonly context: ChatContext,
  ) {
    const { cluster, clock } = context;
    this.broadcaster = new Broadcaster(name, context.publishToTopic, context.options.flushMs, clock);
    this.presence = new Presence(this.broadcaster, clock, cluster?.remoteConnections(name));
    this.manager = new ConnectionManager(name, this.broadcaster, this.presence, cluster);
  }

  /** Broadcasts what the store has given its place in the order. */
  deliver(entry: StoredEntry): void {
    if (isMessage(entry)) this.presence.markSender(entry.from);
    this.manager.broadcast(entry);
  }

  /** The store has lost its state: all clients reconnect, to another room of this name, and resume. */
  detach(): void {
    for (const connection of this.broadcaster.connections()) connection.close("restarting");
    this.isDetached = true;
    this.broadcaster.close();
  }

  close(): void {
    this.presence.stopAnnouncing();
    this.broadcaster.close();
  }
}
