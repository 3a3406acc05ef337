/**
 * Public keys in PEM (SPKI, PKCS #1), as a JWK (RFC 7517) or as a JWK set: Ed25519 (RFC 8037), ES256 and RS256 (RFC 7518,
 * sections 3.4 and 3.3). Nothing in a token chooses a key's algorithm, and no key comes from a token or from a network.
 */

import type { JsonWebKeyInput, KeyObject } from "node:crypto";
import { lazyCrypto } from "../util/lazy-node.ts";
import type { InvalidKeys, Key, Keys } from "./keys.ts";

/** NIST SP 800-131A; verifying with the largest takes 0.3 ms. */
const RSA_BITS = [2048, 8192] as const;
/** FIPS 186-5, section 5.4; signatures for small exponents have been forged. */
const MIN_RSA_EXPONENT = 65_537n;

const EXPECTED = "public keys (Ed25519, P-256 or RSA) in PEM, as a JWK or a JWKS";
const PEM = /-----BEGIN ([A-Z0-9 ]+)-----[\w+/=\s]+-----END \1-----/g;

export function parsePublicKeys(fileText: string): Keys | InvalidKeys {
  const text = fileText.trim(); // also of a byte order mark
  const keys: Key[] = [];
  for (const parse of text.startsWith("{") ? jwksOf(text) : pemsOf(text)) {
    const key = parse();
    if (key && "expected" in key) return key;
    if (key) keys.push(key);
  }
  const [first, ...more] = keys;
  return first ? [first, ...more] : { expected: EXPECTED };
}

/** Reads one key; undefined for a key of another kind, which a set may contain for other uses (RFC 7517, section 5). */
type Parse = () => Key | InvalidKeys | undefined;

function pemsOf(text: string): Parse[] {
  return [...text.matchAll(PEM)].map(([pem, label = ""]) => () => {
    if (label.includes("PRIVATE")) return PRIVATE;
    if (!/^(RSA )?PUBLIC KEY$/.test(label)) return { expected: `${EXPECTED}; not a ${label.toLowerCase()}` };
    return keyOf(pem, undefined) ?? { expected: EXPECTED };
  });
}

const PRIVATE: InvalidKeys = { expected: "public keys without their private parts" };

function jwksOf(text: string): Parse[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  const jwks: unknown = typeof value === "object" && value !== null && "keys" in value ? value.keys : [value];
  return Array.isArray(jwks) ? jwks.map((jwk: unknown) => () => fromJwk(jwk)) : [];
}

type Jwk = JsonWebKeyInput["key"] & { readonly kid?: unknown };

function fromJwk(jwk: unknown): Key | InvalidKeys | undefined {
  if (!isJwk(jwk)) return undefined;
  const { d, alg, kid, use = "sig", key_ops: uses = ["verify"] } = jwk;
  if (d !== undefined) return PRIVATE;
  if (use !== "sig" || !Array.isArray(uses) || !uses.includes("verify")) return undefined;
  if (kid !== undefined && typeof kid !== "string") return undefined;
  const key = keyOf({ key: jwk, format: "jwk" }, kid);
  if (!key || "expected" in key) return key;
  return alg === undefined || key.algorithms.some((name) => name === alg) ? key : undefined;
}

function isJwk(value: unknown): value is Jwk {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** @returns undefined if it is no key of a supported kind */
function keyOf(input: string | JsonWebKeyInput, kid: string | undefined): Key | InvalidKeys | undefined {
  let key: KeyObject;
  try {
    key = lazyCrypto().createPublicKey(input);
  } catch {
    return undefined;
  }
  const { modulusLength = 0, publicExponent = 0n, namedCurve } = key.asymmetricKeyDetails ?? {};
  switch (key.asymmetricKeyType) {
    case "ed25519":
      return new PublicKey(["EdDSA", "Ed25519"], kid, key, undefined);
    case "ec":
      return namedCurve === "prime256v1" ? new PublicKey(["ES256"], kid, key, "sha256") : undefined;
    case "rsa":
      if (modulusLength < RSA_BITS[0] || modulusLength > RSA_BITS[1] || publicExponent < MIN_RSA_EXPONENT)
        return {
          expected: `RSA keys of ${RSA_BITS.join(" to ")} bits with an exponent of at least ${MIN_RSA_EXPONENT}`,
        };
      return new PublicKey(["RS256"], kid, key, "sha256");
    default:
      return undefined;
  }
}

class PublicKey implements Key {
  readonly isPublic = true;
  readonly id: string;

  /** @param hash undefined where the algorithm has its own */
  constructor(
    readonly algorithms: readonly string[],
    readonly kid: string | undefined,
    private readonly key: KeyObject,
    private readonly hash: "sha256" | undefined,
  ) {
    const der = key.export({ type: "spki", format: "der" });
    this.id = new Bun.CryptoHasher("sha256")
      .update(der)
      .update(JSON.stringify(kid ?? null))
      .digest("base64url");
  }

  /** An ES256 signature is two numbers of 32 bytes (RFC 7518, section 3.4). */
  verify(signed: string, signature: Buffer): boolean {
    const key = { key: this.key, dsaEncoding: "ieee-p1363" } as const;
    return lazyCrypto().verify(this.hash, Buffer.from(signed), key, signature);
  }
}
