/** What some options take, and mean together: an origin of the web, a secret, a certificate; who can reach the server. */

import { didYouMean } from "./flags.ts";
import { lazyFs } from "../util/lazy-node.ts";

/** An origin of the web, without anything behind it. */
export function parseOrigin(text: string): URL | undefined {
  const url = /^https?:/.test(text) ? URL.parse(text) : null;
  return url && url.href === `${url.origin}/` ? url : undefined;
}

/** The `Origin` that pages of that site send, or those of an app (`capacitor://localhost`) or a browser's extension. */
export function allowedOriginOf(text: string): string | undefined {
  if (text.includes("*")) return undefined; // no browser sends one, and it would match nothing
  const site = parseOrigin(text);
  if (site) return site.origin;
  const [, scheme = "", host] = /^([a-z][a-z\d+.-]*):\/\/([\w.-]+(?::\d{1,5})?)\/?$/.exec(text) ?? [];
  const isApp = !NO_APPS.test(scheme) && didYouMean(scheme, ["http", "https"], "") === "";
  return host && isApp ? `${scheme}://${host}` : undefined;
}

/** Schemes that no page's origin has. */
const NO_APPS = /^(wss?|file|ftp|data|blob|about|javascript)$/;

/** By its label (RFC 7468): Bun takes an empty certificate for none, and would go on without TLS. */
export function readPem(file: string, label: RegExp, what: string) {
  try {
    const value = lazyFs().readFileSync(file, "utf8");
    return label.test(value) ? { value } : { expected: what };
  } catch {
    return { expected: "a file that can be read" };
  }
}

/** Any bytes; the line break that an editor puts at the end is none of them. */
export function readSecret(file: string): Buffer | undefined {
  try {
    const bytes = lazyFs().readFileSync(file);
    const isLine = bytes.at(-1) === 0x0a;
    return bytes.subarray(0, bytes.length - (isLine ? (bytes.at(-2) === 0x0d ? 2 : 1) : 0));
  } catch {
    return undefined;
  }
}

/** Only this machine can reach the server: it listens on a loopback address, and no proxy makes it public. */
export function isLocalOnly({
  host,
  publicUrl,
}: {
  readonly host: string;
  readonly publicUrl: URL | undefined;
}): boolean {
  // As a URL has them, all spellings of an address are one.
  const name = URL.parse(`http://${host.includes(":") ? `[${host}]` : host}`)?.hostname ?? "";
  return !publicUrl && /^(localhost\.?|127(\.\d+){3}|\[::1\]|\[::ffff:7f[\da-f]{2}:[\da-f]+\])$/.test(name);
}
