/** The rooms over HTTP, for curl, bots and other services: say something, read on, see who is there. */

import { preflight, problem, readableBy } from "./responses.ts";
import { networkOf } from "./sockets.ts";
import { queryOf, refused, type Door, type Pass, type Refusal } from "./access.ts";
import type { Entrance } from "./upgrade.ts";
import type { Hub } from "../chat/hub.ts";
import { Allowances } from "../util/token-bucket.ts";
import { readName } from "../protocol/names.ts";
import {
  errors,
  fieldsOf,
  hasTooMuchAround,
  isTooBig,
  maxFrameBytes,
  readSeq,
  type ErrorCode,
} from "../protocol/codec.ts";

/** A body may take this long in all; Bun would cut it off after 12 s, whatever keeps coming. */
const BODY_SECONDS = 120;
const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;

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
type Route = (request: RoomRequest) => Response | Promise<Response>;
type Handler = (request: RoomRequest, room: string, pass: Pass) => Promise<Response | Refusal>;

export function roomRoutes(door: Door, hub: Hub, entrance: Entrance, limits: Limits) {
  const { maxMessageBytes, messageRate, messageBurst } = limits;
  const rate = { perSecond: messageRate, burst: messageBurst };
  const [toSay, toRead] = [new Allowances(rate), new Allowances(rate)];

  /** The same door as for sockets; pages of allowed sites may read the answer. */
  function guarded(handle: Handler) {
    async function decide(request: RoomRequest): Promise<Response | Refusal> {
      const { params, url, headers } = request;
      const foreign = door.refuse(headers);
      if (foreign) return foreign;
      const room = readName("room", params.room);
      if ("sentence" in room) return refused(400, "bad-name", room.sentence);
      const pass = door.admit(url, headers, { room: room.name }, Date.now());
      return "sentence" in pass ? pass : handle(request, room.name, pass);
    }
    return async (request: RoomRequest): Promise<Response> => {
      const result = await decide(request);
      return result instanceof Response
        ? readableBy(door.allowedOrigin(request.headers), result)
        : entrance.refuse(request, result, problem);
    };
  }

  /** What an address has said, or read, counts as what a connection sends. */
  function allowanceOf(allowances: Allowances, request: Request) {
    return allowances.of(networkOf(entrance.addressOf(request)));
  }

  function spend(allowances: Allowances, request: Request, content: string): Refusal | undefined {
    return limitedFor(allowanceOf(allowances, request).take(content, performance.now()));
  }

  /** `{"text","from","session"?,"seq"?}` → 201 `{"id"}`, or 200 if it was kept before. */
  const say = guarded(async (request, room, pass) => {
    // Who has nothing left is not even read; and what is malformed costs as much as it takes to find that out.
    const early = limitedFor(allowanceOf(toSay, request).waitFor("", performance.now()));
    if (early) return early;
    entrance.allow(request, BODY_SECONDS);
    const read = await readBody(request, maxMessageBytes);
    const saying = readSaying(read, maxMessageBytes);
    const body = typeof read === "string" ? "" : read.body;
    const limited = spend(toSay, request, "sentence" in saying ? body : saying.text);
    if (limited) return limited;
    if ("sentence" in saying) return saying;
    const { text, session, seq, from = pass.client ?? "" } = saying;
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
    const limited = spend(toRead, request, "");
    if (limited) return limited;
    const query = queryOf(request.url);
    const [after, before] = [query.get("after"), query.get("before")];
    const limit = query.get("limit") ?? `${DEFAULT_LIMIT}`;
    if ((after !== null && before !== null) || ![after, before].every((id) => id === null || isId(id)))
      return refused(400, "bad-id", "after or before is the id of a message: one of them, or none.");
    if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > MAX_LIMIT)
      return refused(400, "bad-limit", `limit is a whole number from 1 to ${MAX_LIMIT}.`);
    const end = after !== null ? { after } : before !== null ? { before } : {};
    const page = await hub.read(room, { ...end, limit: Number(limit) });
    if (page === "unavailable") return unreadable;
    const { entries, isDamaged: _, ...rest } = page;
    return made({ messages: entries.map(fieldsOf), ...rest });
  });

  /** → `{"count","members"}`. */
  const members = guarded(async (request, room) => {
    const limited = spend(toRead, request, "");
    if (limited) return limited;
    const presence = await hub.presenceOf(room);
    return presence === "unavailable" ? unreadable : made(presence);
  });

  /** A route's own methods; every other one gets its problem. */
  function route(methods: { GET: Route; POST?: Route }) {
    const allow = ["GET", "HEAD", ...("POST" in methods ? ["POST"] : []), "OPTIONS"].join(", ");
    const other: Route = (request) =>
      entrance.refuse(
        request,
        { ...refused(405, "no-such-method", `Only ${allow} are answered here.`), allow },
        problem,
      );
    const asks = preflight(door, "POST" in methods ? "GET, POST" : "GET");
    const OPTIONS: Route = (request) => asks(request) ?? other(request);
    return { POST: other, PUT: other, PATCH: other, DELETE: other, OPTIONS, ...methods };
  }

  return {
    "/rooms/:room/messages": route({ GET: read, POST: say }),
    "/rooms/:room/members": route({ GET: members }),
  };
}

function limitedFor(waitSeconds: number): Refusal | undefined {
  return waitSeconds > 0 ? { ...errorOf(429, "rate-limited"), retryAfterSeconds: waitSeconds } : undefined;
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

function readSaying(read: Awaited<ReturnType<typeof readBody>>, maxMessageBytes: number): Saying | Refusal {
  if (read === "too-big") return errorOf(413, "message-too-big");
  if (read === "cut-off") return refused(400, "cut-off", "The request ended before its body did.");
  if (read === "not-utf-8") return errorOf(400, "not-json");
  if (hasTooMuchAround(read.body)) return errorOf(413, "message-too-big");
  let value: { readonly [name in keyof Saying]?: unknown } | null;
  try {
    value = JSON.parse(read.body);
  } catch {
    value = null;
  }
  if (typeof value !== "object" || value === null) return errorOf(400, "not-json");
  const { text, from, session, seq } = value;
  if (typeof text !== "string") return errorOf(400, "no-text");
  if (isTooBig(text, maxMessageBytes)) return errorOf(413, "message-too-big");
  if (!isTextOrNone(from) || !isTextOrNone(session))
    return refused(400, "bad-name", "from is a client id, and session a name: texts, if they are there.");
  const number = readSeq(seq ?? undefined);
  if (number === "bad-seq") return errorOf(400, number);
  const name = typeof session === "string" ? readName("session", session) : undefined;
  if (name && "sentence" in name) return refused(400, "bad-name", name.sentence);
  return { text: text.toWellFormed(), from: from ?? undefined, session: name?.name, seq: number };
}

/** Many programs write null for what they leave out. */
function isTextOrNone(value: unknown): value is string | null | undefined {
  return value === undefined || value === null || typeof value === "string";
}

function made(value: object, status = 200): Response {
  return Response.json(value, {
    status,
    headers: { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" },
  });
}

const unreadable = refused(503, "unavailable", "It cannot be read just now: try again in a moment.");

function errorOf(status: Refusal["status"], code: ErrorCode): Refusal {
  return refused(status, code, errors[code]);
}

function isId(text: string): boolean {
  return /^\d{1,15}-\d{1,16}$/.test(text);
}
