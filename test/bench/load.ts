/**
 * The load generator: many clients in one room, or on the echo, some of which send, in one process.
 *
 * A run ends with one more message, once all others are acknowledged. A room has one order, so a client that has received
 * that message has received all of them, and what is missing or duplicated is known without further waiting.
 */

import { withDeadline } from "../support/deadline.ts";
import { Connection, Draft, type Watcher, type Wire } from "./connection.ts";

/** Clients that connect at once; the accept queue is limited. */
const CONNECT_AT_ONCE = 100;
/** Presence is announced within 200 ms; it is not part of the measurement. */
const SETTLE_MS = 300;
/** Read interval of clients that are not watched; the socket's buffers hold what arrives meanwhile. */
const DOZE_MS = 100;
/** For the acknowledgements after sending has ended, and again for the last delivery. */
const DEADLINE_MS = 20_000;
/** For all clients to connect. */
const CONNECT_DEADLINE_MS = 30_000;
/** Above this share of a core, the generator may have been the bottleneck. */
export const TOO_BUSY = 0.85;

export interface Audience {
  /** A multiple of the two below. */
  readonly clients: number;
  /** How many of the clients send. On the wire "sse" these are JSON connections, and all others event streams. */
  readonly senders: number;
  /** Clients whose latency is measured, by default as many as send: on the wire "sse" streams, otherwise the senders first. */
  readonly watched?: number;
}

export interface Plan {
  readonly seconds: number;
  /** Messages a second in total. Without it each sender sends its next message once the last is acknowledged. */
  readonly rate?: number;
}

export interface Run {
  readonly messages: number;
  readonly deliveries: number;
  readonly seconds: number;
  /** CPU time of the server. */
  readonly cpuSeconds: number;
  /** From sending to delivery, in milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** The generator's share of a core; where both servers are measured at once, for both. */
  readonly busy: number;
}

export class Crowd implements Watcher, Disposable {
  readonly #connections: Connection[] = [];
  /** Spread over the clients, and so over the order in which a server writes to them. */
  readonly #senders: Connection[] = [];
  readonly #draft: Draft;
  readonly #failed = Promise.withResolvers<never>();
  readonly #latencies: number[] = [];
  /** When each message of this run was sent; the first has the number {@link #first}. */
  readonly #sentMs: number[] = [];
  #first = 1;
  #acknowledged = 0;
  #repliesAreAnswered = false;
  /** Connections that have not received the last message. */
  #waiting = 0;
  #settled = Promise.withResolvers<void>();
  #isClosed = false;

  private constructor(private readonly wire: Wire) {
    this.#draft = new Draft(wire);
    this.#failed.promise.catch(() => {}); // it may fail between two waits
  }

  /** @throws Error if a client cannot connect, or not in time */
  static async gather(
    port: number,
    wire: Wire,
    audience: Audience,
    deadlineMs = CONNECT_DEADLINE_MS,
  ): Promise<Crowd> {
    const crowd = new Crowd(wire);
    const complain = () => `${crowd.#connections.length} of ${audience.clients} clients are connected`;
    await withDeadline(crowd.#connect(port, audience), complain, deadlineMs);
    await Bun.sleep(SETTLE_MS);
    return crowd;
  }

  async #connect(port: number, { clients, senders, watched = senders }: Audience): Promise<void> {
    const isEach = (nth: number, of: number) => nth % Math.max(1, Math.floor(clients / of)) === 0;
    for (let first = 0; first < clients; first += CONNECT_AT_ONCE) {
      const numbers = Array.from({ length: Math.min(CONNECT_AT_ONCE, clients - first) }, (_, i) => first + i);
      const opening = numbers.map((number) => {
        const wire = this.wire === "sse" && isEach(number, senders) ? "json" : this.wire;
        return Connection.open(port, `c${`${number}`.padStart(5, "0")}`, wire, this);
      });
      this.#connections.push(...(await Promise.all(opening)));
    }
    // The client before a sender is a stream, unless all clients send.
    const offset = this.wire === "sse" ? 1 : 0;
    for (const [number, connection] of this.#connections.entries()) {
      if (isEach(number, senders)) this.#senders.push(connection);
      connection.isWatched = isEach(number + offset, watched);
    }
  }

  /** @throws Error if a delivery or a reply is missing or duplicated, or late by more than the deadline */
  async run(plan: Plan, cpuSeconds: () => number, deadlineMs = DEADLINE_MS): Promise<Run> {
    this.#begin();
    const start = performance.now();
    const usage = process.cpuUsage();
    const cpu = cpuSeconds();

    if (plan.rate === undefined) await this.#closedLoop(plan.seconds);
    else await this.#offer(plan.rate, plan.seconds);
    await this.#until(() => `${this.#sent - this.#acknowledged} messages were not acknowledged`, deadlineMs);
    this.#sendLast();
    const complain = () =>
      this.#mistakes() || `${this.#waiting} connections did not receive the last message`;
    await this.#until(complain, deadlineMs);
    const mistakes = this.#mistakes();
    if (mistakes) throw new Error(mistakes);

    const seconds = (performance.now() - start) / 1000;
    const { user, system } = process.cpuUsage(usage);
    const latencies = Float64Array.from(this.#latencies).sort();
    return {
      messages: this.#sent,
      deliveries: this.#connections.reduce((all, { count }) => all + count, 0),
      seconds,
      cpuSeconds: cpuSeconds() - cpu,
      p50: latencies[Math.floor(latencies.length * 0.5)] ?? NaN,
      p99: latencies[Math.floor(latencies.length * 0.99)] ?? NaN,
      busy: (user + system) / 1e6 / seconds,
    };
  }

  get #sent(): number {
    return this.#sentMs.length;
  }

