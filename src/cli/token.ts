/** `hubbub token CLIENT`: a link that lets a client in. */

import type { CliCommand } from "./parse-command.ts";
import { ownOrigins } from "../http/server-address.ts";
import { TokenSigner } from "../auth/tokens.ts";
import type { Clock } from "../util/clock.ts";

const DAY_SECONDS = 24 * 60 * 60;

/**
 * The address of the page, or of the metrics for a token that cannot read rooms. The token comes last, so that it is
 * easy to cut off.
 */
export function tokenUrl(
  { client, secret, options }: Extract<CliCommand, { kind: "token" }>,
  clock: Pick<Clock, "now">,
): string {
  const { host, port, room, can, days } = options;
  const [origin] = ownOrigins(options, host, port);
  const expiresSeconds = Math.floor(clock.now() / 1000) + days * DAY_SECONDS;
  const token = new TokenSigner(secret).sign(client, room, expiresSeconds, can);
  const path = can.includes("metrics") && !can.includes("read") ? "metrics" : "client";
  // A link opens one room, which a pattern does not name.
  const named = room.find((name) => !name.endsWith("*"));
  const query = new URLSearchParams({ ...(named === undefined ? {} : { room: named }), token });
  return `${origin}/${path}?${query}`;
}
