/** Access control: decides from Host, Origin and token, before anything else is done for a request. */

import { isIpAddress, isLoopback } from "./client-address.ts";
import type { ServerOptions } from "./options.ts";
import { HttpProblem, notModerator, protocolProblem } from "./problem.ts";
import { offeredProtocols, queryParams } from "./request.ts";
import { coversRoom, ALL_ROOMS } from "../auth/room-patterns.ts";
import { Keyring, type VerifiedToken } from "../auth/keyring.ts";
import { DEFAULT_RIGHTS, type Claims } from "../auth/tokens.ts";
import type { Right } from "../protocol/events.ts";
import { GUEST_PREFIX } from "../protocol/names.ts";
import type { Clock } from "../util/clock.ts";
import { lazyOs } from "../util/lazy-node.ts";

/** A DNS name of 253 characters and a port. */
const MAX_HOST_CHARACTERS = 260;
/** How browsers mark requests that pages of other sites cause (W3C Fetch Metadata). */
const FOREIGN_FETCH_SITES = new Set(["cross-site", "same-site"]);
/** Headers that proxies add. */
const PROXY_HEADERS = [
  "forwarded",
  "via",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
  "x-real-ip",
  "cf-connecting-ip",
  "true-client-ip",
];
/** Prefix of an offered subprotocol that carries a token: browsers cannot set any other header on a WebSocket. */
const TOKEN_PROTOCOL_PREFIX = "token.";

/** What a client may do, where and until when; with a token, under which client id. */
export type Grant = Omit<Claims, "client"> & Partial<VerifiedToken> & { readonly isGuest?: true };

/** What a request is about. */
interface Target {
  readonly client?: string;
  readonly room?: string;
  /** What is to be done in the room; by default `read`. */
  readonly right?: Right;
}

const OPEN: Grant = { rooms: ALL_ROOMS, can: DEFAULT_RIGHTS, expiresMs: Infinity };

export class AccessControl {
  /** If there are keys, a token is required. */
  readonly keyring: Keyring;
  /** Undefined if there are no guests. */
  readonly #guest: Grant | undefined;

  constructor(
    private readonly options: Pick<
      ServerOptions,
      | "publicUrl"
      | "allowHost"
      | "allowOrigin"
      | "openMetrics"
      | "secretFile"
      | "publicKeyFile"
      | "allowGuests"
      | "guests"
    >,
    private readonly clock: Clock,
  ) {
    this.keyring = new Keyring([...options.secretFile, ...options.publicKeyFile]);
    this.#guest =
      options.allowGuests.length === 0
        ? undefined
        : {
            rooms: new Set(options.allowGuests),
            can: options.guests === "read" ? new Set(["read"]) : DEFAULT_RIGHTS,
            expiresMs: Infinity,
            isGuest: true,
          };
  }

