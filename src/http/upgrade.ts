/** How a connection comes in: every refusal before the upgrade, and then a place in a room. */

import { notWebSocket, readableBy, refusal } from "./responses.ts";
import { networkOf, type Connection, type Connections } from "./sockets.ts";
import { forwardedFor, readWish, refused, roomUnavailable, type Door, type Refusal } from "./access.ts";
import type { Hub } from "../chat/hub.ts";
import { Allowance, Allowances, type Rate } from "../util/token-bucket.ts";
import { note, report } from "../ops/log.ts";
import { requestsRefused } from "../ops/metrics.ts";
import type { Options } from "../cli/command.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import type { Wish } from "../chat/connection.ts";

const MAX_PATH_CHARACTERS = 200;

/** An address may have the new connections of so many seconds at once: after a restart, all of a company come again. */
const CONNECTION_BURST_SECONDS = 25;
/** So many connections of one address may have a whole burst at once. */
const ARRIVALS = 100;

export class Entrance {
  /** What one connection may say. */
  readonly #rate: Rate;
  /** How many new connections each address may still have. */
  readonly #connectionRates: Allowances;
  /** What the connections of each address may still start with. */
  readonly #arrivals: Allowances;
  #network = "";
  /** Of a proxy that is not trusted, behind which all clients share one address. */
  #hasWarned = false;

  constructor(
    private readonly server: () => Bun.Server<Connection>,
    private readonly door: Door,
    private readonly connections: Connections,
    private readonly hub: Hub,
    private readonly options: Options,
  ) {
    const { messageRate, messageBurst, connectionRate } = options;
    this.#connectionRates = new Allowances({
      perSecond: connectionRate,
      burst: CONNECTION_BURST_SECONDS * connectionRate,
    });
    this.#rate = { perSecond: messageRate, burst: messageBurst };
    this.#arrivals = new Allowances({
      perSecond: ARRIVALS * messageRate,
      burst: ARRIVALS * messageBurst,
    });
  }

  readonly chat = async (request: Bun.BunRequest<"/ws/:id">): Promise<Response | undefined> => {
    const { params, url, headers } = request;
    const wish = this.door.refuse(headers) ?? readWish(params.id, url, headers, this.options.history);
    return "sentence" in wish ? this.refuse(request, wish) : this.letIn(request, wish);
  };

  /** A plain GET gets the same refusal as a WebSocket. The echo has no wish. */
  async letIn(request: Request, wish?: Wish): Promise<Response | undefined> {
    const { url, headers } = request;
    const network = this.#networkOf(request);
    const pass = this.door.admit(url, headers, wish ?? {}, Date.now());
    if ("sentence" in pass) return this.refuse(request, pass);
    const full = this.#limitRate(network) ?? this.connections.refuse(network);
    if (full) return this.refuse(request, full);
    if (headers.get("upgrade")?.toLowerCase() !== "websocket") return this.#notWebSocket(request);

    this.connections.reserve(network);
    const visitor = wish && (await this.hub.reserve(wish, this.#allowanceFor(network)).catch(cannotOpen));
    if (visitor !== "unavailable") {
      const { expiresMs } = pass;
      // Left alone, Bun agrees to whichever subprotocol is offered first.
      const reply = { "Sec-WebSocket-Protocol": wish?.wire === "json" ? SUBPROTOCOL : "" };
      const data = { visitor, network, expiresMs, unansweredPings: 0, pingedMs: 0 };
      if (this.server().upgrade(request, { data, headers: reply })) return undefined;
      if (visitor) this.hub.release(visitor);
    }
    this.connections.release(network);
    return visitor === "unavailable" ? this.refuse(request, roomUnavailable) : this.#notWebSocket(request);
  }

  /** Whoever connects and disconnects without end is heard of by everyone in the room, each time. */
  #limitRate(network: string): Refusal | undefined {
    const retryAfterSeconds = this.#connectionRates.of(network).take("", performance.now());
    if (retryAfterSeconds === 0) return undefined;
    const sentence = "Too many new connections from your address: try again in a moment.";
    return { ...refused(429, "connection-rate", sentence), retryAfterSeconds };
  }

  #notWebSocket({ headers }: Request): Response {
    return readableBy(this.door.allowedOrigin(headers), notWebSocket());
  }

  /** Whoever comes again and again does not get a whole burst each time. */
  #allowanceFor(network: string): Allowance {
    const left = this.#arrivals.of(network).takeUpTo(this.#rate.burst, performance.now());
    return new Allowance(this.#rate, left);
  }

  /** Counted, written down, and told in a form that people or programs read. */
  refuse(request: Request, refused: Refusal, tell = refusal): Response {
    const { status, code } = refused;
    requestsRefused.count(code);
    note("refused", { status, code, path: pathOf(request), address: this.addressOf(request) });
    return readableBy(this.door.readerOf(refused, request.headers), tell(refused));
  }

  /** So long a request may take. */
  allow(request: Request, seconds: number): void {
    this.server().timeout(request, seconds);
  }

  /** Whoever comes from where the last one came from shares the text: there are many. */
  #networkOf(request: Request): string {
    const network = networkOf(this.addressOf(request));
    if (network !== this.#network) this.#network = network;
    return this.#network;
  }

  addressOf(request: Request): string {
    const address = this.server().requestIP(request)?.address ?? "";
    if (this.options.trustProxy) return forwardedFor(request.headers) ?? address;
    if (!this.#hasWarned && request.headers.has("x-forwarded-for")) {
      this.#hasWarned = true;
      note("X-Forwarded-For ignored", { address, hint: "behind a proxy, start with --trust-proxy" });
    }
    return address;
  }
}

function cannotOpen(error: unknown): "unavailable" {
  report("A room could not be opened", error);
  return "unavailable";
}

/** Without the query, which may hold a token. */
function pathOf({ url }: Request): string {
  return URL.parse(url)?.pathname.slice(0, MAX_PATH_CHARACTERS) ?? "";
}
