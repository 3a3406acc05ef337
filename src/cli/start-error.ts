/** Why the server could not start: a sentence for the operator, and the exit code. */

import type { CliOptions } from "./parse-command.ts";
import { StoreError } from "../store/store.ts";

/**
 * Supervisors give up on exit code 2, so it is only for what a restart cannot fix. An unexpected error has no sentence:
 * it needs its stack.
 */
export function explainStartError(
  error: unknown,
  { host, port }: CliOptions,
): { readonly exitCode: 1 | 2; readonly sentence?: string } {
  if (error instanceof StoreError) return { exitCode: 1, sentence: error.message };
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (!(error instanceof Error) || !code) return { exitCode: 1 };
  // The command line is checked before: this late, a certificate and a key show that they do not belong together.
  if (code.startsWith("ERR_OSSL_")) return { exitCode: 2, sentence: describeTlsError(code, error.message) };
  return { exitCode: 1, sentence: describeListenError(code, error.message, host, port) };
}

function describeListenError(code: string, message: string, host: string, port: number): string {
  // Bun reports EADDRINUSE for a host name that cannot be resolved, too.
  const isName = /[^\d.:a-f]/.test(host) && host !== "localhost";
  if (code === "EADDRINUSE" && port !== 0)
    return `Port ${port} is in use${isName ? `, or the name ${host} is unknown` : ""}. Stop the program that listens there, or choose another port with --port.`;
  if (code === "EACCES")
    return `Port ${port} is not allowed for this user. Choose one above 1023 with --port.`;
  return ["EADDRINUSE", "EADDRNOTAVAIL", "EINVAL", "ENOTFOUND"].includes(code)
    ? `Cannot listen on ${host}. Choose an address of this machine with --host.`
    : `Cannot listen on ${host}, port ${port}: ${message}`;
}

function describeTlsError(code: string, message: string): string {
  return code === "ERR_OSSL_X509_KEY_VALUES_MISMATCH"
    ? "The key does not belong to the certificate. Choose matching files with --tls-cert and --tls-key."
    : `The certificate or its key cannot be used (${message}). Choose others with --tls-cert and --tls-key.`;
}
