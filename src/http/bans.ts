/** Who was disconnected by a moderator, and where and until when it must not return. */

import { HttpProblem } from "./problem.ts";
import { RoomSelection } from "../auth/room-patterns.ts";
import type { Subscriber } from "../chat/broadcaster.ts";
import type { Hub } from "../chat/hub.ts";
import { logError } from "../ops/log.ts";
import { GUEST_PREFIX } from "../protocol/names.ts";
import { StoreUnavailable, type Ban } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";

/** Between a guest and its address; no client id contains it. */
const ADDRESS_SEPARATOR = "@";
/** The end of a ban that was lifted: unlike the present, it has passed by every node's clock. */
const LIFTED_MS = 0;
const RETRY_MS = 1000;
/** Ended bans are dropped when the clients have doubled since, and are at least this many. */
const MIN_SWEPT_CLIENTS = 1000;

/** Whoever asks for a room. */
interface Visitor {
  /** Undefined for a guest who only reads. */
  readonly client?: string | undefined;
  readonly address?: string | undefined;
}

/** A ban of one client. */
interface ClientBan {
  readonly client: string;
  readonly rooms: RoomSelection;
  readonly untilMs: number;
  /** Of a guest's connections, and until when: if the ban is in force, it is for all guests from there. */
  addresses?: Map<string, number> | undefined;
}

export class Bans {
  /** By client, and then by the rooms. */
  readonly #bans = new Map<string, Map<string, ClientBan>>();
  /** The banned guests of each address. */
  readonly #guestsAt = new Map<string, Set<string>>();
  #sweptClients = 0;
  /** Of the last ban: consecutive ones with the same rooms share it, to save memory. */
  #lastRooms = RoomSelection.of([]);
  /** Under way, and whether the store has emitted this ban, or another one in its place, meanwhile. */
  readonly #saves = new Set<{ readonly ban: Ban; isOutdated: boolean }>();
  /** Those made since the last {@link load} began, until it has ended. */
  #changes: Ban[] | undefined;

