/** Who may come in, decided before the upgrade: what a request says in; a refusal, or what was asked for, out. */

import { parseName } from "../protocol/names.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import type { Claims, Right, TokenSigner } from "../auth/tokens.ts";
import type { JoinRequest } from "../chat/connection.ts";

/** Why requests are refused, in a word. */
export const refusalCodes = [
  "bad-history",
  "bad-id",
  "bad-limit",
  "bad-name",
  "bad-seq",
  "bad-token",
  "connection-rate",
  "cut-off",
  "full",
  "host",
  "message-too-big",
  "no-such-method",
  "no-text",
  "no-token",
  "not-for-client",
  "not-for-metrics",
  "not-for-room",
  "not-json",
  "not-local",
  "origin",
  "out-of-order",
  "rate-limited",
  "too-many-from-address",
  "unavailable",
  "unconfirmed",
  "unknown-type",
] as const;

export type RefusalCode = (typeof refusalCodes)[number];

/** What a client is told instead of being let in: an HTTP status, and one sentence that says what to do. */
export interface Problem {
  readonly status: 400 | 401 | 403 | 405 | 413 | 429 | 503;
  /** For programs. */
  readonly code: RefusalCode;
  readonly detail: string;
  readonly retryAfterSeconds?: number;
  /** The methods that are answered instead. */
  readonly allow?: string;
}

export function problem(status: Problem["status"], code: RefusalCode, detail: string): Problem {
  return { status, code, detail };
}

export const ROOM_UNAVAILABLE = problem(
  503,
  "unavailable",
  "This room cannot be opened just now: please try again in a moment.",
);

const notOurPage = problem(
  403,
  "origin",
  "Pages of other sites may not connect here: open this server's own /client, or start it with --allow-origin.",
);

const MAX_PARAMETERS = 32;
/** More than any message's id has: what is cut here was none, and stays none. */
const MAX_ID_CHARACTERS = 40;
const DEFAULT_ROOM = "lobby";
/** A DNS name of 253, and a port. */
const MAX_HOST_CHARACTERS = 260;
/** An IPv6 address with its zone and a port, in brackets and quotes. */
const MAX_NODE_CHARACTERS = 100;
const IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;
/** How a browser marks what a page of another site asks for (W3C Fetch Metadata). */
const OTHER_SITES = new Set(["cross-site", "same-site"]);
/** What proxies add. */
const FORWARDED = [
  "forwarded",
  "via",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
  "x-real-ip",
  "cf-connecting-ip",
  "true-client-ip",
];
/** An offered subprotocol that is a token, since a browser can send a WebSocket no other header. */
const TOKEN_OFFER = "token.";

/**
 * What a client asks for: `/ws/ID?room=ROOM&history=N`, and on the JSON wire, asked for as a subprotocol,
 * `&session=SESSION&after=ENTRY_ID`.
 * @param defaultHistory what the JSON wire hears first when it does not say
 */
export function parseJoinRequest(
  id: string,
  url: string,
  headers: Headers,
  defaultHistory: number,
): JoinRequest | Problem {
  const query = queryParams(url);
  const client = parseName("client id", id);
  if ("detail" in client) return problem(400, "bad-name", client.detail);
  const room = parseName("room", query.get("room") ?? DEFAULT_ROOM);
  if ("detail" in room) return problem(400, "bad-name", room.detail);
  const asked = query.get("history");
  if (asked !== null && !/^\d{1,9}$/.test(asked))
    return problem(
      400,
      "bad-history",
      "history is how many of the latest messages to hear first: a whole number.",
    );
  const joinRequest = { client: client.name, room: room.name };
  if (!offeredProtocols(headers).includes(SUBPROTOCOL))
    return { ...joinRequest, wire: "text", history: Number(asked ?? 0) };

  const session = query.has("session") ? parseName("session", query.get("session") ?? "") : undefined;
  if (session && "detail" in session) return problem(400, "bad-name", session.detail);
  const after = query.get("after");
  return {
    ...joinRequest,
    wire: "json",
    // A client that cannot go on from where it was starts again, with no more than any other.
    history: Math.min(Number(asked ?? defaultHistory), after === null ? Infinity : defaultHistory),
    ...(session ? { session: session.name } : {}),
    ...(after === null ? {} : { after: after.slice(0, MAX_ID_CHARACTERS) }),
  };
}

/** What the operator decided. */
export interface AccessRules {
  /** What people reach the server by, if that is not what it listens on. */
  readonly publicUrl: URL | undefined;
  /** Further names that programs reach the server by. */
  readonly allowHost: readonly string[];
  /** Other sites whose pages may come in. */
  readonly allowOrigin: readonly string[];
  /** With it, only who has one comes in. */
  readonly tokens: TokenSigner | undefined;
  /** Anyone may look at the metrics. */
  readonly openMetrics: boolean;
  machineName(): string;
}

