/** What the server prints once it listens. */

import { isLocalOnly, type CliOptions } from "./parse-command.ts";
import { ownOrigins } from "./origins.ts";
import { logEvent } from "../ops/log.ts";
import { lazyTty } from "../util/lazy-node.ts";

type Address = Pick<Bun.Server<unknown>, "hostname" | "port">;

/**
 * On a terminal, one address a line, so that it can be clicked; elsewhere, such as in a pipe, one line.
 * @param durability where the store keeps messages, as in "in memory until the server stops"
 */
export function printBanner(
  version: string,
  { hostname = "localhost", port }: Address,
  durability: string,
  options: CliOptions,
  isTerminal: boolean,
): void {
  const { publicUrl, secretFile, store, log } = options;
  const [first = "", ...others] = ownOrigins({ ...options, hostname, port }).map(
    (origin) => `${origin}/client`,
  );
  const isOpen = !isLocalOnly(options);
  const audience = secretFile
    ? "anyone with a token"
    : isOpen
      ? "anyone who can reach it, under any name"
      : "this machine only";
  if (log === "json")
    return logEvent("listening", {
      version,
      address: first,
      port,
      store: store.protocol,
      durability,
      audience,
    });
  if (!isTerminal) {
    const proxied = publicUrl ? `port ${port}, reached as ` : "";
    const openNote = isOpen && !secretFile ? `; who can join: ${audience}` : "";
    const storeNote = store.protocol === "memory:" ? "" : `; messages are stored ${durability}`;
    return console.log(`Hubbub ${version} is listening on ${proxied}${first}${openNote}${storeNote}`);
  }
  console.log(`Hubbub ${version}\n\n  ${first}${publicUrl ? `  (port ${port} on this machine)` : ""}`);
  for (const other of others) console.log(`  ${other}  (from your network)`);
  console.log(`\nMessages are stored ${durability}.`);
  console.log(`Who can join: ${audience}${secretFile ? " (hubbub token NAME makes a link with one)" : ""}.`);
  console.log("Press Ctrl+C to stop.");
}

/** Whether stdout is a terminal. Loading `process.stdout` takes long, so it is asked only where it may be one. */
export function isTerminal(): boolean {
  const mayBe = Bun.enableANSIColors || Boolean(process.env.NO_COLOR); // which turns colors off on a terminal
  return mayBe && process.stdout.isTTY;
}

/** Whether the process was started on a terminal, wherever its output goes. */
export function isOnTerminal(): boolean {
  return [0, 1, 2].some((stream) => lazyTty().isatty(stream));
}
