/** Every open WebSocket and event stream: limits on their number, liveness, token expiry, and closing all of them. */

import type { ServerOptions } from "./options.ts";
import { HttpProblem } from "./problem.ts";
import type { Keyring } from "../auth/keyring.ts";
import type { Key } from "../auth/keys.ts";
import type { Connection } from "../chat/connection.ts";
import { closeSocket, type ConnectionSocket, type DisconnectReason } from "../chat/socket.ts";
import { logEvent } from "../ops/log.ts";
import type { Content } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";
import { TokenBuckets } from "../util/token-bucket.ts";

/** A socket that leaves this many pings unanswered is terminated when the next one is due. */
const MAX_MISSED_PONGS = 2;
/** Sweeps per ping interval. A socket is pinged up to one and a half sweeps early, never late. */
const SWEEPS_PER_PING = 10;
/** How often {@link SocketRegistry.closeAll} closes a batch, and the smallest batch: only crowds need to be spread. */
const CLOSE_INTERVAL_MS = 20;
const MIN_CLOSES_PER_INTERVAL = 4;
/** The burst of new connections per address, in seconds' worth: after a restart, a whole office reconnects at once. */
const CONNECTION_BURST_SECONDS = 25;
/** A full server logs that it is full once, and again after it has been below this share of the limit. */
const NO_LONGER_FULL_SHARE = 0.9;
/** The longest timeout that setTimeout supports. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** `data` of each socket. */
export interface SocketData {
  /** Undefined on the echo. */
  readonly connection: Connection | undefined;
  /** See client-address.ts. */
  readonly addressGroup: string;
  /** When its token expires: Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
  /** The key that verified its token. */
  readonly key: Key | undefined;
  expiryTimer?: Timer;
  missedPongs: number;
  /** When it was pinged last, on the clock's `elapsed`. */
  pingedMs: number;
  throttled?: Throttled;
  /** Set if the server ended it: clients may close with any code. */
  disconnectReason?: DisconnectReason;
}

/** A connection whose input is paused, see read-throttle.ts. */
interface Throttled {
  readonly frames: Content[];
  readonly watch: Timer;
  /** When it last read something, on the clock's `elapsed`. */
  progressMs: number;
}

/** The part of `Bun.ServerWebSocket<SocketData>` that the server uses, so that a simulator can provide it. */
export interface ServerSocket extends ConnectionSocket {
  readonly data: SocketData;
  pause(): unknown;
  resume(): unknown;
  terminate(): void;
}

export class SocketRegistry {
  /** In the order of their last pings, the oldest first. */
  readonly #open = new Set<ServerSocket>();
  /** Counted only if `maxConnectionsPerAddress` is set. */
  readonly #countByAddressGroup = new Map<string, number>();
  /** New connections per address. */
  readonly #connectionRates: TokenBuckets;
  /** Open sockets and upgrades in progress. */
  #count = 0;
  #hasLoggedFull = false;

