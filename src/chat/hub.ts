/** The hub: the registry of the rooms on this node, and the listener of the store. */

import { MAX_LISTED_MEMBERS } from "../protocol/codec.ts";
import { logError, logEvent } from "../ops/log.ts";
import type { ReadonlyHistory } from "../store/history.ts";
import type { AppendResult, PendingMessage } from "../store/message.ts";
import {
  StoreUnavailable,
  type Ban,
  type Backend,
  type Cluster,
  type MessageStore,
  type StoreListener,
} from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import type { TokenBucket } from "../util/token-bucket.ts";
import type { PublishToTopic, Subscriber } from "./broadcaster.ts";
import { Connection, type Admission } from "./connection.ts";
import { EventStream, type StreamRequest } from "./event-stream.ts";
import { prepareReplay } from "./replay.ts";
import { Room, type ChatContext, type ChatOptions } from "./room.ts";
import { SessionRegistry } from "./session-registry.ts";
import type { ConnectionSocket } from "./socket.ts";

export class Hub implements ChatContext {
  readonly store: MessageStore;
  readonly cluster: Cluster | undefined;
  readonly sessions: SessionRegistry;
  readonly #rooms = new Map<string, Room>();
  /** How often the store has lost its state. */
  #generation = 0;
  #lastFencingToken = 0;
  #isShuttingDown = false;
  /** Called for each ban, whichever node it was made on. */
  onBan: (ban: Ban) => void = () => {};
  /** Called when bans may have been missed. */
  onBansMissed: () => void = () => {};
  /** Whether a receiver was banned while it was on its way in. */
  isBanned: (room: string, receiver: Pick<Subscriber, "client" | "address">) => boolean = () => false;

  constructor(
    createStore: (listener: StoreListener) => Backend,
    readonly publishToTopic: PublishToTopic,
    readonly options: ChatOptions,
    readonly clock: Clock,
  ) {
    const { store, cluster } = createStore({
      onEntry: (entry) => this.#rooms.get(entry.room)?.deliver(entry),
      onRemotePresence: (room, client, difference) =>
        this.#rooms.get(room)?.presence.adjustCount(client, difference),
      onSessionClaimed: (...claim) => this.sessions.onRemoteClaim(...claim),
      onBan: (ban) => this.onBan(ban),
      onRemovedAll: (room, client) => void this.#repeatRemoval(room, client),
      onStateLost: () => this.#onStateLost(),
    });
    this.store = store;
    this.cluster = cluster;
    this.sessions = new SessionRegistry(cluster);
  }

  /** Whether messages are accepted. */
  get isReady(): boolean {
    return !this.#isShuttingDown && this.store.isReady;
  }

  get roomCount(): number {
    return this.#rooms.size;
  }

  /** Who is in a room on any node: `members` lists up to {@link MAX_LISTED_MEMBERS}. @throws StoreUnavailable */
  async getPresence(room: string): Promise<{ count: number; members: readonly string[] }> {
    const { presence } = this.#rooms.get(room) ?? {};
    if (presence) return { count: presence.count, members: presence.members };
    const clients = (await this.cluster?.listClients(room)) ?? new Set<string>();
    return { count: clients.size, members: clients.values().take(MAX_LISTED_MEMBERS).toArray() };
  }

  /** Stores and broadcasts a message posted through the HTTP API. */
  post(message: Omit<PendingMessage, "requiresSeq">): Promise<AppendResult> {
    if (!this.isReady) return Promise.resolve({ rejected: "unavailable" });
    const { promise, resolve } = Promise.withResolvers<AppendResult>();
    const onResult = (_: PendingMessage, result: AppendResult) => resolve(result);
    this.store.append({ ...message, requiresSeq: undefined }, { onResult });
    return promise;
  }

  /** Makes a connection before the upgrade: {@link join} or {@link Connection.onClosed} follows. @throws StoreUnavailable */
  async reserve(request: Admission, bucket: TokenBucket): Promise<Connection> {
    const { client, session } = request;
    // Requested before anything slow, so that of two connections of a session, the newer one has the higher token.
    const fencingTokenPromise = Promise.resolve(session === undefined ? 0 : this.#nextFencingToken());
    fencingTokenPromise.catch(() => {}); // awaited below, unless the room cannot be acquired
    return this.#withRoom(request.room, async (room) => {
      const [sent, replay, fencingToken] = await Promise.all([
        session === undefined ? null : this.store.lastSeq(client, session),
        prepareReplay(request, room),
        fencingTokenPromise,
      ]);
      return new Connection(request, room, bucket, replay, sent, fencingToken, this.#releaseConnection);
    });
  }

