/** Keys are rotated while the server runs: files are read again every 10 s, and on SIGHUP. */

import { describe, expect, jest, setDefaultTimeout, test } from "bun:test";
import { generateKeyPairSync, sign } from "node:crypto";
import { mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { readKeyFile } from "../../src/auth/key-files.ts";
import { Keyring } from "../../src/auth/keyring.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { systemClock } from "../../src/util/clock.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import { useFakeTime } from "../support/fake-time.ts";
import { makeToken, tokenOf } from "../support/keys.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const [OLD, NEW] = ["the old secret, of thirty-two bytes", "the new secret, of thirty-two bytes"];
const REVOKED = { code: 4002, reason: "The token is no longer valid. Reconnect with a new one." };

/** Paths may contain blanks and commas. */
const newFolder = () => new TempFolder("hubbub keys, ");

describe("a keyring", () => {
  useFakeTime();

  function watch(...files: string[]) {
    const sources = files.map((file) => {
      const source = readKeyFile(file.endsWith("pem") ? "public" : "secret", file);
      if ("expected" in source) throw new Error(source.expected);
      return source;
    });
    const ring = new Keyring(sources);
    const changes: true[] = [];
    ring.watch(systemClock, () => changes.push(true));
    const accepts = (secret: string) =>
      !("detail" in ring.verify(tokenOf("ann", { secret: secret }), Date.now()));
    return { ring, changes, accepts };
  }

  test("reads its files every 10 s, and says when a key has changed", () => {
    using folder = newFolder();
    const file = folder.write("secret", OLD);
    const { changes, accepts } = watch(file);
    folder.write("secret", NEW);
    jest.advanceTimersByTime(9_999);
    expect([accepts(OLD), accepts(NEW), changes.length]).toEqual([true, false, 0]);
    jest.advanceTimersByTime(1);
    expect([accepts(OLD), accepts(NEW), changes.length]).toEqual([true, false, 0]);
    jest.advanceTimersByTime(1000); // what is new is read twice
    expect([accepts(OLD), accepts(NEW), changes.length]).toEqual([false, true, 1]);
    folder.write("secret", `${NEW}\n`); // the same key
    jest.advanceTimersByTime(20_000);
    expect([accepts(NEW), changes.length]).toEqual([true, 1]);
  });

  test("keeps the keys of a file that is missing, empty, too short, too long or broken, and takes the next good ones", () => {
    using folder = newFolder();
    const file = folder.write("secret", OLD);
    const { publicKey } = generateKeyPairSync("ed25519");
    const pem = folder.write("key.pem", String(publicKey.export({ type: "spki", format: "pem" })));
    const { ring, changes, accepts } = watch(file, pem);
    const id = readKeyFile("public", pem);
    if ("expected" in id) throw new Error(id.expected);
    for (const text of ["", "short", "x".repeat(1024 * 1024 + 1), "-----BEGIN PUBLIC KEY-----", "\0"]) {
      folder.write("secret", text);
      folder.write("key.pem", text);
      jest.advanceTimersByTime(11_000);
      expect([accepts(OLD), ring.has(id.keys[0]), changes.length]).toEqual([true, true, 0]);
    }
    for (const replace of [() => {}, () => mkdirSync(file), () => symlinkSync(file, file)]) {
      rmSync(file, { recursive: true, force: true });
      replace();
      jest.advanceTimersByTime(11_000);
      expect([accepts(OLD), changes.length]).toEqual([true, 0]);
    }
    folder.write("secret", NEW);
    jest.advanceTimersByTime(11_000);
    expect([accepts(OLD), accepts(NEW), ring.has(id.keys[0]), changes.length]).toEqual([
      false,
      true,
      true,
      1,
    ]);
  });

  test("does not use a file while it is being written", () => {
    using folder = newFolder();
    const pems = [0, 1].map(() =>
      String(generateKeyPairSync("ed25519").publicKey.export({ type: "spki", format: "pem" })),
    );
    const LONG = NEW.repeat(3);
    const secret = folder.write("secret", OLD);
    const pem = folder.write("keys.pem", pems.join(""));
    const { ring, changes, accepts } = watch(secret, pem);
    const before = readKeyFile("public", pem);
    if ("expected" in before) throw new Error(before.expected);
    const hasAll = () => before.keys.every((key) => ring.has(key));
    jest.advanceTimersByTime(9500);
    // Each part of at least 32 bytes is a valid secret, and each whole key a valid file.
    for (const part of [0, 10, 40, 60, 80]) {
      for (const length of [part, part + 1]) {
        writeFileSync(secret, LONG.slice(0, length));
        writeFileSync(pem, pems.join("").slice(0, 2 * length));
        jest.advanceTimersByTime(1000);
      }
      expect([accepts(OLD), accepts(LONG.slice(0, part)), hasAll(), changes.length]).toEqual([
        true,
        false,
        true,
        0,
      ]);
      jest.advanceTimersByTime(8000);
    }
    writeFileSync(secret, LONG);
    writeFileSync(pem, pems.join(""));
    jest.advanceTimersByTime(11_000);
    expect([accepts(OLD), accepts(LONG), hasAll(), changes.length]).toEqual([false, true, true, 1]);
  });

  test("a current secret that becomes the previous one locks nobody out", () => {
    using folder = newFolder();
    const [current, previous] = [folder.write("current", OLD), folder.write("previous", OLD)];
    const { ring, accepts } = watch(current, previous);
    const first = ring.verify(tokenOf("ann", { secret: OLD }), Date.now());
    if ("detail" in first) throw new Error(first.detail);
    renameSync(current, previous);
    jest.advanceTimersByTime(11_000);
    expect([accepts(OLD), ring.has(first.key)]).toEqual([true, true]);
    folder.write("current", NEW);
    jest.advanceTimersByTime(11_000);
    expect([accepts(OLD), accepts(NEW), ring.has(first.key)]).toEqual([true, true, true]);
    renameSync(current, previous);
    folder.write("current", "the third secret, of thirty-two bytes");
    jest.advanceTimersByTime(11_000);
    expect([accepts(OLD), accepts(NEW), ring.has(first.key)]).toEqual([false, true, false]);
  });

  test("verifies with every secret", () => {
    using folder = newFolder();
    const { accepts } = watch(folder.write("a", OLD), folder.write("b", NEW));
    expect([accepts(OLD), accepts(NEW), accepts(`${OLD}.`)]).toEqual([true, true, false]);
  });
});

test("SIGHUP reloads: connections whose key is gone are closed with 4002, others stay", async () => {
  using folder = newFolder();
  const issuer = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const secret = folder.write("secret", OLD);
  const jwks = (...keys: object[]) => folder.write("jwks.json", JSON.stringify({ keys }));
  const jwk = issuer.publicKey.export({ format: "jwk" });
  const args = ["--log", "text", "--secret-file", secret, "--public-key-file", jwks(jwk)];
  await using server = await startServer({ args });
  const signed = makeToken(
    { alg: "ES256" },
    { sub: "mary", aud: "hubbub", exp: Date.now() / 1000 + 600 },
    (text) => sign("sha256", Buffer.from(text), { key: issuer.privateKey, dsaEncoding: "ieee-p1363" }),
  );
  const old = tokenOf("ann", { secret: OLD });
  const peers = [
    await server.open(`/ws/ann?token=${old}`),
    await server.open(`/ws/ann?token=${old}`, { "Sec-WebSocket-Protocol": SUBPROTOCOL }),
    await server.open(`/websocket?token=${old}`),
  ];
  await using mary = await server.open(`/ws/mary?token=${signed}`);
  const stream = await server.get("/rooms/lobby/events", { headers: { Authorization: `Bearer ${old}` } });
  expect(stream.status).toBe(200);

  folder.write("secret", "too short");
  server.process.kill("SIGHUP");
  await server.logs(/ keys rejected file="?.*secret"? /m);
  folder.write("secret", `${NEW}\r\n`);
  server.process.kill("SIGHUP");
  await server.logs(/ keys reloaded file="?.*secret"? keys=1$/m);
  expect((await server.get(`/ws/bob?token=${tokenOf("bob", { secret: NEW })}`)).status).toBe(426);
  for (const peer of peers) expect(await peer.closes()).toEqual(REVOKED);
  await withDeadline(stream.text(), () => "the event stream has not ended");
  expect((await server.get(`/ws/ann?token=${old}`)).status).toBe(401);
  await mary.hears("Client #ann left the chat");

  const other = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" });
  jwks(other);
  server.process.kill("SIGHUP");
  expect(await mary.closes()).toEqual(REVOKED);
  await server.logs(/ keys reloaded file="?.*jwks\.json"? keys=1$/m);
  expect(server.log()).not.toContain(OLD);
  expect(server.log()).not.toContain(NEW);
});

test("a client whose key is removed while the store opens its room does not stay", async () => {
  using folder = newFolder();
  const store = { name: "a delayed store", url: "delayed:?delay=300&seed=1", preload: "delayed-store.ts" };
  await using server = await startServer({ args: ["--secret-file", folder.write("secret", OLD)], store });
  const opening = Array.from({ length: 5 }, (_, i) =>
    server.open(`/ws/late${i}?room=r${i}&token=${tokenOf(`late${i}`, { secret: OLD })}`),
  );
  const streams = Array.from({ length: 5 }, (_, i) =>
    server.get(`/rooms/s${i}/events?token=${tokenOf(`late${i}`, { secret: OLD })}`),
  );
  const isOpening = async () => (await server.metrics()).get("hubbub_rooms") === 10;
  await eventually(isOpening, "all rooms are open or being opened");
  folder.write("secret", NEW);
  server.process.kill("SIGHUP");
  for (const peer of await Promise.allSettled(opening))
    if (peer.status === "fulfilled") expect(await peer.value.closes()).toEqual(REVOKED);
  for (const response of await Promise.all(streams))
    await withDeadline(response.text(), () => "the event stream does not end");
});

test("a bad file is logged, with what is wrong and not what is in it", async () => {
  using folder = newFolder();
  const file = folder.write("secret", OLD);
  await using server = await startServer({ args: ["--log", "text", "--secret-file", file] });
  await using ann = await server.open(`/ws/ann?token=${tokenOf("ann", { secret: OLD })}`);
  folder.write("secret", "confidential");
  server.process.kill("SIGHUP");
  await server.logs(/ keys rejected file=.*secret"? expected="a secret of at least 32 bytes"/m);
  rmSync(file);
  mkdirSync(file);
  server.process.kill("SIGHUP");
  await server.logs(/ keys rejected file=.*secret"? expected="a readable file"/m);
  expect(server.log()).not.toContain("confidential");
  ann.says("still here");
  await ann.hears("You wrote: still here", "Client #ann says: still here");
});

test("files are checked when the server starts: names may have blanks and commas, the environment separates by commas", async () => {
  using folder = newFolder();
  const [a, b] = [folder.write("a", OLD), folder.write("b", NEW)];
  const source = `${import.meta.dir}/../../src/server.ts`;
  const run = (args: string[], env = {}) =>
    Bun.$`${process.execPath} ${source} token ann ${args}`
      .env({ ...process.env, ...env })
      .quiet()
      .nothrow();
  const signedBy = async (args: string[], env = {}) => {
    const token = new URL(`${(await run(args, env)).stdout}`.trim()).searchParams.get("token") ?? "";
    return [OLD, NEW].filter((secret) => {
      const [header, claims, signature] = token.split(".");
      return (
        new Bun.CryptoHasher("sha256", secret).update(`${header}.${claims}`).digest("base64url") === signature
      );
    });
  };
  expect(await signedBy(["--secret-file", a, "--secret-file", b])).toEqual([OLD]);
  expect(await signedBy(["--secret-file", b, "--secret-file", a])).toEqual([NEW]);
  using plain = newFolder();
  using short = new TempFolder();
  const [c, d] = [short.write("c", OLD), short.write("d", NEW)];
  expect(await signedBy([], { HUBBUB_SECRET_FILE: `${d}, ${c}` })).toEqual([NEW]);
  const bad = plain.write("bad", "too short");
  const { exitCode, stderr } = await run(["--secret-file", a, "--secret-file", bad, "--public-key-file", b]);
  expect([exitCode, `${stderr}`]).toEqual([
    2,
    `--secret-file: expected a secret of at least 32 bytes, got ${JSON.stringify(bad)}\n` +
      `--public-key-file: expected public keys (Ed25519, P-256 or RSA) in PEM, as a JWK or a JWKS, got ${JSON.stringify(b)}\n`,
  ]);
});
