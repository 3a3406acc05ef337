/** The hub in the test's own process, with sockets that are none: for what depends on a clock or on the network. */

import { Hub } from "../../src/chat/hub.ts";
import { Allowance } from "../../src/util/token-bucket.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import type { Wire } from "../../src/protocol/codec.ts";
import type { Content, Follower, Store } from "../../src/store/store.ts";
import type { Ended, Socket } from "../../src/chat/connection.ts";

/** A connection's socket, whose network takes as much as the test says. */
export class FakeSocket implements Socket {
  readonly data: { ended?: Ended } = {};
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

  /** What has been received since this was last asked. */
  takes(): Content[] {
    return this.received.splice(0);
  }

  /** The presence events among it. */
  takesPresence(): { joined: string[]; left: string[]; count: number }[] {
    return this.takes().flatMap((frame) => {
      const { type, ...event } = JSON.parse(String(frame));
      return type === "presence" ? [event] : [];
    });
  }
}

/** A hub, and a way to join its room `tea`. */
export function startHub({
  history = 100,
  flushMs = 0,
  makeStore = ({ said }: Follower): Store => new MemoryStore(history, said),
} = {}) {
  const topics = new Map<string, Set<FakeSocket>>();
  const hub = new Hub(
    makeStore,
    (topic, message) =>
      Math.min(1, ...(topics.get(topic) ?? new Set()).values().map((socket) => socket.send(message))),
    { maxMessageBytes: 65_536, pingSeconds: 25, flushMs },
  );
  const join = async (
    client: string,
    wire: Wire = "text",
    { buffered = 0, ...more }: { history?: number; after?: string; buffered?: number } = {},
    allowance = new Allowance({ perSecond: 0, burst: 0 }),
  ) => {
    const wish = { client, wire, room: "tea", history: 0, ...more };
    const visitor = await hub.reserve(wish, allowance);
    if (visitor === "unavailable") throw new Error("the room did not open");
    const socket = new FakeSocket(topics);
    socket.buffered = buffered;
    hub.enter(visitor, socket);
    return {
      socket,
      says: (text: string) => hub.hear(visitor, text),
      leaves: () => hub.leave(visitor),
      drains: () => hub.catchUp(visitor),
    };
  };
  return { hub, join };
}
