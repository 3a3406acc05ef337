/** A hub in the test's process with fake sockets, for behaviour that depends on time or backpressure. */

import { Hub } from "../../src/chat/hub.ts";
import { receive } from "../../src/chat/receive.ts";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import type { WireFormat, Content } from "../../src/protocol/codec.ts";
import type { StoreListener, MessageStore } from "../../src/store/store.ts";
import type { DisconnectReason, ConnectionSocket } from "../../src/chat/socket.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";

/** A socket whose backpressure the test sets. */
export class FakeSocket implements ConnectionSocket {
  readonly data: { disconnectReason?: DisconnectReason } = {};
  readonly received: Content[] = [];
  buffered = 0;
  closed: { code: number; reason: string } | undefined;

  constructor(private readonly topics: Map<string, Set<FakeSocket>>) {}

  cork(sends: () => void): void {
    sends();
  }

  send(message: Content): number {
    this.received.push(message);
    return this.buffered > 0 ? -1 : message.length;
  }

  subscribe(topic: string): void {
    this.topics.set(topic, (this.topics.get(topic) ?? new Set()).add(this));
  }

  unsubscribe(topic: string): void {
    this.topics.get(topic)?.delete(this);
  }

  getBufferedAmount(): number {
    return this.buffered;
  }

  close(code: number, reason: string): void {
    this.closed = { code, reason };
  }

  ping(): number {
    return 1;
  }

  /** What it has received since the last call. */
  takes(): Content[] {
    return this.received.splice(0);
  }

  /** The presence events among what it has received since the last call. */
  takesPresence(): { joined: string[]; left: string[]; count: number }[] {
    return this.takes().flatMap((frame) => {
      const { type, ...event } = JSON.parse(String(frame));
      return type === "presence" ? [event] : [];
    });
  }
}

/** A hub, and a function to join its room `tea`. */
export function startHub({
  history = 100,
  flushMs = 0,
  makeStore = ({ onEntry }: StoreListener): MessageStore =>
    new MemoryStore(history, onEntry, systemClock, systemRandom),
} = {}) {
  const topics = new Map<string, Set<FakeSocket>>();
  const hub = new Hub(
    (listener) => ({ store: makeStore(listener) }),
    (topic, message) =>
      Math.min(1, ...(topics.get(topic) ?? new Set()).values().map((socket) => socket.send(message))),
    { maxMessageBytes: 65_536, pingSeconds: 25, flushMs },
    systemClock,
  );
  const join = async (
    client: string,
    wire: WireFormat = "text",
    { buffered = 0, ...more }: { history?: number; after?: string; address?: string; buffered?: number } = {},
    bucket = new TokenBucket({ perSecond: 0, burst: 0 }),
  ) => {
    const joinRequest = { client, wire, room: "tea", history: 0, can: ["read", "write"] as const, ...more };
    const connection = await hub.reserve(joinRequest, bucket);
    const socket = new FakeSocket(topics);
    socket.buffered = buffered;
    hub.join(connection, socket);
    return {
      socket,
      says: (text: string) => receive(connection, text),
      leaves: () => connection.onClosed(),
      drains: () => connection.onDrain(),
    };
  };
  return { hub, join };
}
