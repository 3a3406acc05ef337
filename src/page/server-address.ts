/** The origin that others reach the server by. */

/** Names that mean another machine on every machine. */
const LOOPBACK = /^(localhost|.*\.localhost|127\.[\d.]+|\[::1\])$/;

/** As the server says; undefined without an answer, and if it is of no use where this page is open. */
export async function fetchServerOrigin(): Promise<string | undefined> {
  try {
    const { origin = "" } = await (await fetch("/address")).json();
    const host = URL.parse(origin)?.hostname;
    return host === undefined || (isLoopback(host) && !isLoopback(location.hostname)) ? undefined : origin;
  } catch {
    return undefined; // no connection, or a proxy's error page
  }
}

export function isLoopback(host: string): boolean {
  return LOOPBACK.test(host);
}
