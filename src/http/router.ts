/** What all routes share: rejections become responses, the methods of an address, and which pages may read responses (CORS). */

import type { AccessControl } from "./access-control.ts";
import type { ClientAddresses } from "./client-address.ts";
import { HttpProblem, internalError, jsonProblem, textProblem } from "./problem.ts";
import { CODE_HEADER } from "./responses.ts";
import type { SocketData } from "./socket-registry.ts";
import { logError, logEvent } from "../ops/log.ts";
import { requestsRejected } from "../ops/metrics.ts";
import { StoreUnavailable } from "../store/store.ts";

const MAX_LOGGED_PATH_CHARACTERS = 200;
const PREFLIGHT_MAX_AGE_SECONDS = 86_400;

/** The part of Bun's server that handlers use, so that a simulator can provide it. */
export type HttpServer = Pick<Bun.Server<SocketData>, "requestIP" | "upgrade" | "timeout">;

/** A route's handler, which may throw an {@link HttpProblem}; undefined after an upgrade. */
export type Handler<R extends Request = Request> = (
  request: R,
  server: HttpServer,
) => Response | undefined | Promise<Response | undefined>;

export type ApiHandler<R extends Request = Request> = (
  request: R,
  server: HttpServer,
) => Response | Promise<Response>;

/** How a rejection is written. */
type ProblemResponse = (problem: HttpProblem, request: Request) => Response;

export class Router {
  constructor(
    readonly access: AccessControl,
    readonly addresses: ClientAddresses,
  ) {}

  /** The one place where a thrown {@link HttpProblem} becomes a response, for people or for programs, is counted and is logged. */
  route<R extends Request>(handle: Handler<R>, toResponse: ProblemResponse = textProblem): Handler<R> {
    return async (request, server) => {
      try {
        return await handle(request, server);
      } catch (error) {
        const problem = asProblem(error);
        const { status, code } = problem;
        requestsRejected.count(code);
        const address = this.addresses.of(request, server);
        logEvent("rejected", { status, code, path: pathOf(request), address });
        return withCors(this.access.readerOf(problem, request.headers), toResponse(problem, request));
      }
    };
  }

  /**
   * An address of the API, with the handlers of its methods. Host and Origin are checked, pages of allowed sites may
   * read its responses, and all its rejections are problem details.
   */
  api<R extends Request>(
    handlers: Readonly<Record<string, ApiHandler<R>>>,
    toResponse: ProblemResponse = jsonProblem,
  ): Handler<R> {
    const byMethod = new Map(Object.entries(handlers));
    const methods = [...byMethod.keys()].join(", ");
    const allow = `${methods.replace("GET", "GET, HEAD")}, OPTIONS`;
    return this.route(async (request, server) => {
      const handle = byMethod.get(request.method === "HEAD" ? "GET" : request.method);
      if (handle) {
        this.access.checkHostAndOrigin(request.headers);
        return this.readable(request, await handle(request, server));
      }
      if (request.method === "OPTIONS") {
        const preflight = this.preflight(request, methods);
        if (preflight) return preflight;
        this.access.checkHostAndOrigin(request.headers);
        return new Response(null, { status: 204, headers: { Allow: allow } });
      }
      throw new HttpProblem("no-such-method", `Only ${allow} are allowed here.`, { allow });
    }, toResponse);
  }

  /** Addresses of the API that do not exist. */
  notFound(detail: string): Handler {
    return this.route(({ headers }) => {
      this.access.checkHostAndOrigin(headers);
      throw new HttpProblem("not-found", detail);
    }, jsonProblem);
  }

  /** Answers a browser that asks whether a page may send a token or JSON; undefined for origins that are not allowed. */
  preflight({ headers }: Request, methods: string): Response | undefined {
    const origin = this.access.allowedOrigin(headers);
    if (origin === undefined) return undefined;
    const allowed = {
      "Access-Control-Allow-Methods": methods,
      "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID",
      "Access-Control-Max-Age": `${PREFLIGHT_MAX_AGE_SECONDS}`,
    };
    return withCors(origin, new Response(null, { status: 204, headers: allowed }));
  }

  /** Lets the page that sent the request read the response, if its origin is allowed. */
  readable({ headers }: Request, response: Response): Response {
    return withCors(this.access.allowedOrigin(headers), response);
  }
}

/** Lets pages of an origin read the response. */
function withCors(origin: string | undefined, response: Response): Response {
  if (origin === undefined) return response;
  response.headers.set("Access-Control-Allow-Origin", origin);
  response.headers.set("Access-Control-Expose-Headers", `${CODE_HEADER}, Retry-After`);
  response.headers.append("Vary", "Origin");
  return response;
}

/** What no client can cause is logged, and nothing of it is sent. */
function asProblem(error: unknown): HttpProblem {
  if (error instanceof HttpProblem) return error;
  if (error instanceof StoreUnavailable)
    return new HttpProblem("unavailable", "This room is unavailable right now. Try again in a moment.");
  logError("A request failed", error);
  return internalError();
}

/** Without the query, which may hold a token. */
function pathOf({ url }: Request): string {
  return URL.parse(url)?.pathname.slice(0, MAX_LOGGED_PATH_CHARACTERS) ?? "";
}
