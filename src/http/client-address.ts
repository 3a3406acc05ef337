/** Client addresses: where a request comes from, behind a proxy too, and which addresses count as one client. */

import { logEvent } from "../ops/log.ts";

/** An IPv6 address with its zone and a port, in brackets and quotes. */
const MAX_NODE_CHARACTERS = 100;
const IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;

export class ClientAddresses {
  #lastGroup = "";
  #hasWarned = false;

  constructor(private readonly trustProxy: boolean) {}

  /** The client's address, or the proxy's if it is not trusted. */
  of(request: Request, server: Pick<Bun.Server<unknown>, "requestIP">): string {
    const peer = server.requestIP(request)?.address ?? "";
    if (this.trustProxy) return forwardedFor(request.headers) ?? peer;
    if (!this.#hasWarned && request.headers.has("x-forwarded-for")) {
      this.#hasWarned = true; // all clients behind this proxy share one address
      logEvent("X-Forwarded-For ignored", {
        address: peer,
        hint: "behind a proxy, start with --trust-proxy",
      });
    }
    return peer;
  }

  /** The {@link addressGroup} of a request. Consecutive connections from one group share the string, to save memory. */
  groupOf(request: Request, server: Pick<Bun.Server<unknown>, "requestIP">): string {
    const group = addressGroup(this.of(request, server));
    if (group !== this.#lastGroup) this.#lastGroup = group;
    return this.#lastGroup;
  }
}

/** What rate limits count as one address: an IPv4 address, or the /64 network of an IPv6 address, which is what one subscriber gets. */
export function addressGroup(address: string): string {
  if (!address.includes(":")) return address;
  // The URL parser normalizes the address and shortens zeros to `::` (RFC 5952).
  const normalized = URL.parse(`http://[${address.replace(/%.*/, "")}]/`)?.hostname.slice(1, -1) ?? "";
  const [head = [], tail = []] = normalized.split("::").map((part) => part.split(":").filter(Boolean));
  const zeros = Array<string>(8 - head.length - tail.length).fill("0");
  const groups = [...head, ...zeros, ...tail];
  if (/^0:0:0:0:0:ffff:/.test(groups.join(":"))) return mappedIpv4(groups.slice(6));
  return groups.slice(0, 4).join(":");
}

/** The IPv4 address in the last two groups of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2). */
function mappedIpv4(groups: readonly string[]): string {
  return groups
    .map((group) => Number.parseInt(group, 16))
    .flatMap((group) => [group >> 8, group & 255])
    .join(".");
}

/**
 * The last address of `X-Forwarded-For`, which the nearest proxy wrote, without port, brackets, quotes and zone
 * (RFC 7239, section 6). Empty list elements are ignored (RFC 9110, section 5.6.1). Undefined for `unknown` and
 * obfuscated identifiers.
 */
export function forwardedFor(headers: Headers): string | undefined {
  const elements = (headers.get("x-forwarded-for") ?? "").split(",").map((element) => element.trim());
  const node = elements.findLast(Boolean) ?? "";
  if (node.length > MAX_NODE_CHARACTERS) return undefined;
  const [, quoted, bare] = /^(?:"(.*)"|([^"]*))$/.exec(node) ?? [];
  const [, bracketed, plain] =
    /^(?:\[([^\]]*)\]|([\d.]+|[^[\]]*))(?::(?:\d{0,5}|_[\w.-]+))?$/.exec(quoted ?? bare ?? "") ?? [];
  const address = bracketed ?? plain ?? "";
  if (IPV4.test(address)) return address;
  // Without brackets, a port can be distinguished from a group only after eight groups, or by its five digits.
  const ipv6 = address
    .replace(/%.*/, "")
    .replace(/^((?:[\da-f]{1,4}:){7}[\da-f]{1,4}):\d{1,5}$|:\d{5}$/i, "$1");
  return isIpv6(ipv6) ? ipv6 : undefined;
}

/** Whether the text is an IP address; node:net could tell, and takes 6 ms to load. */
export function isIpAddress(text: string): boolean {
  return IPV4.test(text) || isIpv6(text);
}

function isIpv6(text: string): boolean {
  return /^[\da-f:.]*:[\da-f:.]*(?:[\da-f]|::)$/i.test(text) && URL.canParse(`http://[${text}]/`);
}

export function isLoopback(address: string): boolean {
  return /^(::ffff:)?127\./.test(address) || address === "::1";
}
