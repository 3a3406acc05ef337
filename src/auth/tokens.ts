/** JSON Web Tokens (RFC 7519), signed with the server's secret by HS256 (RFC 7518, section 3.2). */

import { parseName } from "../protocol/names.ts";

/** The size of the hash: the minimum that RFC 7518, section 3.2 requires. */
export const MIN_SECRET_BYTES = 32;
/** Longer tokens are rejected unread. One for a hundred rooms is shorter. */
const MAX_TOKEN_CHARACTERS = 8192;
/** The expected `aud`, if a token has one. */
const AUDIENCE = "hubbub";

/** The rights that a token may grant (`can`). */
export const RIGHTS = ["read", "write", "moderate", "metrics"] as const;
export type Right = (typeof RIGHTS)[number];

/** The verified content of a token. */
export interface Claims {
  readonly client: string;
  /** The rooms that the token is valid for; undefined means all. */
  readonly rooms?: ReadonlySet<string>;
  /** The rights that it grants; undefined means `read` and `write`. */
  readonly can?: ReadonlySet<Right>;
  /** Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
}

type Json = { readonly [name in string]?: unknown };

export class TokenSigner {
  constructor(private readonly secret: Buffer) {}

  /**
   * @param rooms empty for all rooms
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

  /** @returns the claims if the token is signed with the secret and valid at `nowMs` (Unix time); otherwise a sentence for the client */
  verify(token: string, nowMs: number): Claims | { readonly detail: string } {
    const claims = this.#signedClaims(token);
    const { sub, rooms, can, exp, nbf, aud } = claims ?? {};
    const client = parse("client id", sub);
    const roomNames = rooms === undefined ? undefined : parseEach(rooms, (room) => parse("room", room));
    const rights =
      can === undefined ? undefined : parseEach(can, (name) => RIGHTS.find((each) => each === name));
    const isValid = client !== undefined && roomNames !== "invalid" && rights !== "invalid";
    if (!claims || !isValid || !isTime(exp) || !isTime(nbf) || !isOurAudience(aud))
      return { detail: "This token is not valid for this server. Ask its operator for a new one." };
    if (nbf !== undefined && nowMs < nbf * 1000)
      return { detail: "This token is not valid yet. Try again later." };
    const expiresMs = exp === undefined ? Infinity : exp * 1000;
    if (expiresMs <= nowMs) return { detail: "This token has expired. Ask for a new one." };
    return {
      client,
      expiresMs,
      ...(roomNames && { rooms: roomNames }),
      ...(rights && { can: rights }),
    };
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

function parse(what: "client id" | "room", name: unknown): string | undefined {
  const parsed = parseName(what, typeof name === "string" ? name : "");
  return "name" in parsed ? parsed.name : undefined;
}

function parseEach<T>(list: unknown, parseOne: (each: unknown) => T | undefined): Set<T> | "invalid" {
  if (!Array.isArray(list)) return "invalid";
  const values = list.map(parseOne).filter((value) => value !== undefined);
  return values.length === list.length ? new Set(values) : "invalid";
}

/** A NumericDate, or absent. */
function isTime(value: unknown): value is number | undefined {
  return value === undefined || (typeof value === "number" && Number.isFinite(value));
}

function isOurAudience(audience: unknown): boolean {
  return audience === undefined || [audience].flat().includes(AUDIENCE);
}
