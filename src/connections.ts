/** Who is in the room: the tutorial's ConnectionManager, for clients that may hold several connections. */

/** As much of a WebSocket as the manager needs. */
export interface Connection {
  send(message: string): unknown;
  subscribe(topic: string): unknown;
}

export type Publish = (topic: string, message: string | Uint8Array<ArrayBuffer>) => void;

const TOPIC = "lobby";

export class ConnectionManager {
  readonly #connections = new Set<Connection>();
  /** How many connections each client holds: two tabs with one id are one client. */
  readonly #held = new Map<string, number>();
  /** Clients whose last connection is gone and not yet announced, each with when that was; the longest gone first. */
  readonly #gone = new Map<string, number>();

  constructor(private readonly publish: Publish) {}

  connect(client: string, connection: Connection): void {
    connection.subscribe(TOPIC);
    this.#connections.add(connection);
    this.#held.set(client, (this.#held.get(client) ?? 0) + 1);
    this.#gone.delete(client);
  }

  /** Forgets the connection; a client without any other has left, unless it connects before it is announced. */
  disconnect(client: string, connection: Connection, nowMs: number): void {
    if (!this.#connections.delete(connection)) return;
    const left = (this.#held.get(client) ?? 1) - 1;
    if (left > 0) this.#held.set(client, left);
    else {
      this.#held.delete(client);
      this.#gone.set(client, nowMs);
    }
  }

  /** Up to `count` of the clients that have been gone since `sinceMs` or longer; each is handed out once. */
  *takeGone(count: number, sinceMs: number): Generator<string> {
    for (const [client, goneMs] of this.#gone.entries().take(count)) {
      if (goneMs > sinceMs) return;
      this.#gone.delete(client);
      yield client;
    }
  }

  sendPersonalMessage(message: string, connection: Connection): void {
    connection.send(message);
  }

  broadcast(message: string | Uint8Array<ArrayBuffer>): void {
    this.publish(TOPIC, message);
  }

  /** Open connections, of all clients. */
  get size(): number {
    return this.#connections.size;
  }

  get hasGone(): boolean {
    return this.#gone.size > 0;
  }
}
