/** `hubbub health`: asks the server on this machine whether it answers, for the health check of a container. */

import type { CliCommand } from "./parse-command.ts";

/** Less than the 30 s after which Docker ends a health check by default. */
const TIMEOUT_MS = 5000;
/** Addresses that stand for all of this machine, and the one of them to ask. */
const ANY_ADDRESS = new Map([
  ["0.0.0.0", "127.0.0.1"],
  ["::", "::1"],
]);

/** Prints a sentence. @returns the exit status */
export async function runHealth({
  host,
  port,
  tlsCert,
}: Extract<CliCommand, { kind: "health" }>): Promise<0 | 1> {
  const address = ANY_ADDRESS.get(host) ?? host;
  const origin = `${tlsCert ? "https" : "http"}://${address.includes(":") ? `[${address}]` : address}:${port}`;
  process.env.NO_PROXY = "*"; // `fetch` would ask a proxy from the environment for this machine's own address
  try {
    const response = await fetch(`${origin}/healthz`, {
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: "manual",
      // The certificate is for the public name, and the connection does not leave this machine.
      tls: { rejectUnauthorized: false },
    });
    if (response.status === 200) {
      console.log(`The server at ${origin} is healthy.`);
      return 0;
    }
    console.error(`The server at ${origin} is not healthy: it answers with status ${response.status}.`);
  } catch (error) {
    const isLate = error instanceof Error && error.name === "TimeoutError";
    const reason = isLate ? `it has not answered for ${TIMEOUT_MS / 1000} s` : "it cannot be reached";
    console.error(`The server at ${origin} is not healthy: ${reason}.`);
  }
  return 1;
}
