/** Every open WebSocket: how many there may be, whether each is alive, and until when it may stay. */

import { problem, type Problem } from "./access.ts";
import { logEvent } from "../ops/log.ts";
import type { Content } from "../store/message.ts";
import type { Connection } from "../chat/connection.ts";
import { closeSocket, type DisconnectReason } from "../chat/socket.ts";

/** So many pings without any sign of life, and it is closed by the time of the next one. */
const MAX_MISSED_PONGS = 2;
/** The sweep comes round so often between two pings of a connection, and pings it a little early rather than late. */
const SWEEPS_PER_PING = 10;
/** A few are closed at once: only crowds need to be spread. */
const CLOSE_INTERVAL_MS = 20;
const MIN_CLOSES_PER_INTERVAL = 4;
/** Below this share of the limit a full server has been full: the next time is worth a line in the log again. */
const FULL_NO_MORE = 0.9;
/** The longest that a timer can wait. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** What comes with each socket. */
export interface SocketData {
  /** Whom it belongs to in the chat; nobody on the echo. */
  readonly connection: Connection | undefined;
  /** As {@link addressGroup} makes it. */
  readonly addressGroup: string;
  /** Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
  expiry?: Timer;
  missedPongs: number;
  held?: Held;
  /** Why it was this server that ended it; clients may close with any code. */
  disconnectReason?: DisconnectReason;
  pingedMs: number;
}

/** Frames of a connection that is not read just now, see intake.ts. */
export interface Held {
  readonly frames: Content[];
  readonly watch: Timer;
  /** How often it was looked at since it last read something. */
  stalledLooks: number;
}

export type ServerSocket = Bun.ServerWebSocket<SocketData>;

export interface ConnectionLimits {
  /** 0 is no limit, here and below. */
  readonly maxConnections: number;
  readonly maxConnectionsPerAddress: number;
  readonly pingSeconds: number;
}

export class SocketRegistry {
  /** The one that was pinged longest ago first. */
  readonly #open = new Set<ServerSocket>();
  /** How many there are from each network, counted only where that is limited. */
  readonly #perNetwork = new Map<string, number>();
  /** Open, and on their way in. */
  #count = 0;
  #isFull = false;

  constructor(private readonly limits: ConnectionLimits) {}

  /** Why there is no room for another one from there. */
  checkCapacity(network: string): Problem | undefined {
    const { maxConnections, maxConnectionsPerAddress } = this.limits;
    if (maxConnections > 0 && this.#count >= maxConnections) {
      if (!this.#isFull) logEvent("full", { connections: this.#count });
      this.#isFull = true;
      return problem(503, "full", "The server is full just now: please try again in a moment.");
    }
    if (maxConnectionsPerAddress > 0 && (this.#perNetwork.get(network) ?? 0) >= maxConnectionsPerAddress)
      return problem(
        429,
        "too-many-from-address",
        "Too many connections from your address: close one of them, or try again in a moment.",
      );
    return undefined;
  }

  /** Takes a place, until {@link release}. */
  reserve(network: string): void {
    this.#count++;
    if (this.limits.maxConnectionsPerAddress > 0)
      this.#perNetwork.set(network, (this.#perNetwork.get(network) ?? 0) + 1);
  }

  release(network: string): void {
    this.#count--;
    if (this.#count < FULL_NO_MORE * this.limits.maxConnections) this.#isFull = false;
    const left = (this.#perNetwork.get(network) ?? 0) - 1;
    if (left > 0) this.#perNetwork.set(network, left);
    else this.#perNetwork.delete(network);
  }

  add(socket: ServerSocket, nowMs: number): void {
    socket.data.pingedMs = nowMs;
    this.#open.add(socket);
    if (socket.data.expiresMs !== Infinity) endWhenExpired(socket);
  }

  remove(socket: ServerSocket): void {
    clearTimeout(socket.data.expiry);
    if (this.#open.delete(socket)) this.release(socket.data.addressGroup);
  }

  /** Pings who is due, and cuts off who has not answered: Bun's idle timeout does not see those that are sent to. */
  pingAndReap(nowMs: number): void {
    const pingMs = this.limits.pingSeconds * 1000;
    const dueMs = nowMs - pingMs * (1 - 1.5 / SWEEPS_PER_PING);
    for (const socket of this.#open) {
      const { data } = socket;
      if (data.pingedMs > dueMs) return;
      this.#open.delete(socket);
      this.#open.add(socket);
      data.pingedMs = nowMs;
      // It may be frozen: there is nobody to close with.
      if (data.missedPongs++ < MAX_MISSED_PONGS) socket.ping();
      else {
        data.disconnectReason = "silent";
        socket.terminate();
      }
    }
  }

  /** Closes all, evenly spread over that time at most, so that they do not come back all at once. */
  async closeAll(withinMs: number, flush: () => void): Promise<void> {
    const endMs = performance.now() + withinMs;
    while (this.#open.size > 0) {
      flush();
      // Counted anew each time: on a busy machine a step takes longer than it should.
      const steps = Math.max((endMs - performance.now()) / CLOSE_INTERVAL_MS, 1);
      const count = Math.max(Math.ceil(this.#open.size / steps), MIN_CLOSES_PER_INTERVAL);
      for (const socket of this.#open.values().take(count).toArray()) closeSocket(socket, "restarting");
      await Bun.sleep(CLOSE_INTERVAL_MS);
    }
  }

  get size(): number {
    return this.#open.size;
  }

  /** Bytes that wait for slow readers. */
  get bufferedBytes(): number {
    return this.#open.values().reduce((sum, socket) => sum + socket.getBufferedAmount(), 0);
  }

  get sweepMs(): number {
    return (this.limits.pingSeconds * 1000) / SWEEPS_PER_PING;
  }
}

/** Never at once: who is only just coming in has to be in before it can leave. */
function endWhenExpired(socket: ServerSocket): void {
  const leftMs = Math.max(socket.data.expiresMs - Date.now(), 0);
  socket.data.expiry = setTimeout(
    () => {
      if (Date.now() < socket.data.expiresMs) endWhenExpired(socket);
      else closeSocket(socket, "expired");
    },
    Math.min(leftMs, MAX_TIMER_MS),
  );
}

/** What counts as one address: of IPv6 the /64 network, which is what one line gets; IPv4 in its own spelling. */
export function addressGroup(address: string): string {
  if (!address.includes(":")) return address;
  // As a URL it has one spelling, without dots; `::` stands for the zeros that are missing (RFC 5952).
  const spelled = URL.parse(`http://[${address.replace(/%.*/, "")}]/`)?.hostname.slice(1, -1) ?? "";
  const [head = [], tail = []] = spelled.split("::").map((part) => part.split(":").filter(Boolean));
  const zeros = Array<string>(8 - head.length - tail.length).fill("0");
  const groups = [...head, ...zeros, ...tail];
  if (/^0:0:0:0:0:ffff:/.test(groups.join(":"))) return mappedIpv4(groups.slice(6));
  return groups.slice(0, 4).join(":");
}

/** The IPv4 address in the last two groups of one that is mapped to IPv6 (RFC 4291, section 2.5.5.2). */
function mappedIpv4(groups: readonly string[]): string {
  return groups
    .map((group) => Number.parseInt(group, 16))
    .flatMap((group) => [group >> 8, group & 255])
    .join(".");
}
