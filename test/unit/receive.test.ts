/** What a connection may still send once it has exceeded its limits. */

import { expect, test } from "bun:test";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { startHub } from "../support/hub.ts";

test("a frame that exhausts the abuse budget closes the connection, and its message is not stored", async () => {
  const { join } = startHub();
  const bob = await join("bob");
  const ann = await join("ann", "json", {}, new TokenBucket({ perSecond: 20, burst: 40 }));
  const padding = "x".repeat(380_000); // parsed and discarded, which costs 93 of a budget of 400
  for (let i = 1; i <= 5; i++) ann.says(JSON.stringify({ type: "message", text: `${i}`, padding }));
  expect(ann.socket.closed?.code).toBe(1008);
  expect(bob.socket.takes()).toEqual([1, 2, 3, 4].map((i) => `Client #ann says: ${i}`));
});
