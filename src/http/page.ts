/** The page, the client module and its types, as static responses: Bun adds an ETag and answers HEAD and If-None-Match. */

import { bundlePage, readSource, transpile } from "./page-macros.ts" with { type: "macro" };

const { html, styleHash, scriptHash } = bundlePage();

/** The page runs only its own script and style, and connects only to this server. */
const policy = [
  "default-src 'none'",
  `script-src ${scriptHash}`,
  `style-src ${styleHash}`,
  "connect-src 'self'",
  "img-src blob: data:",
  "worker-src blob:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

export const pageResponse = new Response(html, {
  headers: {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": policy,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
  },
});

export const clientModuleResponse = forAnySite("text/javascript", transpile("src/client/client.ts"));
export const clientTypesResponse = forAnySite("application/typescript", readSource("src/client/hubbub.d.ts"));

/** Any site may import the client; where it may then connect is checked separately. */
function forAnySite(type: string, text: string): Response {
  return new Response(text, {
    headers: {
      "Content-Type": `${type}; charset=utf-8`,
      "Access-Control-Allow-Origin": "*",
      "X-Content-Type-Options": "nosniff",
      "Cache-Control": "no-cache",
    },
  });
}
