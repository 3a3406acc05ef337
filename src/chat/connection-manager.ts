/** The tutorial's ConnectionManager: this node's connections in a room. */

import type { Content } from "../protocol/codec.ts";
import type { StoredEntry } from "../store/message.ts";
import type { Cluster } from "../store/store.ts";
import type { Broadcaster, Member } from "./broadcaster.ts";
import type { Presence } from "./presence.ts";

export class ConnectionManager {
  constructor(
    private readonly room: string,
    private readonly broadcaster: Broadcaster,
    private readonly presence: Presence,
    private readonly cluster: Cluster | undefined,
  ) {}

  connect(connection: Member): void {
    this.broadcaster.add(connection);
    this.presence.adjustCount(connection.client, 1);
    this.cluster?.publishPresence(this.room, connection.client, 1);
  }

  disconnect(connection: Member): void {
    if (!this.broadcaster.remove(connection)) return;
    this.presence.adjustCount(connection.client, -1);
    if (this.presence.isAnnouncing) this.cluster?.publishPresence(this.room, connection.client, -1);
  }

  /** Sends to one connection; a message of its client that was broadcast before arrives before. */
  sendPersonalMessage(frame: Content, connection: Member): void {
    this.broadcaster.sendAfterOwn(frame, connection);
  }

  broadcast(entry: StoredEntry): void {
    this.broadcaster.broadcast(entry);
  }
}
