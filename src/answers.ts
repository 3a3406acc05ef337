/** What HTTP requests are answered with, apart from the page: one sentence, with the status that fits. */

import type { Refusal } from "./door.ts";

/** When who found no place may try again. */
const RETRY_AFTER_SECONDS = 5;

export function answer(status: number, sentence: string, headers: Record<string, string> = {}): Response {
  return new Response(`${sentence}\n`, {
    status,
    headers: { "Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff", ...headers },
  });
}

export function refusal({ status, sentence }: Refusal): Response {
  const headers: Record<string, string> = {};
  if (status === 401) headers["WWW-Authenticate"] = "Bearer";
  if (status === 429 || status === 503) headers["Retry-After"] = `${RETRY_AFTER_SECONDS}`;
  return answer(status, sentence, headers);
}

export function toClient(request: Request): Response {
  return answer(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
  });
}

export function notWebSocket(): Response {
  return answer(426, "Open this address with a WebSocket client; the chat's page is at /client.", {
    Connection: "Upgrade",
    Upgrade: "websocket",
  });
}

export function nothingHere({ method }: Request): Response {
  return method === "GET" || method === "HEAD"
    ? answer(404, "There is nothing here: the chat is at /client.")
    : answer(405, "Only GET and HEAD are answered here.", { Allow: "GET, HEAD" });
}

/** The page of an allowed other site may read the answer, and ask with a token first whether it may (CORS). */
export function readableBy(origin: string | undefined, response: Response): Response {
  if (origin === undefined) return response;
  response.headers.set("Access-Control-Allow-Origin", origin);
  response.headers.set("Access-Control-Expose-Headers", "Retry-After");
  response.headers.append("Vary", "Origin");
  return response;
}

export function preflight(origin: string): Response {
  return readableBy(
    origin,
    new Response(null, {
      status: 204,
      headers: {
        "Access-Control-Allow-Methods": "GET",
        "Access-Control-Allow-Headers": "Authorization",
        "Access-Control-Max-Age": "86400",
      },
    }),
  );
}
