/** The tutorial's ConnectionManager: this node's connections in a room. */

import type { Content } from "../protocol/codec.ts";
import type { Broadcaster, OutboundFrame, Subscriber } from "./broadcaster.ts";
import type { Presence } from "./presence.ts";

export class ConnectionManager {
  constructor(
    private readonly broadcaster: Broadcaster,
    private readonly presence: Presence,
  ) {}

  connect(connection: Subscriber): void {
    this.broadcaster.add(connection);
    this.presence.adjustCount(connection.client, 1);
  }

  /** @returns whether the connection was there */
  disconnect(connection: Subscriber): boolean {
    const wasThere = this.broadcaster.remove(connection);
    if (wasThere) this.presence.adjustCount(connection.client, -1);
    return wasThere;
  }

  /** Sends to one connection; a message of its client that was broadcast before arrives before. */
  sendPersonalMessage(message: Content, connection: Subscriber): void {
    this.broadcaster.sendAfterOwn(message, connection);
  }

  /** @param from the client whose message it is */
  broadcast(frames: readonly OutboundFrame[], from: string): void {
    this.broadcaster.enqueue(frames, from);
  }
}
