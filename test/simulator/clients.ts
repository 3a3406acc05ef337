/** The simulated users: on the JSON wire with the product's client, on the text wire with plain WebSockets. */

import { connect, type Client, type OutboxItem } from "../../src/client/client.ts";
import type { Link, LinkProfile, Network } from "./network.ts";
import type { Rules, TextLink } from "./rules.ts";
import { SERVER_URL } from "./servers.ts";
import { Owner, type World } from "./world.ts";

/** What a simulation gives its users. */
export interface Surroundings {
  readonly world: World;
  readonly network: Network;
  readonly rules: Rules;
}

/** A user of either wire, as faults see it. */
export interface User {
  /** Unique. */
  readonly name: string;
  /** Its client id. */
  readonly client: string;
  readonly room: string;
  readonly link: Link | undefined;
  readonly owner: Owner;
  send(): void;
  join(): void;
  /** Closes the connection; {@link join} may follow. */
  leave(): void;
  /** The process ends without a word; {@link join} may follow. */
  crash(): void;
  /** Called once no more faults happen. */
  settle(): void;
  /** Undefined once it is connected and has received and settled everything; otherwise what is missing. */
  unsettled(newestId: string): string | undefined;
}

export class JsonUser implements User {
  owner: Owner;
  connection: Client | undefined;
  /** What a page would have stored when it was closed. */
  #outbox: readonly OutboxItem[] = [];
  #after: string | undefined;
  #sent = 0;
  /** By a ban. */
  #isKeptOut = false;
  readonly #session: string;

  constructor(
    private readonly surroundings: Surroundings,
    readonly name: string,
    readonly client: string,
    readonly room: string,
    private readonly profile: LinkProfile,
    private readonly sendsBytes: boolean,
  ) {
    this.#session = `s-${name}`;
    this.owner = this.#newOwner();
  }

