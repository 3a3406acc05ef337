/** Who may come in, decided before the upgrade: what a request says in; a refusal, or what was asked for, out. */

import { isIP } from "node:net";
import { readName } from "./names.ts";
import { SUBPROTOCOL } from "./protocol.ts";
import type { Tokens } from "./tokens.ts";
import type { Wish } from "./visitor.ts";

/** What a client is told instead of being let in: an HTTP status, and one sentence that says what to do. */
export interface Refusal {
  readonly status: 400 | 401 | 403 | 429 | 503;
  readonly sentence: string;
}

export const roomUnavailable: Refusal = {
  status: 503,
  sentence: "This room cannot be opened just now: please try again in a moment.",
};

const DEFAULT_ROOM = "lobby";
/** An offered subprotocol that is a token, since a browser can send a WebSocket no other header. */
const TOKEN_OFFER = "token.";

/**
 * What a client asks for: `/ws/ID?room=ROOM&history=N`, and on the JSON wire, asked for as a subprotocol,
 * `&session=SESSION&after=ENTRY_ID`.
 * @param defaultHistory what the JSON wire hears first when it does not say
 */
export function readWish(id: string, url: string, headers: Headers, defaultHistory: number): Wish | Refusal {
  const query = queryOf(url);
  const client = readName("client id", id);
  if ("sentence" in client) return refused(400, client.sentence);
  const room = readName("room", query.get("room") ?? DEFAULT_ROOM);
  if ("sentence" in room) return refused(400, room.sentence);
  const asked = query.get("history");
  if (asked !== null && !/^\d{1,9}$/.test(asked))
    return refused(400, "history is how many of the latest messages to hear first: a whole number.");
  const wish = { client: client.name, room: room.name };
  if (!offersOf(headers).includes(SUBPROTOCOL)) return { ...wish, wire: "text", history: Number(asked ?? 0) };

  const session = query.has("session") ? readName("session", query.get("session") ?? "") : undefined;
  if (session && "sentence" in session) return refused(400, session.sentence);
  const after = query.get("after");
  return {
    ...wish,
    wire: "json",
    history: Number(asked ?? defaultHistory),
    ...(session ? { session: session.name } : {}),
    ...(after === null ? {} : { after }),
  };
}

/** What the operator decided. */
export interface Rules {
  /** What people reach the server by, if that is not what it listens on. */
  readonly publicUrl: URL | undefined;
  /** Other sites whose pages may come in. */
  readonly allowOrigin: readonly string[];
  /** With it, only who has one comes in. */
  readonly tokens: Tokens | undefined;
  readonly machineName: string;
}

type Destination = Partial<Pick<Wish, "client" | "room">>;

export class Door {
  constructor(private readonly rules: Rules) {}

  /**
   * A page of another site must not talk to a server on this machine or network by way of the user's browser.
   * `Host` has to be a name that no foreign DNS entry can be pointed here with: the public one; without one an
   * address, a loopback name, or this machine's own. `Origin`, which only browsers send, has to be the very site
   * that `Host` names, or one that the operator allows.
   */
  #refuse(headers: Headers): Refusal | undefined {
    const host = headers.get("host") ?? "";
    if (!this.#isOurs(host))
      return refused(
        403,
        `This server does not go by that name: use ${this.rules.publicUrl?.origin ?? "localhost, or the machine's own name or IP address"}.`,
      );
    const origin = headers.get("origin");
    if (origin !== null && !isSameSite(origin, host) && !this.#isAllowed(origin))
      return refused(
        403,
        "Pages of other sites may not connect here: open this server's own /client, or start it with --allow-origin.",
      );
    return undefined;
  }

  /** Until when a client may be in a room (or without either, on the echo); in Unix time in milliseconds. */
  admit(
    url: string,
    headers: Headers,
    to: Destination,
    nowMs: number,
  ): { readonly expiresMs: number } | Refusal {
    return this.#refuse(headers) ?? this.#readToken(url, headers, to, nowMs);
  }

  /** A token is shown as `Authorization: Bearer`, as an offered subprotocol or as `?token=`. */
  #readToken(url: string, headers: Headers, { client, room }: Destination, nowMs: number) {
    const { tokens } = this.rules;
    if (!tokens) return { expiresMs: Infinity };
    const token =
      /^bearer +(\S+) *$/i.exec(headers.get("authorization") ?? "")?.[1] ??
      offersOf(headers)
        .find((offer) => offer.startsWith(TOKEN_OFFER))
        ?.slice(TOKEN_OFFER.length) ??
      queryOf(url).get("token");
    if (!token)
      return refused(401, "Only who has a token comes in here: ask whoever runs this server for one.");
    const claims = tokens.verify(token, nowMs);
    if ("sentence" in claims) return refused(401, claims.sentence);
    if (client !== undefined && client !== claims.client)
      return refused(403, "This token is for another client id: connect as the one that it names.");
    if (room !== undefined && claims.rooms && !claims.rooms.has(room))
      return refused(403, "This token is not for this room: choose one that it names.");
    return claims;
  }

  /** The other site that a page belongs to, if it may read the answer. */
  allowedOrigin(headers: Headers): string | undefined {
    const origin = headers.get("origin");
    return origin !== null && this.#isAllowed(origin) ? origin : undefined;
  }

  #isAllowed(origin: string): boolean {
    return this.rules.allowOrigin.includes(origin) || origin === this.rules.publicUrl?.origin;
  }

  #isOurs(host: string): boolean {
    const { publicUrl } = this.rules;
    if (publicUrl) return URL.parse(`${publicUrl.protocol}//${host}`)?.href === publicUrl.href;
    const name = /^(\[[\da-f:.]+\]|[\w.-]+)(:\d{1,5})?$/i.exec(host)?.[1]?.toLowerCase().replace(/\.$/, "");
    const machineName = this.rules.machineName.toLowerCase();
    return (
      name !== undefined &&
      (isIP(name.replace(/^\[|\]$/g, "")) !== 0 ||
        name === "localhost" ||
        name.endsWith(".localhost") ||
        name === machineName ||
        name === `${machineName}.local`)
    );
  }
}

function refused(status: Refusal["status"], sentence: string): Refusal {
  return { status, sentence };
}

/**
 * Where a request comes from: behind a proxy, what the proxy wrote down last.
 * @param address the other end of the connection
 */
export function addressOf(headers: Headers, address = "", trustProxy: boolean): string {
  if (!trustProxy) return address;
  const last = headers.get("x-forwarded-for")?.split(",").at(-1)?.trim() ?? "";
  return isIP(last) ? last : address;
}

/** Compared as URLs, so that `Host: name:443` and `Origin: https://name` are one; never true for an opaque origin. */
function isSameSite(origin: string, host: string): boolean {
  const site = /^https?:/.test(origin) ? URL.parse(origin) : null;
  return site?.origin === origin && site.host === URL.parse(`${site.protocol}//${host}`)?.host;
}

function offersOf(headers: Headers): string[] {
  return (headers.get("sec-websocket-protocol") ?? "").split(",").map((offer) => offer.trim());
}

function queryOf(url: string): URLSearchParams {
  return new URLSearchParams(/\?(.*)/.exec(url)?.[1]);
}
