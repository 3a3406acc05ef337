/** Tokens of another library in another language: PyJWT, as Debian packages it (python3-jwt, python3-cryptography). */

import { expect, setDefaultTimeout, test } from "bun:test";
import { SECRET } from "../support/keys.ts";
import { findPython } from "../support/programs.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const { path: PYTHON = "python3", skipped } = findPython(
  "python3-jwt and python3-cryptography",
  "jwt, cryptography",
);

/** Writes `secret` and the public keys in PEM, as JWKs and as a JWKS into the current folder, and prints a token of each. */
const ISSUER = `
import json, time, jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

claims = {"sub": "ann", "aud": ["billing", "hubbub"], "exp": time.time() + 600, "iat": time.time(),
          "rooms": ["team-*"], "can": ["read", "write"]}
keys = {
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), jwt.algorithms.OKPAlgorithm),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), jwt.algorithms.ECAlgorithm),
    "RS256": (rsa.generate_private_key(public_exponent=65537, key_size=2048), jwt.algorithms.RSAAlgorithm),
}
tokens, jwks = {}, []
for name, (key, algorithm) in keys.items():
    public = key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    open(name + ".pem", "wb").write(pem)
    if hasattr(algorithm, "to_jwk"):
        jwk = json.loads(algorithm.to_jwk(public))
        json.dump(jwk, open(name + ".jwk", "w"))
        jwks.append({**jwk, "kid": name, "use": "sig", "alg": name})
    tokens[name] = jwt.encode(claims, key, algorithm=name, headers={"kid": name})
json.dump({"keys": jwks}, open("jwks.json", "w"))
tokens["HS256"] = jwt.encode({"sub": "ann"}, open("secret").read().strip(), algorithm="HS256")
print(json.dumps({"tokens": tokens, "jwks": [jwk["kid"] for jwk in jwks]}))
`;

test.skipIf(skipped !== "")(
  `tokens made in Python are accepted, and ours are accepted there${skipped}`,
  async () => {
    using folder = new TempFolder();
    const secret = folder.write("secret", `${SECRET}\n`);
    const printed = await Bun.$`${PYTHON} -c ${ISSUER}`.cwd(folder.path).text();
    const { tokens, jwks }: { tokens: Record<string, string>; jwks: string[] } = JSON.parse(printed);
    expect(jwks).toContain("RS256");
    const accepted = async (...args: string[]) => {
      await using server = await startServer({
        args: args.map((arg) => arg.replace(/^=/, `${folder.path}/`)),
      });
      const names = Object.keys(tokens);
      const statusOf = async (name: string) =>
        (await server.get(`/ws/ann?room=team-a&token=${tokens[name]}`)).status;
      const statuses = await Promise.all(names.map(statusOf));
      return names.filter((_, i) => statuses[i] === 426).sort();
    };
    expect(await accepted("--secret-file", "=secret")).toEqual(["HS256"]);
    const pems = ["EdDSA", "ES256", "RS256"].flatMap((name) => ["--public-key-file", `=${name}.pem`]);
    expect(await accepted(...pems)).toEqual(["ES256", "EdDSA", "RS256"]);
    expect(await accepted("--public-key-file", "=jwks.json")).toEqual(jwks.toSorted());
    expect(await accepted("--public-key-file", "=RS256.jwk")).toEqual(["RS256"]);

    const source = `${import.meta.dir}/../../src/server.ts`;
    const link =
      await Bun.$`${process.execPath} ${source} token ann --secret-file ${secret} --can read`.text();
    const token = new URL(link.trim()).searchParams.get("token") ?? "";
    const decode = `import json, jwt, sys
print(json.dumps(jwt.decode(sys.argv[1], open("secret").read().strip(), algorithms=["HS256"])))`;
    const claims = JSON.parse(await Bun.$`${PYTHON} -c ${decode} ${token}`.cwd(folder.path).text());
    expect(claims).toEqual({ sub: "ann", can: ["read"], exp: expect.any(Number) });
  },
);
