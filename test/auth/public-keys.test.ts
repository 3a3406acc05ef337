/** Files of public keys, and tokens that they verify: each key its own algorithm, `exp` and `aud` required. */

import { describe, expect, test } from "bun:test";
import { createHmac, generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { Keyring } from "../../src/auth/keyring.ts";
import type { InvalidToken } from "../../src/auth/tokens.ts";
import { parsePublicKeys } from "../../src/auth/public-keys.ts";
import { makeToken, publicSource, secretSource, SECRET } from "../support/keys.ts";
import { randomFrom } from "../support/random.ts";

const NOW_MS = 1_800_000_000_000;
const NOW = NOW_MS / 1000;
const ANN = { sub: "ann", aud: "hubbub", exp: NOW + 60 };
const NOT_OURS: InvalidToken = {
  code: "bad-token",
  detail: "This token is not valid for this server. Ask its operator for a new one.",
};

const KINDS = {
  EdDSA: generateKeyPairSync("ed25519"),
  ES256: generateKeyPairSync("ec", { namedCurve: "P-256" }),
  RS256: generateKeyPairSync("rsa", { modulusLength: 2048 }),
};
type Algorithm = keyof typeof KINDS;
const ALGORITHMS = Object.keys(KINDS) as Algorithm[];

function signWith(algorithm: Algorithm, key: KeyObject = KINDS[algorithm].privateKey) {
  return (signed: string) =>
    sign(algorithm === "EdDSA" ? null : "sha256", Buffer.from(signed), { key, dsaEncoding: "ieee-p1363" });
}

const pemOf = (key: KeyObject, type: "spki" | "pkcs1" = "spki") =>
  String(key.export({ type, format: "pem" }));
const jwkOf = (key: KeyObject, more = {}) => ({ ...key.export({ format: "jwk" }), ...more });
const jwks = (...keys: object[]) => JSON.stringify({ keys });
const ringOf = (...texts: string[]) => new Keyring(texts.map((text) => publicSource(text)));
/** One file of each kind, in one PEM file. */
const ALL = ALGORITHMS.map((algorithm) => pemOf(KINDS[algorithm].publicKey)).join("");

describe("files", () => {
  for (const algorithm of ALGORITHMS) {
    const { publicKey } = KINDS[algorithm];
    const token = makeToken({ alg: algorithm }, ANN, signWith(algorithm));
    test.each([
      ["PEM", pemOf(publicKey)],
      ["PEM after a comment", `issuer: example\n${pemOf(publicKey)}`],
      ["JWK", JSON.stringify(jwkOf(publicKey))],
      [
        "JWK with alg, use and key_ops",
        JSON.stringify(jwkOf(publicKey, { alg: algorithm, use: "sig", key_ops: ["verify"] })),
      ],
      ["JWK after a byte order mark", `\uFEFF${JSON.stringify(jwkOf(publicKey))}\r\n`],
      ["PEM with the line breaks of Windows", pemOf(publicKey).replaceAll("\n", "\r\n")],
      ["JWKS", jwks(jwkOf(publicKey, { kid: "a" }))],
      ["several in one PEM file", ALL],
    ])(`${algorithm}: %s`, (_, text) => {
      expect(ringOf(text).verify(token, NOW_MS)).toMatchObject({ client: "ann", expiresMs: NOW_MS + 60_000 });
    });
  }

  test("PKCS #1, and Ed25519 under its newer name (RFC 9864)", () => {
    const rsa = ringOf(pemOf(KINDS.RS256.publicKey, "pkcs1"));
    expect(rsa.verify(makeToken({ alg: "RS256" }, ANN, signWith("RS256")), NOW_MS)).toMatchObject({
      client: "ann",
    });
    const ed25519 = ringOf(pemOf(KINDS.EdDSA.publicKey));
    expect(ed25519.verify(makeToken({ alg: "Ed25519" }, ANN, signWith("EdDSA")), NOW_MS)).toMatchObject({
      client: "ann",
    });
  });

  test("a set's keys for other uses are skipped", () => {
    const { publicKey } = KINDS.RS256;
    const p384 = generateKeyPairSync("ec", { namedCurve: "P-384" }).publicKey;
    const others = [
      { kty: "oct", k: Buffer.from(SECRET).toString("base64url") },
      jwkOf(p384),
      jwkOf(publicKey, { use: "enc" }),
      jwkOf(publicKey, { alg: "RS512" }),
      jwkOf(publicKey, { key_ops: ["encrypt"] }),
      jwkOf(publicKey, { kid: 7 }),
      { kty: "unheard of" },
      {},
    ];
    const keys = parsePublicKeys(jwks(...others, jwkOf(KINDS.ES256.publicKey)));
    expect(keys).toMatchObject([{ algorithms: ["ES256"] }]);
    expect(parsePublicKeys(jwks(...others))).toHaveProperty("expected");
  });

  const weak = generateKeyPairSync("rsa", { modulusLength: 1024 }).publicKey;
  const { n } = KINDS.RS256.publicKey.export({ format: "jwk" });
  const p256 = KINDS.ES256.privateKey;
  const RSA = "RSA keys of 2048 to 8192 bits with an exponent of at least 65537";
  const FORMS = "public keys (Ed25519, P-256 or RSA) in PEM, as a JWK or a JWKS";
  const PRIVATE = "public keys without their private parts";
  test.each([
    ["an RSA key of 1,024 bits", pemOf(weak), RSA],
    ["one in a set", jwks(jwkOf(KINDS.ES256.publicKey), jwkOf(weak)), RSA],
    ["an RSA key with exponent 1", JSON.stringify({ kty: "RSA", n, e: "AQ" }), RSA],
    ["an RSA key with exponent 3", JSON.stringify({ kty: "RSA", n, e: "Aw" }), RSA],
    ["a private key in PEM", String(p256.export({ type: "pkcs8", format: "pem" })), PRIVATE],
    ["a private JWK", JSON.stringify(jwkOf(p256)), PRIVATE],
    ["a private JWK in a set", jwks(jwkOf(p256)), PRIVATE],
    [
      "a certificate",
      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
      `${FORMS}; not a certificate`,
    ],
    ["P-384", pemOf(generateKeyPairSync("ec", { namedCurve: "P-384" }).publicKey), FORMS],
    ["a symmetric key", JSON.stringify({ kty: "oct", k: "AAAA" }), FORMS],
    [
      "a point that is not on the curve",
      JSON.stringify({ ...jwkOf(KINDS.ES256.publicKey), y: "A".repeat(43) }),
      FORMS,
    ],
    ["broken PEM", pemOf(KINDS.ES256.publicKey).replace("M", "-"), FORMS],
    ["an empty set", jwks(), FORMS],
    ["keys that are not a list", '{"keys":{}}', FORMS],
    ["null", "null", FORMS],
    ["nothing", "", FORMS],
    ["JSON that ends early", '{"keys":[', FORMS],
  ])("%s is rejected", (_, text, expected) => expect(parsePublicKeys(text)).toEqual({ expected }));
});

describe("claims", () => {
  const ring = ringOf(ALL);
  const verify = (claims: object) =>
    ring.verify(makeToken({ alg: "ES256" }, claims, signWith("ES256")), NOW_MS);
  test.each([
    ["exp", { sub: "ann", aud: "hubbub" }],
    ["aud", { sub: "ann", exp: NOW + 60 }],
    ["aud", { ...ANN, aud: "billing" }],
    ["aud", { ...ANN, aud: [] }],
    ["aud", { ...ANN, aud: [["hubbub"]] }],
    ["sub", { ...ANN, sub: "~ann" }],
  ])("without a valid %s, a token is invalid: %j", (claim, claims) => {
    expect(verify(claims)).toMatchObject({ detail: expect.stringContaining(`The claim "${claim}"`) });
  });

  test("the audience may be one of several", () =>
    expect(verify({ ...ANN, aud: ["billing", "hubbub"] })).toMatchObject({ client: "ann" }));
});

describe("kid", () => {
  const [one, two] = [generateKeyPairSync("ed25519"), generateKeyPairSync("ed25519")];
  const ring = ringOf(jwks(jwkOf(one.publicKey, { kid: "one" }), jwkOf(two.publicKey, { kid: "two" })));
  const tokenOf = (kid: unknown) => makeToken({ alg: "EdDSA", kid }, ANN, signWith("EdDSA", one.privateKey));

  test("it selects a key; without one, all are tried", () => {
    expect(ring.verify(tokenOf("one"), NOW_MS)).toMatchObject({ client: "ann" });
    expect(ring.verify(tokenOf(undefined), NOW_MS)).toMatchObject({ client: "ann" });
    expect(ring.verify(tokenOf("two"), NOW_MS)).toEqual(NOT_OURS);
    expect(ring.verify(tokenOf("three"), NOW_MS)).toEqual(NOT_OURS);
  });

  test("keys without one are tried for any", () => {
    const pem = ringOf(pemOf(one.publicKey));
    expect(pem.verify(tokenOf("one"), NOW_MS)).toMatchObject({ client: "ann" });
  });

  test("of many keys, a token without one is tried with eight, which bounds the time", () => {
    const others = Array.from({ length: 8 }, () => jwkOf(two.publicKey, { kid: "two" }));
    const many = ringOf(jwks(...others, jwkOf(one.publicKey, { kid: "one" })));
    expect(many.verify(tokenOf(undefined), NOW_MS)).toEqual(NOT_OURS);
    expect(many.verify(tokenOf("one"), NOW_MS)).toMatchObject({ client: "ann" });
  });

  test("it is never more than a name", () => {
    const kids = [
      "../../../../dev/null",
      "/etc/hostname",
      "|whoami",
      "' UNION SELECT 'x",
      "__proto__",
      "constructor",
    ];
    for (const kid of [...kids, "", 0, null, ["one"], { one: true }])
      expect(ring.verify(tokenOf(kid), NOW_MS)).toEqual(NOT_OURS);
    // Signed with what the file behind the kid contains: nothing.
    const signed = makeToken({ alg: "HS256", kid: "/dev/null" }, ANN, (text) =>
      createHmac("sha256", "").update(text).digest(),
    );
    expect(new Keyring([secretSource(SECRET), publicSource(ALL)]).verify(signed, NOW_MS)).toEqual(NOT_OURS);
  });
});

describe("confusions of keys and algorithms", () => {
  const both = new Keyring([secretSource(SECRET), publicSource(ALL)]);
  const onlyPublic = ringOf(ALL);
  const hmacWith = (key: string | Buffer) => (text: string) =>
    createHmac("sha256", key).update(text).digest();
  const reject = (token: string) => {
    for (const ring of [both, onlyPublic]) expect(ring.verify(token, NOW_MS)).toEqual(NOT_OURS);
  };

  test("the algorithm none, in any spelling, signed or not", () => {
    for (const alg of ["none", "None", "NONE", "nOnE", "", undefined, null, 0, [], ["ES256"]])
      for (const signature of ["", "AAAA", signWith("ES256")("x").toString("base64url")])
        reject(makeToken({ alg }, ANN, () => signature));
    const unsigned = makeToken({ alg: "none" }, ANN, () => "");
    reject(unsigned.slice(0, -1)); // without the last dot
  });

  test("HS256 with a public key as the secret, in any of its forms", () => {
    for (const algorithm of ALGORITHMS) {
      const { publicKey } = KINDS[algorithm];
      const der = publicKey.export({ type: "spki", format: "der" });
      const pem = pemOf(publicKey);
      const forms = [pem, pem.trim(), ALL, der, der.toString("base64"), JSON.stringify(jwkOf(publicKey))];
      if (algorithm === "RS256") forms.push(pemOf(publicKey, "pkcs1"));
      for (const form of forms) reject(makeToken({ alg: "HS256" }, ANN, hmacWith(form)));
    }
  });

  test("a key verifies no other algorithm than its own", () => {
    for (const algorithm of ALGORITHMS)
      for (const alg of [
        "HS256",
        "RS256",
        "ES256",
        "EdDSA",
        "ES384",
        "RS384",
        "PS256",
        "HS512",
        "es256",
        "ES256K",
      ])
        if (alg !== algorithm) reject(makeToken({ alg }, ANN, signWith(algorithm)));
  });

  test("a secret is never a public key, nor the other way around", () => {
    expect(() => secretSource(pemOf(KINDS.RS256.publicKey))).toThrow(
      "public keys belong to --public-key-file",
    );
    // Tokens made with the secret need neither exp nor aud; those of public keys do, whatever their kid says.
    const token = makeToken({ alg: "HS256", kid: "one" }, { sub: "ann" }, hmacWith(SECRET));
    expect(both.verify(token, NOW_MS)).toMatchObject({ client: "ann" });
    expect(onlyPublic.verify(token, NOW_MS)).toEqual(NOT_OURS);
  });

  test("a key or a certificate in the token, or an address of one, is not used", () => {
    const own = generateKeyPairSync("ed25519");
    const jwk = jwkOf(own.publicKey);
    for (const embedded of [
      { jwk },
      { jwk, kid: "own" },
      { jku: "https://attacker.example/jwks.json" },
      { x5u: "https://attacker.example/chain.pem" },
      { x5c: [own.publicKey.export({ type: "spki", format: "der" }).toString("base64")] },
    ])
      reject(makeToken({ alg: "EdDSA", ...embedded }, ANN, signWith("EdDSA", own.privateKey)));
  });

  test("critical extensions, known or not, are rejected", () => {
    for (const crit of [["exp"], ["b64"], [], "b64", null])
      reject(makeToken({ alg: "ES256", crit, b64: false, exp: 1 }, ANN, signWith("ES256")));
    // Without crit, b64 means nothing (RFC 7797, section 6): the payload is decoded as always.
    const token = makeToken({ alg: "ES256", b64: false }, ANN, signWith("ES256"));
    expect(both.verify(token, NOW_MS)).toMatchObject({ client: "ann" });
  });

  test("of duplicate members the last one counts, for the signature and for the claims (RFC 7519, section 4)", () => {
    reject(makeToken('{"alg":"ES256","alg":"none"}', ANN, signWith("ES256")));
    reject(makeToken('{"alg":"ES256","alg":"HS256"}', ANN, hmacWith(ALL)));
    reject(makeToken('{"alg":"HS256","alg":"ES256"}', ANN, hmacWith(SECRET)));
    const claims = `{"sub":"root","sub":"ann","aud":"hubbub","exp":1,"exp":${NOW + 60}}`;
    expect(
      both.verify(makeToken('{"alg":"none","alg":"ES256"}', claims, signWith("ES256")), NOW_MS),
    ).toMatchObject({
      client: "ann",
    });
  });

  test("names of JavaScript's own properties mean nothing", () => {
    reject(makeToken('{"__proto__":{"alg":"ES256"}}', ANN, signWith("ES256")));
    const claims = `{"__proto__":${JSON.stringify(ANN)}}`;
    expect(both.verify(makeToken({ alg: "ES256" }, claims, signWith("ES256")), NOW_MS)).toMatchObject({
      detail: expect.stringContaining('"sub"'),
    });
  });

  test("encrypted tokens, and those of other shapes, are rejected", () => {
    const [header, payload, signature] = makeToken({ alg: "ES256" }, ANN, signWith("ES256")).split(".");
    for (const token of [
      `${header}..${payload}.${signature}.`,
      `${header}.${payload}.${signature}.${signature}.${signature}`,
      `${header}.${payload}`,
      JSON.stringify({ payload, signatures: [{ protected: header, signature }] }),
      `${header}.${payload}.${signature}\n`,
      `${header}=.${payload}.${signature}`,
    ])
      reject(token);
  });

  test("of thousands of damaged tokens, none is accepted, and none fails otherwise", () => {
    const random = randomFrom(1);
    const pick = <T>(list: ArrayLike<T>) => list[Math.floor(random() * list.length)];
    const CHARACTERS = "ABCabc019-_.=+/ {}\u0000\u00e9\ud800";
    const whole = [
      makeToken({ alg: "HS256" }, ANN, hmacWith(SECRET)),
      ...ALGORITHMS.map((alg) => makeToken({ alg, kid: "one" }, ANN, signWith(alg))),
    ];
    for (let i = 0; i < 4_000; i++) {
      const token = pick(whole) ?? "";
      const at = Math.floor(random() * token.length);
      const removed = Math.floor(random() * 3);
      const damaged = token.slice(0, at) + (pick(CHARACTERS) ?? "") + token.slice(at + removed);
      if (!whole.includes(damaged)) expect(both.verify(damaged, NOW_MS)).toEqual(NOT_OURS);
    }
  });

  test("a huge token is rejected unread", () => {
    const huge = makeToken({ alg: "ES256" }, { ...ANN, more: "x".repeat(7_000) }, signWith("ES256"));
    reject(huge);
    reject(`${"a".repeat(50_000_000)}.b.c`);
  });
});

describe("signatures", () => {
  const ORDER = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
  const ring = ringOf(ALL);
  const withSignature = (alg: Algorithm, change: (signature: Buffer) => Buffer) =>
    ring.verify(
      makeToken({ alg }, ANN, (signed) => change(signWith(alg)(signed))),
      NOW_MS,
    );

  test("ES256: only 64 bytes, of which neither half is zero or too large", () => {
    const zeros = Buffer.alloc(32);
    const order = Buffer.from(ORDER.toString(16), "hex");
    const changes: Record<string, (signature: Buffer) => Buffer> = {
      "r and s zero (CVE-2022-21449)": () => Buffer.alloc(64),
      "r zero": (signature) => Buffer.concat([zeros, signature.subarray(32)]),
      "s zero": (signature) => Buffer.concat([signature.subarray(0, 32), zeros]),
      "r and s the order of the curve": () => Buffer.concat([order, order]),
      "all bits set": () => Buffer.alloc(64, 255),
      "a byte less": (signature) => signature.subarray(0, 63),
      "a byte more": (signature) => Buffer.concat([signature, Buffer.alloc(1)]),
      "leading zeros": (signature) =>
        Buffer.concat([Buffer.alloc(1), signature.subarray(0, 32), Buffer.alloc(1), signature.subarray(32)]),
      "s larger by the order": (signature) => {
        const s = BigInt(`0x${signature.subarray(32).toString("hex")}`) + ORDER;
        return Buffer.concat([
          signature.subarray(0, 32),
          Buffer.from(s.toString(16).padStart(66, "0"), "hex"),
        ]);
      },
    };
    for (const [what, change] of Object.entries(changes))
      expect([what, withSignature("ES256", change)]).toEqual([what, NOT_OURS]);
    const der = makeToken({ alg: "ES256" }, ANN, (signed) =>
      sign("sha256", Buffer.from(signed), KINDS.ES256.privateKey),
    );
    expect(ring.verify(der, NOW_MS)).toEqual(NOT_OURS);
  });

  test("ES256: the mirrored signature is valid, as signers need not choose, and says the same", () => {
    const mirror = (signature: Buffer) => {
      const s = ORDER - BigInt(`0x${signature.subarray(32).toString("hex")}`);
      return Buffer.concat([signature.subarray(0, 32), Buffer.from(s.toString(16).padStart(64, "0"), "hex")]);
    };
    expect(withSignature("ES256", mirror)).toMatchObject({ client: "ann" });
  });

  test("Ed25519 and RS256: no other length, and no zeros", () => {
    for (const algorithm of ["EdDSA", "RS256"] as const)
      for (const change of [
        (signature: Buffer) => Buffer.alloc(signature.length),
        (signature: Buffer) => signature.subarray(1),
        (signature: Buffer) => Buffer.concat([Buffer.alloc(1), signature]),
        (signature: Buffer) => Buffer.concat([signature, Buffer.alloc(1)]),
      ])
        expect(withSignature(algorithm, change)).toEqual(NOT_OURS);
  });

  test("a signature has one spelling", () => {
    const token = makeToken({ alg: "EdDSA" }, ANN, signWith("EdDSA"));
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // The last of 86 characters has four unused bits.
    const spellings = [...alphabet].map((last) => token.slice(0, -1) + last);
    expect(spellings.filter((spelling) => !("detail" in ring.verify(spelling, NOW_MS)))).toEqual([token]);
  });

  test("a signature is for its header and claims only", () => {
    for (const algorithm of ALGORITHMS) {
      const token = makeToken({ alg: algorithm }, ANN, signWith(algorithm));
      const [, , signature = ""] = token.split(".");
      expect(
        ring.verify(
          makeToken({ alg: algorithm }, { ...ANN, sub: "eve" }, () => signature),
          NOW_MS,
        ),
      ).toEqual(NOT_OURS);
      expect(
        ring.verify(
          makeToken({ alg: algorithm, typ: "JWT" }, ANN, () => signature),
          NOW_MS,
        ),
      ).toEqual(NOT_OURS);
    }
  });
});
