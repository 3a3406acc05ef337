/** With a secret, clients need a token, and it sets their id, rooms, rights and time. */

import { describe, expect, test } from "bun:test";
import { connect, type ConnectionState } from "../../src/client/client.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { Keyring } from "../../src/auth/keyring.ts";
import { TokenSigner } from "../../src/auth/tokens.ts";
import { withDeadline } from "../support/deadline.ts";
import { secretSource, SECRET, SECURED } from "../support/keys.ts";
import { JsonPeer } from "../support/peer.ts";
import { startServer } from "../support/server.ts";
import { UPGRADE } from "../support/raw-websocket.ts";

const tokens = new TokenSigner(Buffer.from(SECRET));
const keyring = new Keyring([secretSource(SECRET)]);
const NOW_MS = 1_800_000_000_000;
const NOW = NOW_MS / 1000;

const NONE = "A token is required. Ask this server's operator for one.\n";
const NOT_OURS = "This token is not valid for this server. Ask its operator for a new one.";
const EXPIRED = "This token has expired. Ask for a new one.";

/** A token with any claims, correctly signed by default. */
function forge(
  claims: unknown,
  { header = { alg: "HS256", typ: "JWT" }, hash = "sha256", secret = SECRET }: Forgery = {},
): string {
  const signed = [header, claims]
    .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
    .join(".");
  return `${signed}.${new Bun.CryptoHasher(hash, secret).update(signed).digest("base64url")}`;
}

interface Forgery {
  readonly header?: unknown;
  readonly hash?: "sha256" | "sha512";
  readonly secret?: string;
}

describe("claims", () => {
  const ANN = {
    client: "ann",
    rooms: new Set(["*"]),
    can: new Set(["read", "write"]),
    expiresMs: Infinity,
  };
  const good: Record<string, [object, object]> = {
    "a client": [{ sub: "ann" }, ANN],
    "an expiry": [
      { sub: "ann", exp: NOW + 0.5 },
      { ...ANN, expiresMs: NOW_MS + 500 },
    ],
    "a start": [{ sub: "ann", nbf: NOW }, ANN],
    rooms: [
      { sub: "ann", rooms: ["tea", "__proto__"] },
      { ...ANN, rooms: new Set(["tea", "__proto__"]) },
    ],
    "no rooms": [
      { sub: "ann", rooms: [] },
      { ...ANN, rooms: new Set() },
    ],
    "room patterns": [
      { sub: "ann", rooms: ["team-*", "caf\u0065\u0301*", "*"] },
      { ...ANN, rooms: new Set(["team-*", "caf\u00e9*", "*"]) },
    ],
    rights: [
      { sub: "prometheus", can: ["metrics"] },
      { ...ANN, client: "prometheus", can: new Set(["metrics"]) },
    ],
    "no rights": [
      { sub: "ann", can: [] },
      { ...ANN, can: new Set() },
    ],
    "our audience, and unknown claims": [
      { sub: "A\u0301nn", aud: ["x", "hubbub"], iss: "y", iat: 1 },
      { ...ANN, client: "\u00c1nn" },
    ],
  };
  for (const [what, [claims, expected]] of Object.entries(good))
    test(`accepts ${what}`, () =>
      expect<unknown>(keyring.verify(forge(claims), NOW_MS)).toMatchObject(expected));

  const bad: Record<string, [claim: string, claims: unknown]> = {
    "no client": ["sub", {}],
    "a number as the client": ["sub", { sub: 7 }],
    "an invalid client id": ["sub", { sub: "a b" }],
    "rooms that are not a list": ["rooms", { sub: "ann", rooms: "tea" }],
    "a number as a room": ["rooms", { sub: "ann", rooms: [7] }],
    "an invalid room name": ["rooms", { sub: "ann", rooms: ["a b"] }],
    "rooms that are null": ["rooms", { sub: "ann", rooms: null }],
    "a wildcard that is not at the end": ["rooms", { sub: "ann", rooms: ["*-team"] }],
    "two wildcards": ["rooms", { sub: "ann", rooms: ["team**"] }],
    "a pattern that begins like no name": ["rooms", { sub: "ann", rooms: ["a b*"] }],
    "rights that are not a list": ["can", { sub: "ann", can: "metrics" }],
    "a number as a right": ["can", { sub: "ann", can: [7] }],
    "an unknown right": ["can", { sub: "ann", can: ["metrics", "fly"] }],
    "rights that are null": ["can", { sub: "ann", can: null }],
    "an expiry that is not a number": ["exp", { sub: "ann", exp: `${NOW + 60}` }],
    "an expiry that is null": ["exp", { sub: "ann", exp: null }],
    "a start that is not a number": ["nbf", { sub: "ann", nbf: true }],
    "a time of issue that is not a number": ["iat", { sub: "ann", iat: "now" }],
    "another audience": ["aud", { sub: "ann", aud: "billing" }],
    "an audience that begins like ours": ["aud", { sub: "ann", aud: ["hubbub.example"] }],
    "an audience that is null": ["aud", { sub: "ann", aud: null }],
  };
  for (const [what, [claim, claims]] of Object.entries(bad))
    test(`rejects ${what}`, () =>
      expect(keyring.verify(forge(claims), NOW_MS)).toEqual({
        code: "bad-token",
        detail: `The claim "${claim}" of this token is missing or invalid. Ask its issuer for a new one.`,
      }));

  test.each([["a list"], "a string", null])("rejects %p as the payload", (payload) =>
    expect(keyring.verify(forge(payload), NOW_MS)).toEqual({ code: "bad-token", detail: NOT_OURS }),
  );

  test("rejects a token that has expired or is not valid yet", () => {
    expect(keyring.verify(forge({ sub: "ann", exp: NOW }), NOW_MS)).toEqual({
      code: "token-expired",
      detail: EXPIRED,
    });
    for (const claim of ["nbf", "iat"])
      expect(keyring.verify(forge({ sub: "ann", [claim]: NOW + 31 }), NOW_MS)).toEqual({
        code: "bad-token",
        detail: "This token is not valid yet. Try again later.",
      });
  });

  test("the clock of the signer may be 30 seconds ahead", () => {
    const claims = { sub: "ann", nbf: NOW + 30, iat: NOW + 30 };
    expect(keyring.verify(forge(claims), NOW_MS)).toMatchObject({ client: "ann" });
  });
});