/** Who has come in: until when, and as whom, if a token says so. */
export type Grant = Pick<Claims, "expiresMs"> & Partial<Claims>;

/** `rights`: a token that lists its rights needs one of these to use the room; `read` if not given. */
type JoinTarget = Partial<Pick<JoinRequest, "client" | "room">> & { readonly rights?: readonly Right[] };

export class AccessControl {
  constructor(private readonly rules: AccessRules) {}

  /**
   * A page of another site must not talk to a server on this machine or network by way of the user's browser.
   * `Host` has to be a name that no foreign DNS entry can be pointed here with: the public one, an allowed one, an
   * address, a loopback name, or this machine's own. `Origin`, which only browsers send, has to be the public site,
   * without one the very site that `Host` names, or one that the operator allows. It is checked before anything else:
   * the page may read this one rejection, and must not learn more from it.
   */
  refuse(headers: Headers): Problem | undefined {
    const host = headers.get("host") ?? "";
    const foreign = this.#refusePage(headers);
    if (foreign) return foreign;
    if (!this.#isOwnHost(host))
      return problem(
        403,
        "host",
        `This server does not go by that name: use ${this.rules.publicUrl?.origin ?? "localhost, or the machine's own name or IP address"}, or start it with --allow-host.`,
      );
    return undefined;
  }

  /** What a browser marks as asked for by a page of another site, be it an image, for which it sends no `Origin`. */
  refuseMarked(headers: Headers): Problem | undefined {
    const isMarked = OTHER_SITES.has(headers.get("sec-fetch-site") ?? "");
    return isMarked && !this.#isOurPage(headers) ? notOurPage : undefined;
  }

  #refusePage(headers: Headers): Problem | undefined {
    return headers.has("origin") && !this.#isOurPage(headers) ? notOurPage : this.refuseMarked(headers);
  }

  #isOurPage(headers: Headers): boolean {
    const origin = headers.get("origin");
    return origin !== null && (this.#isOwnPage(origin, headers.get("host") ?? "") || this.#isAllowed(origin));
  }

  /** Until when a client may be in a room (or without either, on the echo); in Unix time in milliseconds. */
  authorize(url: string, headers: Headers, to: JoinTarget, nowMs: number): Grant | Problem {
    return this.refuse(headers) ?? this.#readToken(url, headers, to, nowMs);
  }

  /** A token is shown as `Authorization: Bearer`, as an offered subprotocol or as `?token=`. */
  #readToken(url: string, headers: Headers, target: JoinTarget, nowMs: number): Grant | Problem {
    const { client, room, rights = ["read"] } = target;
    const { tokens } = this.rules;
    if (!tokens) return { expiresMs: Infinity };
    const token =
      /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1] ??
      offeredProtocols(headers)
        .find((offer) => offer.startsWith(TOKEN_OFFER))
        ?.slice(TOKEN_OFFER.length) ??
      queryParams(url).get("token");
    if (!token)
      return problem(
        401,
        "no-token",
        "Only who has a token comes in here: ask whoever runs this server for one.",
      );
    const claims = tokens.verify(token, nowMs);
    if ("detail" in claims) return problem(401, "bad-token", claims.detail);
    if (client !== undefined && client !== claims.client)
      return problem(
        403,
        "not-for-client",
        "This token is for another client id: connect as the one that it names.",
      );
    if (room !== undefined && claims.rooms && !claims.rooms.has(room))
      return problem(403, "not-for-room", "This token is not for this room: choose one that it names.");
    if (room !== undefined && claims.can && !rights.some((right) => claims.can?.has(right)))
      return problem(
        403,
        "not-for-room",
        "This token does not grant access to rooms. Use one made with --can read.",
      );
    return claims;
  }

  /** Whoever looks at the metrics from this machine itself, or has a token for them; or anyone. */
  authorizeMetrics({ url, headers }: Request, address: string, nowMs: number): Problem | undefined {
    const foreign = this.#refusePage(headers);
    if (foreign) return foreign;
    const isForwarded = FORWARDED.some((name) => headers.has(name));
    const isLocal = isLoopback(address) && !isForwarded && isLocalHost(headers.get("host") ?? "");
    if (isLocal || this.rules.openMetrics) return undefined;
    if (!this.rules.tokens) return problem(403, "not-local", "This is for requests from the machine itself.");
    const pass = this.authorize(url, headers, {}, nowMs);
    if ("detail" in pass) return pass;
    if (pass.can?.has("metrics")) return undefined;
    return problem(
      403,
      "not-for-metrics",
      "This token is not for the metrics: use one made with --can metrics.",
    );
  }

  /** The other site that a page belongs to, if it may read the answer. */
  allowedOrigin(headers: Headers): string | undefined {
    const origin = headers.get("origin");
    return origin !== null && this.#isAllowed(origin) ? origin : undefined;
  }

  /** The other site whose page may read this rejection: an allowed one all of them, any other one only that it is not allowed. */
  readerOf({ code }: Problem, headers: Headers): string | undefined {
    return code === "origin" ? (headers.get("origin") ?? undefined) : this.allowedOrigin(headers);
  }

  #isOwnPage(origin: string, host: string): boolean {
    const { publicUrl } = this.rules;
    return publicUrl ? origin === publicUrl.origin : isSameSite(origin, host);
  }

  #isAllowed(origin: string): boolean {
    return this.rules.allowOrigin.includes(origin);
  }

  #isOwnHost(host: string): boolean {
    const { publicUrl, allowHost } = this.rules;
    const name = hostName(host);
    if (name === undefined) return false;
    if (isLocalHost(host) || allowHost.includes(name)) return true;
    if (publicUrl && URL.parse(`${publicUrl.protocol}//${host}`)?.href === publicUrl.href) return true;
    const machineName = this.rules.machineName().toLowerCase();
    return name === machineName || name === `${machineName}.local`;
  }
}

