/** The rooms API for curl, bots and other services: post a message, read the history, list the members. */

import type { AccessControl, Grant } from "./access-control.ts";
import type { ClientAddresses } from "./client-address.ts";
import { corsPreflight, withCors } from "./cors.ts";
import type { ServerOptions } from "./options.ts";
import type { PendingBodies } from "./pending-bodies.ts";
import { HttpProblem, jsonProblem } from "./problem.ts";
import type { HandleRejections, Handler, HttpServer } from "./router.ts";
import { queryParams, requireName } from "./request.ts";
import type { Right } from "../auth/tokens.ts";
import type { Hub } from "../chat/hub.ts";
import {
  hasTooMuchOverhead,
  maxFrameBytes,
  parseContent,
  parseSeq,
  toChatMessage,
  type Content,
} from "../protocol/codec.ts";
import { ERROR_MESSAGES, type ErrorCode } from "../protocol/codes.ts";
import { isMessageId } from "../store/message-id.ts";
import type { Clock } from "../util/clock.ts";
import { BYTES_PER_COST, costOf, TokenBuckets } from "../util/token-bucket.ts";

/** For reading a body. Bun's default of 12 s would cut off a slow one, even while it is arriving. */
const BODY_SECONDS = 120;
const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;
/** Either right is enough to post. */
const POST_RIGHTS: readonly Right[] = ["read", "write"];

interface PostRequest {
  readonly content: Content;
  readonly from: string | undefined;
  readonly session: string | undefined;
  readonly seq: number | undefined;
}

type RoomRequest = Request & { readonly params: { readonly room: string } };
type RoomHandler = (
  request: RoomRequest,
  room: string,
  grant: Grant,
  server: HttpServer,
) => Response | Promise<Response>;

export function roomRoutes(
  access: AccessControl,
  addresses: ClientAddresses,
  handleRejections: HandleRejections,
  hub: Hub,
  pendingBodies: PendingBodies,
  { maxMessageBytes, messageRate, messageBurst }: ServerOptions,
  clock: Clock,
) {
  // An address may post messages, and read pages, at the rate of one connection.
  const rate = { perSecond: messageRate, burst: messageBurst };
  const [postBuckets, readBuckets] = [new TokenBuckets(rate), new TokenBuckets(rate)];

  /** The access control of sockets; pages of allowed origins may read the response. */
  function authorized(handle: RoomHandler, rights?: readonly Right[]): Handler<RoomRequest> {
    return handleRejections(async (request, server) => {
      const { params, headers } = request;
      access.checkHostAndOrigin(headers);
      const room = requireName("room", params.room);
      const grant = access.authorize(request, { room, ...(rights && { rights }) });
      return withCors(access.allowedOrigin(headers), await handle(request, room, grant, server));
    }, jsonProblem);
  }

  /** `{"text" or "data","from","session"?,"seq"?}` → 201 `{"id"}`; 200 for a duplicate. */
  const postMessage = authorized(async (request, room, grant, server) => {
    const bucket = postBuckets.get(addresses.groupOf(request, server));
    rejectIfLimited(bucket.waitFor(1, clock.elapsed())); // before the body is read
    server.timeout(request, BODY_SECONDS);
    let body = "";
    let postRequest: PostRequest;
    try {
      body = await pendingBodies.wait(readBody(request, maxMessageBytes));
      // Before it is parsed, which takes milliseconds for a text that consists of escapes.
      rejectIfLimited(bucket.waitFor(minCostOf(body), clock.elapsed()));
      postRequest = parsePostRequest(body, maxMessageBytes);
    } catch (error) {
      // A malformed body costs by its size, which is what reading it takes.
      rejectIfLimited(bucket.take(costOf(body), clock.elapsed()));
      throw error;
    }
    const { content, session, seq, from = grant.client ?? "" } = postRequest;
    rejectIfLimited(bucket.take(costOf(content), clock.elapsed()));
    const client = requireName("client id", from, "from: ");
    access.authorize(request, { client, room, rights: POST_RIGHTS });
    const result = await hub.post({ room, from: client, content, session, seq });
    if ("stored" in result) return jsonResponse({ id: result.stored.id }, 201);
    if ("duplicateSeq" in result) return jsonResponse({ id: result.id ?? null });
    throw protocolProblem(503, result.rejected);
  }, POST_RIGHTS);

  /** `?after=ID` or `?before=ID`, `&limit=N` → `{"messages":[…],"more":true}`, oldest first; with `after`, `recovered`. */
  const readHistory = authorized(async (request, room, _, server) => {
    limitReads(request, server);
    const query = queryParams(request.url);
    const [after, before] = [query.get("after"), query.get("before")];
    if ((after !== null && before !== null) || ![after, before].every((id) => id === null || isMessageId(id)))
      throw new HttpProblem(400, "bad-id", "after or before must be the id of a message. Give one at most.");
    const limit = query.get("limit") ?? `${DEFAULT_LIMIT}`;
    if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > MAX_LIMIT)
      throw new HttpProblem(400, "bad-limit", `limit must be a whole number from 1 to ${MAX_LIMIT}.`);
    const { messages, more, recovered } = await hub.store.readHistory(room, {
      ...(after !== null && { after }),
      ...(before !== null && { before }),
      limit: Number(limit),
    });
    return jsonResponse({ messages: messages.map(toChatMessage), more, recovered });
  });

  /** `{"count","members"}` */
  const listMembers = authorized(async (request, room, _, server) => {
    limitReads(request, server);
    return jsonResponse(await hub.getPresence(room));
  });

  function limitReads(request: Request, server: HttpServer): void {
    const bucket = readBuckets.get(addresses.groupOf(request, server));
    rejectIfLimited(bucket.take(1, clock.elapsed()));
  }

  /** All methods of an address: preflights and unsupported ones included. */
  function route(methods: { GET: Handler<RoomRequest>; POST?: Handler<RoomRequest> }) {
    const supported = methods.POST ? ["GET", "POST"] : ["GET"];
    const allow = ["GET", "HEAD", ...supported.slice(1), "OPTIONS"].join(", ");
    const unsupported = handleRejections<RoomRequest>(() => {
      throw new HttpProblem(405, "no-such-method", `Only ${allow} are allowed here.`, { allow });
    }, jsonProblem);
    const preflight = corsPreflight(access, supported.join(", "));
    const OPTIONS: Handler<RoomRequest> = (request, server) =>
      preflight(request) ?? unsupported(request, server);
    return {
      POST: unsupported,
      PUT: unsupported,
      PATCH: unsupported,
      DELETE: unsupported,
      OPTIONS,
      ...methods,
    };
  }

  return {
    "/rooms/:room/messages": route({ GET: readHistory, POST: postMessage }),
    "/rooms/:room/members": route({ GET: listMembers }),
  };
}

