/** Parses the address of a chat connection, `/ws/ID?…`, into a {@link JoinRequest}. */

import { HttpProblem } from "./problem.ts";
import { offeredProtocols, queryParams, requireName } from "./request.ts";
import type { JoinRequest } from "../chat/connection.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";

/** Longer than any message id, so a cut id matches none. */
const MAX_ID_CHARACTERS = 40;
const DEFAULT_ROOM = "lobby";

/**
 * `/ws/ID?room=ROOM&history=N`; with the subprotocol {@link SUBPROTOCOL} also `&session=SESSION&after=MESSAGE_ID`.
 * @param defaultHistory messages replayed on the JSON wire if the request does not say
 * @throws HttpProblem 400
 */
export function parseJoinRequest(
  id: string,
  url: string,
  headers: Headers,
  defaultHistory: number,
): JoinRequest {
  const query = queryParams(url);
  const client = requireName("client id", id);
  const room = requireName("room", query.get("room") ?? DEFAULT_ROOM);
  const history = query.get("history");
  if (history !== null && !/^\d{1,9}$/.test(history))
    throw new HttpProblem(
      400,
      "bad-history",
      "history must be a whole number: how many of the latest messages to replay.",
    );
  if (!offeredProtocols(headers).includes(SUBPROTOCOL))
    return { client, room, wire: "text", history: Number(history ?? 0) };

  const session = query.get("session");
  const after = query.get("after");
  return {
    client,
    room,
    wire: "json",
    // A client that cannot resume gets no more than any newcomer.
    history: Math.min(Number(history ?? defaultHistory), after === null ? Infinity : defaultHistory),
    ...(session !== null && { session: requireName("session", session) }),
    ...(after !== null && { after: after.slice(0, MAX_ID_CHARACTERS) }),
  };
}