  #newOwner(): Owner {
    const owner = new Owner(this.name);
    this.surroundings.network.setProfile(owner, this.profile);
    return owner;
  }

  get link(): Link | undefined {
    return this.surroundings.network.linkOf(this.owner);
  }

  send(): void {
    const { connection } = this;
    if (!connection || connection.state.status === "closed") return;
    const { world, rules } = this.surroundings;
    const text = `${this.name}:${++this.#sent}`;
    rules.onSent(text, this.client, this.room, this.#session, this.#sent);
    world.as(this.owner, () => connection.send(this.sendsBytes ? Buffer.from(text) : text));
  }

  join(): void {
    this.#isKeptOut = false;
    if (this.connection) return;
    const { world, rules } = this.surroundings;
    if (!this.owner.isAlive) this.owner = this.#newOwner();
    const owner = this.owner;
    const connection = world.as(owner, () =>
      connect({
        server: SERVER_URL,
        id: this.client,
        room: this.room,
        session: this.#session,
        outbox: this.#outbox,
        ...(this.#after === undefined ? {} : { after: this.#after }),
      }),
    );
    this.connection = connection;
    let after = this.#after;
    connection
      .on("welcome", (welcome) => {
        rules.onWelcome(this.name, after, welcome);
        if (welcome.recovered !== true) after = welcome.last;
        this.#after = after;
      })
      .on("message", (message) => {
        rules.onMessage(this.name, message, textOf(message));
        after = message.id;
        this.#after = after;
      })
      .on("removed", (removal) => {
        rules.onRemoved(this.name, removal);
        after = removal.id;
        this.#after = after;
      })
      .on("presence", (change) => rules.onPresence(this.name, change))
      .on("acknowledged", ({ item, id }) => rules.onAcknowledged(textOf(item), id))
      .on("rejected", ({ item, code }) => world.fail(`"${textOf(item)}" is rejected: ${code}`))
      .on("unconfirmed", (item) => rules.onUnconfirmed(textOf(item)))
      .on("state", (state) => {
        if (state.status !== "closed" || this.connection !== connection) return;
        if (state.statusCode === BANNED || state.code === "banned") return this.#onBanned(owner);
        world.fail(`${this.name} is closed for good: ${state.reason}`);
      });
  }

  /** It tries again until it is let in. */
  #onBanned(owner: Owner): void {
    const { world } = this.surroundings;
    this.leave();
    this.#isKeptOut = true;
    world.schedule(owner, world.time + world.dice.between(500, 3000), () => {
      if (this.#isKeptOut) this.join();
    });
  }

  leave(): void {
    this.#isKeptOut = false;
    const { connection } = this;
    if (!connection) return;
    this.#outbox = connection.outbox;
    this.connection = undefined;
    this.surroundings.world.as(this.owner, () => connection.close(LEFT));
  }

  crash(): void {
    if (!this.connection) return;
    this.#outbox = this.connection.outbox;
    this.connection = undefined;
    this.owner.isAlive = false;
  }

  settle(): void {
    this.join();
  }

  unsettled(newestId: string): string | undefined {
    const { connection, link } = this;
    if (connection?.state.status !== "open") return `is ${connection?.state.status ?? "away"}`;
    if (!link?.isAlive) return "has a dead connection";
    const lastId = link && this.surroundings.rules.lastIdOf(link);
    if (connection.outbox.length > 0) return `has ${connection.outbox.length} messages in its outbox`;
    return lastId === newestId || newestId === "0-0"
      ? undefined
      : `has received up to ${lastId} of ${newestId}`;
  }

  /** The client starts again, with the same session, while the server still has its first connection. */
  takeOver(): void {
    this.link?.touch();
    this.crash();
    this.join();
  }
}

const LEFT = "left";
/** The close code of a client that a moderator has disconnected. */
const BANNED = 4003;

/** What a message says, as a text or as bytes. */
export function textOf({ text, data = "" }: { readonly text?: string; readonly data?: string }): string {
  return text ?? Buffer.from(data, "base64").toString();
}

/** How long a user of the text wire waits for an answer before it connects again. */
const PATIENCE_MS = 10_000;

export class TextUser implements User {
  owner: Owner;
  #session: TextSession | undefined;
  #isPresent = false;
  #connections = 0;

  constructor(
    private readonly surroundings: Surroundings,
    readonly name: string,
    readonly client: string,
    readonly room: string,
    private readonly profile: LinkProfile,
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
    return this.#session?.link;
  }

  send(): void {
    this.surroundings.world.as(this.owner, () => this.#session?.send());
  }

  join(): void {
    this.#isPresent = true;
    if (this.#session) return;
    if (!this.owner.isAlive) this.owner = this.#newOwner();
    this.#connect();
  }

  #connect(): void {
    const { world } = this.surroundings;
    const { owner } = this;
    const session = world.as(
      owner,
      () =>
        new TextSession(this.surroundings, this, this.history, ++this.#connections, () => {
          if (this.#session !== session) return;
          this.#session = undefined;
          world.schedule(owner, world.time + world.dice.between(200, 2000), () => {
            if (this.#isPresent && !this.#session) this.#connect();
          });
        }),
    );
    this.#session = session;
  }

  leave(): void {
    this.#isPresent = false;
    this.surroundings.world.as(this.owner, () => this.#session?.close());
    this.#session = undefined;
  }

  crash(): void {
    this.#isPresent = false;
    this.#session = undefined;
    this.owner.isAlive = false;
  }

  /** This wire has no ping with which a client could tell that its connection is dead. */
  settle(): void {
    if (this.#session?.link.isTouched) this.leave();
    this.join();
  }

  unsettled(): string | undefined {
    if (!this.#session?.link.isAlive) return "is not connected";
    return this.#session.unsettled();
  }
}

/** Of an own message. `unconfirmed`: it may be broadcast or not. */
type TextState = "sent" | "acknowledged" | "broadcast" | "rejected" | "unconfirmed";

/** One connection on the text wire. */
class TextSession {
  readonly link: Link;
  readonly #socket: WebSocket;
  readonly #stream: string;
  readonly #sent: { readonly text: string; state: TextState; isEarly?: boolean }[] = [];
  /** The first that has no reply. */
  #unanswered = 0;
  #waitsSince = Infinity;
  #textLink: TextLink | undefined;
  readonly #seen = new Set<string>();
  #isOver = false;

  constructor(
    private readonly surroundings: Surroundings,
    private readonly user: TextUser,
    history: number,
    connection: number,
    private readonly onOver: () => void,
  ) {
    const { name, client, room } = user;
    this.#stream = `${name}:${connection}.`;
    const url = `${SERVER_URL.replace("http", "ws")}/ws/${client}?room=${room}${history > 0 ? `&history=${history}` : ""}`;
    this.#socket = new WebSocket(url);
    const link = surroundings.network.linkOf(user.owner);
    if (!link) throw new Error("a WebSocket without a link");
    this.link = link;
    this.#socket.onmessage = ({ data }) => {
      const textLink = (this.#textLink ??= surroundings.rules.onTextOpen(this.link, user.room));
      if (this.#waitsSince !== Infinity) this.#waitsSince = surroundings.world.time;
      if (typeof data === "string") this.#onLine(data, textLink);
      else this.#onBroadcast(Buffer.from(data).toString(), textLink);
    };
    this.#socket.onclose = () => this.#end();
    const { world } = surroundings;
    const check = () => {
      if (this.#isOver) return;
      if (world.time - this.#waitsSince > PATIENCE_MS || this.#socket.readyState === 0) this.close();
      else world.schedule(user.owner, world.time + PATIENCE_MS, check);
    };
    world.schedule(user.owner, world.time + PATIENCE_MS, check);
  }

  send(): void {
    if (this.#socket.readyState !== 1) return;
    const { world, rules } = this.surroundings;
    const text = `${this.#stream}${this.#sent.length + 1}`;
    rules.onSent(text, this.user.client, this.user.room, this.#stream, this.#sent.length + 1);
    this.#sent.push({ text, state: "sent" });
    if (this.#waitsSince === Infinity) this.#waitsSince = world.time;
    this.#socket.send(text);
  }

  close(): void {
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#end();
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.onOver();
  }

  unsettled(): string | undefined {
    const open = this.#sent.findIndex((own) => own.state === "sent" || this.#awaitsBroadcast(own));
    if (this.#socket.readyState !== 1) return "is connecting";
    return open < 0
      ? undefined
      : `waits for "${this.#sent[open]?.text}", which is ${this.#sent[open]?.state}`;
  }

  #onLine(line: string, textLink: TextLink): void {
    const { world, rules } = this.surroundings;
    const [, from, said, left] = /^Client #(\S+) (?:says: (.*)|(left the chat))$/.exec(line) ?? [];
    if (from !== undefined && left) return rules.onLeaveAnnounced(this.link, this.user.room, from);
    if (from !== undefined && said !== undefined) {
      rules.checkSender(this.user.name, said, from);
      return this.#onBroadcast(said, textLink);
    }
    const wrote = /^You wrote: (.*)$/.exec(line)?.[1];
    if (wrote !== undefined) return this.#onReply(wrote, "acknowledged");
    const rejected = /^Not sent \(([a-z-]+)\): (.*)$/.exec(line);
    if (rejected)
      return this.#onReply(rejected[2] ?? "", rejected[1] === "unconfirmed" ? "unconfirmed" : "rejected");
    world.fail(`${this.user.name} receives "${line}"`);
  }

  #onBroadcast(text: string, textLink: TextLink): void {
    const { world, rules } = this.surroundings;
    const { name } = this.user;
    const { size } = this.#seen;
    if (this.#seen.add(text).size === size) world.fail(`${name} receives "${text}" twice on one connection`);
    rules.onText(name, textLink, text);
    if (!text.startsWith(this.#stream)) return;
    const own = this.#sent[Number(text.slice(this.#stream.length)) - 1];
    if (own?.state === "sent") own.isEarly = true;
    else if (own?.state === "acknowledged" || own?.state === "unconfirmed") own.state = "broadcast";
    else world.fail(`${name} receives its own "${text}", which is ${own?.state}`);
    this.#updateWaiting();
  }

  /** Replies arrive in the order of sending, each after the broadcasts of the messages before it. */
  #onReply(text: string, state: TextState): void {
    const { world, rules } = this.surroundings;
    const { name } = this.user;
    const next = this.#sent[this.#unanswered++];
    if (next?.text !== text) return world.fail(`${name} is answered "${text}" instead of "${next?.text}"`);
    const previous = this.#sent[this.#unanswered - 2];
    if (previous && this.#awaitsBroadcast(previous))
      world.fail(`${name}: the reply to "${text}" overtakes the broadcast of "${previous.text}"`);
    // A message that is not confirmed may be broadcast at any time.
    if (next.isEarly && state !== "unconfirmed")
      world.fail(`${name} receives its own "${text}" before the reply to it`);
    next.state = state;
    if (state === "acknowledged") rules.onAcknowledged(text, undefined);
    this.#updateWaiting();
  }

  /** What is removed while the connection receives its replay is not broadcast to it. */
  #awaitsBroadcast({ text, state }: { readonly text: string; readonly state: TextState }): boolean {
    return state === "acknowledged" && !this.surroundings.rules.mayBeRemoved(text);
  }

  #updateWaiting(): void {
    const last = this.#sent.at(-1);
    const isWaiting =
      this.#unanswered < this.#sent.length || (last !== undefined && this.#awaitsBroadcast(last));
    if (!isWaiting) this.#waitsSince = Infinity;
  }
}
