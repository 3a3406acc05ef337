/** The rooms API for curl, bots and other services: post, read and remove messages, list the members, list rooms. */

import { canRead, type Grant } from "./access-control.ts";
import type { Bans } from "./bans.ts";
import type { EventStreams } from "./event-streams.ts";
import type { ServerOptions } from "./options.ts";
import {
  minCostOf,
  parseJsonPost,
  parseTextPost,
  postFormat,
  requireSender,
  type PostedMessage,
} from "./posted-message.ts";
import { HttpProblem, protocolProblem } from "./problem.ts";
import { queryParams, requireClient, requireName } from "./request.ts";
import type { BodyReader } from "./request-body.ts";
import { jsonResponse } from "./responses.ts";
import { listRooms, summarizeRooms } from "./room-list.ts";
import type { ApiHandler, HttpServer, Router } from "./router.ts";
import type { Hub } from "../chat/hub.ts";
import { toChatMessage } from "../protocol/codec.ts";
import type { Right } from "../protocol/events.ts";
import { logEvent } from "../ops/log.ts";
import { moderationsTotal } from "../ops/metrics.ts";
import { isMessageId } from "../store/message-id.ts";
import { isMessage, type RemovalTarget } from "../store/message.ts";
import type { Clock } from "../util/clock.ts";
import { costOf, TokenBuckets } from "../util/token-bucket.ts";

const DEFAULT_LIMIT = 100;
const MAX_LIMIT = 1000;
/** Fewer than the parameters that are read of an address. */
const MAX_NAMED_ROOMS = 30;

type RoomRequest = Request & { readonly params: { readonly room: string } };
type MessageRequest = Request & { readonly params: { readonly room: string; readonly id: string } };

