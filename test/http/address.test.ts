/** The origin that others reach the server by, for invitations. */

import { describe, expect, test } from "bun:test";
import { networkInterfaces } from "node:os";
import { startServer, type TestServer } from "../support/server.ts";

async function addressOf(server: TestServer, headers: Record<string, string> = {}): Promise<unknown> {
  const response = await server.get("/address", { headers });
  expect(response.headers.get("cache-control")).toBe("no-store");
  return response.json();
}

describe("GET /address", () => {
  test("is localhost where only this machine reaches the server", async () => {
    await using server = await startServer();
    expect(await addressOf(server)).toEqual({ origin: `http://localhost:${server.port}` });
  });

  test("is an address in the network if the server listens there", async () => {
    await using server = await startServer({ args: ["--host", "0.0.0.0"] });
    const external = Object.values(networkInterfaces())
      .flatMap((addresses) => addresses ?? [])
      .filter(({ family, internal }) => family === "IPv4" && !internal);
    const hosts = external.length > 0 ? external.map(({ address }) => address) : ["localhost"];
    const origins: unknown[] = hosts.map((host) => ({ origin: `http://${host}:${server.port}` }));
    expect(origins).toContainEqual(await addressOf(server));
  });

  test("is the public URL, also for a request by another name", async () => {
    await using server = await startServer({ args: ["--public-url", "https://chat.example"] });
    expect(await addressOf(server)).toEqual({ origin: "https://chat.example" });
    expect(await addressOf(server, { Host: "chat.example" })).toEqual({ origin: "https://chat.example" });
  });

  test("pages of other sites and unknown hosts do not get it", async () => {
    await using server = await startServer();
    for (const headers of [
      { "Sec-Fetch-Site": "cross-site" },
      { Host: "evil.example" },
      { Origin: "https://evil.example" },
    ] as Record<string, string>[])
      expect((await server.get("/address", { headers })).status).toBe(403);
  });
});
