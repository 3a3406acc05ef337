/** The origins that the server's own addresses have, for the banner and for links with a token. */

import type { CliOptions } from "./parse-command.ts";
import { lazyOs } from "../util/lazy-node.ts";

/** Where clients reach the server: the public address, or all addresses of the listener with this machine's first. */
export function ownOrigins(
  { publicUrl, tlsCert }: Pick<CliOptions, "publicUrl" | "tlsCert">,
  hostname: string,
  port: number | undefined,
): string[] {
  if (publicUrl) return [publicUrl.origin];
  return hostNames(hostname).map((name) => `${tlsCert ? "https" : "http"}://${name}:${port}`);
}

/** This machine's address in the network that it reaches others through; undefined if it reaches none. */
export async function routedAddress(): Promise<string | undefined> {
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
