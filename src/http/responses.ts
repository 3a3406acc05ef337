/** What HTTP requests are answered with, apart from the page: one sentence, with the status that fits. */

import type { Door, Refusal } from "./access.ts";

/** The statuses' own names (RFC 9110); node:http has them, too, and takes 8 ms of the start. */
const TITLES: Readonly<Record<Refusal["status"], string>> = {
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

export function answer(status: number, sentence: string, headers: Record<string, string> = {}): Response {
  return new Response(`${sentence}\n`, {
    status,
    headers: { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", ...headers },
  });
}

/** For people, who ask a socket's address why. Its connection would wait for a next request, and take a place. */
export function refusal(refused: Refusal): Response {
  return answer(refused.status, refused.sentence, { ...headersOf(refused), Connection: "close" });
}

/** For programs: problem details (RFC 9457). */
export function problem(refused: Refusal): Response {
  const { status, code, sentence, retryAfterSeconds } = refused;
  return Response.json(
    { title: TITLES[status], status, detail: sentence, code, retryAfterSeconds },
    { status, headers: { ...headersOf(refused), "Content-Type": "application/problem+json" } },
  );
}

function headersOf({
  status,
  code,
  allow,
  retryAfterSeconds = RETRY_AFTER_SECONDS,
}: Refusal): Record<string, string> {
  const headers = { [CODE_HEADER]: code };
  if (status === 401) return { ...headers, "WWW-Authenticate": "Bearer" };
  if (allow !== undefined) return { ...headers, Allow: allow };
  if (status === 413) return { ...headers, Connection: "close" }; // nobody reads the rest
  return status === 429 || status === 503
    ? { ...headers, "Retry-After": `${Math.ceil(retryAfterSeconds)}` }
    : headers;
}

export function toClient(request: Request): Response {
  return answer(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
  });
}

export function notWebSocket(): Response {
  return answer(426, "Open this address with a WebSocket client; the chat's page is at /client.", {
    [CODE_HEADER]: "not-websocket",
    Connection: "Upgrade",
    Upgrade: "websocket",
  });
}

export function nothingHere({ method }: Request): Response {
  return method === "GET" || method === "HEAD"
    ? answer(404, "There is nothing here: the chat is at /client.", { [CODE_HEADER]: "not-found" })
    : answer(405, "Only GET and HEAD are answered here.", {
        [CODE_HEADER]: "no-such-method",
        Allow: "GET, HEAD",
      });
}

export function failed(): Response {
  return answer(500, "Something went wrong on our side: please try again.", {
    [CODE_HEADER]: "internal-error",
  });
}

/** The page of that other site may read the answer (CORS). */
export function readableBy(origin: string | undefined, response: Response): Response {
  if (origin === undefined) return response;
  response.headers.set("Access-Control-Allow-Origin", origin);
  response.headers.set("Access-Control-Expose-Headers", `${CODE_HEADER}, Retry-After`);
  response.headers.append("Vary", "Origin");
  return response;
}

/** Such a page's browser asks first whether it may show a token, or send JSON. */
export function preflight(door: Door, methods: string): (request: Request) => Response | undefined {
  return ({ headers }) => {
    const origin = door.allowedOrigin(headers);
    if (origin === undefined) return undefined;
    const allowed = {
      "Access-Control-Allow-Methods": methods,
      "Access-Control-Allow-Headers": "Authorization, Content-Type",
      "Access-Control-Max-Age": "86400",
    };
    return readableBy(origin, new Response(null, { status: 204, headers: allowed }));
  };
}
