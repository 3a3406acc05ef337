/** HTTP servers in the test's own process, which stand for proxies and other sites. */

/** Listens on 127.0.0.1, by default on a free port. */
export function serveHttp(fetch: (request: Request) => Response | Promise<Response>, port = 0) {
  return Bun.serve({ hostname: "127.0.0.1", port, fetch });
}

/** A port that is free at the moment. */
export function freePort(): number {
  using listener = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  return listener.port;
}
