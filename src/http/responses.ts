/** Plain-text responses of the addresses that are not the chat, the rooms or the page. */

/** Marks a rejection as this server's, and not a proxy's on the way. */
export const CODE_HEADER = "Hubbub-Code";

/** One sentence for people. */
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

export function redirectToClient(request: Request): Response {
  return textResponse(302, "The chat is at /client.", {
    Location: `/client${/\?.*/.exec(request.url)?.[0] ?? ""}`,
  });
}

export function upgradeRequired(): Response {
  return textResponse(426, "This address expects a WebSocket. The chat is at /client.", {
    [CODE_HEADER]: "not-websocket",
    Connection: "Upgrade",
    Upgrade: "websocket",
  });
}

export function notFound({ method }: Request): Response {
  return method === "GET" || method === "HEAD"
    ? textResponse(404, "Not found. The chat is at /client.", { [CODE_HEADER]: "not-found" })
    : textResponse(405, "Only GET and HEAD are allowed here.", {
        [CODE_HEADER]: "no-such-method",
        Allow: "GET, HEAD",
      });
}

export function internalError(): Response {
  return textResponse(500, "Internal error. Try again in a moment.", { [CODE_HEADER]: "internal-error" });
}
