/** The one place where a thrown {@link HttpProblem} becomes a response, is counted and is logged. */

import type { AccessControl } from "./access-control.ts";
import type { ClientAddresses } from "./client-address.ts";
import { withCors } from "./cors.ts";
import { HttpProblem, textProblem } from "./problem.ts";
import type { SocketData } from "./socket-registry.ts";
import { logEvent } from "../ops/log.ts";
import { requestsRejected } from "../ops/metrics.ts";
import { StoreUnavailable } from "../store/store.ts";

const MAX_LOGGED_PATH_CHARACTERS = 200;

/** The part of Bun's server that handlers use, so that a simulator can provide it. */
export type HttpServer = Pick<Bun.Server<SocketData>, "requestIP" | "upgrade" | "timeout">;

/** A route's handler; undefined after an upgrade. */
export type Handler<R extends Request = Request> = (
  request: R,
  server: HttpServer,
) => Response | undefined | Promise<Response | undefined>;

/** Wraps a handler so that it can throw an {@link HttpProblem}. */
export type HandleRejections = <R extends Request>(
  handle: Handler<R>,
  /** For people or for programs. */
  toResponse?: (problem: HttpProblem) => Response,
) => Handler<R>;

export function rejectionHandler(access: AccessControl, addresses: ClientAddresses): HandleRejections {
  return (handle, toResponse = textProblem) =>
    async (request, server) => {
      try {
        return await handle(request, server);
      } catch (error) {
        const problem = asProblem(error);
        const { status, code } = problem;
        requestsRejected.count(code);
        logEvent("rejected", {
          status,
          code,
          path: pathOf(request),
          address: addresses.of(request, server),
        });
        return withCors(access.readerOf(problem, request.headers), toResponse(problem));
      }
    };
}

/** @throws the error itself if no client can cause it */
function asProblem(error: unknown): HttpProblem {
  if (error instanceof HttpProblem) return error;
  if (error instanceof StoreUnavailable)
    return new HttpProblem(503, "unavailable", "This room is unavailable right now. Try again in a moment.");
  throw error;
}

/** Without the query, which may hold a token. */
function pathOf({ url }: Request): string {
  return URL.parse(url)?.pathname.slice(0, MAX_LOGGED_PATH_CHARACTERS) ?? "";
}
