/** Cross-origin requests (CORS): which responses pages of other sites may read. */

import type { AccessControl } from "./access-control.ts";
import { CODE_HEADER } from "./responses.ts";

const PREFLIGHT_MAX_AGE_SECONDS = 86_400;

/** Lets pages of an origin read the response. */
export function withCors(origin: string | undefined, response: Response): Response {
  if (origin === undefined) return response;
  response.headers.set("Access-Control-Allow-Origin", origin);
  response.headers.set("Access-Control-Expose-Headers", `${CODE_HEADER}, Retry-After`);
  response.headers.append("Vary", "Origin");
  return response;
}

/** Answers a browser that asks whether a page may send a token or JSON; undefined for origins that are not allowed. */
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
      "Access-Control-Max-Age": `${PREFLIGHT_MAX_AGE_SECONDS}`,
    };
    return withCors(origin, new Response(null, { status: 204, headers: allowed }));
  };
}
