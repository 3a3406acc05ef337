/** The hub during a shutdown: which messages it still accepts, and what it no longer announces. */

import { expect, test } from "bun:test";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { startHub } from "../support/hub.ts";

useFakeTime();

test("during shutdown a message over HTTP is rejected, since its response might not arrive; on a socket it is still stored", async () => {
  const { hub, join } = startHub();
  const ann = await join("ann");
  hub.beginShutdown();
  const message = { room: "tea", from: "ci", content: "hi", session: undefined, seq: undefined };
  expect(await hub.post(message)).toEqual({ rejected: "unavailable" });
  ann.says("still here");
  expect(ann.socket.takes()).toEqual(["You wrote: still here", "Client #ann says: still here"]);
});

test.each(["a quiet room", "a room that a client just left"])(
  "during shutdown no leave is announced in %s, on either wire, since clients reconnect",
  async (room) => {
    const { hub, join } = startHub();
    const [bob, eve] = [await join("bob"), await join("eve", "json")];
    const [first, second] = [await join("first"), await join("second")];
    await passes(1000);
    for (const { socket } of [bob, eve]) socket.takes();
    if (room !== "a quiet room") first.leaves();
    hub.beginShutdown();
    second.leaves();
    await passes(1000);
    expect([bob.socket.takes(), eve.socket.takes()]).toEqual([[], []]);
  },
);
