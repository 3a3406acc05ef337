/** The page and its client module as static responses: Bun gives them an ETag, answers HEAD and If-None-Match. */

import { cspHash, transpile } from "./page-macros.ts" with { type: "macro" };

// Bun's types call every .html an HTMLBundle; imported as text it is a string, also in the executable.
import html from "../../index.html" with { type: "text" };

/** The page runs its own script and style, named by their hashes, and this server's module; it talks to nobody else. */
const policy = [
  "default-src 'none'",
  `script-src 'self' ${cspHash("script", "../../index.html")}`,
  `style-src ${cspHash("style", "../../index.html")}`,
  "connect-src 'self'",
  "img-src blob: data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

export const pageResponse = new Response(String(html), {
  headers: {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": policy,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
  },
});

/** The client for any page to import; what it may then connect to is another matter. */
export const clientModuleResponse = new Response(transpile("../client/client.ts"), {
  headers: {
    "Content-Type": "text/javascript; charset=utf-8",
    "Access-Control-Allow-Origin": "*",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
  },
});
