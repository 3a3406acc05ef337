/** The rooms over HTTP, for curl, bots and other services: say something, read on, see who is there. */

import { corsPreflight, jsonProblem, withCors } from "./responses.ts";
import { addressGroup } from "./sockets.ts";
import { queryParams, problem, type AccessControl, type Grant, type Problem } from "./access.ts";
import type { Upgrader } from "./upgrade.ts";
import { StoreUnavailable } from "../store/store.ts";
import type { Hub } from "../chat/hub.ts";
import { costOf, TokenBuckets } from "../util/token-bucket.ts";
import type { Right } from "../auth/tokens.ts";
import { parseName } from "../protocol/names.ts";
import { toChatMessage, hasTooMuchAround, exceedsBytes, maxFrameBytes, parseSeq } from "../protocol/codec.ts";
import { ERROR_MESSAGES, type ErrorCode } from "../protocol/codes.ts";

/** A body may take this long in all; Bun would cut it off after 12 s, whatever keeps coming. */
const BODY_SECONDS = 120;
const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;

/** What a client wants to say, and as whom, as far as it tells. */
interface PublishRequest {
  readonly text: string;
  readonly from: string | undefined;
  readonly session: string | undefined;
  readonly seq: number | undefined;
}

interface Limits {
  readonly maxMessageBytes: number;
  readonly messageRate: number;
  readonly messageBurst: number;
}

/** A token with either right may publish; that `write` is required comes with the other rights. */
const PUBLISH_RIGHTS: readonly Right[] = ["read", "write"];

type RoomRequest = Request & { readonly params: { readonly room: string } };
type Route = (request: RoomRequest) => Response | Promise<Response>;
type Handler = (request: RoomRequest, room: string, pass: Grant) => Promise<Response | Problem>;

export function roomRoutes(access: AccessControl, hub: Hub, upgrader: Upgrader, limits: Limits) {
  const { maxMessageBytes, messageRate, messageBurst } = limits;
  const rate = { perSecond: messageRate, burst: messageBurst };
  const [publishLimits, readLimits] = [new TokenBuckets(rate), new TokenBuckets(rate)];

  /** The same door as for sockets; pages of allowed sites may read the answer. */
  function authorized(handle: Handler, rights?: readonly Right[]) {
    async function decide(request: RoomRequest): Promise<Response | Problem> {
      const { params, url, headers } = request;
      const foreign = access.refuse(headers);
      if (foreign) return foreign;
      const room = parseName("room", params.room);
      if ("detail" in room) return problem(400, "bad-name", room.detail);
      const pass = access.authorize(url, headers, { room: room.name, ...(rights && { rights }) }, Date.now());
      if ("detail" in pass) return pass;
      try {
        return await handle(request, room.name, pass);
      } catch (error) {
        if (error instanceof StoreUnavailable) return unreadable;
        throw error;
      }
    }
    return async (request: RoomRequest): Promise<Response> => {
      const result = await decide(request);
      return result instanceof Response
        ? withCors(access.allowedOrigin(request.headers), result)
        : upgrader.reject(request, result, jsonProblem);
    };
  }

  /** What an address has said, or read, counts as what a connection sends. */
  function allowanceOf(allowances: TokenBuckets, request: Request) {
    return allowances.get(addressGroup(upgrader.addressOf(request)));
  }

  function rateLimit(allowances: TokenBuckets, request: Request, content: string): Problem | undefined {
    return limitedFor(allowanceOf(allowances, request).take(costOf(content), performance.now()));
  }

  /** `{"text","from","session"?,"seq"?}` → 201 `{"id"}`, or 200 if it was kept before. */
  const publish = authorized(async (request, room, pass) => {
    // Who has nothing left is not even read; and what is malformed costs as much as it takes to find that out.
    const early = limitedFor(allowanceOf(publishLimits, request).waitFor(1, performance.now()));
    if (early) return early;
    upgrader.allow(request, BODY_SECONDS);
    const readHistory = await readBody(request, maxMessageBytes);
    const saying = parsePublishRequest(readHistory, maxMessageBytes);
    const body = typeof readHistory === "string" ? "" : readHistory.body;
    const limited = rateLimit(publishLimits, request, "detail" in saying ? body : saying.text);
    if (limited) return limited;
    if ("detail" in saying) return saying;
    const { text, session, seq, from = pass.client ?? "" } = saying;
    const client = parseName("client id", from);
    if ("detail" in client) return problem(400, "bad-name", `from: ${client.detail}`);
    const target = { client: client.name, room, rights: PUBLISH_RIGHTS };
    const mayBe = access.authorize(request.url, request.headers, target, Date.now());
    if ("detail" in mayBe) return mayBe;
    const result = await hub.publish({ room, from: client.name, content: text, session, seq });
    if ("stored" in result) return jsonResponse({ id: result.stored.id }, 201);
    if ("duplicateSeq" in result) return jsonResponse({ id: result.id ?? null });
    return protocolProblem(503, result.rejected);
  }, PUBLISH_RIGHTS);

  /** `?after=ID` or `?before=ID`, `&limit=N` → `{"messages":[…],"more":true}`, oldest first; with `after`, `recovered`. */
  const readHistory = authorized(async (request, room) => {
    const limited = rateLimit(readLimits, request, "");
    if (limited) return limited;
    const query = queryParams(request.url);
    const [after, before] = [query.get("after"), query.get("before")];
    const limit = query.get("limit") ?? `${DEFAULT_LIMIT}`;
    if ((after !== null && before !== null) || ![after, before].every((id) => id === null || isId(id)))
      return problem(400, "bad-id", "after or before is the id of a message: one of them, or none.");
    if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > MAX_LIMIT)
      return problem(400, "bad-limit", `limit is a whole number from 1 to ${MAX_LIMIT}.`);
    const end = after !== null ? { after } : before !== null ? { before } : {};
    const page = await hub.read(room, { ...end, limit: Number(limit) });
    const { messages, isDamaged: _, ...rest } = page;
    return jsonResponse({ messages: messages.map(toChatMessage), ...rest });
  });

  /** → `{"count","members"}`. */
  const listMembers = authorized(async (request, room) => {
    const limited = rateLimit(readLimits, request, "");
    if (limited) return limited;
    return jsonResponse(await hub.getPresence(room));
  });

  /** A route's own methods; every other one gets its problem. */
  function route(methods: { GET: Route; POST?: Route }) {
    const allow = ["GET", "HEAD", ...("POST" in methods ? ["POST"] : []), "OPTIONS"].join(", ");
    const other: Route = (request) =>
      upgrader.reject(
        request,
        { ...problem(405, "no-such-method", `Only ${allow} are answered here.`), allow },
        jsonProblem,
      );
    const asks = corsPreflight(access, "POST" in methods ? "GET, POST" : "GET");
    const OPTIONS: Route = (request) => asks(request) ?? other(request);
    return { POST: other, PUT: other, PATCH: other, DELETE: other, OPTIONS, ...methods };
  }

  return {
    "/rooms/:room/messages": route({ GET: readHistory, POST: publish }),
    "/rooms/:room/members": route({ GET: listMembers }),
  };
}

