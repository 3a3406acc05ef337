/** A subscriber of an event stream, as a program writes it: it opens the stream again when it ends, and resumes. */

import { textOf, type Surroundings, type User } from "./clients.ts";
import type { Link, LinkProfile } from "./network.ts";
import { SERVER_URL } from "./servers.ts";
import { Owner } from "./world.ts";

/** How long a program waits for the response before it asks again. */
const PATIENCE_MS = 10_000;

export class StreamUser implements User {
  owner: Owner;
  #socket: WebSocket | undefined;
  #link: Link | undefined;
  #isPresent = false;
  #isWelcomed = false;
  #after: string | undefined;

  constructor(
    private readonly surroundings: Surroundings,
    readonly name: string,
    readonly client: string,
    readonly room: string,
    private readonly profile: LinkProfile,
    /** `--history`. */
    private readonly history: number,
  ) {
    this.owner = this.#newOwner();
  }

  #newOwner(): Owner {
    const owner = new Owner(this.name);
    this.surroundings.network.setProfile(owner, this.profile);
    return owner;
  }

  get link(): Link | undefined {
    return this.#link;
  }

  send(): void {}

  join(): void {
    this.#isPresent = true;
    if (this.#socket) return;
    if (!this.owner.isAlive) this.owner = this.#newOwner();
    this.#open();
  }

  #open(): void {
    const { world, network, rules } = this.surroundings;
    const { owner } = this;
    const after = this.#after;
    const query = after === undefined ? `history=${this.history}` : `after=${after}`;
    world.as(owner, () => {
      const socket = new WebSocket(`${SERVER_URL}/rooms/${this.room}/events?${query}`);
      this.#socket = socket;
      this.#link = network.linkOf(owner);
      this.#isWelcomed = false;
      socket.onmessage = ({ data }) => {
        for (const line of String(data).split("\n").slice(0, -1)) {
          const event = JSON.parse(line);
          if (event.type === "welcome") {
            rules.onWelcome(this.name, after, event);
            this.#isWelcomed = true;
            if (event.recovered !== true) this.#after = event.last;
          } else if (event.type === "message") {
            rules.onMessage(this.name, event, textOf(event));
            this.#after = event.id;
          } else if (event.type === "removed") {
            const { type: _, ...removal } = event;
            rules.onRemoved(this.name, removal);
            this.#after = event.id;
          }
        }
      };
      world.schedule(owner, world.time + PATIENCE_MS, () => {
        if (this.#socket !== socket || this.#isWelcomed) return;
        this.leave();
        this.join();
      });
      socket.onclose = () => {
        if (this.#socket !== socket) return;
        this.#socket = undefined;
        world.schedule(owner, world.time + world.dice.between(200, 2000), () => {
          if (this.#isPresent && !this.#socket) this.#open();
        });
      };
    });
  }

  leave(): void {
    this.#isPresent = false;
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    this.surroundings.world.as(this.owner, () => socket.close());
  }

  crash(): void {
    this.#isPresent = false;
    this.#socket = undefined;
    this.owner.isAlive = false;
  }

  /** HTTP has no ping with which a client could tell that its connection is dead. */
  settle(): void {
    if (this.#link?.isTouched) this.leave();
    this.join();
  }

  unsettled(newestId: string): string | undefined {
    const link = this.#link;
    if (!link?.isAlive || !this.#isWelcomed) return "is not connected";
    const lastId = this.surroundings.rules.lastIdOf(link);
    return lastId === newestId || newestId === "0-0"
      ? undefined
      : `has received up to ${lastId} of ${newestId}`;
  }
}
