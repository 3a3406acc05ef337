/** Keys of servers, and tokens with any header and claims. */

import { TokenSigner } from "../../src/auth/tokens.ts";
import type { Right } from "../../src/protocol/events.ts";
import { parsePublicKeys } from "../../src/auth/public-keys.ts";
import { parseSecret, type KeySource } from "../../src/auth/key-files.ts";

/** The secret of servers that require tokens. */
export const SECRET = "a secret of thirty-two bytes, or more";
/** For {@link startServer}: a server that requires tokens. */
export const SECURED = { env: { HUBBUB_SECRET: SECRET } };

interface Grant {
  readonly rooms?: readonly string[];
  /** How long it is valid; negative for an expired one. */
  readonly seconds?: number;
  readonly can?: readonly Right[];
  readonly secret?: string;
}

export function tokenOf(
  client: string,
  { rooms = [], seconds = 600, can, secret = SECRET }: Grant = {},
): string {
  return new TokenSigner(Buffer.from(secret)).sign(client, rooms, Date.now() / 1000 + seconds, can);
}

/** The header of a request with a token. */
export function bearer(client: string, grant?: Grant) {
  return { Authorization: `Bearer ${tokenOf(client, grant)}` };
}

/** A secret as `HUBBUB_SECRET` gives it. */
export function secretSource(secret: string): KeySource {
  const source = parseSecret(Buffer.from(secret));
  if ("expected" in source) throw new Error(`expected ${source.expected}`);
  return source;
}

/** A header or a payload as a token has it; text stays as it is. */
function encodePart(part: unknown): string {
  return Buffer.from(typeof part === "string" ? part : JSON.stringify(part)).toString("base64url");
}

/** Joins a header, a payload and the signature that `sign` makes of them. */
export function makeToken(
  header: unknown,
  claims: unknown,
  sign: (signed: string) => NodeJS.ArrayBufferView | string,
): string {
  const signed = `${encodePart(header)}.${encodePart(claims)}`;
  const signature = sign(signed);
  return `${signed}.${typeof signature === "string" ? signature : Buffer.from(signature.buffer, signature.byteOffset, signature.byteLength).toString("base64url")}`;
}

/** Public keys as a file of `--public-key-file` holds them. */
export function publicSource(text: string): KeySource {
  const keys = parsePublicKeys(text);
  if ("expected" in keys) throw new Error(`expected ${keys.expected}`);
  return { kind: "public", file: undefined, content: Buffer.from(text), keys };
}
