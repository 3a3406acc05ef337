/** What happens when: connections come, speak, fall behind and go; entries come back from the store. */

import { stopTelling, tellLeaves, tellPresence } from "./announcements.ts";
import { catchUp } from "./replay.ts";
import type { Outgoing } from "./broadcaster.ts";
import { Holders } from "./session-registry.ts";
import type { Allowance } from "../util/token-bucket.ts";
import { Hearing, type HearingOptions } from "./receive.ts";
import { countAnswer, resumes } from "../ops/metrics.ts";
import type { Publish } from "./connection-manager.ts";
import { json, MAX_NAMES, text, type Close } from "../protocol/codec.ts";
import { Rooms } from "./room.ts";
import type { Answer, Content, Draft, Entry, Follower, Page, Store, Where } from "../store/store.ts";
import { end, type Socket, type Visitor, type Wish } from "./connection.ts";

export interface HubOptions extends HearingOptions {
  readonly pingSeconds: number;
  /** So long what is said in a busy room waits for more. */
  readonly flushMs: number;
}

export class Hub {
  readonly #rooms: Rooms;
  readonly #holders: Holders;
  readonly #store: Store;
  readonly #hearing: Hearing;
  #isStopping = false;

  constructor(
    makeStore: (follower: Follower) => Store,
    publish: Publish,
    private readonly options: HubOptions,
  ) {
    this.#store = makeStore({
      said: (entry) => this.#follow(entry),
      present: (room, client, node, connections) => this.#present(room, client, node, connections),
      replaced: (client, session, ticket) => this.#holders.replace(client, session, ticket),
      lost: () => this.#lose(),
    });
    this.#rooms = new Rooms(this.#store, publish, options.flushMs, (visitor, why) =>
      this.#dismiss(visitor, why),
    );
    this.#holders = new Holders(this.#store.others, (older) => this.#dismiss(older, "replaced"));
    this.#hearing = new Hearing(this.#store, options, (visitor, why) => this.#dismiss(visitor, why));
  }

  /** Whether messages are taken, and kept. */
  get isReady(): boolean {
    return !this.#isStopping && this.#store.isReady;
  }

  /** Before anything else. @returns where messages are kept, and what that promises @throws StoreError */
  async start(): Promise<string> {
    await this.#store.start?.();
    return this.#store.promise;
  }

  get roomCount(): number {
    return this.#rooms.size;
  }

  /** Those in a room, {@link MAX_NAMES} of them by name. */
  async presenceOf(name: string): Promise<{ count: number; members: readonly string[] } | "unavailable"> {
    const { manager } = this.#rooms.get(name) ?? {};
    if (manager) return { count: manager.count, members: manager.members(MAX_NAMES) };
    const clients = (await this.#store.others?.clientsIn(name)) ?? new Set<string>();
    if (clients === "unavailable") return clients;
    return { count: clients.size, members: clients.values().take(MAX_NAMES).toArray() };
  }

  read(room: string, where: Where): Promise<Page | "unavailable"> {
    return this.#store.read(room, where);
  }

  /** Says something without a connection; the answer tells what became of it. */
  say(said: Omit<Draft, "givenMs" | "after">): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    if (!this.isReady) return Promise.resolve({ refused: "unavailable" });
    const answered = (draft: Draft, answer: Answer) => {
      countAnswer(draft, answer);
      resolve(answer);
    };
    this.#store.append({ ...said, after: undefined, givenMs: performance.now() }, { answered });
    return promise;
  }

  /** From here on nobody is said to leave, and nothing is taken by {@link say}. */
  stop(): void {
    this.#isStopping = true;
    for (const room of this.#rooms.all()) stopTelling(room);
  }

  /** When all that was accepted is answered, and out. */
  async settle(): Promise<void> {
    await this.#store.settle();
    this.flush();
  }

  /** After the last of it. */
  async end(): Promise<void> {
    await this.#store.end();
  }

  /** Nothing waits any longer to share a write. */
  flush(): void {
    for (const room of this.#rooms.all()) room.fanOut.flush();
  }

  /** Takes a place in a room, before the upgrade: either {@link enter} or {@link release} follows. */
  reserve(wish: Wish, allowance: Allowance): Promise<Visitor | "unavailable"> {
    return this.#rooms.reserve(wish, allowance);
  }

  release({ room }: Visitor): void {
    this.#rooms.release(room);
  }

  enter(visitor: Visitor, socket: Socket): void {
    const { room, client, session, arrival } = visitor;
    if (!arrival) throw new Error("somebody enters twice");
    const { history, manager } = room;
    visitor.arrival = undefined;
    visitor.socket = socket;
    manager.connect(visitor);
    this.#tellOthers(visitor);
    const isNewest = this.#holders.take(visitor);
    // Bun cannot close yet what it only just opens.
    if (!isNewest) return void setTimeout(() => this.#dismiss(visitor, "replaced"));
    if (!this.#rooms.has(room)) return void setTimeout(() => this.#dismiss(visitor, "restarting"));

    const { after, sent, isAfterKept, isDamaged } = arrival;
    const resumed = after === undefined || isDamaged ? undefined : history.positionAfter(after);
    const recovered = resumed !== undefined || isAfterKept;
    if (after !== undefined) resumes.count(`${recovered}`);
    visitor.isResuming = recovered;
    if (resumed === undefined) visitor.behind = recovered ? after : arrival.idBefore;
    visitor.position = resumed ?? Math.max(history.start, history.end - arrival.history);
    if (visitor.wire === "json")
      visitor.send(
        json.welcome({
          client,
          room: room.name,
          last: visitor.behind ?? history.idBefore(visitor.position),
          ...(after === undefined ? {} : { recovered }),
          ...(session === undefined ? {} : { sent }),
          count: manager.count,
          members: manager.members(MAX_NAMES),
          connections: manager.connectionsOf(client),
          pingSeconds: this.options.pingSeconds,
          maxMessageBytes: this.options.maxMessageBytes,
        }),
      );
    room.catchingUp.add(visitor);
    this.catchUp(visitor);
    tellPresence(room);
  }

  /** Goes on with what was said before, when there is room in the network for it again. */
  catchUp(visitor: Visitor): void {
    catchUp(visitor, this.#store, (each, why) => this.#dismiss(each, why));
  }

  /** It answers a ping. */
  showLife(visitor: Visitor): void {
    this.#holders.showLife(visitor);
  }

  hear(visitor: Visitor, frame: Content): void {
    this.#hearing.hear(visitor, frame);
  }

  leave(visitor: Visitor): void {
    const { room } = visitor;
    if (!visitor.socket) return;
    visitor.socket = undefined;
    room.catchingUp.delete(visitor);
    room.manager.disconnect(visitor, performance.now());
    this.#holders.leave(visitor);
    // Who goes because the server does comes back: that is no news.
    if (!this.#isStopping) {
      this.#tellOthers(visitor);
      tellLeaves(room);
      tellPresence(room);
    }
    this.release(visitor);
  }

  /** An entry comes back from the store, in the one order: everyone hears it. */
  #follow(entry: Entry): void {
    const room = this.#rooms.get(entry.room);
    if (!room) return;
    const { manager, fanOut } = room;
    manager.hasSent(entry.from);
    try {
      // What nobody hears need not be encoded.
      const outgoing: Outgoing[] = [];
      if (manager.speakers("text") > 0)
        outgoing.push({ to: "text", message: text.message(entry), isEntry: true });
      if (manager.speakers("json") > 0)
        outgoing.push({ to: "json", message: json.message(entry), isEntry: true });
      fanOut.add(outgoing, entry.from);
    } catch (error) {
      fanOut.fail(error);
    }
  }

  /** Somebody has come or gone by another node. */
  #present(name: string, client: string, node: string, connections: number): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    room.manager.setElsewhere(client, node, connections, performance.now());
    if (this.#isStopping) return;
    tellLeaves(room);
    tellPresence(room);
  }

  #tellOthers({ client, room }: Visitor): void {
    // Of a room as it was before the store had lost it, there is nothing to tell.
    if (this.#rooms.has(room))
      this.#store.others?.tell(room.name, client, room.manager.connectionsHere(client));
  }

  /** Everyone comes again, and goes on from what they have heard. */
  #lose(): void {
    for (const { manager } of this.#rooms.all())
      for (const visitor of [...manager.connections()]) this.#dismiss(visitor, "restarting");
    this.#rooms.clear();
  }

  /** Closes a connection; it hears nothing more, and has left. */
  #dismiss(visitor: Visitor, why: Close): void {
    const { socket, room, wire, section } = visitor;
    socket?.unsubscribe(room.manager.topic(wire, section));
    if (socket) end(socket, why);
    this.leave(visitor);
  }
}
