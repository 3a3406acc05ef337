/** One server for several tests, which keep apart by using rooms of their own. */

import { afterAll, beforeAll, expect } from "bun:test";
import { startServer, type TestServer } from "./server.ts";

/** For all tests of the file, or of the `describe` around it; at the end its stderr must be empty. */
export function sharedServer(setup: Parameters<typeof startServer>[0] = {}): () => TestServer {
  let server: TestServer | undefined;
  beforeAll(async () => {
    server = await startServer(setup);
  });
  afterAll(async () => {
    await server?.[Symbol.asyncDispose]();
    expect(await server?.errors).toBe("");
  });
  return () => {
    if (!server) throw new Error("the server is started before the first test");
    return server;
  };
}

let rooms = 0;

export function newRoom(): string {
  return `room-${rooms++}`;
}
