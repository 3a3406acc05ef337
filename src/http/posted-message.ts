/** What a POST to a room contains: a message as JSON, or a plain text whose sender is in the query. */

import { HttpProblem, protocolProblem } from "./problem.ts";
import { requireName } from "./request.ts";
import { exceedsBytes, hasTooMuchOverhead, parseContent, parseSeq, type Content } from "../protocol/codec.ts";
import { BYTES_PER_COST } from "../util/token-bucket.ts";

type PostFormat = "json" | "text";

export interface PostedMessage {
  readonly content: Content;
  readonly from: string | undefined;
  readonly session: string | undefined;
  readonly seq: number | undefined;
}

/** Media types that are read as JSON. `curl -d` sends the form type by default. */
const JSON_TYPES = /^application\/(?:json|[\w.+-]+\+json|x-www-form-urlencoded)$/;
/** The content coding of an uncompressed body. */
const IDENTITY = /^(?:identity)?$/i;
const UTF8 = /^(?:utf-?8|us-ascii)$/;

/**
 * How the body is to be read, by its `Content-Type`: JSON if there is none.
 * @throws HttpProblem 415
 */
export function postFormat(headers: Headers): PostFormat {
  if (!IDENTITY.test(headers.get("content-encoding") ?? ""))
    throw new HttpProblem("unsupported-type", "Send the body uncompressed, without Content-Encoding.");
  const header = headers.get("content-type") ?? "application/json";
  const type = header.replace(/;.*/, "").trim().toLowerCase();
  if (JSON_TYPES.test(type)) return "json";
  const [, charset = "utf-8"] = /;\s*charset="?([^";\s]*)/i.exec(header) ?? [];
  if (type === "text/plain" && UTF8.test(charset.toLowerCase())) return "text";
  throw new HttpProblem(
    "unsupported-type",
    "The Content-Type must be application/json, or text/plain in UTF-8.",
  );
}

/** The least that the message of a body can cost: its longest escape, `\u0000`, takes six characters for one byte. */
export function minCostOf(body: string): number {
  return 1 + Math.floor(body.length / (6 * BYTES_PER_COST));
}

/** @throws HttpProblem 400 */
export function requireSender(from: string | undefined, format: PostFormat): string {
  // Pages and Node.js label a body that is a string as plain text.
  if (from === undefined && format === "text")
    throw new HttpProblem(
      "bad-name",
      "Name the sender in the address: ?from=NAME. If the body is JSON, send Content-Type: application/json.",
    );
  return requireName("client id", from ?? "", "from: ");
}

/** `?from=NAME&session=SESSION&seq=N`; the body is the text, unchanged. @throws HttpProblem 400 or 413 */
export function parseTextPost(body: string, query: URLSearchParams, maxMessageBytes: number): PostedMessage {
  if (exceedsBytes(body, maxMessageBytes)) throw protocolProblem("message-too-big");
  const seq = query.get("seq") ?? undefined;
  return {
    content: body,
    from: query.get("from") ?? undefined,
    ...requireSessionAndSeq(query.get("session"), /^\d+$/.test(seq ?? "") ? Number(seq) : seq),
  };
}

/** Fields that are null count as left out, because many programs send them. @throws HttpProblem 400 or 413 */
export function parseJsonPost(body: string, maxMessageBytes: number): PostedMessage {
  if (hasTooMuchOverhead(body)) throw protocolProblem("message-too-big");
  let value: { readonly [name in "text" | "data" | "from" | "session" | "seq"]?: unknown } | null;
  try {
    value = JSON.parse(body);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null) throw protocolProblem("not-json");
  const { text, data, from, session, seq } = value;
  const parsed = parseContent(text, data, maxMessageBytes);
  if ("error" in parsed) throw protocolProblem(parsed.error);
  if (!isOptionalString(from) || !isOptionalString(session))
    throw new HttpProblem("bad-name", "from and session must be strings, if given.");
  return { content: parsed.content, from: from ?? undefined, ...requireSessionAndSeq(session, seq) };
}

function requireSessionAndSeq(session: string | null | undefined, seq: unknown) {
  const number = parseSeq(seq ?? undefined);
  if (number === "bad-seq") throw protocolProblem(number);
  return { session: typeof session === "string" ? requireName("session", session) : undefined, seq: number };
}

function isOptionalString(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || typeof value === "string";
}
