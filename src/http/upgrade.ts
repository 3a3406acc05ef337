/** Upgrades requests to WebSockets. Every rejection happens before the upgrade, with an HTTP status. */

import type { ServerOptions } from "./options.ts";
import type { Bans } from "./bans.ts";
import { HttpProblem } from "./problem.ts";
import { parseJoinRequest } from "./request.ts";
import type { HttpServer, Router } from "./router.ts";
import type { SocketRegistry } from "./socket-registry.ts";
import { RIGHTS } from "../auth/tokens.ts";
import type { JoinRequest } from "../chat/connection.ts";
import type { Hub } from "../chat/hub.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import type { Clock } from "../util/clock.ts";
import { TokenBucket, TokenBuckets, type Rate } from "../util/token-bucket.ts";

/** How many connections of one address start with a full message burst. */
const FULL_BURSTS_PER_ADDRESS = 100;

export class Upgrader {
  /** Messages of one connection. */
  readonly #messageRate: Rate;
  /** Message tokens that new connections of an address can start with. */
  readonly #startingTokens: TokenBuckets;

  constructor(
    private readonly router: Router,
    private readonly sockets: SocketRegistry,
    private readonly hub: Hub,
    private readonly bans: Bans,
    private readonly options: ServerOptions,
    private readonly clock: Clock,
  ) {
    const { messageRate: perSecond, messageBurst: burst } = options;
    this.#messageRate = { perSecond, burst };
    this.#startingTokens = new TokenBuckets({
      perSecond: FULL_BURSTS_PER_ADDRESS * perSecond,
      burst: FULL_BURSTS_PER_ADDRESS * burst,
    });
  }

  /** A plain GET gets the same rejection as a WebSocket, because browsers hide why an upgrade failed. @throws HttpProblem */
  readonly handleChat = (
    request: Request & { readonly params: { readonly id: string } },
    server: HttpServer,
  ) => {
    const { params, url, headers } = request;
    this.router.access.checkHostAndOrigin(headers);
    return this.#upgrade(request, server, parseJoinRequest(params.id, url, headers, this.options.history));
  };

  /** @throws HttpProblem */
  readonly handleEcho = (request: Request, server: HttpServer) => {
    this.router.access.checkHostAndOrigin(request.headers);
    return this.#upgrade(request, server);
  };

  /** @throws HttpProblem, StoreUnavailable */
  async #upgrade(
    request: Request,
    server: HttpServer,
    joinRequest?: JoinRequest,
  ): Promise<Response | undefined> {
    const { headers } = request;
    const addressGroup = this.router.addresses.groupOf(request, server);
    const grant = this.router.access.authorize(request, joinRequest);
    if (joinRequest)
      this.bans.check(joinRequest.room, {
        client: grant.client ?? joinRequest.client,
        address: addressGroup,
      });
    this.sockets.admit(addressGroup);
    if (headers.get("upgrade")?.toLowerCase() !== "websocket") throw upgradeRequired();

    this.sockets.reserve(addressGroup);
    let isUpgraded = false;
    try {
      const connection =
        joinRequest &&
        (await this.hub.reserve(
          {
            ...joinRequest,
            client: grant.client ?? joinRequest.client,
            can: RIGHTS.filter((right) => grant.can.has(right)),
            address: addressGroup,
          },
          this.#messageBucket(addressGroup),
        ));
      const { expiresMs, key } = grant;
      const data = { connection, addressGroup, expiresMs, key, missedPongs: 0, pingedMs: 0 };
      // Without this header Bun accepts the first subprotocol offered.
      const protocol = { "Sec-WebSocket-Protocol": joinRequest?.wire === "json" ? SUBPROTOCOL : "" };
      isUpgraded = server.upgrade(request, { data, headers: protocol });
      if (!isUpgraded) connection?.onClosed();
    } finally {
      if (!isUpgraded) this.sockets.release(addressGroup);
    }
    if (!isUpgraded) throw upgradeRequired();
    return undefined;
  }

  /** Reconnecting does not renew the burst without limit. */
  #messageBucket(addressGroup: string): TokenBucket {
    const bucket = this.#startingTokens.get(addressGroup);
    const tokens = bucket.takeAvailable(this.#messageRate.burst, this.clock.elapsed());
    return new TokenBucket(this.#messageRate, tokens);
  }
}

function upgradeRequired(): HttpProblem {
  return new HttpProblem("not-websocket", "This address expects a WebSocket. The chat is at /client.");
}
