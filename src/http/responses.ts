/** Plain-text responses. */

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

export function jsonResponse(value: object, status = 200): Response {
  return Response.json(value, {
    status,
    headers: { "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff" },
  });
}