  constructor(
    /** A maximum of 0 means unlimited. */
    private readonly limits: Pick<
      ServerOptions,
      "maxConnectionsPerAddress" | "connectionRate" | "pingSeconds"
    > & { readonly maxConnections: number },
    private readonly clock: Clock,
    private readonly keyring: Pick<Keyring, "has">,
  ) {
    const { connectionRate } = limits;
    this.#connectionRates = new TokenBuckets({
      perSecond: connectionRate,
      burst: CONNECTION_BURST_SECONDS * connectionRate,
    });
  }

  /** Connecting and disconnecting in a loop would flood the room with announcements. @throws HttpProblem 503 or 429 */
  admit(addressGroup: string): void {
    const retryAfterSeconds = this.#connectionRates.get(addressGroup).take(1, this.clock.elapsed());
    if (retryAfterSeconds > 0)
      throw new HttpProblem(
        "connection-rate",
        "Too many new connections from your address. Try again in a moment.",
        { retryAfterSeconds },
      );
    const { maxConnections, maxConnectionsPerAddress } = this.limits;
    if (maxConnections > 0 && this.#count >= maxConnections) {
      if (!this.#hasLoggedFull) logEvent("full", { connections: this.#count });
      this.#hasLoggedFull = true;
      throw new HttpProblem("full", "The server is full. Try again in a moment.");
    }
    const count = this.#countByAddressGroup.get(addressGroup) ?? 0;
    if (maxConnectionsPerAddress > 0 && count >= maxConnectionsPerAddress)
      throw new HttpProblem(
        "too-many-from-address",
        "Too many connections from your address. Close one of them, or try again in a moment.",
      );
  }

  /** Counts an upgrade in progress, until {@link release} or {@link remove}. */
  reserve(addressGroup: string): void {
    this.#count++;
    if (this.limits.maxConnectionsPerAddress > 0)
      this.#countByAddressGroup.set(addressGroup, (this.#countByAddressGroup.get(addressGroup) ?? 0) + 1);
  }

  release(addressGroup: string): void {
    this.#count--;
    if (this.#count < NO_LONGER_FULL_SHARE * this.limits.maxConnections) this.#hasLoggedFull = false;
    const count = (this.#countByAddressGroup.get(addressGroup) ?? 0) - 1;
    if (count > 0) this.#countByAddressGroup.set(addressGroup, count);
    else this.#countByAddressGroup.delete(addressGroup);
  }

  add(socket: ServerSocket): void {
    socket.data.pingedMs = this.clock.elapsed();
    this.#open.add(socket);
    // While the store opened the room, the key may have been removed. Bun cannot close a socket that is being opened.
    if (this.#isRevoked(socket))
      socket.data.expiryTimer = this.clock.setTimeout(() => closeSocket(socket, "revoked"), 0);
    else if (socket.data.expiresMs !== Infinity) this.#closeWhenExpired(socket);
  }

  remove(socket: ServerSocket): void {
    this.clock.clear(socket.data.expiryTimer);
    if (this.#open.delete(socket)) this.release(socket.data.addressGroup);
  }

  /** Starts the liveness check of all sockets, present and future. */
  startPinging(): void {
    const sweepMs = (this.limits.pingSeconds * 1000) / SWEEPS_PER_PING;
    this.clock.setInterval(() => this.pingAndReap(), sweepMs).unref();
  }

  /**
   * Pings the sockets that are due and terminates those that missed too many pongs. Bun's `idleTimeout` cannot do
   * this: frames that are sent to a dead client reset it.
   */
  pingAndReap(): void {
    const nowMs = this.clock.elapsed();
    const dueMs = nowMs - this.limits.pingSeconds * 1000 * (1 - 1.5 / SWEEPS_PER_PING);
    for (const socket of this.#open) {
      const { data } = socket;
      if (data.pingedMs > dueMs) return;
      this.#open.delete(socket);
      this.#open.add(socket);
      data.pingedMs = nowMs;
      if (data.missedPongs++ < MAX_MISSED_PONGS) socket.ping();
      else {
        data.disconnectReason = "silent";
        socket.terminate(); // a frozen client would not answer a close frame
      }
    }
  }

  /** Closes all sockets with 1012, evenly spread over at most this time, so that clients do not reconnect all at once. */
  async closeAll(withinMs: number, flush: () => void): Promise<void> {
    const endMs = this.clock.elapsed() + withinMs;
    while (this.#open.size > 0) {
      flush();
      // Computed anew each time, because on a busy machine an interval takes longer.
      const intervalsLeft = Math.max((endMs - this.clock.elapsed()) / CLOSE_INTERVAL_MS, 1);
      const count = Math.max(Math.ceil(this.#open.size / intervalsLeft), MIN_CLOSES_PER_INTERVAL);
      for (const socket of this.#open.values().take(count).toArray()) closeSocket(socket, "restarting");
      await this.clock.sleep(CLOSE_INTERVAL_MS);
    }
  }

  /** Closes the sockets whose tokens are no longer valid, since their key was removed. */
  closeRevoked(): void {
    for (const socket of this.#open) if (this.#isRevoked(socket)) closeSocket(socket, "revoked");
  }

  #isRevoked({ data: { key } }: ServerSocket): boolean {
    return key !== undefined && !this.keyring.has(key);
  }

  get size(): number {
    return this.#open.size;
  }

  /** Bytes sent that the network has not taken yet. */
  get bufferedBytes(): number {
    return this.#open.values().reduce((sum, socket) => sum + socket.getBufferedAmount(), 0);
  }

  /** Closes the socket in a later turn at the earliest: while it is being opened, Bun cannot close it. */
  #closeWhenExpired(socket: ServerSocket): void {
    const { data } = socket;
    const leftMs = Math.max(data.expiresMs - this.clock.now(), 0);
    data.expiryTimer = this.clock.setTimeout(
      () => {
        if (this.clock.now() < data.expiresMs) this.#closeWhenExpired(socket);
        else closeSocket(socket, "expired");
      },
      Math.min(leftMs, MAX_TIMEOUT_MS),
    );
  }
}
