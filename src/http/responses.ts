/** What HTTP requests are answered with, apart from the page: one sentence, with the status that fits. */

import type { AccessControl, Problem } from "./access.ts";

/** The statuses' own names (RFC 9110); node:http has them, too, and takes 8 ms of the start. */
const TITLES: Readonly<Record<Problem["status"], string>> = {
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  405: "Method Not Allowed",
  413: "Payload Too Large",
  429: "Too Many Requests",
  503: "Service Unavailable",
};
/** When who found no place may try again. */
const RETRY_AFTER_SECONDS = 5;

/** Tells a client that it is this server that rejects it, and why, and not a proxy on the way. */
const CODE_HEADER = "Hubbub-Code";

export function textResponse(
  status: number,
  sentence: string,
  headers: Record<string, string> = {},
): Response {
  return new Response(`${sentence}\n`, {
    status,
    headers: { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", ...headers },
  });
}

/** For people, who ask a socket's address why. Its connection would wait for a next request, and take a place. */
export function textProblem(refused: Problem): Response {
  return textResponse(refused.status, refused.detail, { ...headersOf(refused), Connection: "close" });
}

/** For programs: problem details (RFC 9457). */
export function jsonProblem(refused: Problem): Response {
  const { status, code, detail, retryAfterSeconds } = refused;
  return Response.json(
    { title: TITLES[status], status, detail, code, retryAfterSeconds },
    { status, headers: { ...headersOf(refused), "Content-Type": "application/problem+json" } },
  );
}

function headersOf({
  status,
  code,
  allow,
  retryAfterSeconds = RETRY_AFTER_SECONDS,
}: Problem): Record<string, string> {
  const headers = { [CODE_HEADER]: code };
  if (status === 401) return { ...headers, "WWW-Authenticate": "Bearer" };
  if (allow !== undefined) return { ...headers, Allow: allow };
  if (status === 413) return { ...headers, Connection: "close" }; // nobody reads the rest
  return status === 429 || status === 503
    ? { ...headers, "Retry-After": `${Math.ceil(retryAfterSeconds)}` }
    : headers;
}

export function redirectToClient(request: Request): Response {
  return textResponse(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
  });
}

export function upgradeRequired(): Response {
  return textResponse(426, "Open this address with a WebSocket client; the chat's page is at /client.", {
    [CODE_HEADER]: "not-websocket",
    Connection: "Upgrade",
    Upgrade: "websocket",
  });
}

export function notFound({ method }: Request): Response {
  return method === "GET" || method === "HEAD"
    ? textResponse(404, "There is nothing here: the chat is at /client.", { [CODE_HEADER]: "not-found" })
    : textResponse(405, "Only GET and HEAD are answered here.", {
        [CODE_HEADER]: "no-such-method",
        Allow: "GET, HEAD",
      });
}

export function failed(): Response {
  return textResponse(500, "Something went wrong on our side: please try again.", {
    [CODE_HEADER]: "internal-error",
  });
}

/** The page of that other site may read the answer (CORS). */
export function withCors(origin: string | undefined, response: Response): Response {
  if (origin === undefined) return response;
  response.headers.set("Access-Control-Allow-Origin", origin);
  response.headers.set("Access-Control-Expose-Headers", `${CODE_HEADER}, Retry-After`);
  response.headers.append("Vary", "Origin");
  return response;
}

/** Such a page's browser asks first whether it may show a token, or send JSON. */
export function corsPreflight(
  access: AccessControl,
  methods: string,
): (request: Request) => Response | undefined {
  return ({ headers }) => {
    const origin = access.allowedOrigin(headers);
    if (origin === undefined) return undefined;
    const allowed = {
      "Access-Control-Allow-Methods": methods,
      "Access-Control-Allow-Headers": "Authorization, Content-Type",
      "Access-Control-Max-Age": "86400",
    };
    return withCors(origin, new Response(null, { status: 204, headers: allowed }));
  };
}