/** @throws HttpProblem 429 */
function rejectIfLimited(retryAfterSeconds: number): void {
  if (retryAfterSeconds > 0) throw protocolProblem(429, "rate-limited", { retryAfterSeconds });
}

/** The least that the message of a body can cost: its longest escape, `\u0000`, takes six characters for one byte. */
function minCostOf(body: string): number {
  return 1 + Math.floor(body.length / (6 * BYTES_PER_COST));
}

/** The body as text. @throws HttpProblem 400 or 413 */
async function readBody(request: Request, maxMessageBytes: number): Promise<string> {
  const maxBytes = maxFrameBytes(maxMessageBytes);
  const declared = request.headers.get("content-length");
  if (Number(declared) > maxBytes) throw protocolProblem(413, "message-too-big");
  const reading = declared === null ? readUpTo(request, maxBytes) : request.bytes();
  const bytes = await reading.catch(() => undefined);
  if (!bytes) throw new HttpProblem(400, "cut-off", "The request ended before its body was complete.");
  if (bytes.length > maxBytes) throw protocolProblem(413, "message-too-big");
  try {
    // JSON must be UTF-8 (RFC 8259, section 8.1), and replacing what is not takes many milliseconds.
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw protocolProblem(400, "not-json");
  }
}

/** Reads a body of unknown length until it ends or is longer than `maxBytes`. */
async function readUpTo({ body }: Request, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > maxBytes) break;
  }
  return Buffer.concat(chunks);
}

/** Fields that are null count as left out, because many programs send them. @throws HttpProblem 400 or 413 */
function parsePostRequest(body: string, maxMessageBytes: number): PostRequest {
  if (hasTooMuchOverhead(body)) throw protocolProblem(413, "message-too-big");
  let value: { readonly [name in "text" | "data" | "from" | "session" | "seq"]?: unknown } | null;
  try {
    value = JSON.parse(body);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null) throw protocolProblem(400, "not-json");
  const { text, data, from, session, seq } = value;
  const parsed = parseContent(text, data, maxMessageBytes);
  if ("error" in parsed) throw protocolProblem(parsed.error === "message-too-big" ? 413 : 400, parsed.error);
  if (!isOptionalString(from) || !isOptionalString(session))
    throw new HttpProblem(400, "bad-name", "from and session must be strings, if given.");
  const number = parseSeq(seq ?? undefined);
  if (number === "bad-seq") throw protocolProblem(400, number);
  return {
    content: parsed.content,
    from: from ?? undefined,
    session: typeof session === "string" ? requireName("session", session) : undefined,
    seq: number,
  };
}

function isOptionalString(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || typeof value === "string";
}

function jsonResponse(value: object, status = 200): Response {
  return Response.json(value, {
    status,
    headers: { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" },
  });
}

/** An error that the JSON wire has too, with its code and message. */
function protocolProblem(
  status: HttpProblem["status"],
  code: ErrorCode,
  more?: { retryAfterSeconds: number },
): HttpProblem {
  return new HttpProblem(status, code, ERROR_MESSAGES[code], more);
}