function hostName(host: string): string | undefined {
  if (host.length > MAX_HOST_CHARACTERS) return undefined;
  return /^(\[[\da-f:.]+\]|[\w.-]+)(:\d{1,5})?$/i.exec(host)?.[1]?.toLowerCase().replace(/\.$/, "");
}

/** A name that no foreign DNS entry can stand for: an address, or a loopback name. */
function isLocalHost(host: string): boolean {
  const name = hostName(host) ?? "";
  return isAddress(name.replace(/^\[|\]$/g, "")) || name === "localhost" || name.endsWith(".localhost");
}

/**
 * Behind a proxy: whom the proxy wrote down last, as an address without what may surround it: a port, brackets,
 * quotes and a zone (RFC 7239, section 6). "unknown" and made-up identifiers are none.
 */
export function forwardedFor(headers: Headers): string | undefined {
  const list = headers.get("x-forwarded-for") ?? "";
  const node = list.slice(list.lastIndexOf(",") + 1).trim();
  if (node.length > MAX_NODE_CHARACTERS) return undefined;
  const [, quoted, bare] = /^(?:"(.*)"|([^"]*))$/.exec(node) ?? [];
  const [, bracketed, plain] =
    /^(?:\[([^\]]*)\]|([\d.]+|[^[\]]*))(?::(?:\d{1,5}|_[\w.-]+))?$/.exec(quoted ?? bare ?? "") ?? [];
  const address = bracketed ?? plain ?? "";
  if (IPV4.test(address)) return address;
  // Without brackets a port can be told from the address only behind all eight groups.
  const ipv6 = address.replace(/%.*/, "").replace(/^((?:[\da-f]{1,4}:){7}[\da-f]{1,4}):\d{1,5}$/i, "$1");
  return isIpv6(ipv6) ? ipv6 : undefined;
}

/** An IP address; as node:net would say, which takes 6 ms of the start. */
function isAddress(text: string): boolean {
  return IPV4.test(text) || isIpv6(text);
}

function isIpv6(text: string): boolean {
  return /^[\da-f:.]*:[\da-f:.]*(?:[\da-f]|::)$/i.test(text) && URL.canParse(`http://[${text}]/`);
}

function isLoopback(address: string): boolean {
  return /^(::ffff:)?127\./.test(address) || address === "::1";
}

/** Compared as URLs, so that `Host: name:443` and `Origin: https://name` are one; never true for an opaque origin. */
function isSameSite(origin: string, host: string): boolean {
  const site = /^https?:/.test(origin) ? URL.parse(origin) : null;
  return site?.origin === origin && site.host === URL.parse(`${site.protocol}//${host}`)?.host;
}

function offeredProtocols(headers: Headers): string[] {
  return (headers.get("sec-websocket-protocol") ?? "").split(",").map((offer) => offer.trim());
}

/** The first parameters of an address: to read thousands takes a millisecond. */
export function queryParams(url: string): URLSearchParams {
  const query = /\?(.*)/.exec(url)?.[1] ?? "";
  return new URLSearchParams(query.split("&", MAX_PARAMETERS).join("&"));
}
