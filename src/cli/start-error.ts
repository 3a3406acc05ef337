/** Why the server could not start: a sentence for the operator, and the exit code. */

import type { CliOptions } from "./parse-command.ts";
import { StoreError } from "../store/store.ts";

/** @returns undefined for an unexpected error, which needs its stack */
export function describeStartError(error: unknown, { host, port }: CliOptions): string | undefined {
  if (!(error instanceof Error)) return undefined;
  if (error instanceof StoreError) return error.message;
  const code = "code" in error ? String(error.code) : "";
  if (code.startsWith("ERR_OSSL_")) return describeTlsError(code, error.message);
  switch (code) {
    case "EADDRINUSE": {
      // Bun reports this code for a host name that cannot be resolved, too.
      if (port === 0) return chooseHost(host);
      const isName = /[^\d.:a-f]/.test(host) && host !== "localhost";
      const otherCause = isName ? `, or the name ${host} is unknown` : "";
      return `Port ${port} is in use${otherCause}. Stop the program that listens there, or choose another port with --port.`;
    }
    case "EACCES":
      return `Port ${port} is not allowed for this user. Choose one above 1023 with --port.`;
    case "EADDRNOTAVAIL":
    case "EINVAL":
    case "ENOTFOUND":
      return chooseHost(host);
    default:
      return code && `Cannot listen on ${host}, port ${port}: ${error.message}`;
  }
}

function chooseHost(host: string): string {
  return `Cannot listen on ${host}. Choose an address of this machine with --host.`;
}

/**
 * Supervisors give up on 2, so it is only for what a restart cannot fix. The command line is checked before; what shows
 * this late is a certificate and a key that do not belong together.
 */
export function startExitCode(error: unknown): 1 | 2 {
  return error instanceof Error && "code" in error && String(error.code).startsWith("ERR_OSSL_") ? 2 : 1;
}

function describeTlsError(code: string, message: string): string {
  return code === "ERR_OSSL_X509_KEY_VALUES_MISMATCH"
    ? "The key does not belong to the certificate. Choose matching files with --tls-cert and --tls-key."
    : `The certificate or its key cannot be used (${message}). Choose others with --tls-cert and --tls-key.`;
}
