/** What a key is, and secrets, which both sign and verify. public-keys.ts has the others. */

export interface Key {
  /** The `alg` values of the tokens that it verifies: names of one algorithm. */
  readonly algorithms: readonly string[];
  readonly kid: string | undefined;
  /** Its owner signs tokens for other services, too. */
  readonly isPublic: boolean;
  /** The same for the same key with the same `kid`, however often it is read. */
  readonly id: string;
  /** @param signed the header and the payload of the token */
  verify(signed: string, signature: Buffer): boolean;
}

/** At least one. */
export type Keys = readonly [Key, ...Key[]];

/** What is wrong with a file: the end of a sentence that begins with "expected". */
export interface InvalidKeys {
  readonly expected: string;
}

/** HS256 (RFC 7518, section 3.2). */
export class Secret implements Key {
  readonly algorithms = ["HS256"];
  readonly kid = undefined;
  readonly isPublic = false;
  readonly id: string;

  constructor(private readonly secret: Buffer) {
    this.id = new Bun.CryptoHasher("sha256").update("HS256").update(secret).digest("base64url");
  }

  sign(signed: string): Buffer {
    return new Bun.CryptoHasher("sha256", this.secret).update(signed).digest();
  }

  verify(signed: string, signature: Buffer): boolean {
    const expected = this.sign(signed);
    return signature.length === expected.length && crypto.timingSafeEqual(signature, expected);
  }
}
