/** How a connection comes in: every refusal before the upgrade, and then a place in a room. */

import { upgradeRequired, withCors, textProblem } from "./responses.ts";
import { addressGroup, type SocketData, type SocketRegistry } from "./sockets.ts";
import {
  forwardedFor,
  parseJoinRequest,
  problem,
  ROOM_UNAVAILABLE,
  type AccessControl,
  type Problem,
} from "./access.ts";
import type { Hub } from "../chat/hub.ts";
import { TokenBucket, TokenBuckets, type Rate } from "../util/token-bucket.ts";
import { logEvent, logError } from "../ops/log.ts";
import { requestsRejected } from "../ops/metrics.ts";
import type { ServerOptions } from "./options.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import type { Connection, JoinRequest } from "../chat/connection.ts";
import { StoreUnavailable } from "../store/store.ts";

const MAX_PATH_CHARACTERS = 200;

/** An address may have the new connections of so many seconds at once: after a restart, all of a company come again. */
const CONNECTION_BURST_SECONDS = 25;
/** So many connections of one address may have a whole burst at once. */
const BURSTS_PER_ADDRESS = 100;

export class Upgrader {
  /** What one connection may say. */
  readonly #rate: Rate;
  /** How many new connections each address may still have. */
  readonly #connectionRates: TokenBuckets;
  /** What the connections of each address may still start with. */
  readonly #startingTokens: TokenBuckets;
  #network = "";
  /** Of a proxy that is not trusted, behind which all clients share one address. */
  #hasWarned = false;

  constructor(
    private readonly server: () => Bun.Server<SocketData>,
    private readonly access: AccessControl,
    private readonly sockets: SocketRegistry,
    private readonly hub: Hub,
    private readonly options: ServerOptions,
  ) {
    const { messageRate, messageBurst, connectionRate } = options;
    this.#connectionRates = new TokenBuckets({
      perSecond: connectionRate,
      burst: CONNECTION_BURST_SECONDS * connectionRate,
    });
    this.#rate = { perSecond: messageRate, burst: messageBurst };
    this.#startingTokens = new TokenBuckets({
      perSecond: BURSTS_PER_ADDRESS * messageRate,
      burst: BURSTS_PER_ADDRESS * messageBurst,
    });
  }

  readonly handleChat = async (request: Bun.BunRequest<"/ws/:id">): Promise<Response | undefined> => {
    const { params, url, headers } = request;
    const joinRequest =
      this.access.refuse(headers) ?? parseJoinRequest(params.id, url, headers, this.options.history);
    return "detail" in joinRequest ? this.reject(request, joinRequest) : this.upgrade(request, joinRequest);
  };

  /** A plain GET gets the same refusal as a WebSocket. The echo has no wish. */
  async upgrade(request: Request, joinRequest?: JoinRequest): Promise<Response | undefined> {
    const { url, headers } = request;
    const network = this.#networkOf(request);
    const pass = this.access.authorize(url, headers, joinRequest ?? {}, Date.now());
    if ("detail" in pass) return this.reject(request, pass);
    const full = this.#limitRate(network) ?? this.sockets.checkCapacity(network);
    if (full) return this.reject(request, full);
    if (headers.get("upgrade")?.toLowerCase() !== "websocket") return this.#notWebSocket(request);

    this.sockets.reserve(network);
    let connection: Connection | undefined;
    try {
      if (joinRequest) connection = await this.hub.reserve(joinRequest, this.#allowanceFor(network));
    } catch (error) {
      if (!(error instanceof StoreUnavailable)) logError("A room could not be opened", error);
      this.sockets.release(network);
      return this.reject(request, ROOM_UNAVAILABLE);
    }
    const { expiresMs } = pass;
    // Left alone, Bun agrees to whichever subprotocol is offered first.
    const reply = { "Sec-WebSocket-Protocol": joinRequest?.wire === "json" ? SUBPROTOCOL : "" };
    const data = { connection, addressGroup: network, expiresMs, missedPongs: 0, pingedMs: 0 };
    if (this.server().upgrade(request, { data, headers: reply })) return undefined;
    if (connection) this.hub.release(connection);
    this.sockets.release(network);
    return this.#notWebSocket(request);
  }

  /** Whoever connects and disconnects without end is heard of by everyone in the room, each time. */
  #limitRate(network: string): Problem | undefined {
    const retryAfterSeconds = this.#connectionRates.get(network).take(1, performance.now());
    if (retryAfterSeconds === 0) return undefined;
    const sentence = "Too many new connections from your address: try again in a moment.";
    return { ...problem(429, "connection-rate", sentence), retryAfterSeconds };
  }

  #notWebSocket({ headers }: Request): Response {
    return withCors(this.access.allowedOrigin(headers), upgradeRequired());
  }

  /** Whoever comes again and again does not get a whole burst each time. */
  #allowanceFor(network: string): TokenBucket {
    const left = this.#startingTokens.get(network).takeAvailable(this.#rate.burst, performance.now());
    return new TokenBucket(this.#rate, left);
  }

  /** Counted, written down, and told in a form that people or programs read. */
  reject(request: Request, refused: Problem, tell = textProblem): Response {
    const { status, code } = refused;
    requestsRejected.count(code);
    logEvent("refused", { status, code, path: pathOf(request), address: this.addressOf(request) });
    return withCors(this.access.readerOf(refused, request.headers), tell(refused));
  }

  /** So long a request may take. */
  allow(request: Request, seconds: number): void {
    this.server().timeout(request, seconds);
  }

  /** Whoever comes from where the last one came from shares the text: there are many. */
  #networkOf(request: Request): string {
    const network = addressGroup(this.addressOf(request));
    if (network !== this.#network) this.#network = network;
    return this.#network;
  }

  addressOf(request: Request): string {
    const address = this.server().requestIP(request)?.address ?? "";
    if (this.options.trustProxy) return forwardedFor(request.headers) ?? address;
    if (!this.#hasWarned && request.headers.has("x-forwarded-for")) {
      this.#hasWarned = true;
      logEvent("X-Forwarded-For ignored", { address, hint: "behind a proxy, start with --trust-proxy" });
    }
    return address;
  }
}

/** Without the query, which may hold a token. */
function pathOf({ url }: Request): string {
  return URL.parse(url)?.pathname.slice(0, MAX_PATH_CHARACTERS) ?? "";
}
