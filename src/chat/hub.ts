/** What happens when: connections come, speak, fall behind and go; entries come back from the store. */

import { cancelTimers, scheduleLeaves, schedulePresence } from "./announcements.ts";
import { replay } from "./replay.ts";
import type { OutboundFrame } from "./broadcaster.ts";
import { SessionRegistry } from "./session-registry.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import { Hearing, type HearingOptions } from "./receive.ts";
import { resumesTotal } from "../ops/metrics.ts";
import type { Publish } from "./connection-manager.ts";
import { jsonCodec, MAX_LISTED_MEMBERS, textCodec } from "../protocol/codec.ts";
import type { CloseReason } from "../protocol/codes.ts";
import { RoomRegistry } from "./room.ts";
import type { HistoryPage, PageQuery } from "../store/history.ts";
import type { AppendResult, Content, PendingMessage, StoredMessage } from "../store/message.ts";
import type { Backend, Cluster, StoreListener, MessageStore } from "../store/store.ts";
import type { Connection, JoinRequest } from "./connection.ts";
import { closeSocket, type ConnectionSocket } from "./socket.ts";

export interface HubOptions extends HearingOptions {
  readonly pingSeconds: number;
  /** So long what is said in a busy room waits for more. */
  readonly flushMs: number;
}

export class Hub {
  readonly #rooms: RoomRegistry;
  readonly #sessions: SessionRegistry;
  readonly #store: MessageStore;
  readonly #cluster: Cluster | undefined;
  readonly #hearing: Hearing;
  #isStopping = false;

