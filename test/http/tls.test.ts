/** TLS without a proxy: `--tls-cert` and `--tls-key`. */

import { describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { version } from "../../package.json";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { withDeadline } from "../support/deadline.ts";
import { JsonPeer, Peer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { openRaw } from "../support/raw-websocket.ts";
import { TempFolder } from "../support/temp-folder.ts";

const CERT = `${import.meta.dir}/../support/tls/localhost.crt`;
const KEY = `${import.meta.dir}/../support/tls/localhost.key`;
const TLS = ["--tls-cert", CERT, "--tls-key", KEY];
const ca = await Bun.file(CERT).text();
const SECRET = "0123456789abcdef0123456789abcdef";
const source = `${import.meta.dir}/../../src/server.ts`;

async function run(...args: readonly string[]) {
  const server = Bun.spawn([process.execPath, source, "--port", "0", ...args], {
    stdout: "pipe",
    stderr: "pipe",
  });
  try {
    const end = Promise.all([server.exited, server.stdout.text(), server.stderr.text()]);
    const [exitCode, stdout, stderr] = await withDeadline(end, () => `it runs, with ${args.join(" ")}`);
    return { exitCode, stdout, stderr };
  } finally {
    server.kill();
  }
}

describe("with a certificate and its key", () => {
  const originOf = ({ port }: TestServer) => `https://localhost:${port}`;
  const secure = { tls: { ca } };

  async function open(server: TestServer, path: string, headers: Record<string, string> = {}): Promise<Peer> {
    const peer = new Peer(`wss://localhost:${server.port}${path}`, headers, ca);
    await peer.opened;
    return peer;
  }

  test("both wires share a room, and large messages arrive whole", async () => {
    await using server = await startServer({ args: TLS });
    await using ann = await open(server, "/ws/ann");
    const headers = { "Sec-WebSocket-Protocol": SUBPROTOCOL };
    await using bob = await JsonPeer.over(await open(server, "/ws/bob?session=s", headers));
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    await bob.hears({ type: "message", from: "ann", text: "hi" });
    const text = "語".repeat(20_000);
    bob.says(text, { seq: 1 });
    await bob.hears({ type: "ack", seq: 1 }, { type: "message", from: "bob", text });
    await ann.hears(`Client #bob says: ${text}`);
    await bob.leaves();
    await ann.hears("Client #bob left the chat");
  });

  test("the page is served, and its own origin may connect; another may not", async () => {
    await using server = await startServer({ args: TLS });
    const page = await fetch(`${originOf(server)}/client`, secure);
    expect([page.status, page.headers.get("content-type")]).toEqual([200, "text/html; charset=utf-8"]);
    await using ann = await open(server, "/ws/ann", { Origin: originOf(server) });
    await ann.hearsNothing();
    const headers = { Origin: "https://localhost:1" };
    expect(await fetch(`${originOf(server)}/ws/ann`, { ...secure, headers })).toHaveProperty("status", 403);
  });

  test("the printed link says https", async () => {
    await using server = await startServer({ args: TLS });
    expect(server.greeting).toBe(`Hubbub ${version} is listening on ${originOf(server)}/client\n`);
    const env = { ...process.env, HUBBUB_SECRET: SECRET, HUBBUB_TLS_CERT: CERT };
    const link = await Bun.$`${process.execPath} ${source} token ann --port ${server.port}`.env(env).text();
    expect(link).toStartWith(`${originOf(server)}/client?token=`);
  });

  test("hubbub join connects if the certificate is trusted", async () => {
    await using server = await startServer({ args: TLS });
    await using bob = await open(server, "/ws/bob");
    await using join = Bun.spawn([process.execPath, source, "join", `${originOf(server)}/client?id=ann`], {
      env: { ...process.env, NODE_EXTRA_CA_CERTS: CERT },
      stdin: new Blob(["hi\n"]),
      stdout: "ignore",
      stderr: "ignore",
    });
    await bob.hears("Client #ann says: hi");
    expect(await withDeadline(join.exited, () => "join does not end")).toBe(0);
  });

  test("plain HTTP gets no page and does not disturb others", async () => {
    await using server = await startServer({ args: TLS });
    await using ann = await open(server, "/ws/ann");
    await using stranger = openRaw(server, "/client");
    expect(await stranger.head()).toBeUndefined();
    await using silent = openRaw(server, "", {}, "\x16\x03");
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    silent.vanishes();
    await ann.hearsNothing();
  });
});

describe("files that cannot work: one sentence and exit code 2", () => {
  const NOT_CERTIFICATE = "--tls-cert: expected a PEM certificate, got";
  const NOT_KEY = "--tls-key: expected a PEM key without a passphrase, got";
  const NEEDED = "expected a file: a certificate and its key are needed together";

  async function rejects(cert: string, key: string, ...sentences: readonly string[]): Promise<void> {
    const stderr = sentences.map((sentence) => `${sentence}\n`).join("");
    expect(await run("--tls-cert", cert, "--tls-key", key)).toEqual({ exitCode: 2, stdout: "", stderr });
  }

  test("a certificate without a key, and the reverse", async () => {
    const stdout = "";
    expect(await run("--tls-cert", CERT)).toEqual({ exitCode: 2, stdout, stderr: `--tls-key: ${NEEDED}\n` });
    expect(await run("--tls-key", KEY)).toEqual({ exitCode: 2, stdout, stderr: `--tls-cert: ${NEEDED}\n` });
  });

  test("a missing file", () =>
    rejects("/nowhere", KEY, '--tls-cert: expected a readable file, got "/nowhere"'));

  test("files that are not PEM", () =>
    rejects(import.meta.path, source, `${NOT_CERTIFICATE} "${import.meta.path}"`, `${NOT_KEY} "${source}"`));

  test("certificate and key swapped", () =>
    rejects(KEY, CERT, `${NOT_CERTIFICATE} "${KEY}"`, `${NOT_KEY} "${CERT}"`));

  test("empty files, which Bun takes for no TLS at all", () =>
    rejects("/dev/null", "/dev/null", `${NOT_CERTIFICATE} "/dev/null"`, `${NOT_KEY} "/dev/null"`));

  test("a key of another certificate, a key with a passphrase, a damaged certificate", async () => {
    using folder = new TempFolder();
    const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const form = { type: "pkcs8", format: "pem" } as const;
    const other = folder.write("other.key", `${privateKey.export(form)}`);
    await rejects(
      CERT,
      other,
      "The key does not belong to the certificate. Choose matching files with --tls-cert and --tls-key.",
    );
    const locked = folder.write(
      "locked.key",
      `${privateKey.export({ ...form, cipher: "aes-256-cbc", passphrase: "tea" })}`,
    );
    await rejects(CERT, locked, `${NOT_KEY} "${locked}"`);
    const damaged = folder.write("damaged.crt", ca.replace("CERTIFICATE-----\nM", "CERTIFICATE-----\nN"));
    expect((await run("--tls-cert", damaged, "--tls-key", KEY)).stderr).toMatch(
      /^The certificate or its key cannot be used \(.+\)\. Choose others with --tls-cert and --tls-key\.\n$/,
    );
  });
});
