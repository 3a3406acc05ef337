/**
 * The load generator: a crowd in one room (or on the echo) of which some talk, in one process.
 *
 * A run ends with one more message once all others are acknowledged. Whoever has heard that one has heard all there
 * is to hear, since a room has one order: so what is missing or was heard twice is known without waiting for it.
 */

import { withDeadline } from "../support/deadline.ts";
import { Connection, Draft, type Watcher, type Wire } from "./connection.ts";

/** So many connect at once: a port's queue is not endless. */
const CONNECT_AT_ONCE = 100;
/** Who has come is told within 200 ms; that is not what is measured. */
const SETTLE_MS = 300;
/** How often those read who need not at once: what is said meanwhile is less than a socket's buffers hold. */
const DOZE_MS = 100;
/** On so many connections it is measured how long each message took; of 20 talkers they are the talkers' own. */
const WATCHED = 20;
/** How long the last delivery may take after the sending ended. */
const DEADLINE_MS = 10_000;
/** Above it the generator was what was measured. */
export const TOO_BUSY = 0.85;

export interface Plan {
  readonly seconds: number;
  readonly senders: number;
  /** Messages a second, in all. Without it each sender says its next when its last is acknowledged. */
  readonly rate?: number;
}

export interface Run {
  readonly messages: number;
  readonly deliveries: number;
  readonly seconds: number;
  /** What the server worked meanwhile. */
  readonly cpuSeconds: number;
  /** From sending to delivery, in milliseconds. */
  readonly p50: number;
  readonly p99: number;
  /** The share of a core that all load took: where both servers are measured at once, that of both. */
  readonly busy: number;
}

export class Crowd implements Watcher, Disposable {
  readonly #connections: Connection[] = [];
  readonly #draft: Draft;
  readonly #failed = Promise.withResolvers<never>();
  readonly #latencies: number[] = [];
  /** When each message of this run was sent; the first has the number {@link #first}. */
  readonly #sentMs: number[] = [];
  #first = 1;
  #acknowledged = 0;
  #repliesAreAnswered = false;
  /** Connections that have not heard their last. */
  #waiting = 0;
  #settled = Promise.withResolvers<void>();
  #isClosed = false;

  private constructor(private readonly wire: Wire) {
    this.#draft = new Draft(wire);
    this.#failed.promise.catch(() => {}); // it may come while nobody waits
  }

  static async gather(port: number, wire: Wire, clients: number): Promise<Crowd> {
    const crowd = new Crowd(wire);
    for (let first = 0; first < clients; first += CONNECT_AT_ONCE) {
      const ids = Array.from({ length: Math.min(CONNECT_AT_ONCE, clients - first) }, (_, i) => first + i);
      const opening = ids.map((id) => Connection.open(port, `c${`${id}`.padStart(5, "0")}`, wire, crowd));
      crowd.#connections.push(...(await Promise.all(opening)));
    }
    const stride = Math.max(1, Math.floor(clients / WATCHED));
    for (const [i, connection] of crowd.#connections.entries()) connection.isWatched = i % stride === 0;
    await Bun.sleep(SETTLE_MS);
    return crowd;
  }

  /** @throws Error when a delivery or an answer was missing, or came twice */
  async run(plan: Plan, cpuSeconds: () => number, deadlineMs = DEADLINE_MS): Promise<Run> {
    this.#begin();
    const start = performance.now();
    const usage = process.cpuUsage();
    const cpu = cpuSeconds();

    const talkers = this.#talkers(plan.senders);
    if (plan.rate === undefined) await this.#converse(talkers, plan.seconds);
    else await this.#offer(talkers, plan.rate, plan.seconds);
    await this.#until(() => `${this.#said - this.#acknowledged} messages were not acknowledged`, deadlineMs);
    this.#sayLast(talkers);
    const complain = () => this.#mistakes() || `${this.#waiting} connections did not hear the last message`;
    await this.#until(complain, deadlineMs);
    const mistakes = this.#mistakes();
    if (mistakes) throw new Error(mistakes);

    const seconds = (performance.now() - start) / 1000;
    const { user, system } = process.cpuUsage(usage);
    const latencies = Float64Array.from(this.#latencies).sort();
    return {
      messages: this.#said,
      deliveries: this.#connections.reduce((all, { count }) => all + count, 0),
      seconds,
      cpuSeconds: cpuSeconds() - cpu,
      p50: latencies[Math.floor(latencies.length * 0.5)] ?? NaN,
      p99: latencies[Math.floor(latencies.length * 0.99)] ?? NaN,
      busy: (user + system) / 1e6 / seconds,
    };
  }

  get #said(): number {
    return this.#sentMs.length;
  }

  #begin(): void {
    for (const connection of this.#connections) connection.reset();
    this.#first += this.#said;
    this.#sentMs.length = this.#latencies.length = 0;
    this.#acknowledged = this.#waiting = 0;
  }

  /** Spread over the crowd, and so over the order in which a server writes to it. */
  #talkers(senders: number): Connection[] {
    const stride = this.#connections.length / senders;
    return this.#connections.filter((_, i) => Math.floor(i / stride) !== Math.floor((i - 1) / stride));
  }

