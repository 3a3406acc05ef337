/** Keys of servers, and tokens with any header and claims. */

import { parsePublicKeys } from "../../src/auth/public-keys.ts";
import { parseSecret, type KeySource } from "../../src/auth/key-files.ts";

/** A secret as `HUBBUB_SECRET` gives it. */
export function secretSource(secret: string): KeySource {
  const source = parseSecret(Buffer.from(secret));
  if ("expected" in source) throw new Error(`expected ${source.expected}`);
  return source;
}

/** A header or a payload as a token has it; text stays as it is. */
export function encodePart(part: unknown): string {
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
