/** JSON Web Tokens (RFC 7519): making them, and what is in them. keyring.ts verifies their signatures. */

import type { Right } from "../protocol/events.ts";
import { parseName } from "../protocol/names.ts";
import { Secret } from "./keys.ts";
import { ALL_ROOMS, parseRoomPattern } from "./room-patterns.ts";

/** Longer tokens are rejected unread. One for a hundred rooms is shorter. */
const MAX_TOKEN_CHARACTERS = 8192;
/** The expected `aud`, if a token has one. */
const AUDIENCE = "hubbub";
/** How far the clock of the signer may be ahead. */
const LEEWAY_MS = 30_000;

/** The rights that a token may grant (`can`). */
export const RIGHTS: readonly Right[] = ["read", "write", "moderate", "metrics"];
/** Those of a token that lists none. */
export const DEFAULT_RIGHTS: ReadonlySet<Right> = new Set(["read", "write"]);

/** The content of a token. */
export interface Claims {
  readonly client: string;
  /** The rooms that the token is valid for, see room-patterns.ts. */
  readonly rooms: ReadonlySet<string>;
  readonly can: ReadonlySet<Right>;
  /** Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
}

export interface InvalidToken {
  readonly code: "bad-token" | "token-expired";
  /** A sentence for the client. */
  readonly detail: string;
}

/** Says no more, as nothing in the token can be trusted. */
export const INVALID: InvalidToken = {
  code: "bad-token",
  detail: "This token is not valid for this server. Ask its operator for a new one.",
};

type Json = { readonly [name in string]?: unknown };

/** Makes tokens, with a secret of the server. */
export class TokenSigner {
  readonly #secret: Secret;

  constructor(secret: Buffer) {
    this.#secret = new Secret(secret);
  }

  /**
   * @param rooms names and patterns; empty for all rooms
   * @param expiresSeconds Unix time
   * @param can empty for the default rights
   */
  sign(client: string, rooms: readonly string[], expiresSeconds: number, can: readonly Right[] = []): string {
    const claims = {
      sub: client,
      ...(rooms.length > 0 ? { rooms } : {}),
      ...(can.length > 0 ? { can } : {}),
      exp: expiresSeconds,
    };
    const signed = [{ alg: "HS256", typ: "JWT" }, claims]
      .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
      .join(".");
    return `${signed}.${this.#secret.sign(signed).toString("base64url")}`;
  }
}

/** What is to be verified of a token before its claims mean anything. */
interface UnverifiedToken {
  readonly algorithm: string;
  readonly kid: string | undefined;
  /** The header and the payload as they were signed. */
  readonly signed: string;
  readonly signature: Buffer;
  readonly payload: string;
}

/**
 * Splits a token (RFC 7515, section 7.1). Of its header, only `alg` and `kid` are used, never an embedded key or an
 * address of one (`jwk`, `jku`, `x5c`, `x5u`). Critical extensions (`crit`) are not supported.
 */
export function parseToken(token: string): UnverifiedToken | undefined {
  if (token.length > MAX_TOKEN_CHARACTERS) return undefined;
  const [, header = "", payload = "", encoded = ""] = /^([\w-]+)\.([\w-]+)\.([\w-]+)$/.exec(token) ?? [];
  const { alg, kid, crit } = decode(header) ?? {};
  if (typeof alg !== "string" || (kid !== undefined && typeof kid !== "string") || crit !== undefined)
    return undefined;
  const signature = Buffer.from(encoded, "base64url");
  // One signature has one spelling, although the last character may have unused bits.
  if (signature.toString("base64url") !== encoded) return undefined;
  return { algorithm: alg, kid, signed: `${header}.${payload}`, signature, payload };
}

/**
 * @param payload of a token whose signature has been verified
 * @param isForOthers its signer makes tokens for other services, too: `exp` and `aud` are required
 * @returns the claims if they are valid at `nowMs` (Unix time)
 */
export function parseClaims(payload: string, nowMs: number, isForOthers: boolean): Claims | InvalidToken {
  const json = decode(payload);
  if (!json) return INVALID;
  const { sub, rooms, can, exp, nbf, iat, aud } = json;
  const client = parseClient(sub);
  const patterns = rooms === undefined ? ALL_ROOMS : parseEach(rooms, parseRoomPattern);
  const rights =
    can === undefined ? DEFAULT_RIGHTS : parseEach(can, (name) => RIGHTS.find((each) => each === name));
  if (client === undefined) return invalidClaim("sub");
  if (!patterns) return invalidClaim("rooms");
  if (!rights) return invalidClaim("can");
  if (!isTime(exp) || (exp === undefined && isForOthers)) return invalidClaim("exp");
  if (!isTime(nbf)) return invalidClaim("nbf");
  if (!isTime(iat)) return invalidClaim("iat");
  if (aud === undefined ? isForOthers : ![aud].flat().includes(AUDIENCE)) return invalidClaim("aud");
  const startsMs = Math.max(nbf ?? 0, iat ?? 0) * 1000;
  if (nowMs < startsMs - LEEWAY_MS)
    return { code: "bad-token", detail: "This token is not valid yet. Try again later." };
  const expiresMs = exp === undefined ? Infinity : exp * 1000;
  if (expiresMs <= nowMs)
    return { code: "token-expired", detail: "This token has expired. Ask for a new one." };
  return { client, rooms: patterns, can: rights, expiresMs };
}

function invalidClaim(name: string): InvalidToken {
  return {
    code: "bad-token",
    detail: `The claim "${name}" of this token is missing or invalid. Ask its issuer for a new one.`,
  };
}

function decode(part: string): Json | undefined {
  try {
    const value: Json | null = JSON.parse(Buffer.from(part, "base64url").toString());
    return typeof value === "object" && !Array.isArray(value) ? (value ?? undefined) : undefined;
  } catch {
    return undefined;
  }
}

function parseClient(name: unknown): string | undefined {
  const parsed = parseName("client id", typeof name === "string" ? name : "");
  return "name" in parsed ? parsed.name : undefined;
}

/** @returns undefined unless it is a list and all its elements are valid */
function parseEach<T>(list: unknown, parseOne: (each: unknown) => T | undefined): Set<T> | undefined {
  if (!Array.isArray(list)) return undefined;
  const values = list.map(parseOne).filter((value) => value !== undefined);
  return values.length === list.length ? new Set(values) : undefined;
}

/** A NumericDate, or absent. */
function isTime(value: unknown): value is number | undefined {
  return value === undefined || (typeof value === "number" && Number.isFinite(value));
}