  /** Makes an event stream before its response: {@link startStream} or {@link EventStream.onClosed} follows. @throws StoreUnavailable */
  async reserveStream(request: StreamRequest): Promise<EventStream> {
    if (this.#isShuttingDown) throw new StoreUnavailable();
    return this.#withRoom(request.room, async (room) => {
      const replay = await prepareReplay(request, room);
      return new EventStream(request, room, replay, () => this.#release(room));
    });
  }

  /** Acquires a room for a subscription, which `make` creates and which releases the room. @throws StoreUnavailable */
  async #withRoom<T>(name: string, make: (room: Room) => Promise<T>): Promise<T> {
    const generation = this.#generation;
    const history = await this.store.acquireRoom(name);
    if (generation !== this.#generation) {
      this.store.releaseRoom(name);
      throw new StoreUnavailable();
    }
    const room = this.#rooms.get(name) ?? this.#openRoom(name, history);
    room.refCount++;
    try {
      return await make(room);
    } catch (error) {
      this.#release(room);
      throw error;
    }
  }

  #nextFencingToken(): number | Promise<number> {
    return this.cluster?.nextFencingToken() ?? ++this.#lastFencingToken;
  }

  /** The WebSocket of a reserved connection is open. */
  join(connection: Connection, socket: ConnectionSocket): void {
    connection.open(socket);
    const isReplaced = !this.sessions.add(connection);
    const isBanned = this.isBanned(connection.room.name, connection);
    if (!isReplaced && !isBanned && !connection.room.isDetached) return connection.welcome();
    const reason = isBanned ? "banned" : isReplaced ? "replaced" : "restarting";
    // Bun cannot close a WebSocket in its open handler.
    this.clock.setTimeout(() => connection.close(reason), 0);
  }

  /** The response of a reserved event stream is open. */
  startStream(stream: EventStream, socket: ConnectionSocket): void {
    stream.open(socket);
    if (this.isBanned(stream.room.name, stream)) stream.close("banned");
    else if (stream.room.isDetached) stream.close("restarting");
    else stream.welcome();
  }

  readonly #releaseConnection = (connection: Connection): void => {
    this.sessions.release(connection);
    this.#release(connection.room);
  };

  /** All receivers on this node that a ban concerns are closed. @returns them */
  closeBanned(isConcerned: (room: string, receiver: Subscriber) => boolean): readonly Subscriber[] {
    const closed = this.#rooms
      .values()
      .toArray()
      .flatMap(({ name, broadcaster }) =>
        [...broadcaster.connections()].filter((receiver) => isConcerned(name, receiver)),
      );
    for (const receiver of closed) receiver.close("banned");
    return closed;
  }

  /**
   * A client that was banned on another node may have sent messages to this one that are stored after they were all
   * removed. It sends no more, so the repetition has an end.
   */
  async #repeatRemoval(room: string, client: string): Promise<void> {
    if (!this.isBanned(room, { client })) return;
    try {
      const count = await this.store.remove(room, { from: client });
      if (count) logEvent("messages removed", { room, from: client, count });
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) logError("A removal could not be repeated", error);
    }
  }

  #openRoom(name: string, history: ReadonlyHistory): Room {
    const room = new Room(name, history, this);
    if (this.#isShuttingDown) room.presence.stopAnnouncing();
    this.#rooms.set(name, room);
    return room;
  }

  #release(room: Room): void {
    this.store.releaseRoom(room.name);
    if (--room.refCount > 0) return;
    if (this.#rooms.get(room.name) === room) this.#rooms.delete(room.name);
    room.close();
  }

  /** The store cannot tell which messages were stored: all clients reconnect and resume. */
  #onStateLost(): void {
    for (const room of this.#rooms.values()) room.detach();
    this.#generation++;
    this.#rooms.clear();
    this.onBansMissed();
  }

  /** From here on, no leaves are announced, because the clients reconnect, and {@link post} accepts nothing. */
  beginShutdown(): void {
    this.#isShuttingDown = true;
    for (const room of this.#rooms.values()) room.presence.stopAnnouncing();
  }

  /** Waits until accepted messages are stored, acknowledged and broadcast. */
  async drain(): Promise<void> {
    await this.store.drain();
    this.flush();
  }

  /** Writes all queued frames now. */
  flush(): void {
    for (const room of this.#rooms.values()) room.broadcaster.flush();
  }
}
