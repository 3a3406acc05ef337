/** `GET /rooms/:room/events`: the messages of a room as a response without end. */

import type { Bans } from "./bans.ts";
import type { ServerOptions } from "./options.ts";
import { jsonProblem, rejectionHeaders, type HttpProblem } from "./problem.ts";
import { acceptedQuality, EVENT_STREAM, parseStreamRequest, requireName } from "./request.ts";
import type { ApiHandler, Router } from "./router.ts";
import type { SocketRegistry } from "./socket-registry.ts";
import { StreamSocket, type StreamHandlers, type StreamTopics } from "./stream-socket.ts";
import type { Hub } from "../chat/hub.ts";
import { logError, logEvent } from "../ops/log.ts";
import type { Random } from "../util/random.ts";

/** When clients should reconnect: spread, because a restart ends all streams at once. */
const MIN_RETRY_MS = 1000;
const MAX_RETRY_MS = 3000;
/** After its end, a response that the client does not read is cut off. */
const UNREAD_END_SECONDS = 12;
/** No cache or proxy may store or buffer it; the second header is nginx's. */
const HEADERS = {
  "Cache-Control": "no-store",
  "X-Accel-Buffering": "no",
  "X-Content-Type-Options": "nosniff",
};

export class EventStreams {
  #count = 0;

  constructor(
    private readonly router: Router,
    private readonly sockets: SocketRegistry,
    private readonly hub: Hub,
    private readonly bans: Bans,
    private readonly topics: StreamTopics,
    private readonly options: Pick<ServerOptions, "history">,
    private readonly random: Random,
  ) {}

  /** Open streams. */
  get size(): number {
    return this.#count;
  }

  /** @throws HttpProblem, StoreUnavailable */
  readonly handle: ApiHandler<Request & { readonly params: { readonly room: string } }> = async (
    request,
    server,
  ) => {
    const { sockets, hub, topics } = this;
    const { access, addresses } = this.router;
    const room = requireName("room", request.params.room);
    const { expiresMs, key, client } = access.authorize(request, { room });
    const addressGroup = addresses.groupOf(request, server);
    this.bans.check(room, { client, address: addressGroup });
    const streamRequest = {
      ...parseStreamRequest(room, request, this.options.history),
      client,
      address: addressGroup,
      retryMs: this.#retryMs(),
    };
    const { codec } = streamRequest;
    sockets.admit(addressGroup);
    const headers = { ...HEADERS, "Content-Type": codec.contentType };
    // With an open stream as its body, Bun does not send `Content-Length: 0`.
    if (request.method === "HEAD") return new Response(new ReadableStream(), { headers });

    sockets.reserve(addressGroup);
    const stream = await hub.reserveStream(streamRequest).catch((error: unknown) => {
      sockets.release(addressGroup);
      throw error;
    });
    const fields = { room, format: codec.name, address: addressGroup };
    const handlers: StreamHandlers = {
      drain: () => {
        try {
          stream.onDrain();
        } catch (error) {
          logError("An event stream failed", error);
          stream.close("failed");
        }
      },
      close: (reason) => {
        this.#count--;
        sockets.remove(socket);
        stream.onClosed();
        server.timeout(request, UNREAD_END_SECONDS);
        logEvent("disconnected", { ...fields, reason });
      },
    };
    const data = { connection: undefined, addressGroup, expiresMs, key, missedPongs: 0, pingedMs: 0 };
    const socket = new StreamSocket(data, topics, codec.heartbeat, handlers);
    server.timeout(request, 0);
    this.#count++;
    sockets.add(socket);
    logEvent("connected", fields);
    try {
      hub.startStream(stream, socket);
    } catch (error) {
      stream.close("failed");
      throw error;
    }
    return new Response(socket.body, { headers });
  };

  /**
   * An EventSource gives up for good on any status but 200 (HTML standard, section 9.2.3), so a rejection that will pass
   * is a stream that ends at once.
   */
  readonly rejection = (problem: HttpProblem, { headers }: Request): Response => {
    const isTransient = problem.status === 429 || problem.status === 503;
    if (!isTransient || acceptedQuality(headers, EVENT_STREAM) === 0) return jsonProblem(problem);
    const { retryAfterSeconds = 0 } = problem.more;
    const retryMs = Math.ceil(retryAfterSeconds * 1000) + this.#retryMs();
    return new Response(`retry: ${retryMs}\n: ${problem.detail}\n\n`, {
      headers: { ...rejectionHeaders(problem), ...HEADERS, "Content-Type": "text/event-stream" },
    });
  };

  #retryMs(): number {
    return MIN_RETRY_MS + Math.floor(this.random.next() * (MAX_RETRY_MS - MIN_RETRY_MS));
  }
}