function limitedFor(waitSeconds: number): Problem | undefined {
  return waitSeconds > 0
    ? { ...protocolProblem(429, "rate-limited"), retryAfterSeconds: waitSeconds }
    : undefined;
}

/** The body as text; `"too-big"` if it is larger than any message makes it, `"cut-off"` if its sender has gone. */
async function readBody(
  request: Request,
  maxMessageBytes: number,
): Promise<{ body: string } | "too-big" | "cut-off" | "not-utf-8"> {
  const maxBytes = maxFrameBytes(maxMessageBytes);
  const declared = request.headers.get("content-length");
  if (Number(declared) > maxBytes) return "too-big";
  const bytes = await (declared === null ? readUpTo(request, maxBytes) : request.bytes()).catch(
    () => undefined,
  );
  if (!bytes) return "cut-off";
  if (bytes.length > maxBytes) return "too-big";
  try {
    // To mend what is no UTF-8 takes many milliseconds, and JSON has to be (RFC 8259, section 8.1).
    return { body: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch {
    return "not-utf-8";
  }
}

/** A body that does not say how long it is, or a little more than the first bytes of it. */
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

function parsePublishRequest(
  read: Awaited<ReturnType<typeof readBody>>,
  maxMessageBytes: number,
): PublishRequest | Problem {
  if (read === "too-big") return protocolProblem(413, "message-too-big");
  if (read === "cut-off") return problem(400, "cut-off", "The request ended before its body did.");
  if (read === "not-utf-8") return protocolProblem(400, "not-json");
  if (hasTooMuchAround(read.body)) return protocolProblem(413, "message-too-big");
  let value: { readonly [name in keyof PublishRequest]?: unknown } | null;
  try {
    value = JSON.parse(read.body);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null) return protocolProblem(400, "not-json");
  const { text, from, session, seq } = value;
  if (typeof text !== "string") return protocolProblem(400, "no-text");
  if (exceedsBytes(text, maxMessageBytes)) return protocolProblem(413, "message-too-big");
  if (!isTextOrNone(from) || !isTextOrNone(session))
    return problem(400, "bad-name", "from is a client id, and session a name: texts, if they are there.");
  const number = parseSeq(seq ?? undefined);
  if (number === "bad-seq") return protocolProblem(400, number);
  const name = typeof session === "string" ? parseName("session", session) : undefined;
  if (name && "detail" in name) return problem(400, "bad-name", name.detail);
  return { text: text.toWellFormed(), from: from ?? undefined, session: name?.name, seq: number };
}

/** Many programs write null for what they leave out. */
function isTextOrNone(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || typeof value === "string";
}

function jsonResponse(value: object, status = 200): Response {
  return Response.json(value, {
    status,
    headers: { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" },
  });
}

const unreadable = problem(503, "unavailable", "It cannot be read just now: try again in a moment.");

function protocolProblem(status: Problem["status"], code: ErrorCode): Problem {
  return problem(status, code, ERROR_MESSAGES[code]);
}

function isId(text: string): boolean {
  return /^\d{1,15}-\d{1,16}$/.test(text);
}
