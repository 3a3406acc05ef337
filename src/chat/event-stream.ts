/** One subscriber of a room over HTTP. It sends nothing and is no member of the room. */

import type { StreamEncoder } from "../protocol/stream-encoders.ts";
import type { ReplayRequest } from "./replay.ts";
import type { Room } from "./room.ts";
import { Subscription, type ReplayStart } from "./subscription.ts";

/** What a client asks for in its request. */
export interface StreamRequest {
  readonly room: string;
  readonly client?: string | undefined;
  readonly address?: string | undefined;
  readonly codec: StreamEncoder;
  /** The id of the last message that the client received, to resume after it. */
  readonly after?: string;
  /** How many of the latest messages to replay when it does not resume. */
  readonly history: number;
  /** How long the client should wait before it reconnects. */
  readonly retryMs: number;
}

export class EventStream extends Subscription {
  readonly codec: StreamEncoder;
  readonly client: string | undefined;
  readonly address: string | undefined;

  constructor(
    private readonly request: StreamRequest,
    room: Room,
    replayRequest: ReplayRequest,
    private readonly onReleased: () => void,
  ) {
    super(room, replayRequest);
    this.codec = request.codec;
    this.client = request.client;
    this.address = request.address;
  }

  protected encodeWelcome(start: ReplayStart): string {
    return this.codec.welcome({ room: this.room.name, ...start }, this.request.retryMs);
  }

  protected release(): void {
    this.onReleased();
  }
}
