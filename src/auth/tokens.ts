/** JSON Web Tokens (RFC 7519), signed with the server's secret by HS256 (RFC 7518, section 3.2). */

import type { Right } from "../protocol/events.ts";
import { parseName } from "../protocol/names.ts";
import { ALL_ROOMS, parseRoomPattern } from "./room-patterns.ts";

/** The size of the hash: the minimum that RFC 7518, section 3.2 requires. */
export const MIN_SECRET_BYTES = 32;
/** Longer tokens are rejected unread. One for a hundred rooms is shorter. */
const MAX_TOKEN_CHARACTERS = 8192;
/** The expected `aud`, if a token has one. */
const AUDIENCE = "hubbub";

/** The rights that a token may grant (`can`). */
export const RIGHTS: readonly Right[] = ["read", "write", "moderate", "metrics"];
/** Those of a token that lists none. */
export const DEFAULT_RIGHTS: ReadonlySet<Right> = new Set(["read", "write"]);

/** The verified content of a token. */
export interface Claims {
  readonly client: string;
  /** The rooms that the token is valid for, see room-patterns.ts. */
  readonly rooms: ReadonlySet<string>;
  readonly can: ReadonlySet<Right>;
  /** Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
}

interface InvalidToken {
  readonly code: "bad-token" | "token-expired";
  /** A sentence. */
  readonly detail: string;
}

type Json = { readonly [name in string]?: unknown };

export class TokenSigner {
  constructor(private readonly secret: Buffer) {}

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
    return `${signed}.${this.#hmac(signed).toString("base64url")}`;
  }

  /** @returns the claims if the token is signed with the secret and valid at `nowMs` (Unix time); otherwise why not, for the client */
  verify(token: string, nowMs: number): Claims | InvalidToken {
    const claims = this.#signedClaims(token);
    const { sub, rooms, can, exp, nbf, aud } = claims ?? {};
    const client = parseClient(sub);
    const patterns = rooms === undefined ? ALL_ROOMS : parseEach(rooms, parseRoomPattern);
    const rights =
      can === undefined ? DEFAULT_RIGHTS : parseEach(can, (name) => RIGHTS.find((each) => each === name));
    if (
      !claims ||
      client === undefined ||
      !patterns ||
      !rights ||
      !isTime(exp) ||
      !isTime(nbf) ||
      !isOurAudience(aud)
    )
      return {
        code: "bad-token",
        detail: "This token is not valid for this server. Ask its operator for a new one.",
      };
    if (nbf !== undefined && nowMs < nbf * 1000)
      return { code: "bad-token", detail: "This token is not valid yet. Try again later." };
    const expiresMs = exp === undefined ? Infinity : exp * 1000;
    if (expiresMs <= nowMs)
      return { code: "token-expired", detail: "This token has expired. Ask for a new one." };
    return { client, rooms: patterns, can: rights, expiresMs };
  }

  /** Always HS256: a header that names another algorithm, or critical extensions (`crit`), is rejected (RFC 8725, section 3.1). */
  #signedClaims(token: string): Json | undefined {
    if (token.length > MAX_TOKEN_CHARACTERS) return undefined;
    const [, header = "", claims = "", signature = ""] = /^([\w-]+)\.([\w-]+)\.([\w-]+)$/.exec(token) ?? [];
    const given = Buffer.from(signature, "base64url");
    const expected = this.#hmac(`${header}.${claims}`);
    if (given.length !== expected.length || !crypto.timingSafeEqual(given, expected)) return undefined;
    const { alg, crit } = decode(header) ?? {};
    return alg === "HS256" && crit === undefined ? decode(claims) : undefined;
  }

  #hmac(signed: string): Buffer {
    return new Bun.CryptoHasher("sha256", this.secret).update(signed).digest();
  }
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

function isOurAudience(audience: unknown): boolean {
  return audience === undefined || [audience].flat().includes(AUDIENCE);
}