  #begin(): void {
    for (const connection of this.#connections) connection.reset();
    this.#first += this.#sent;
    this.#sentMs.length = this.#latencies.length = 0;
    this.#acknowledged = this.#waiting = 0;
  }

  #send(sender: Connection): number {
    const number = this.#first + this.#sent;
    this.#sentMs.push(performance.now());
    sender.send(this.#draft, number);
    return number;
  }

  async #closedLoop(seconds: number): Promise<void> {
    this.#repliesAreAnswered = true;
    for (const sender of this.#senders) this.#send(sender);
    await Promise.race([Bun.sleep(seconds * 1000), this.#failed.promise]);
    this.#repliesAreAnswered = false;
  }

  /** Most clients read only from time to time, so that the generator can send evenly. */
  #doze(): Disposable {
    const dozing = this.#connections.filter((each) => !each.isWatched && !this.#senders.includes(each));
    for (const connection of dozing) connection.dozes = true;
    // A few each millisecond, since all at once would delay the others.
    let turn = 0;
    const timer = setInterval(() => {
      turn = (turn + 1) % DOZE_MS;
      for (let i = turn; i < dozing.length; i += DOZE_MS) dozing[i]?.wake();
    }, 1);
    return {
      [Symbol.dispose]: () => {
        clearInterval(timer);
        for (const connection of dozing) {
          connection.dozes = false;
          connection.wake();
        }
      },
    };
  }

  async #offer(rate: number, seconds: number): Promise<void> {
    using _ = this.#doze();
    const start = performance.now();
    const total = Math.round(rate * seconds);
    while (this.#sent < total) {
      const elapsedMs = performance.now() - start;
      const due = Math.min(total, 1 + Math.floor((elapsedMs / 1000) * rate));
      while (this.#sent < due) {
        const sender = this.#senders[this.#sent % this.#senders.length];
        if (sender) this.#send(sender);
      }
      const pauseMs = (this.#sent / rate) * 1000 - elapsedMs;
      await Promise.race([Bun.sleep(Math.max(1, pauseMs)), this.#failed.promise]);
    }
  }

  #sendLast(): void {
    const [first] = this.#senders;
    this.#waiting = this.wire === "echo" ? this.#senders.length : this.#connections.length;
    // Nothing is received before this function returns.
    if (this.wire === "echo") for (const sender of this.#senders) sender.awaits = this.#send(sender);
    else if (first) {
      const last = this.#send(first);
      for (const connection of this.#connections) connection.awaits = last;
    }
  }

  /** Everything is acknowledged, and every client has received the last message. */
  async #until(complain: () => string, deadlineMs: number): Promise<void> {
    this.#settled = Promise.withResolvers();
    this.#settle();
    await withDeadline(Promise.race([this.#settled.promise, this.#failed.promise]), complain, deadlineMs);
  }

  #settle(): void {
    if (this.#acknowledged >= this.#sent && this.#waiting === 0) this.#settled.resolve();
  }

  /** In a room every client receives all messages, on the echo its own. */
  #mistakes(): string {
    const isEcho = this.wire === "echo";
    const sum = this.#sent * (this.#first + (this.#sent - 1) / 2);
    let [missing, surplus, mixed] = [0, 0, 0];
    for (const connection of this.#connections) {
      const difference = connection.count - (isEcho ? connection.sent : this.#sent);
      if (difference < 0) missing -= difference;
      else if (difference > 0) surplus += difference;
      else if (connection.sum !== (isEcho ? connection.sentSum : sum)) mixed++;
    }
    return [
      missing > 0 ? `deliveries missing: ${missing}` : "",
      surplus > 0 ? `deliveries too many: ${surplus}` : "",
      mixed > 0 ? `connections that received other messages than were sent: ${mixed}` : "",
      this.#acknowledged > this.#sent ? "a message was acknowledged twice" : "",
    ]
      .filter(Boolean)
      .join("; ");
  }

  acknowledged(connection: Connection): void {
    this.#acknowledged++;
    if (this.#repliesAreAnswered) this.#send(connection);
    else this.#settle();
  }

  received(connection: Connection, number: number): void {
    const sentMs = this.#sentMs[number - this.#first];
    if (connection.isWatched && sentMs !== undefined) this.#latencies.push(performance.now() - sentMs);
    if (number !== connection.awaits) return;
    connection.awaits = -1;
    this.#waiting--;
    this.#settle();
  }

  failed(why: string): void {
    if (!this.#isClosed) this.#failed.reject(new Error(why));
  }

  [Symbol.dispose](): void {
    this.#isClosed = true;
    for (const connection of this.#connections) connection.close();
  }
}
