/** What the server prints once it listens. */

import { isLocalOnly, type CliOptions } from "./parse-command.ts";
import { coversRoom } from "../auth/room-patterns.ts";
import { ownOrigins, sharedOrigin } from "../http/server-address.ts";
import type { RunningServer } from "../http/shutdown.ts";
import { logEvent } from "../ops/log.ts";
import { lazyTty } from "../util/lazy-node.ts";
import { encodeQr } from "../util/qr.ts";

/** Light modules around a QR code: half of what the standard asks for, which readers accept, so that more terminals are high enough. */
const QUIET_ZONE = 2;
/** Black on white, whatever the colors of the terminal: many readers cannot read inverted codes. */
const QR_COLORS = "\x1b[38;5;16;48;5;231m";
const RESET = "\x1b[0m";

/**
 * On a terminal, one address a line, so that it can be clicked, and the QR code of one that other machines can open;
 * elsewhere, such as in a pipe, one line.
 * @param durability where the store keeps messages, as in "in memory until the server stops"
 */
export async function printBanner(
  version: string,
  { server: { hostname = "localhost", port }, durability }: RunningServer,
  options: CliOptions,
): Promise<void> {
  const { publicUrl, secretFile, publicKeyFile, allowGuests, store, log } = options;
  const guests = allowGuests.length > 0 ? `; guests in ${allowGuests.join(", ")}` : "";
  const needsToken = secretFile.length > 0 || publicKeyFile.length > 0;
  const [address = "", ...others] = ownOrigins(options, hostname, port).map((origin) => `${origin}/client`);
  const isLinkEnough = !needsToken || coversRoom(new Set(allowGuests), "lobby");
  const isOpen = !needsToken && !isLocalOnly(options);
  const audience = needsToken
    ? `anyone with a token${guests}`
    : isOpen
      ? "anyone who can reach it, under any name"
      : "this machine only";
  if (log === "json") {
    logEvent("listening", { version, address, port, store: store.protocol, durability, audience });
  } else if (isTerminal()) {
    console.log(`Hubbub ${version}\n\n  ${address}${publicUrl ? `  (port ${port} on this machine)` : ""}`);
    for (const other of others) console.log(`  ${other}  (from your network)`);
    if (!isLocalOnly({ host: options.host, publicUrl: undefined }) && isLinkEnough && Bun.enableANSIColors) {
      const origin = await sharedOrigin(options, hostname, port);
      if (origin) for (const line of qrLines(`${origin}/client`, process.stdout.columns)) console.log(line);
    }
    console.log(`\nMessages are stored ${durability}.`);
    console.log(
      `Who can join: ${audience}${secretFile.length > 0 ? " (hubbub token NAME makes a link with a token)" : ""}.`,
    );
    console.log("Press Ctrl+C to stop.");
  } else {
    const proxied = publicUrl ? `port ${port}, reached as ` : "";
    const openNote = isOpen ? `; who can join: ${audience}` : "";
    const storeNote = store.protocol === "memory:" ? "" : `; messages are stored ${durability}`;
    console.log(`Hubbub ${version} is listening on ${proxied}${address}${openNote}${storeNote}`);
  }
}

/** A QR code, two modules in a character; no lines if the terminal is too narrow for it. */
function qrLines(link: string, columns: number): string[] {
  const code = encodeQr(link) ?? [];
  const size = code.length + 2 * QUIET_ZONE;
  if (code.length === 0 || columns < size) return [];
  const isDark = (x: number, y: number) => code[y - QUIET_ZONE]?.[x - QUIET_ZONE] === true;
  const lines = Array.from({ length: Math.ceil(size / 2) }, (_, row) => {
    const characters = Array.from({ length: size }, (_, x) => {
      const [upper, lower] = [isDark(x, 2 * row), isDark(x, 2 * row + 1)];
      return upper ? (lower ? "█" : "▀") : lower ? "▄" : " ";
    });
    return QR_COLORS + characters.join("") + RESET;
  });
  return ["", ...lines];
}

/** Whether stdout is a terminal. Loading `process.stdout` takes long, so it is asked only where it may be one. */
function isTerminal(): boolean {
  const mayBe = Bun.enableANSIColors || Boolean(process.env.NO_COLOR); // which turns colors off on a terminal
  return mayBe && process.stdout.isTTY;
}

/** Whether the process was started on a terminal, wherever its output goes. */
export function isOnTerminal(): boolean {
  return [0, 1, 2].some((stream) => lazyTty().isatty(stream));
}
