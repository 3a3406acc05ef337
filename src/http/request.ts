/** What handlers read from a request: names, query parameters, subprotocols, and all that a client asks for when it joins. */

import { HttpProblem } from "./problem.ts";
import type { JoinRequest } from "../chat/connection.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import { parseName } from "../protocol/names.ts";

/** Parsing thousands of parameters would take a millisecond. */
const MAX_PARAMETERS = 32;
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

/** The first {@link MAX_PARAMETERS} query parameters. */
export function queryParams(url: string): URLSearchParams {
  const query = /\?(.*)/.exec(url)?.[1] ?? "";
  return new URLSearchParams(query.split("&", MAX_PARAMETERS).join("&"));
}

/** The name in its normalised form. @param field precedes the detail of the problem @throws HttpProblem 400 */
export function requireName(what: "client id" | "room" | "session", text: string, field = ""): string {
  const parsed = parseName(what, text);
  if ("detail" in parsed) throw new HttpProblem("bad-name", field + parsed.detail);
  return parsed.name;
}

/** `Sec-WebSocket-Protocol` of an upgrade request (RFC 6455, section 11.3.4). */
export function offeredProtocols(headers: Headers): string[] {
  return (headers.get("sec-websocket-protocol") ?? "").split(",").map((offer) => offer.trim());
}
