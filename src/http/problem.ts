/** A rejected request: thrown inside this folder, and turned into a response by {@link Router}. */

import { CODE_HEADER, textResponse } from "./responses.ts";
import { ERROR_MESSAGES, REJECTION_STATUS, type ErrorCode, type RejectionCode } from "../protocol/codes.ts";

type Status = (typeof REJECTION_STATUS)[RejectionCode];

/** Reason phrases (RFC 9110, section 15). node:http has them too, and takes 8 ms to load. */
const TITLES: Record<Status, string> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  405: "Method Not Allowed",
  413: "Content Too Large",
  415: "Unsupported Media Type",
  426: "Upgrade Required",
  429: "Too Many Requests",
  500: "Internal Server Error",
  503: "Service Unavailable",
};
const DEFAULT_RETRY_SECONDS = 5;

export class HttpProblem extends Error {
  readonly status: Status;

  /**
   * @param detail one sentence for people that says what to do
   * @param more for 429 and 503 when to retry, for 405 the methods that the address supports
   */
  constructor(
    readonly code: RejectionCode,
    readonly detail: string,
    readonly more: { readonly retryAfterSeconds?: number; readonly allow?: string } = {},
  ) {
    super(detail);
    this.status = REJECTION_STATUS[code];
  }
}

/** An error that the JSON wire has too, with its code and message. */
export function protocolProblem(code: ErrorCode, more?: HttpProblem["more"]): HttpProblem {
  return new HttpProblem(code, ERROR_MESSAGES[code], more);
}

/** The request has no token that allows moderating. */
export function notModerator(): HttpProblem {
  return new HttpProblem("not-moderator", "Only a token made with --can moderate allows this.");
}

/** An address without a route, or with one for other methods. */
export function noSuchRoute({ method }: Request): HttpProblem {
  return method === "GET" || method === "HEAD"
    ? new HttpProblem("not-found", "Not found. The chat is at /client.")
    : new HttpProblem("no-such-method", "Only GET and HEAD are allowed here.", { allow: "GET, HEAD" });
}

/** Says nothing of the error, which is logged. */
export function internalError(): HttpProblem {
  return new HttpProblem("internal-error", "Internal error. Try again in a moment.");
}

/** For people, who open a socket's address in a browser. Kept alive, the connection would hold a file descriptor. */
export function textProblem(problem: HttpProblem): Response {
  return textResponse(problem.status, problem.detail, { Connection: "close", ...rejectionHeaders(problem) });
}

/** For programs: problem details (RFC 9457). */
export function jsonProblem(problem: HttpProblem): Response {
  const { status, code, detail, more } = problem;
  return Response.json(
    { title: TITLES[status], status, detail, code, retryAfterSeconds: more.retryAfterSeconds },
    { status, headers: { ...rejectionHeaders(problem), "Content-Type": "application/problem+json" } },
  );
}

/** `Hubbub-Code`, and what the status requires. */
export function rejectionHeaders({ status, code, more }: HttpProblem): Record<string, string> {
  const { retryAfterSeconds = DEFAULT_RETRY_SECONDS, allow } = more;
  return {
    [CODE_HEADER]: code,
    ...(status === 401 && { "WWW-Authenticate": "Bearer" }),
    ...(allow !== undefined && { Allow: allow }),
    ...(status === 426 && { Connection: "Upgrade", Upgrade: "websocket" }), // RFC 9110, section 15.5.22
    ...((status === 429 || status === 503 || code === "banned") && {
      "Retry-After": `${Math.ceil(retryAfterSeconds)}`,
    }),
    // The rest of the body is not read.
    ...((status === 413 || status === 415 || status === 503) && { Connection: "close" }),
  };
}
