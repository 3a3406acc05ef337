/** Nothing that a client or a handler does ends the process. */

import { expect, test } from "bun:test";
import { startHubbub } from "./hubbub.ts";
import { frame, RawClient, request, transcribe } from "./raw.ts";

const OUR_FAULT = { code: 1011, reason: "Something went wrong on our side: please come back." };

test("a handler that fails costs its own connection, and nobody else notices", async () => {
  const hub = await startHubbub({ preload: "break-handlers.ts", args: ["--ping-seconds", "1"] });
  await using bob = await hub.join("bob");

  await using opens = await hub.join("boom-open");
  expect(await opens.closes()).toEqual(OUR_FAULT);

  await using says = await hub.join("ann");
  says.says("boom-message");
  await says.hears("You wrote: boom-message");
  expect(await says.closes()).toEqual(OUR_FAULT);
  await bob.hears("Client #ann left the chat");

  await using closes = await hub.join("boom-close");
  await closes.leaves();

  await using promises = await hub.join("eve");
  promises.says("boom-later");
  await bob.hears("Client #eve says: boom-later");

  await using timer = await hub.join("boom-timer");
  await timer.leaves();
  await promises.leaves();
  await bob.hears("Client #eve left the chat");

  for (const opcode of [9, 10]) {
    await using raw = new RawClient(hub.port);
    raw.sends(request("/ws/raw?room=raw"));
    await raw.head();
    raw.sends(frame(1, opcode === 9 ? "boom-ping" : "boom-pong"));
    for (let i = 0; i < 2; i++) await raw.next();
    raw.sends(frame(opcode, "x"));
    const heard = (await raw.rest()).map(transcribe);
    expect(heard.filter((line) => !line.startsWith("pong"))).toEqual([
      `close ${OUR_FAULT.code} ${OUR_FAULT.reason}`,
    ]);
  }

  const text = "x".repeat(60_000);
  await using teller = await hub.join("teller", { room: "drain" });
  for (let i = 0; i < 100; i++) {
    teller.says(text);
    await teller.hearsUpTo(`You wrote: ${text}`);
  }
  const drains = await hub.joinJson("boom-drain", { room: "drain", history: 100 });
  drains.peer.pauses();
  await hub.answer("/healthz"); // it has been written to as far as it takes
  drains.peer.resumes();
  expect(await drains.peer.closes()).toEqual(OUR_FAULT);

  bob.says("still here");
  await bob.hearsUpTo("Client #bob says: still here");
  await hub[Symbol.asyncDispose]();
  const injected = (await hub.errors).match(/injected into .*/g);
  expect(injected?.toSorted()).toEqual(
    ["open", "message", "close", "a promise", "the timer", "ping", "pong", "drain", "the sweep"]
      .map((where) => `injected into ${where}`)
      .toSorted(),
  );
});

test("what fails on its way out to a busy room keeps nothing that is said after it from being heard", async () => {
  await using hub = await startHubbub({ preload: "break-handlers.ts", args: ["--flush-ms", "10"] });
  await using bob = await hub.join("bob");
  await using ann = await hub.join("ann");
  for (const text of ["1", "2"]) {
    ann.says("boom-message");
    await ann.hears("You wrote: boom-message");
    ann.says(text);
    await ann.hears(`You wrote: ${text}`, `Client #ann says: ${text}`);
    await bob.hears(`Client #ann says: ${text}`);
  }
});

test("garbage on the wire closes its own connection only", async () => {
  await using hub = await startHubbub();
  await using bob = await hub.join("bob");
  const frames = {
    "an unmasked frame": [0x81, 0x02, 0x68, 0x69],
    "reserved bits": [0xf1, 0x82, 0, 0, 0, 0, 0x68, 0x69],
    "a reserved opcode": [0x83, 0x80, 0, 0, 0, 0],
    "text that is not UTF-8": [0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28],
    "a ping of 126 bytes": [0x89, 0xfe, 0, 126, 0, 0, 0, 0],
    "a length of 2^63": [0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "a continuation of nothing": [0x80, 0x80, 0, 0, 0, 0],
  };
  for (const [what, bytes] of Object.entries(frames)) {
    const ended = Promise.withResolvers<void>();
    const socket = await Bun.connect({
      hostname: "127.0.0.1",
      port: hub.port,
      socket: {
        data(socket, data) {
          if (data.includes("101 Switching")) socket.write(Uint8Array.from(bytes));
        },
        close: () => ended.resolve(),
        error: () => ended.resolve(),
      },
    });
    socket.write(request("/ws/ann"));
    await ended.promise;
    await bob.hears("Client #ann left the chat").catch((error: Error) => {
      throw new Error(`${what}: ${error.message}`);
    });
  }
});