  /**
   * Keeps pages of other sites from using a server on the user's machine or network through the user's browser.
   * `Host` must be a name that a foreign DNS entry cannot point here (DNS rebinding): the public URL's, an allowed
   * host, an IP address, a loopback name or this machine's name. `Origin`, which only browsers send, must be the public
   * URL's, without one the site that `Host` names, or an allowed origin. The origin is checked first, because its
   * rejection is the only one that the page may read.
   * @throws HttpProblem 403
   */
  checkHostAndOrigin(headers: Headers): void {
    this.checkOrigin(headers);
    if (this.#isOwnHost(headers.get("host") ?? "")) return;
    const names = this.options.publicUrl?.origin ?? "localhost, or this machine's name or IP address";
    throw new HttpProblem("host", `Unknown host name. Use ${names}, or allow this one with --allow-host.`);
  }

  /** @throws HttpProblem 403 */
  checkOrigin(headers: Headers): void {
    if (headers.has("origin") && !this.#isAcceptedOrigin(headers)) throw originRejected();
    this.checkFetchSite(headers);
  }

  /** Requests that browsers mark as caused by a page of another site, even without `Origin`, such as for an image. @throws HttpProblem 403 */
  checkFetchSite(headers: Headers): void {
    const isForeign = FOREIGN_FETCH_SITES.has(headers.get("sec-fetch-site") ?? "");
    if (isForeign && !this.#isAcceptedOrigin(headers)) throw originRejected();
  }

  /** Checks the token and what it has to cover. @throws HttpProblem 401 or 403 */
  authorize(request: Request, target: Target = {}): Grant {
    return this.permit(this.authenticate(request), target);
  }

  /**
   * Checks the token, if tokens are required: `Authorization: Bearer`, an offered subprotocol or `?token=`. Without one,
   * a client is a guest, if guests are allowed; with an invalid one, it never is.
   * @throws HttpProblem 401
   */
  authenticate({ url, headers }: Request): Grant {
    if (this.keyring.isEmpty) return OPEN;
    const token = tokenOf(url, headers);
    if (token === undefined && this.#guest) return this.#guest;
    if (!token) throw tokenRequired();
    const claims = this.keyring.verify(token, this.clock.now());
    if ("detail" in claims) throw new HttpProblem(claims.code, claims.detail);
    return claims;
  }

  /** Checks what a grant has to cover. @returns it, with the client id that a guest gets @throws HttpProblem 401 or 403 */
  permit(grant: Grant, { client, room, right = "read" }: Target): Grant {
    const { rooms, can, isGuest } = grant;
    if (isGuest && (room === undefined || !coversRoom(rooms, room))) throw tokenRequired();
    if (client !== undefined && client !== (grant.client ?? client))
      throw new HttpProblem(
        "not-for-client",
        "This token is for another client id. Connect with the id that it names.",
      );
    if (room !== undefined && !coversRoom(rooms, room))
      throw new HttpProblem(
        "not-for-room",
        "This token does not cover this room. Choose a room that it names.",
      );
    if (room !== undefined && !can.has(right)) {
      if (right === "moderate") throw notModerator();
      if (right === "write" && can.has("read")) throw protocolProblem("read-only");
      throw new HttpProblem(
        "not-for-room",
        `This token does not grant access to rooms. Use one made with --can ${right}.`,
      );
    }
    return isGuest && client !== undefined ? { ...grant, client: GUEST_PREFIX + client } : grant;
  }

  /**
   * Direct requests from this machine may read the metrics, and tokens that grant it; or anyone. A request through a
   * proxy on this machine shows in its headers, or in a `Host` that is not a loopback name.
   * @throws HttpProblem 401 or 403
   */
  authorizeMetrics(request: Request, peerAddress: string): void {
    const { headers } = request;
    this.checkOrigin(headers);
    const isProxied = PROXY_HEADERS.some((name) => headers.has(name));
    const isLocal =
      isLoopback(peerAddress) && !isProxied && isLoopbackName(hostName(headers.get("host") ?? ""));
    if (isLocal || this.options.openMetrics) return;
    if (this.keyring.isEmpty)
      throw new HttpProblem(
        "not-local",
        "Metrics are available only on the machine itself; behind a proxy, only with a token or --open-metrics.",
      );
    this.checkHostAndOrigin(headers);
    if (!this.authorize(request).can.has("metrics"))
      throw new HttpProblem(
        "not-for-metrics",
        "This token does not grant access to metrics. Use one made with --can metrics.",
      );
  }

  /** The request's origin if `--allow-origin` lists it: its pages may read responses. */
  allowedOrigin(headers: Headers): string | undefined {
    return this.options.allowOrigin.find((origin) => origin === headers.get("origin"));
  }

  /** The origin whose pages may read a rejection. Allowed origins may read all; others only that their origin is rejected. */
  readerOf({ code }: HttpProblem, headers: Headers): string | undefined {
    return code === "origin" ? (headers.get("origin") ?? undefined) : this.allowedOrigin(headers);
  }

  #isAcceptedOrigin(headers: Headers): boolean {
    const origin = headers.get("origin");
    if (origin === null) return false;
    const { publicUrl } = this.options;
    const isOwn = publicUrl ? origin === publicUrl.origin : isSameSite(origin, headers.get("host") ?? "");
    return isOwn || this.allowedOrigin(headers) !== undefined;
  }

  #isOwnHost(host: string): boolean {
    const { publicUrl, allowHost } = this.options;
    const name = hostName(host);
    if (name === "") return false;
    if (isLoopbackName(name) || isIpAddress(name) || allowHost.includes(name)) return true;
    if (publicUrl && URL.parse(`${publicUrl.protocol}//${host}`)?.href === publicUrl.href) return true;
    const machineName = lazyOs().hostname().toLowerCase();
    return name === machineName || name === `${machineName}.local`;
  }
}

/** Whether a client with that grant may read the room. */
export function canRead({ rooms, can }: Grant, room: string): boolean {
  return coversRoom(rooms, room) && can.has("read");
}

function originRejected(): HttpProblem {
  return new HttpProblem(
    "origin",
    "Pages of other sites may not connect. Use this server's own /client, or allow the site with --allow-origin.",
  );
}

function tokenRequired(): HttpProblem {
  return new HttpProblem("no-token", "A token is required. Ask this server's operator for one.");
}

/** @returns undefined if the client does not try to send one */
function tokenOf(url: string, headers: Headers): string | undefined {
  const [isBearer, bearer = ""] = /^bearer(?: +(.*))?$/i.exec(headers.get("authorization") ?? "") ?? [];
  if (isBearer !== undefined) return bearer;
  const offer = offeredProtocols(headers).find((each) => each.startsWith(TOKEN_PROTOCOL_PREFIX));
  return offer?.slice(TOKEN_PROTOCOL_PREFIX.length) ?? queryParams(url).get("token") ?? undefined;
}

/** The name or address in a `Host` header, in lower case, without brackets, port and final dot; empty for an invalid one. */
function hostName(host: string): string {
  if (host.length > MAX_HOST_CHARACTERS) return "";
  const [, address, name = ""] = /^(?:\[([\da-f:.]+)\]|([\w.-]+))(?::\d{1,5})?$/i.exec(host) ?? [];
  return (address ?? name.replace(/\.$/, "")).toLowerCase();
}

/** DNS cannot redefine it, as it cannot an IP address. */
function isLoopbackName(name: string): boolean {
  return (isIpAddress(name) && isLoopback(name)) || name === "localhost" || name.endsWith(".localhost");
}

/** Compares URLs, so that `Host: name:443` matches `Origin: https://name`. Never true for an opaque origin. */
function isSameSite(origin: string, host: string): boolean {
  const site = /^https?:/.test(origin) ? URL.parse(origin) : null;
  return site?.origin === origin && site.host === URL.parse(`${site.protocol}//${host}`)?.host;
}
