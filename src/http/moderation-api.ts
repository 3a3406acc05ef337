/** `POST /clients/:id/disconnect`: a moderator disconnects a client, and keeps it out for a time. */

import type { Bans } from "./bans.ts";
import { HttpProblem, notModerator } from "./problem.ts";
import { requireClient } from "./request.ts";
import type { BodyReader } from "./request-body.ts";
import { jsonResponse } from "./responses.ts";
import type { ApiHandler, Router } from "./router.ts";
import { logEvent } from "../ops/log.ts";
import { moderationsTotal } from "../ops/metrics.ts";
import type { Clock } from "../util/clock.ts";

/** Ten years. */
const MAX_SECONDS = 315_360_000;

type ClientRequest = Request & { readonly params: { readonly id: string } };

export function moderationRoutes(router: Router, bans: Bans, bodies: BodyReader, clock: Clock) {
  /** `{"forSeconds":N}` → `{"until"}`; in the rooms that the moderator's token covers, and from which it is not banned. */
  const disconnect: ApiHandler<ClientRequest> = async (request, server) => {
    const { can, client: by, rooms: covered } = router.access.authenticate(request);
    if (!can.has("moderate")) throw notModerator();
    const client = requireClient(request.params.id);
    const forSeconds = parseSeconds(await bodies.read(request, server));
    const rooms = bans.roomsLeft(covered, by);
    const untilMs = clock.now() + forSeconds * 1000;
    await bans.ban({ client, rooms, untilMs });
    moderationsTotal.count("disconnect");
    logEvent("client disconnected", { client, by, rooms: rooms.join(" "), forSeconds });
    return jsonResponse({ until: untilMs });
  };

  return { "/clients/:id/disconnect": router.api({ POST: disconnect }) };
}

/** @throws HttpProblem 400 */
function parseSeconds(body: string): number {
  let value: { readonly forSeconds?: unknown } | null = null;
  try {
    value = JSON.parse(body);
  } catch {}
  if (typeof value !== "object" || value === null)
    throw new HttpProblem("not-json", 'The body must be a JSON object such as {"forSeconds":60}.');
  const { forSeconds } = value;
  const isValid = typeof forSeconds === "number" && Number.isInteger(forSeconds) && forSeconds >= 0;
  if (isValid && forSeconds <= MAX_SECONDS) return forSeconds;
  throw new HttpProblem("bad-seconds", `forSeconds must be a whole number from 0 to ${MAX_SECONDS}.`);
}