describe("signatures", () => {
  const claims = { sub: "ann" };
  const [header = "", payload = "", signature = ""] = forge(claims).split(".");
  const [, other = ""] = forge({ sub: "eve" }).split(".");
  const forgeries: Record<string, string> = {
    "the signature of another secret": forge(claims, { secret: "another secret of thirty-two bytes" }),
    "an empty signature": `${header}.${payload}.`,
    'the algorithm "none"': forge(claims, { header: { alg: "none" } }),
    'the algorithm "none", unsigned': `${Buffer.from('{"alg":"none"}').toString("base64url")}.${payload}.`,
    "another algorithm, correctly signed": forge(claims, { header: { alg: "HS512" }, hash: "sha512" }),
    "another algorithm, signed with HS256": forge(claims, { header: { alg: "RS256" } }),
    "an algorithm in lower case": forge(claims, { header: { alg: "hs256" } }),
    "a header that is not an object": forge(claims, { header: "HS256" }),
    "a critical extension": forge(claims, { header: { alg: "HS256", crit: ["exp"] } }),
    "the signature of other claims": `${header}.${other}.${signature}`,
    "a truncated signature": `${header}.${payload}.${signature.slice(0, -2)}`,
    "a padded signature": `${header}.${payload}.${signature}=`,
    "a fourth part": `${header}.${payload}.${signature}.${signature}`,
    "white space around the token": ` ${header}.${payload}.${signature}`,
    "a line break in the token": `${header}.${payload}\n.${signature}`,
    "only dots": "..",
    "a very long text": `${"a".repeat(100_000)}.b.c`,
  };
  for (const [what, token] of Object.entries(forgeries))
    test(`rejects ${what}`, () =>
      expect(keyring.verify(token, NOW_MS)).toEqual({ code: "bad-token", detail: NOT_OURS }));

  test("accepts up to 8,192 characters", () => {
    const around = Array.from({ length: 20 }, (_, i) =>
      forge(claims, { header: { alg: "HS256", kid: "x".repeat(6000 + 10 * i) } }),
    );
    const isLong = (token: string) => token.length > 8192;
    expect(new Set(around.map(isLong)).size).toBe(2);
    for (const token of around) expect("detail" in keyring.verify(token, NOW_MS)).toBe(isLong(token));
  });

  test("accepts its own signature; the hash agrees with RFC 7515, appendix A.1", () => {
    expect<unknown>(keyring.verify(tokens.sign("ann", ["tea"], NOW + 60), NOW_MS)).toMatchObject({
      client: "ann",
      rooms: new Set(["tea"]),
      can: new Set(["read", "write"]),
      expiresMs: NOW_MS + 60_000,
    });
    const hmac = new Bun.CryptoHasher(
      "sha256",
      Buffer.from(
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
        "base64url",
      ),
    );
    expect(
      hmac
        .update(
          "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ",
        )
        .digest("base64url"),
    ).toBe("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
  });
});

const later = () => Date.now() / 1000 + 60;
const withSecret = () => startServer(SECURED);

describe("access", () => {
  test("without a token, rooms and the echo are closed, and the page is open", async () => {
    await using server = await withSecret();
    for (const path of ["/ws/ann", "/websocket/ann", "/websocket", "/ws/ann?token=", "/ws/ann?token=x"])
      for (const headers of [{}, UPGRADE]) {
        const response = await server.get(path, { headers });
        expect([response.status, response.headers.get("www-authenticate")]).toEqual([401, "Bearer"]);
        expect(await response.text()).toBe(path.endsWith("x") ? `${NOT_OURS}\n` : NONE);
      }
    expect((await server.get("/client")).status).toBe(200);
    expect((await server.get("/hubbub.js")).status).toBe(200);
  });

  test("a token is accepted as a header, an offered subprotocol or in the address, and never sent back", async () => {
    await using server = await withSecret();
    const token = forge({ sub: "ann" });
    const requests: [string, Record<string, string>][] = [
      ["/ws/ann", { Authorization: `Bearer ${token}` }],
      ["/ws/ann", { Authorization: `bearer ${token}` }],
      ["/ws/ann", { "Sec-WebSocket-Protocol": `token.${token}` }],
      ["/ws/ann", { "Sec-WebSocket-Protocol": `token.${token}, ${SUBPROTOCOL}` }],
      ["/ws/ann", { "Sec-WebSocket-Protocol": `${SUBPROTOCOL},token.${token}` }],
      [`/ws/ann?token=${token}`, {}],
      [`/websocket?token=${token}`, {}],
    ];
    for (const [path, headers] of requests) {
      const response = await server.get(path, { headers: { ...UPGRADE, ...headers } });
      const isJson = headers["Sec-WebSocket-Protocol"]?.includes(SUBPROTOCOL);
      expect([response.status, response.headers.get("sec-websocket-protocol")]).toEqual([
        101,
        isJson ? SUBPROTOCOL : null,
      ]);
      expect(JSON.stringify([...response.headers])).not.toContain(token);
    }
  });

  test("a token is valid for its client and rooms only", async () => {
    await using server = await withSecret();
    const headers = { Authorization: `Bearer ${forge({ sub: "ann", rooms: ["tea"] })}` };
    expect(await server.answer("/ws/bob?room=tea", { headers })).toEqual({
      status: 403,
      body: "This token is for another client id. Connect with the id that it names.\n",
    });
    for (const path of ["/ws/ann", "/ws/ann?room=coffee"])
      expect(await server.answer(path, { headers })).toEqual({
        status: 403,
        body: "This token does not cover this room. Choose a room that it names.\n",
      });
    await using ann = await server.open("/ws/ann?room=tea", headers);
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
  });

  test("when a token expires, its connections are closed, and no others", async () => {
    await using server = await withSecret();
    await using bob = await server.open(
      `/ws/bob?token=${forge({ sub: "bob", exp: Date.now() / 1000 + 1e9 })}`,
    );
    // Time enough to connect on a busy machine.
    const short = forge({ sub: "ann", exp: Date.now() / 1000 + 4 });
    const peers = await Promise.all([
      server.open(`/ws/ann?token=${short}`),
      server.open(`/ws/ann?token=${short}`, { "Sec-WebSocket-Protocol": SUBPROTOCOL }),
      server.open(`/websocket?token=${short}`),
    ]);
    const ends = peers.map((peer) => peer.closes());
    for (const end of ends)
      expect(await end).toEqual({ code: 4002, reason: "The token has expired. Reconnect with a new one." });
    await bob.hears("Client #ann left the chat");
    expect(await server.answer(`/ws/ann?token=${short}`)).toEqual({ status: 401, body: `${EXPIRED}\n` });
  });
});

test("a token that expires later than a timer can wait does not expire at once", async () => {
  await using server = await withSecret();
  await using ann = await server.open(
    `/ws/ann?token=${forge({ sub: "ann", exp: Date.now() / 1000 + 40 * 86_400 })}`,
  );
  for (let i = 0; i < 10; i++) await ann.hearsNothingBeforePong();
});

test("a client whose token expires while the store opens its room has left, and is not counted", async () => {
  const store = { name: "a delayed store", url: "delayed:?delay=100&seed=1", preload: "delayed-store.ts" };
  await using server = await startServer({ ...SECURED, store });
  const peers = await Promise.allSettled(
    Array.from({ length: 5 }, (_, i) =>
      server.open(`/ws/late${i}?token=${forge({ sub: `late${i}`, exp: Date.now() / 1000 + 0.03 })}`),
    ),
  );
  for (const peer of peers) if (peer.status === "fulfilled") await peer.value.closes();
  const headers = { "Sec-WebSocket-Protocol": `${SUBPROTOCOL}, token.${forge({ sub: "bob" })}` };
  const bob = await JsonPeer.over(await server.open("/ws/bob", headers));
  expect(bob.welcome).toMatchObject({ count: 1, members: ["bob"] });
});

describe("clients with tokens", () => {
  test("the client library sends its token, and learns why it is rejected", async () => {
    await using server = await withSecret();
    await using bob = await server.open(`/ws/bob?token=${forge({ sub: "bob" })}`);
    const ann = connect({ server: server.origin, id: "ann", token: forge({ sub: "ann", exp: later() }) });
    ann.send("hi");
    await bob.hears("Client #ann says: hi");
    ann.close();
    const closed = Promise.withResolvers<ConnectionState>();
    connect({ server: server.origin, id: "eve", token: forge({ sub: "ann" }) }).on("state", (state) => {
      if (state.status === "closed") closed.resolve(state);
    });
    expect(await withDeadline(closed.promise, () => "still trying")).toEqual({
      status: "closed",
      statusCode: 403,
      code: "not-for-client",
      reason: "This token is for another client id. Connect with the id that it names.",
    });
  });

  const source = `${import.meta.dir}/../../src/server.ts`;
  const run = (args: string[], env: Record<string, string>, input = "") =>
    Bun.$`${process.execPath} ${source} ${args} < ${new Response(input)}`
      .env({ ...process.env, ...env })
      .quiet()
      .nothrow();

  test("`hubbub token` prints a link, which `hubbub join` accepts", async () => {
    await using server = await withSecret();
    await using bob = await server.open(`/ws/bob?room=tea&token=${forge({ sub: "bob" })}`);
    const env = { HUBBUB_SECRET: SECRET };
    const made = await run(["token", "陳大文", "--room", "tea", "--port", `${server.port}`], env);
    const link = `${made.stdout}`.trim();
    expect(link).toStartWith(`http://localhost:${server.port}/client?room=tea&token=`);
    expect<unknown>(keyring.verify(link.split("token=")[1] ?? "", Date.now())).toMatchObject({
      client: "陳大文",
      rooms: new Set(["tea"]),
    });
    const joined = await run(["join", link], {}, "hi\n");
    expect([joined.exitCode, `${joined.stderr}`]).toEqual([0, ""]);
    await bob.hears("Client #陳大文 says: hi", "Client #陳大文 left the chat");

    const address = link.replace(/&token=.*/, "");
    const hidden = await run(["join", address], { HUBBUB_TOKEN: link.split("token=")[1] ?? "" }, "ho\n");
    expect(hidden.exitCode).toBe(0);
    await bob.hears("Client #陳大文 says: ho", "Client #陳大文 left the chat");
    const without = await run(["join", `${address}&id=ann`], {}, "ho\n");
    expect([without.exitCode, `${without.stderr}`]).toEqual([1, `${NONE}Not acknowledged: 1 line.\n`]);
  });

  test("`hubbub token` reports what is missing", async () => {
    const cases: [string[], string][] = [
      [["ann"], "token: expected the server's secret in --secret-file or HUBBUB_SECRET\n"],
      [
        ["a b", "--days", "0", "--can", "fly"],
        '--can: expected read, write, moderate or metrics, got "fly"\n--days: expected 1–36500, got "0"\ntoken: A client id is 1 to 64 letters, digits, "_", "-" or ".": choose another one.\ntoken: expected the server\'s secret in --secret-file or HUBBUB_SECRET\n',
      ],
    ];
    const secret = { HUBBUB_SECRET: SECRET };
    const noClient = await run(["token"], secret);
    expect(`${noClient.stderr}`).toBe('token: expected one client id, as in "hubbub token ann"\n');
    for (const [args, expected] of cases) {
      const { exitCode, stderr } = await run(["token", ...args], {});
      expect([exitCode, `${stderr}`]).toEqual([2, expected]);
    }
  });
});
