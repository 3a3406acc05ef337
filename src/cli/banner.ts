/** What the operator is told: where the server is, and what went wrong. */

import { logEvent } from "../ops/log.ts";
import { lazyOs, tty } from "../util/lazy-node.ts";
import type { CliCommand, ServerOptions } from "./command.ts";
import { isLocalOnly } from "./option-values.ts";
import { StoreError } from "../store/store.ts";
import { TokenSigner } from "../auth/tokens.ts";

type Address = Pick<Bun.Server<unknown>, "hostname" | "port">;

/** At a terminal, each address that can be clicked, and who can get in; elsewhere (a log, a pipe), one line. */
export function printBanner(
  version: string,
  { hostname = "localhost", port }: Address,
  /** Where messages are kept. */
  promise: string,
  { host, publicUrl, secretFile, tlsCert, store, log }: ServerOptions,
  isTerminal: boolean,
): void {
  const names = publicUrl
    ? [publicUrl.origin]
    : namesOf(hostname).map((name) => `${schemeOf(tlsCert)}://${name}:${port}`);
  const [first = "", ...positionals] = names.map((name) => `${name}/client`);
  const isOpen = !isLocalOnly({ host, publicUrl });
  const who = secretFile
    ? "whoever has a token"
    : isOpen
      ? "whoever can reach it, under any name"
      : "this machine";
  if (log === "json")
    return logEvent("listening", {
      version,
      address: first,
      port,
      store: store.protocol,
      kept: promise,
      "who can join": who,
    });
  const behind = publicUrl ? `port ${port}, reached as ` : "";
  const kept = store.protocol === "memory:" ? "" : `; messages are kept ${promise}`;
  const open = isOpen && !secretFile ? `; who can join: ${who}` : "";
  if (!isTerminal) return console.log(`Hubbub ${version} is listening on ${behind}${first}${open}${kept}`);
  console.log(`Hubbub ${version}\n\n  ${first}${publicUrl ? `  (on port ${port} here)` : ""}`);
  for (const other of positionals) console.log(`  ${other}  (from your network)`);
  console.log(`\nMessages are kept ${promise}.`);
  console.log(`Who can join: ${who}${secretFile ? " (hubbub token NAME makes a link with one)" : ""}.`);
  console.log("Ctrl+C stops it.");
}

/** Whether somebody may click on what is printed. `process.stdout` takes long to load: only where it may be one. */
export function isTerminal(): boolean {
  const mayBe = Bun.enableANSIColors || Boolean(process.env.NO_COLOR); // at a terminal, colors can be turned off
  return mayBe && process.stdout.isTTY;
}

/** Whether it was started on a terminal, wherever its output goes. */
export function isOnTerminal(): boolean {
  return [0, 1, 2].some((stream) => tty().isatty(stream));
}

/** A link by which a client comes in; the token is its last part. */
export function tokenUrl({ client, options }: Extract<CliCommand, { kind: "token" }>): string {
  const { publicUrl, host, port, tlsCert, secretFile = Buffer.of(), room, can, days } = options;
  const [name] = namesOf(host);
  const expires = Math.floor(Date.now() / 1000) + days * 24 * 60 * 60;
  const token = new TokenSigner(secretFile).sign(client, room, expires, can);
  const path = can.includes("metrics") && !can.includes("read") ? "metrics" : "client";
  const query = new URLSearchParams({ ...(room[0] ? { room: room[0] } : {}), token });
  return `${publicUrl?.origin ?? `${schemeOf(tlsCert)}://${name}:${port}`}/${path}?${query}`;
}

function schemeOf(tlsCert: string | undefined): "http" | "https" {
  return tlsCert === undefined ? "http" : "https";
}

/** The names by which a listener is reached: the one for this machine first. */
function namesOf(hostname: string): string[] {
  if (hostname === "0.0.0.0" || hostname === "::") {
    const addresses = Object.values(lazyOs().networkInterfaces()).flatMap((of) => of ?? []);
    return [
      "localhost",
      ...addresses.filter(({ family, internal }) => family === "IPv4" && !internal).map((of) => of.address),
    ];
  }
  if (hostname === "127.0.0.1" || hostname === "::1") return ["localhost"];
  return [hostname.includes(":") ? `[${hostname}]` : hostname];
}

/** A start that failed, in a sentence; undefined for a fault of ours, of which all has to be told. */
export function describeStartError(error: unknown, { host, port }: ServerOptions): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error instanceof StoreError) return error.message;
  const code = "code" in error ? String(error.code) : "";
  if (code.startsWith("ERR_OSSL_")) return describeTlsError(code, error.message);
  switch (code) {
    case "EADDRINUSE":
      return `Port ${port} is in use: stop what is listening there, or choose another with --port.`;
    case "EACCES":
      return `Port ${port} is not allowed for this user: choose one above 1023 with --port.`;
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return `Cannot listen on ${host}: choose an address of this machine with --host.`;
    default:
      return code && `Cannot listen on ${host}, port ${port}: ${error.message}`;
  }
}

/** 2 only for what starting again cannot mend, since a supervisor gives up then: of what shows this late, two files that do not fit. */
export function startExitCode(error: unknown): 1 | 2 {
  return error instanceof Error && "code" in error && String(error.code).startsWith("ERR_OSSL_") ? 2 : 1;
}

function describeTlsError(code: string, message: string): string {
  return code === "ERR_OSSL_X509_KEY_VALUES_MISMATCH"
    ? "The key is not the certificate's: choose two files that belong together with --tls-cert and --tls-key."
    : `The certificate or its key cannot be used (${message}): choose others with --tls-cert and --tls-key.`;
}
