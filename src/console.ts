/** What the operator is told: where the server is, and what went wrong. */

import { note } from "./log.ts";
import { os } from "./node.ts";
import type { Command, Options } from "./options.ts";
import { isLocalOnly } from "./option-values.ts";
import { StoreError } from "./store.ts";
import { Tokens } from "./tokens.ts";

type Address = Pick<Bun.Server<unknown>, "hostname" | "port">;

/** At a terminal, each address that can be clicked, and who can get in; elsewhere (a log, a pipe), one line. */
export function greet(
  version: string,
  { hostname = "localhost", port }: Address,
  /** Where messages are kept. */
  promise: string,
  { host, publicUrl, secretFile, tlsCert, store, log }: Options,
  isTerminal: boolean,
): void {
  const names = publicUrl
    ? [publicUrl.origin]
    : namesOf(hostname).map((name) => `${schemeOf(tlsCert)}://${name}:${port}`);
  const [first = "", ...others] = names.map((name) => `${name}/client`);
  const isOpen = !isLocalOnly({ host, publicUrl });
  const who = secretFile
    ? "whoever has a token"
    : isOpen
      ? "whoever can reach it, under any name"
      : "this machine";
  if (log === "json")
    return note("listening", {
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
  for (const other of others) console.log(`  ${other}  (from your network)`);
  console.log(`\nMessages are kept ${promise}.`);
  console.log(`Who can join: ${who}${secretFile ? " (hubbub token NAME makes a link with one)" : ""}.`);
  console.log("Ctrl+C stops it.");
}

/** Whether somebody may click on what is printed. `process.stdout` takes long to load: only where it may be one. */
export function isTerminal(): boolean {
  const mayBe = Bun.enableANSIColors || Boolean(process.env.NO_COLOR); // at a terminal, colors can be turned off
  return mayBe && process.stdout.isTTY;
}

/** A link by which a client comes in; the token is its last part. */
export function link({ client, options }: Extract<Command, { do: "token" }>): string {
  const { publicUrl, host, port, tlsCert, secretFile = Buffer.of(), room, can, days } = options;
  const [name] = namesOf(host);
  const expires = Math.floor(Date.now() / 1000) + days * 24 * 60 * 60;
  const token = new Tokens(secretFile).sign(client, room, expires, can);
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
    const addresses = Object.values(os().networkInterfaces()).flatMap((of) => of ?? []);
    return [
      "localhost",
      ...addresses.filter(({ family, internal }) => family === "IPv4" && !internal).map((of) => of.address),
    ];
  }
  if (hostname === "127.0.0.1" || hostname === "::1") return ["localhost"];
  return [hostname.includes(":") ? `[${hostname}]` : hostname];
}

export function describeListenError(error: unknown, { host, port }: Options): string {
  if (!(error instanceof Error)) throw error;
  if (error instanceof StoreError) return error.message;
  const code = "code" in error ? error.code : undefined;
  switch (code) {
    case "EADDRINUSE":
      return `Port ${port} is in use: stop what is listening there, or choose another with --port.`;
    case "EACCES":
      return `Port ${port} is not allowed for this user: choose one above 1023 with --port.`;
    case "EADDRNOTAVAIL":
    case "ENOTFOUND":
      return `Cannot listen on ${host}: choose an address of this machine with --host.`;
    case "ERR_OSSL_X509_KEY_VALUES_MISMATCH":
      return "The key is not the certificate's: choose two files that belong together with --tls-cert and --tls-key.";
    default:
      if (`${code}`.startsWith("ERR_OSSL_"))
        return `The certificate or its key cannot be used (${error.message}): choose others with --tls-cert and --tls-key.`;
      return `Cannot listen on ${host}, port ${port}: ${error.message}`;
  }
}
