/** The server's own address: the origins that it has, for the banner, for links with a token and for invitations. */

import type { ServerOptions } from "./options.ts";
import { lazyOs } from "../util/lazy-node.ts";

/** Where clients reach the server: the public address, or all addresses of the listener with this machine's first. */
export function ownOrigins(
  { publicUrl, tlsCert }: Pick<ServerOptions, "publicUrl" | "tlsCert">,
  hostname: string,
  port: number | undefined,
): string[] {
  if (publicUrl) return [publicUrl.origin];
  return hostNames(hostname).map((name) => `${tlsCert ? "https" : "http"}://${name}:${port}`);
}

/** The origin by which others reach the server; undefined if only this machine does. */
export async function sharedOrigin(...listener: Parameters<typeof ownOrigins>): Promise<string | undefined> {
  const reachable = ownOrigins(...listener).filter((origin) => hostOf(origin) !== "localhost");
  const routed = reachable.length > 1 ? await routedAddress() : undefined;
  return reachable.find((origin) => hostOf(origin) === routed) ?? reachable[0];
}

/** This machine's address in the network that it reaches others through; undefined if it reaches none. */
async function routedAddress(): Promise<string | undefined> {
  try {
    // Sends nothing: it only asks for the route to an address of no one (RFC 5737).
    const socket = await Bun.udpSocket({ connect: { hostname: "192.0.2.1", port: 9 } });
    const { address } = socket.address;
    socket.close();
    return address;
  } catch {
    return undefined;
  }
}

function hostNames(hostname: string): string[] {
  if (hostname === "0.0.0.0" || hostname === "::") {
    const interfaces = Object.values(lazyOs().networkInterfaces()).flatMap((addresses) => addresses ?? []);
    const external = interfaces.filter(({ family, internal }) => family === "IPv4" && !internal);
    return ["localhost", ...external.map(({ address }) => address)];
  }
  if (hostname === "127.0.0.1" || hostname === "::1") return ["localhost"];
  return [hostname.includes(":") ? `[${hostname}]` : hostname];
}

function hostOf(origin: string): string | undefined {
  return URL.parse(origin)?.hostname;
}
