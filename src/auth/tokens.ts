/** Who somebody is: JSON Web Tokens (RFC 7519), signed with the server's secret by HS256 (RFC 7518, section 3.2). */

import { parseName } from "../protocol/names.ts";

/** As long as the hash, which RFC 7518 asks for. */
export const MIN_SECRET_BYTES = 32;
/** Longer than any that this server makes for a hundred rooms; what is longer is not looked at. */
const MAX_TOKEN_CHARACTERS = 8192;
/** Who a token is for, if it says (`aud`). */
const AUDIENCE = "hubbub";

/** What a token may allow its bearer to do (`can`). */
export const RIGHTS = ["read", "write", "moderate", "metrics"] as const;
export type Right = (typeof RIGHTS)[number];

/** What a token says of its bearer, checked. */
export interface Claims {
  readonly client: string;
  /** The only rooms that it is for; all of them if not said. */
  readonly rooms?: ReadonlySet<string>;
  readonly can?: ReadonlySet<Right>;
  /** Unix time in milliseconds, or Infinity. */
  readonly expiresMs: number;
}

type Json = { readonly [name in string]?: unknown };

export class TokenSigner {
  constructor(private readonly secret: Buffer) {}

  /** @param expiresSeconds Unix time */
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

  /** What the token says, if this server's secret has signed it and its time is now; or what is wrong, in a sentence. */
  verify(token: string, nowMs: number): Claims | { readonly detail: string } {
    const claims = this.#signedClaims(token);
    const { sub, rooms, can, exp, nbf, aud } = claims ?? {};
    const client = parseName("client id", typeof sub === "string" ? sub : "");
    const names = rooms === undefined ? [] : readRooms(rooms);
    const rights = can === undefined ? [] : readRights(can);
    if (!claims || "detail" in client || !names || !rights || !isTime(exp) || !isTime(nbf) || !isForUs(aud))
      return { detail: "This token is none of this server's: ask whoever runs it for one." };
    if (nbf !== undefined && nowMs < nbf * 1000)
      return { detail: "This token is not good yet: come back later." };
    const expiresMs = exp === undefined ? Infinity : exp * 1000;
    if (expiresMs <= nowMs) return { detail: "This token has expired: ask for a new one." };
    return {
      client: client.name,
      expiresMs,
      ...(rooms === undefined ? {} : { rooms: new Set(names) }),
      ...(can === undefined ? {} : { can: new Set(rights) }),
    };
  }

  /** One algorithm, whatever the header says: it may only say the same, and ask for nothing more (`crit`). */
  #signedClaims(token: string): Json | undefined {
    if (token.length > MAX_TOKEN_CHARACTERS) return undefined;
    const [, header = "", claims = "", signature = ""] = /^([\w-]+)\.([\w-]+)\.([\w-]+)$/.exec(token) ?? [];
    const given = Buffer.from(signature, "base64url");
    const right = this.#hmac(`${header}.${claims}`);
    if (given.length !== right.length || !crypto.timingSafeEqual(given, right)) return undefined;
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

function readRooms(rooms: unknown): string[] | undefined {
  if (!Array.isArray(rooms)) return undefined;
  const names = rooms.map((room: unknown) => parseName("room", typeof room === "string" ? room : ""));
  return names.every((each) => "name" in each) ? names.map(({ name }) => name) : undefined;
}

function readRights(can: unknown): Right[] | undefined {
  if (!Array.isArray(can)) return undefined;
  const rights = can.flatMap((each: unknown) => RIGHTS.find((right) => right === each) ?? []);
  return rights.length === can.length ? rights : undefined;
}

/** A NumericDate, or not said. */
function isTime(value: unknown): value is number | undefined {
  return value === undefined || (typeof value === "number" && Number.isFinite(value));
}

function isForUs(audience: unknown): boolean {
  return (
    audience === undefined ||
    audience === AUDIENCE ||
    (Array.isArray(audience) && audience.includes(AUDIENCE))
  );
}
