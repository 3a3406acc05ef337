/** A rejected request: thrown inside this folder, and turned into a response by {@link rejectionHandler}. */

import { CODE_HEADER, textResponse } from "./responses.ts";
import type { RejectionCode } from "../protocol/codes.ts";

/** Reason phrases (RFC 9110, section 15). node:http has them too, and takes 8 ms to load. */
const TITLES = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  405: "Method Not Allowed",
  413: "Payload Too Large",
  429: "Too Many Requests",
  503: "Service Unavailable",
} as const;
const DEFAULT_RETRY_SECONDS = 5;

export class HttpProblem extends Error {
  /** For 429 and 503. */
  readonly retryAfterSeconds: number | undefined;
  /** For 405: the methods that the address supports. */
  readonly allow: string | undefined;

  /** @param detail one sentence for people that says what to do */
  constructor(
    readonly status: keyof typeof TITLES,
    readonly code: RejectionCode,
    readonly detail: string,
    { retryAfterSeconds, allow }: { retryAfterSeconds?: number; allow?: string } = {},
  ) {
    super(detail);
    this.retryAfterSeconds = retryAfterSeconds;
    this.allow = allow;
  }
}

/** For people, who open a socket's address in a browser. Kept alive, the connection would hold a file descriptor. */
export function textProblem(problem: HttpProblem): Response {
  const headers = { ...headersOf(problem), Connection: "close" };
  return textResponse(problem.status, problem.detail, headers);
}

/** For programs: problem details (RFC 9457). */
export function jsonProblem(problem: HttpProblem): Response {
  const { status, code, detail, retryAfterSeconds } = problem;
  return Response.json(
    { title: TITLES[status], status, detail, code, retryAfterSeconds },
    { status, headers: { ...headersOf(problem), "Content-Type": "application/problem+json" } },
  );
}

function headersOf({ status, code, allow, retryAfterSeconds }: HttpProblem): Record<string, string> {
  const headers = { [CODE_HEADER]: code };
  const retryAfter = `${Math.ceil(retryAfterSeconds ?? DEFAULT_RETRY_SECONDS)}`;
  switch (status) {
    case 401:
      return { ...headers, "WWW-Authenticate": "Bearer" };
    case 405:
      return { ...headers, ...(allow !== undefined && { Allow: allow }) };
    case 413:
      return { ...headers, Connection: "close" }; // the rest of the body is not read
    case 429:
      return { ...headers, "Retry-After": retryAfter };
    case 503:
      return { ...headers, "Retry-After": retryAfter, Connection: "close" }; // the rest of a slow body is not read
    default:
      return headers;
  }
}
