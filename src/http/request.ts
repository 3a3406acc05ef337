/** What handlers read from a request: names, query parameters, subprotocols, and all that a client asks for when it joins. */

import { HttpProblem } from "./problem.ts";
import type { JoinRequest } from "../chat/connection.ts";
import type { StreamRequest } from "../chat/event-stream.ts";
import { SUBPROTOCOL } from "../protocol/codec.ts";
import { GUEST_PREFIX, parseName } from "../protocol/names.ts";
import { ndjsonEncoder, sseEncoder } from "../protocol/stream-encoders.ts";

/** Parsing thousands of parameters would take a millisecond. */
const MAX_PARAMETERS = 32;
/** Longer than any message id, so a cut id matches none. */
const MAX_ID_CHARACTERS = 40;
/** The media type that an EventSource accepts. */
export const EVENT_STREAM = "text/event-stream";
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
  const history = parseHistory(query);
  if (!offeredProtocols(headers).includes(SUBPROTOCOL))
    return { client, room, wire: "text", history: history ?? 0 };

  const session = query.get("session");
  const after = query.get("after");
  return {
    client,
    room,
    wire: "json",
    ...(session !== null && { session: requireName("session", session) }),
    ...parseReplayStart(after, history ?? defaultHistory, defaultHistory),
  };
}

/**
 * `/rooms/:room/events?after=MESSAGE_ID` or `?history=N`. The header `Last-Event-ID` wins over both, because browsers
 * send it when they reconnect on their own, with the address of the first time.
 * @param defaultHistory messages replayed if the client cannot resume
 * @throws HttpProblem 400
 */
export function parseStreamRequest(
  room: string,
  { url, headers }: Request,
  defaultHistory: number,
): Omit<StreamRequest, "retryMs"> {
  const query = queryParams(url);
  const history = parseHistory(query);
  const lastEventId = headers.get("last-event-id") || null;
  const after = lastEventId ?? query.get("after");
  const wanted = lastEventId === null ? history : null;
  return {
    room,
    codec: prefersNdjson(headers) ? ndjsonEncoder : sseEncoder,
    ...parseReplayStart(after, wanted ?? (after === null ? 0 : defaultHistory), defaultHistory),
  };
}

/** A client that cannot resume gets no more than any newcomer. */
function parseReplayStart(after: string | null, history: number, defaultHistory: number) {
  return after === null
    ? { history }
    : { history: Math.min(history, defaultHistory), after: after.slice(0, MAX_ID_CHARACTERS) };
}

/** @throws HttpProblem 400 */
function parseHistory(query: URLSearchParams): number | null {
  const history = query.get("history");
  if (history === null) return null;
  if (/^\d{1,9}$/.test(history)) return Number(history);
  throw new HttpProblem(
    "bad-history",
    "history must be a whole number: how many of the latest messages to replay.",
  );
}

function prefersNdjson(headers: Headers): boolean {
  const quality = acceptedQuality(headers, "application/x-ndjson");
  return quality > 0 && quality >= acceptedQuality(headers, EVENT_STREAM);
}

/** The `q` of a media type that `Accept` names (RFC 9110, section 12.5.1); 0 if it does not, wildcards aside. */
export function acceptedQuality(headers: Headers, type: string): number {
  for (const range of (headers.get("accept") ?? "").toLowerCase().split(",")) {
    const [name = "", ...parameters] = range.split(";").map((part) => part.trim());
    if (name !== type) continue;
    const quality = Number(parameters.find((each) => each.startsWith("q="))?.slice(2) ?? 1);
    return Number.isNaN(quality) ? 1 : quality;
  }
  return 0;
}

/** The first {@link MAX_PARAMETERS} query parameters. */
export function queryParams(url: string): URLSearchParams {
  const query = /\?(.*)/.exec(url)?.[1] ?? "";
  return new URLSearchParams(query.split("&", MAX_PARAMETERS).join("&"));
}

/** The name in its normalized form. @param field precedes the detail of the problem @throws HttpProblem 400 */
export function requireName(what: "client id" | "room" | "session", text: string, field = ""): string {
  const parsed = parseName(what, text);
  if ("detail" in parsed) throw new HttpProblem("bad-name", field + parsed.detail);
  return parsed.name;
}

/** A client that others name, which may be a guest. @throws HttpProblem 400 */
export function requireClient(text: string, field = ""): string {
  const prefix = text.startsWith(GUEST_PREFIX) ? GUEST_PREFIX : "";
  return prefix + requireName("client id", text.slice(prefix.length), field);
}

/** `Sec-WebSocket-Protocol` of an upgrade request (RFC 6455, section 11.3.4). */
export function offeredProtocols(headers: Headers): string[] {
  return (headers.get("sec-websocket-protocol") ?? "").split(",").map((offer) => offer.trim());
}