  constructor(
    createStore: (listener: StoreListener) => Backend,
    publish: Publish,
    private readonly options: HubOptions,
  ) {
    const { store, cluster } = createStore({
      onMessage: (message) => this.#onStoredMessage(message),
      onRemotePresence: (room, client, node, connections) =>
        this.#onRemotePresence(room, client, node, connections),
      onSessionClaimed: (client, session, ticket) => this.#sessions.onRemoteClaim(client, session, ticket),
      onStateLost: () => this.#onStateLost(),
    });
    this.#store = store;
    this.#cluster = cluster;
    this.#rooms = new RoomRegistry(store, cluster, publish, options.flushMs, (connection, why) =>
      this.#disconnect(connection, why),
    );
    this.#sessions = new SessionRegistry(cluster, (older) => this.#disconnect(older, "replaced"));
    this.#hearing = new Hearing(store, options, (connection, why) => this.#disconnect(connection, why));
  }

  /** Whether messages are taken, and kept. */
  get isReady(): boolean {
    return !this.#isStopping && this.#store.isReady;
  }

  /** Before anything else. @returns where messages are kept, and what that promises @throws StoreError */
  async start(): Promise<string> {
    await this.#store.open?.();
    return this.#store.durability;
  }

  get roomCount(): number {
    return this.#rooms.size;
  }

  /** Those in a room, {@link MAX_LISTED_MEMBERS} of them by name. @throws StoreUnavailable */
  async getPresence(name: string): Promise<{ count: number; members: readonly string[] }> {
    const { manager } = this.#rooms.get(name) ?? {};
    if (manager) return { count: manager.count, members: manager.members(MAX_LISTED_MEMBERS) };
    const clients = (await this.#cluster?.listClients(name)) ?? new Set<string>();
    return { count: clients.size, members: clients.values().take(MAX_LISTED_MEMBERS).toArray() };
  }

  /** @throws StoreUnavailable */
  read(room: string, where: PageQuery): Promise<HistoryPage> {
    return this.#store.readHistory(room, where);
  }

  /** Says something without a connection; the answer tells what became of it. */
  publish(said: Omit<PendingMessage, "requiresSeq">): Promise<AppendResult> {
    const { promise, resolve } = Promise.withResolvers<AppendResult>();
    if (!this.isReady) return Promise.resolve({ rejected: "unavailable" });
    const onResult = (_: PendingMessage, result: AppendResult) => resolve(result);
    this.#store.append({ ...said, requiresSeq: undefined }, { onResult });
    return promise;
  }

  /** From here on nobody is said to leave, and nothing is taken by {@link publish}. */
  beginShutdown(): void {
    this.#isStopping = true;
    for (const room of this.#rooms.all()) cancelTimers(room);
  }

  /** When all that was accepted is answered, and out. */
  async drain(): Promise<void> {
    await this.#store.drain();
    this.flush();
  }

  /** After the last of it. */
  async close(): Promise<void> {
    await this.#store.close();
  }

  /** Nothing waits any longer to share a write. */
  flush(): void {
    for (const room of this.#rooms.all()) room.broadcaster.flush();
  }

  /** Takes a place in a room, before the upgrade: either {@link join} or {@link release} follows. @throws StoreUnavailable */
  reserve(joinRequest: JoinRequest, bucket: TokenBucket): Promise<Connection> {
    return this.#rooms.acquire(joinRequest, bucket);
  }

  release({ room }: Connection): void {
    this.#rooms.release(room);
  }

  join(connection: Connection, socket: ConnectionSocket): void {
    const { room, client, session, resume } = connection;
    if (!resume) throw new Error("somebody enters twice");
    const { history, manager } = room;
    connection.resume = undefined;
    connection.socket = socket;
    manager.connect(connection);
    this.#publishPresence(connection);
    const isNewest = this.#sessions.claim(connection);
    // Bun cannot close yet what it only just opens.
    if (!isNewest) return void setTimeout(() => this.#disconnect(connection, "replaced"));
    if (!this.#rooms.isCurrent(room))
      return void setTimeout(() => this.#disconnect(connection, "restarting"));

    const { after, sent, isAfterKept, isDamaged } = resume;
    const resumed = after === undefined || isDamaged ? undefined : history.offsetAfter(after);
    const recovered = resumed !== undefined || isAfterKept;
    if (after !== undefined) resumesTotal.count(`${recovered}`);
    connection.isResuming = recovered;
    if (resumed === undefined) connection.replayAfterId = recovered ? after : resume.idBefore;
    connection.replayOffset = resumed ?? Math.max(history.firstOffset, history.nextOffset - resume.history);
    if (connection.wire === "json")
      connection.send(
        jsonCodec.welcome({
          client,
          room: room.name,
          last: connection.replayAfterId ?? history.idBeforeOffset(connection.replayOffset),
          ...(after === undefined ? {} : { recovered }),
          ...(session === undefined ? {} : { sent }),
          count: manager.count,
          members: manager.members(MAX_LISTED_MEMBERS),
          connections: manager.connectionCount(client),
          pingSeconds: this.options.pingSeconds,
          maxMessageBytes: this.options.maxMessageBytes,
        }),
      );
    room.replaying.add(connection);
    this.catchUp(connection);
    schedulePresence(room);
  }

  /** Goes on with what was said before, when there is room in the network for it again. */
  catchUp(connection: Connection): void {
    replay(connection, this.#store, (each, why) => this.#disconnect(each, why));
  }

  /** It answers a ping. */
  onPong(connection: Connection): void {
    this.#sessions.confirm(connection);
  }

  receive(connection: Connection, frame: Content): void {
    this.#hearing.receive(connection, frame);
  }

  leave(connection: Connection): void {
    const { room } = connection;
    if (!connection.socket) return;
    connection.socket = undefined;
    room.replaying.delete(connection);
    room.manager.disconnect(connection, performance.now());
    this.#sessions.release(connection);
    // Who goes because the server does comes back: that is no news.
    if (!this.#isStopping) {
      this.#publishPresence(connection);
      scheduleLeaves(room);
      schedulePresence(room);
    }
    this.release(connection);
  }

  /** An entry comes back from the store, in the one order: everyone hears it. */
  #onStoredMessage(message: StoredMessage): void {
    const room = this.#rooms.get(message.room);
    if (!room) return;
    const { manager, broadcaster } = room;
    manager.hasSent(message.from);
    try {
      // What nobody hears need not be encoded.
      const outgoing: OutboundFrame[] = [];
      if (manager.countByWire("text") > 0)
        outgoing.push({ to: "text", message: textCodec.message(message), isStored: true });
      if (manager.countByWire("json") > 0)
        outgoing.push({ to: "json", message: jsonCodec.message(message), isStored: true });
      broadcaster.enqueue(outgoing, message.from);
    } catch (error) {
      broadcaster.fail(error);
    }
  }

  /** Somebody has come or gone by another node. */
  #onRemotePresence(name: string, client: string, node: string, connections: number): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    room.manager.setRemoteCount(client, node, connections, performance.now());
    if (this.#isStopping) return;
    scheduleLeaves(room);
    schedulePresence(room);
  }

  #publishPresence({ client, room }: Connection): void {
    // Of a room as it was before the store had lost it, there is nothing to tell.
    if (this.#rooms.isCurrent(room))
      this.#cluster?.publishPresence(room.name, client, room.manager.localConnectionCount(client));
  }

  /** Everyone comes again, and goes on from what they have heard. */
  #onStateLost(): void {
    for (const { manager } of this.#rooms.all())
      for (const connection of [...manager.connections()]) this.#disconnect(connection, "restarting");
    this.#rooms.detachAll();
  }

  /** Closes a connection; it hears nothing more, and has left. */
  #disconnect(connection: Connection, why: CloseReason): void {
    const { socket, room, wire, shard } = connection;
    socket?.unsubscribe(room.manager.topic(wire, shard));
    if (socket) closeSocket(socket, why);
    this.leave(connection);
  }
}
