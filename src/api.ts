/** The rooms over HTTP, for curl, bots and other services: say something, read on, see who is there. */

import { preflight, problem, readableBy } from "./answers.ts";
import { networkOf } from "./connections.ts";
import { refused, type Door, type Pass, type Refusal } from "./door.ts";
import type { Entrance } from "./entrance.ts";
import type { Hub } from "./hub.ts";
import { Allowances } from "./limits.ts";
import { readName } from "./names.ts";
import { errors, fieldsOf, isTooBig, maxFrameBytes, readSeq, type ErrorCode } from "./protocol.ts";

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;
const METHODS = "GET, POST";

/** What a client wants to say, and as whom, as far as it tells. */
interface Saying {
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

type RoomRequest = Request & { readonly params: { readonly room: string } };
type Handler = (request: RoomRequest, room: string, pass: Pass) => Promise<Response | Refusal>;

export function roomRoutes(door: Door, hub: Hub, entrance: Entrance, limits: Limits) {
  const { maxMessageBytes, messageRate, messageBurst } = limits;
  const allowances = new Allowances({ perSecond: messageRate, burst: messageBurst });

  /** The same door and limits as for sockets; pages of allowed sites may read the answer. */
  function guarded(handle: Handler) {
    return async (request: RoomRequest): Promise<Response> => {
      const result = await admitted(request, handle);
      if (!(result instanceof Response)) entrance.noteRefusal(request, result);
      const response = result instanceof Response ? result : problem(result);
      return readableBy(door.allowedOrigin(request.headers), response);
    };
  }

  async function admitted(request: RoomRequest, handle: Handler): Promise<Response | Refusal> {
    const room = readName("room", request.params.room);
    if ("sentence" in room) return refused(400, "bad-name", room.sentence);
    const pass = door.admit(request.url, request.headers, { room: room.name }, Date.now());
    if ("sentence" in pass) return pass;
    const waitSeconds = allowances.of(networkOf(entrance.addressOf(request))).take("", performance.now());
    if (waitSeconds > 0) return { ...errorOf(429, "rate-limited"), retryAfterSeconds: waitSeconds };
    return handle(request, room.name, pass);
  }

  /** `{"text","from","session"?,"seq"?}` → 201 `{"id"}`, or 200 if it was kept before. */
  const say = guarded(async (request, room, pass) => {
    const body = await readBody(request, maxMessageBytes);
    if (body === undefined) return errorOf(413, "message-too-big");
    const saying = readSaying(body);
    if ("sentence" in saying) return saying;
    const { text, session, seq, from = pass.client ?? "" } = saying;
    if (isTooBig(text, maxMessageBytes)) return errorOf(413, "message-too-big");
    const client = readName("client id", from);
    if ("sentence" in client) return refused(400, "bad-name", `from: ${client.sentence}`);
    const mayBe = door.admit(request.url, request.headers, { client: client.name, room }, Date.now());
    if ("sentence" in mayBe) return mayBe;
    const answer = await hub.say({ room, from: client.name, content: text, session, seq });
    if ("kept" in answer) return made({ id: answer.kept.id }, 201);
    if ("repeated" in answer) return made({ id: answer.id ?? null });
    return errorOf(503, answer.refused);
  });

  /** `?after=ID` or `?before=ID`, `&limit=N` → `{"messages":[…],"more":true}`, oldest first; with `after`, `recovered`. */
  const read = guarded(async (request, room) => {
    const query = new URL(request.url).searchParams;
    const [after, before] = [query.get("after"), query.get("before")];
    const limit = query.get("limit") ?? `${DEFAULT_LIMIT}`;
    if ((after !== null && before !== null) || ![after, before].every((id) => id === null || isId(id)))
      return refused(400, "bad-id", "after or before is the id of a message: one of them, or none.");
    if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > MAX_LIMIT)
      return refused(400, "bad-limit", `limit is a whole number from 1 to ${MAX_LIMIT}.`);
    const end = after !== null ? { after } : before !== null ? { before } : {};
    const page = await hub.read(room, { ...end, limit: Number(limit) });
    if (page === "unavailable") return errorOf(503, page);
    const { entries, ...rest } = page;
    return made({ messages: entries.map(fieldsOf), ...rest });
  });

  /** → `{"count","members"}`. */
  const members = guarded(async (_, room) => made(hub.presenceOf(room)));

  const OPTIONS = preflight(door, METHODS);
  const others = { PUT: noSuchMethod, PATCH: noSuchMethod, DELETE: noSuchMethod };
  return {
    "/rooms/:room/messages": { GET: read, POST: say, OPTIONS, ...others },
    "/rooms/:room/members": { GET: members, POST: noSuchMethod, OPTIONS, ...others },
  };
}

/** The body as text; undefined if it is larger than any message makes it. */
async function readBody(request: Request, maxMessageBytes: number): Promise<string | undefined> {
  const maxBytes = maxFrameBytes(maxMessageBytes);
  if (Number(request.headers.get("content-length")) > maxBytes) return undefined;
  const body = await request.bytes().catch(() => undefined); // what is longer than it said, Bun cuts off
  return body && body.length <= maxBytes ? new TextDecoder().decode(body) : undefined;
}

function readSaying(body: string): Saying | Refusal {
  let value: { readonly [name in keyof Saying]?: unknown } | null;
  try {
    value = JSON.parse(body);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null) return errorOf(400, "not-json");
  const { text, from, session, seq } = value;
  if (typeof text !== "string") return errorOf(400, "no-text");
  if (from !== undefined && typeof from !== "string") return refused(400, "bad-name", "from is a client id.");
  const number = readSeq(seq);
  if (number === "bad-seq") return errorOf(400, number);
  const name = session === undefined ? undefined : readName("session", `${session}`);
  if (name && "sentence" in name) return refused(400, "bad-name", name.sentence);
  return { text: text.toWellFormed(), from, session: name?.name, seq: number };
}

function made(value: object, status = 200): Response {
  return Response.json(value, {
    status,
    headers: { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" },
  });
}

function noSuchMethod(): Response {
  return problem(
    refused(405, "no-such-method", `Only ${METHODS} are answered here, POST for messages alone.`),
  );
}

function errorOf(status: Refusal["status"], code: ErrorCode): Refusal {
  return refused(status, code, errors[code]);
}

function isId(text: string): boolean {
  return /^\d{1,15}-\d{1,15}$/.test(text);
}
