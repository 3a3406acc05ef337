/** How far a connection may fall behind before it is closed. */

import { describe, expect, test } from "bun:test";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { startHub } from "../support/hub.ts";

useFakeTime();

describe("a slow consumer", () => {
  const MIB = 1024 * 1024;
  const TOO_SLOW = { code: 1013, reason: "Reading too slowly. Reconnect and resume." };

  test("may be up to 1 MiB behind broadcasts", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    const [slow, slower] = [await join("slow"), await join("slower")];
    [slow.socket.buffered, slower.socket.buffered] = [MIB, MIB + 1];
    ann.says("hi");
    await passes(50);
    expect(slow.socket.closed).toBeUndefined();
    expect(slower.socket.closed).toEqual(TOO_SLOW);
    ann.socket.takes();
    await passes(150);
    expect(ann.socket.takes()).toEqual(["Client #slower left the chat"]);
    for (const { socket } of [slow, slower]) socket.takes();
    ann.says("ho");
    expect([slow.socket.takes(), slower.socket.takes()]).toEqual([["Client #ann says: ho"], []]);
  });

  test("may be up to 1 MiB behind its own answers", async () => {
    const { join } = startHub();
    const [slow, slower] = [await join("slow", "json"), await join("slower", "json")];
    [slow.socket.buffered, slower.socket.buffered] = [MIB, MIB + 1];
    slow.says("not JSON");
    slower.says("not JSON");
    expect(slow.socket.closed).toBeUndefined();
    expect(slower.socket.closed).toEqual(TOO_SLOW);
  });

  test("is detected at once when much is broadcast", async () => {
    const { join } = startHub();
    const ann = await join("ann");
    const slow = await join("slow");
    slow.socket.buffered = MIB + 1;
    for (let i = 0; i < 5; i++) ann.says("x".repeat(60_000));
    expect(slow.socket.closed).toEqual(TOO_SLOW);
  });
});
