/** A moderator: removes messages, disconnects clients for a time, and reads the history. */

import { isMessage, type RemovalTarget } from "../../src/store/message.ts";
import { StoreUnavailable } from "../../src/store/store.ts";
import type { Rules } from "./rules.ts";
import type { SimulatedServer } from "./servers.ts";
import type { World } from "./world.ts";

export class Moderator {
  /** The last ban of each client, and its room. */
  readonly #bans = new Map<string, { readonly room: string; readonly untilMs: number }>();

  /** Where a request to ban a client is under way: one at a time. */
  readonly #pendingAt = new Map<string, SimulatedServer>();

  constructor(
    private readonly world: World,
    private readonly rules: Rules,
  ) {}

  /** @param age from 0, the newest message that clients know of, to 1, the oldest */
  removeMessage(server: SimulatedServer, room: string, age: number): void {
    const message = this.#pick(server, room, age);
    if (message !== undefined) this.#remove(server, room, { message });
  }

  removeAllOf(server: SimulatedServer, room: string, from: string): void {
    this.#remove(server, room, { from });
  }

  #pick({ generation }: SimulatedServer, room: string, age: number): string | undefined {
    const messages = [...this.rules.logOf(room, generation).entries.values()].filter(({ from }) => from);
    return messages.at(-1 - Math.floor(age * messages.length))?.id;
  }

  #remove(server: SimulatedServer, room: string, target: RemovalTarget): void {
    const { world, rules } = this;
    this.#request(server, async () => {
      const requestedAt = world.time;
      rules.onRemovalRequested(room, server.generation, target);
      const count = await server.hub.store.remove(room, target);
      if (server.owner.isAlive)
        rules.onRemovalAcknowledged(room, server.generation, target, requestedAt, count);
    });
  }

  /** Repeating it replaces the ban; with 0 it ends. */
  ban(server: SimulatedServer, room: string, client: string, forMs: number): void {
    const { world, rules } = this;
    this.#request(server, async () => {
      if (this.#pendingAt.get(client) === server) return;
      this.#pendingAt.set(client, server);
      const untilMs = world.dateOf(server.owner) + Math.floor(forMs);
      this.#bans.set(client, { room, untilMs });
      rules.onBanRequested(client, server, untilMs);
      await server.bans.ban({ client, rooms: [room], untilMs }).finally(() => this.#pendingAt.delete(client));
      if (server.owner.isAlive) rules.onBanAcknowledged(client, server, untilMs);
    });
  }

  /** Ends the bans that a clock that went back has made longer. */
  endBans(server: SimulatedServer): void {
    const nowMs = this.world.dateOf(server.owner);
    for (const [client, { room }] of this.#bans)
      if (this.rules.bannedUntilMs(client, server.generation) > nowMs) this.ban(server, room, client, 0);
  }

  /** Reads the page before a message. */
  read(server: SimulatedServer, room: string, age: number, limit: number): void {
    const { world, rules } = this;
    const before = this.#pick(server, room, age);
    this.#request(server, async () => {
      const requestedAt = world.time;
      const page = await server.hub.store.readHistory(room, { ...(before && { before }), limit });
      for (const entry of page.entries)
        if (isMessage(entry) && entry.content !== undefined)
          rules.onPage(room, server.generation, entry.id, requestedAt);
    });
  }

  #request(server: SimulatedServer, handle: () => Promise<void>): void {
    const { world } = this;
    world.schedule(server.owner, world.time, () => {
      if (!server.isListening) return;
      void server.request(handle).catch((error: unknown) => {
        if (!(error instanceof StoreUnavailable)) world.fail(`a request of the moderator fails: ${error}`);
      });
    });
  }
}