  #say(talker: Connection): number {
    const number = this.#first + this.#said;
    this.#sentMs.push(performance.now());
    talker.say(this.#draft, number);
    return number;
  }

  async #converse(talkers: readonly Connection[], seconds: number): Promise<void> {
    this.#repliesAreAnswered = true;
    for (const talker of talkers) this.#say(talker);
    await Promise.race([Bun.sleep(seconds * 1000), this.#failed.promise]);
    this.#repliesAreAnswered = false;
  }

  /** Most listeners read now and then, so that the generator has time to send evenly. */
  #doze(talkers: readonly Connection[]): Disposable {
    const dozing = this.#connections.filter((each) => !each.isWatched && !talkers.includes(each));
    for (const connection of dozing) connection.dozes = true;
    // A few each millisecond, rather than all at once and everyone else late.
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

  async #offer(talkers: readonly Connection[], rate: number, seconds: number): Promise<void> {
    using _ = this.#doze(talkers);
    const start = performance.now();
    const total = Math.round(rate * seconds);
    while (this.#said < total) {
      const elapsedMs = performance.now() - start;
      const due = Math.min(total, 1 + Math.floor((elapsedMs / 1000) * rate));
      while (this.#said < due) {
        const talker = talkers[this.#said % talkers.length];
        if (talker) this.#say(talker);
      }
      const pauseMs = (this.#said / rate) * 1000 - elapsedMs;
      await Promise.race([Bun.sleep(Math.max(1, pauseMs)), this.#failed.promise]);
    }
  }

  #sayLast(talkers: readonly Connection[]): void {
    const hearers = this.wire === "echo" ? talkers : this.#connections;
    this.#waiting = hearers.length;
    // Nothing is heard before this function is through.
    if (this.wire === "echo") for (const talker of talkers) talker.awaits = this.#say(talker);
    else if (talkers[0]) {
      const last = this.#say(talkers[0]);
      for (const connection of this.#connections) connection.awaits = last;
    }
  }

  /** All that was said is acknowledged, and nobody has something left to hear. */
  async #until(complain: () => string, deadlineMs: number): Promise<void> {
    this.#settled = Promise.withResolvers();
    this.#settle();
    await withDeadline(Promise.race([this.#settled.promise, this.#failed.promise]), complain, deadlineMs);
  }

  #settle(): void {
    if (this.#acknowledged >= this.#said && this.#waiting === 0) this.#settled.resolve();
  }

  /** Everyone in a room hears all of it; on the echo everyone hears what they said. */
  #mistakes(): string {
    const isEcho = this.wire === "echo";
    const sum = this.#said * (this.#first + (this.#said - 1) / 2);
    let [missing, surplus, mixed] = [0, 0, 0];
    for (const connection of this.#connections) {
      const difference = connection.count - (isEcho ? connection.said : this.#said);
      if (difference < 0) missing -= difference;
      else if (difference > 0) surplus += difference;
      else if (connection.sum !== (isEcho ? connection.saidSum : sum)) mixed++;
    }
    return [
      missing > 0 ? `deliveries missing: ${missing}` : "",
      surplus > 0 ? `deliveries too many: ${surplus}` : "",
      mixed > 0 ? `connections that heard other messages than were said: ${mixed}` : "",
      this.#acknowledged > this.#said ? "a message was acknowledged twice" : "",
    ]
      .filter(Boolean)
      .join("; ");
  }

  acknowledged(connection: Connection): void {
    this.#acknowledged++;
    if (this.#repliesAreAnswered) this.#say(connection);
    else this.#settle();
  }

  heard(connection: Connection, number: number): void {
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
