/** Who was disconnected by a moderator, and where and until when it must not return. */

import { HttpProblem } from "./problem.ts";
import { coversRoom } from "../auth/room-patterns.ts";
import type { Subscriber } from "../chat/broadcaster.ts";
import type { Hub } from "../chat/hub.ts";
import { logError } from "../ops/log.ts";
import { GUEST_PREFIX } from "../protocol/names.ts";
import { StoreUnavailable, type Ban } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";

/** Before the address of a guest; no client id contains it. */
const ADDRESS_PREFIX = "@";
const RETRY_MS = 1000;

/** Whoever asks for a room. */
interface Visitor {
  /** Undefined for a guest who only reads. */
  readonly client?: string | undefined;
  readonly address?: string | undefined;
}

export class Bans {
  /** By client, and then by the rooms. */
  readonly #bans = new Map<string, Map<string, Ban>>();

  constructor(
    private readonly hub: Hub,
    private readonly clock: Clock,
  ) {
    hub.onBan = (ban) => this.#apply(ban);
    hub.onBansMissed = () => void this.#reload();
    hub.isBanned = (room, receiver) => this.#endOf(room, receiver) > this.clock.now();
  }

  /** @throws StoreUnavailable */
  async load(): Promise<void> {
    for (const ban of (await this.hub.store.bans?.read()) ?? []) this.#apply(ban);
  }

  /** Disconnects a client on every node, and keeps it out until then. @throws StoreUnavailable */
  async ban(ban: Ban): Promise<void> {
    await this.hub.store.bans?.save(ban);
    this.#apply(ban);
  }

  /** @throws HttpProblem 403 */
  check(room: string, visitor: Visitor): void {
    const leftMs = this.#endOf(room, visitor) - this.clock.now();
    if (leftMs > 0)
      throw new HttpProblem("banned", "A moderator has disconnected you from this room.", {
        retryAfterSeconds: leftMs / 1000,
      });
  }

  #apply(ban: Ban): void {
    const { client, rooms } = ban;
    const bans = this.#bans.get(client) ?? new Map<string, Ban>();
    this.#bans.set(client, bans.set(rooms.join(" "), ban));
    this.#dropEnded();
    if (client.startsWith(ADDRESS_PREFIX)) return;
    const covered = new Set(rooms);
    const closed = this.hub.closeBanned(
      (room, receiver) => receiver.client === client && coversRoom(covered, room),
    );
    if (client.startsWith(GUEST_PREFIX)) void this.#banAddresses(ban, closed);
  }

  /** A guest chooses another name at will. */
  async #banAddresses(ban: Ban, guests: readonly Subscriber[]): Promise<void> {
    for (const address of new Set(guests.map(({ address }) => address)))
      try {
        if (address !== undefined) await this.ban({ ...ban, client: ADDRESS_PREFIX + address });
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) logError("An address could not be banned", error);
      }
  }

  /** When the last ban ends that keeps it out of the room; 0 if there is none. */
  #endOf(room: string, { client, address }: Visitor): number {
    if (this.#bans.size === 0) return 0;
    const isGuest = client === undefined || client.startsWith(GUEST_PREFIX);
    const keys = [client, isGuest ? `${ADDRESS_PREFIX}${address}` : undefined];
    let end = 0;
    for (const key of keys)
      for (const { rooms, untilMs } of this.#bans.get(key ?? "")?.values() ?? [])
        if (coversRoom(new Set(rooms), room)) end = Math.max(end, untilMs);
    return end;
  }

  #dropEnded(): void {
    const nowMs = this.clock.now();
    for (const [client, bans] of this.#bans) {
      for (const [rooms, { untilMs }] of bans) if (untilMs <= nowMs) bans.delete(rooms);
      if (bans.size === 0) this.#bans.delete(client);
    }
  }

  async #reload(): Promise<void> {
    for (;;)
      try {
        return await this.load();
      } catch (error) {
        if (!(error instanceof StoreUnavailable)) return logError("Bans could not be read", error);
        await this.clock.sleep(RETRY_MS);
      }
  }
}