  constructor(
    private readonly hub: Hub,
    private readonly clock: Clock,
  ) {
    hub.onBan = (ban) => {
      for (const save of this.#saves) save.isOutdated ||= keyOf(save.ban) === keyOf(ban);
      this.#apply(ban);
    };
    hub.onBansMissed = () => void this.#reload();
    hub.isBanned = (room, receiver) => this.isBanned(room, receiver);
  }

  /** Replaces what is known by what is stored, which may lack bans that were lifted meanwhile. @throws StoreUnavailable */
  async load(): Promise<void> {
    const { bans } = this.hub.store;
    if (!bans) return;
    const changes: Ban[] = (this.#changes = []);
    try {
      const stored = await bans.read();
      if (this.#changes !== changes) return; // a later call reads more
      this.#bans.clear();
      this.#guestsAt.clear();
      for (const ban of [...stored, ...changes]) this.#record(ban);
    } finally {
      if (this.#changes === changes) this.#changes = undefined;
    }
    this.#sweep();
    this.#disconnect((room, receiver) => this.#findBan(room, receiver));
  }

  /**
   * Disconnects a client on every node, and keeps it out until then. Replaces the client's earlier bans that cover none
   * but these rooms; a time that has passed lifts them.
   * @throws StoreUnavailable
   */
  async ban({ client, rooms: patterns, untilMs }: Ban): Promise<void> {
    const rooms = RoomSelection.of(patterns);
    const end = untilMs > this.clock.now() ? untilMs : LIFTED_MS;
    const earlier = [...(this.#bans.get(client)?.values() ?? [])].filter(
      (each) => this.#mayHold(each) && rooms.hasAll(each.rooms),
    );
    const addresses = new Set(earlier.flatMap((each) => this.#addressesOf(each)));
    await this.#save({ client, rooms, untilMs: end }, addresses);
    for (const each of earlier)
      if (each.rooms.key !== rooms.key)
        await this.#save({ ...each, untilMs: LIFTED_MS }, this.#addressesOf(each));
  }

  async #save({ client, rooms, untilMs }: ClientBan, addresses: Iterable<string>): Promise<void> {
    const clients = [client, ...[...addresses].map((address) => withAddress(client, address))];
    for (const each of clients) await this.#saveOne({ client: each, rooms: rooms.patterns, untilMs });
  }

  async #saveOne(ban: Ban): Promise<void> {
    const save = { ban, isOutdated: false };
    this.#saves.add(save);
    try {
      await this.hub.store.bans?.save(ban);
    } finally {
      this.#saves.delete(save);
    }
    // The store's order counts: another node may have changed the same ban since.
    if (!save.isOutdated) this.#apply(ban);
  }

  isBanned(room: string, visitor: Visitor): boolean {
    return this.#findBan(room, visitor) !== undefined;
  }

  /** @throws HttpProblem 403 */
  check(room: string, visitor: Visitor): void {
    const ban = this.#findBan(room, visitor);
    if (ban) throw this.#problem("A moderator has disconnected you from this room.", ban);
  }

  /** The rooms from which the client is not banned. @throws HttpProblem 403 if there are none */
  roomsLeft(patterns: Iterable<string>, client: string | undefined): readonly string[] {
    let rooms = RoomSelection.of(patterns);
    for (const ban of this.#bansOf(client)) {
      rooms = rooms.without(ban.rooms);
      if (rooms.isEmpty)
        throw this.#problem("A moderator has disconnected you from all rooms of your token.", ban);
    }
    return rooms.patterns;
  }

  #problem(detail: string, { untilMs }: ClientBan): HttpProblem {
    return new HttpProblem("banned", detail, {
      retryAfterSeconds: (untilMs - this.clock.now()) / 1000,
    });
  }

  #isInForce({ untilMs }: ClientBan): boolean {
    return untilMs > this.clock.now();
  }

  /** In force, or with addresses that are stored longer. */
  #mayHold(ban: ClientBan): boolean {
    return this.#isInForce(ban) || this.#addressesOf(ban).length > 0;
  }

  /** Those in force. */
  #bansOf(client = ""): ClientBan[] {
    return [...(this.#bans.get(client)?.values() ?? [])].filter((ban) => this.#isInForce(ban));
  }

  #hasAddress({ addresses }: ClientBan, address: string): boolean {
    return (addresses?.get(address) ?? 0) > this.clock.now();
  }

  #addressesOf(ban: ClientBan): string[] {
    return [...(ban.addresses?.keys() ?? [])].filter((address) => this.#hasAddress(ban, address));
  }

  /** The ban that keeps it out of the room for longest. */
  #findBan(room: string, { client, address = "" }: Visitor): ClientBan | undefined {
    if (this.#bans.size === 0) return undefined;
    const isGuest = client === undefined || client.startsWith(GUEST_PREFIX);
    const guests = isGuest ? [...(this.#guestsAt.get(address) ?? [])] : [];
    const ofAddress = guests.flatMap((guest) =>
      this.#bansOf(guest).filter((ban) => this.#hasAddress(ban, address)),
    );
    return [...this.#bansOf(client), ...ofAddress]
      .filter(({ rooms }) => rooms.has(room))
      .reduce<ClientBan | undefined>(
        (last, ban) => (ban.untilMs > (last?.untilMs ?? 0) ? ban : last),
        undefined,
      );
  }

  /** A ban that was made here or on another node. */
  #apply(ban: Ban): void {
    this.#changes?.push(ban);
    const made = this.#record(ban);
    if (this.#bans.size > 2 * Math.max(this.#sweptClients, MIN_SWEPT_CLIENTS)) this.#sweep();
    const { client, rooms } = made;
    const [, address] = ban.client.split(ADDRESS_SEPARATOR);
    if (address === undefined)
      this.#disconnect((room, receiver) =>
        receiver.client === client && rooms.has(room) ? made : undefined,
      );
    else
      this.#disconnect((room, receiver) =>
        receiver.address === address ? this.#findBan(room, receiver) : undefined,
      );
  }

  /** As the store does, so that all nodes agree, also after a restart: the last record for a client or an address counts. */
  #record({ client: banned, rooms: patterns, untilMs }: Ban): ClientBan {
    const [client = "", address] = banned.split(ADDRESS_SEPARATOR);
    const rooms = patterns.join(" ") === this.#lastRooms.key ? this.#lastRooms : RoomSelection.of(patterns);
    this.#lastRooms = rooms;
    const bans = this.#bans.get(client) ?? new Map<string, ClientBan>();
    const known = bans.get(rooms.key);
    const { addresses } = known ?? {};
    const ban: ClientBan = {
      client,
      rooms,
      untilMs: address === undefined ? untilMs : (known?.untilMs ?? LIFTED_MS),
    };
    if (address !== undefined) {
      ban.addresses = (addresses ?? new Map<string, number>()).set(address, untilMs);
      this.#indexAddress(address, client);
    } else if (addresses) ban.addresses = addresses;
    this.#bans.set(client, bans.set(rooms.key, ban));
    return ban;
  }

  #indexAddress(address: string, guest: string): void {
    this.#guestsAt.set(address, (this.#guestsAt.get(address) ?? new Set()).add(guest));
  }

  /** Closes the receivers for which a ban is found. A guest chooses another name at will, so its address is banned, too. */
  #disconnect(findBan: (room: string, receiver: Subscriber) => ClientBan | undefined): void {
    const addresses: { readonly ban: ClientBan; readonly address: string }[] = [];
    this.hub.closeBanned((room, receiver) => {
      const ban = findBan(room, receiver);
      if (!ban) return false;
      const { client, address } = receiver;
      if (
        client === ban.client &&
        client.startsWith(GUEST_PREFIX) &&
        address &&
        !this.#hasAddress(ban, address)
      )
        addresses.push({ ban, address });
      return true;
    });
    if (addresses.length > 0) void this.#banAddresses(addresses);
  }

  async #banAddresses(addresses: readonly { ban: ClientBan; address: string }[]): Promise<void> {
    for (const { ban, address } of addresses)
      await this.#untilAvailable("An address could not be banned", async () => {
        const current = this.#bans.get(ban.client)?.get(ban.rooms.key);
        if (!current || !this.#isInForce(current) || this.#hasAddress(current, address)) return;
        await this.#saveOne({
          client: withAddress(current.client, address),
          rooms: current.rooms.patterns,
          untilMs: current.untilMs,
        });
      });
  }

  /** Drops what has ended. */
  #sweep(): void {
    this.#guestsAt.clear();
    for (const [client, bans] of this.#bans) {
      for (const [rooms, ban] of bans) {
        if (!this.#mayHold(ban)) bans.delete(rooms);
        for (const address of this.#addressesOf(ban)) this.#indexAddress(address, client);
      }
      if (bans.size === 0) this.#bans.delete(client);
    }
    this.#sweptClients = this.#bans.size;
  }

  #reload(): Promise<void> {
    return this.#untilAvailable("Bans could not be read", () => this.load());
  }

  /** Repeats it while the store is unavailable. */
  async #untilAvailable(failure: string, run: () => Promise<void>): Promise<void> {
    for (;;)
      try {
        return await run();
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) return logError(failure, error);
        await this.clock.sleep(RETRY_MS);
      }
  }
}

function keyOf({ client, rooms }: Ban): string {
  return `${client} ${rooms.join(" ")}`;
}

function withAddress(guest: string, address: string): string {
  return guest + ADDRESS_SEPARATOR + address;
}