export function roomRoutes(
  router: Router,
  hub: Hub,
  bodies: BodyReader,
  events: EventStreams,
  bans: Bans,
  options: ServerOptions,
  clock: Clock,
) {
  const { access, addresses } = router;
  const { maxMessageBytes, messageRate, messageBurst } = options;
  // An address may post messages, and read pages, at the rate of one connection.
  const rate = { perSecond: messageRate, burst: messageBurst };
  const [postBuckets, readBuckets] = [new TokenBuckets(rate), new TokenBuckets(rate)];

  /** A handler for clients that have this right in the room. */
  function inRoom<R extends RoomRequest>(
    handle: (request: R, room: string, server: HttpServer, grant: Grant) => Promise<Response>,
    right: Right = "read",
  ): ApiHandler<R> {
    return (request, server) => {
      const room = requireName("room", request.params.room);
      const grant = access.authorize(request, { room, right });
      bans.check(room, { client: grant.client, address: addresses.groupOf(request, server) });
      return handle(request, room, server, grant);
    };
  }

  /**
   * `{"text" or "data","from","session"?,"seq"?}`, or a text with `?from=&session=&seq=` → 201 `{"id"}`; 200 for a
   * duplicate.
   */
  const postMessage = inRoom(async (request, room, server, grant) => {
    const bucket = postBuckets.get(addresses.groupOf(request, server));
    rejectIfLimited(bucket.waitFor(1, clock.elapsed())); // before the body is read
    const format = postFormat(request.headers);
    let body = "";
    let post: PostedMessage;
    try {
      body = await bodies.read(request, server);
      // Before it is parsed, which takes milliseconds for a text that consists of escapes.
      rejectIfLimited(bucket.waitFor(minCostOf(body), clock.elapsed()));
      post =
        format === "text"
          ? parseTextPost(body, queryParams(request.url), maxMessageBytes)
          : parseJsonPost(body, maxMessageBytes);
    } catch (error) {
      // A malformed body costs by its size, which is what reading it takes.
      rejectIfLimited(bucket.take(costOf(body), clock.elapsed()));
      throw error;
    }
    const { content, session, seq, from = grant.client } = post;
    rejectIfLimited(bucket.take(costOf(content), clock.elapsed()));
    const sender = requireSender(from, format);
    const { client = sender } = access.permit(grant, { client: sender, room, right: "write" });
    bans.check(room, { client, address: addresses.groupOf(request, server) });
    const result = await hub.post({ room, from: client, content, session, seq });
    if ("stored" in result) return jsonResponse({ id: result.stored.id }, 201);
    if ("duplicateSeq" in result) return jsonResponse({ id: result.id ?? null });
    throw protocolProblem(result.rejected);
  }, "write");

  /**
   * `?after=ID` or `?before=ID`, `&limit=N` → `{"messages":[…],"more":true}`, oldest first; with `after`, `recovered`, and
   * `removals` if there are any.
   */
  const readHistory = inRoom(async (request, room, server) => {
    limitReads(request, server);
    const query = queryParams(request.url);
    const [after, before] = [query.get("after"), query.get("before")];
    if ((after !== null && before !== null) || ![after, before].every((id) => id === null || isMessageId(id)))
      throw new HttpProblem("bad-id", "after or before must be the id of a message. Give one at most.");
    const limit = parseLimit(query);
    const { entries, more, recovered } = await hub.store.readHistory(room, {
      ...(after !== null && { after }),
      ...(before !== null && { before }),
      limit,
    });
    const messages = entries.filter(isMessage).map(toChatMessage);
    const removals = entries.flatMap((entry) =>
      isMessage(entry) || after === null ? [] : [{ id: entry.id, ...entry.removes }],
    );
    return jsonResponse({ messages, more, recovered, ...(removals.length > 0 ? { removals } : {}) });
  });

  /** → `{"removed":1}`; 0 if it was removed before. */
  const removeMessage = inRoom<MessageRequest>((request, room, server, grant) => {
    limitReads(request, server);
    const { id } = request.params;
    if (!isMessageId(id)) throw new HttpProblem("bad-id", "The address must end with the id of a message.");
    return remove(room, { message: id }, grant);
  }, "moderate");

  /** `?from=CLIENT` → `{"removed":N}` */
  const removeMessagesOf = inRoom((request, room, server, grant) => {
    limitReads(request, server);
    const from = queryParams(request.url).get("from");
    if (from === null)
      throw new HttpProblem("bad-name", "Name the client whose messages to remove: ?from=NAME.");
    return remove(room, { from: requireClient(from, "from: ") }, grant);
  }, "moderate");

  async function remove(room: string, target: RemovalTarget, { client: by }: Grant): Promise<Response> {
    const removed = await hub.store.remove(room, target);
    if (removed === undefined)
      throw new HttpProblem("no-such-message", "This message is not stored in this room.");
    // Also if there was nothing to remove: an action of a moderator, whose first attempt may have ended without a reply.
    moderationsTotal.count("message" in target ? "remove-message" : "remove-client");
    logEvent("messages removed", { room, by, ...target, count: removed });
    return jsonResponse({ removed });
  }

  /** `{"count","members"}` */
  const listMembers = inRoom(async (request, room, server) => {
    limitReads(request, server);
    return jsonResponse(await hub.getPresence(room));
  });

  /**
   * `?room=a&room=b` → `{"rooms":[{"room","count","lastId","lastTime"}],"listed"}`, in that order, and whether the server
   * lists all rooms; without `room`, these, with `?after=ROOM&limit=N` and `more`. A client receives the rooms that
   * its token covers, and from which it is not banned.
   */
  const getRooms: ApiHandler = async (request, server) => {
    const grant = access.authenticate(request);
    limitReads(request, server);
    const query = queryParams(request.url);
    const visitor = { client: grant.client, address: addresses.groupOf(request, server) };
    const isVisible = (room: string) => canRead(grant, room) && !bans.isBanned(room, visitor);
    const named = new Set(query.getAll("room").map((room) => requireName("room", room)));
    if (query.getAll("room").length > MAX_NAMED_ROOMS)
      throw new HttpProblem("bad-limit", `Name at most ${MAX_NAMED_ROOMS} rooms in a request.`);
    if (named.size > 0)
      return jsonResponse({
        rooms: await summarizeRooms(hub, [...named].filter(isVisible)),
        listed: options.listRooms,
      });
    if (!options.listRooms)
      throw new HttpProblem("not-listed", "This server lists no rooms. Name those you know: ?room=NAME.");
    const after = query.get("after");
    const last = after === null ? undefined : requireName("room", after, "after: ");
    const beforeRead = async () => {
      limitReads(request, server);
      await new Promise<void>((resolve) => clock.setImmediate(resolve)); // others are served in between
    };
    return jsonResponse(await listRooms(hub, last, parseLimit(query), isVisible, beforeRead));
  };

  function limitReads(request: Request, server: HttpServer): void {
    const bucket = readBuckets.get(addresses.groupOf(request, server));
    rejectIfLimited(bucket.take(1, clock.elapsed()));
  }

  const routes = {
    "/rooms": router.api({ GET: getRooms }),
    "/rooms/:room/messages": router.api<RoomRequest>({
      GET: readHistory,
      POST: postMessage,
      DELETE: removeMessagesOf,
    }),
    "/rooms/:room/messages/:id": router.api({ DELETE: removeMessage }),
    "/rooms/:room/events": router.api({ GET: events.handle }, events.rejection),
    "/rooms/:room/members": router.api({ GET: listMembers }),
  };
  const known = Object.keys(routes).join(", ");
  return { ...routes, "/rooms/*": router.notFound(`Not found. The API has ${known}.`) };
}

/** @throws HttpProblem 400 */
function parseLimit(query: URLSearchParams): number {
  const limit = query.get("limit") ?? `${DEFAULT_LIMIT}`;
  if (!/^\d{1,4}$/.test(limit) || Number(limit) < 1 || Number(limit) > MAX_LIMIT)
    throw new HttpProblem("bad-limit", `limit must be a whole number from 1 to ${MAX_LIMIT}.`);
  return Number(limit);
}

/** @throws HttpProblem 429 */
function rejectIfLimited(retryAfterSeconds: number): void {
  if (retryAfterSeconds > 0) throw protocolProblem("rate-limited", { retryAfterSeconds });
}
