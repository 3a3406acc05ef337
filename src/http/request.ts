/** What handlers read from a request: names, query parameters, offered subprotocols. */

import { HttpProblem } from "./problem.ts";
import { parseName } from "../protocol/names.ts";

/** Parsing thousands of parameters would take a millisecond. */
const MAX_PARAMETERS = 32;

/** The first {@link MAX_PARAMETERS} query parameters. */
export function queryParams(url: string): URLSearchParams {
  const query = /\?(.*)/.exec(url)?.[1] ?? "";
  return new URLSearchParams(query.split("&", MAX_PARAMETERS).join("&"));
}

/** The name in its normalised form. @param field precedes the detail of the problem @throws HttpProblem 400 */
export function requireName(what: "client id" | "room" | "session", text: string, field = ""): string {
  const parsed = parseName(what, text);
  if ("detail" in parsed) throw new HttpProblem(400, "bad-name", field + parsed.detail);
  return parsed.name;
}

/** `Sec-WebSocket-Protocol` of an upgrade request (RFC 6455, section 11.3.4). */
export function offeredProtocols(headers: Headers): string[] {
  return (headers.get("sec-websocket-protocol") ?? "").split(",").map((offer) => offer.trim());
}
