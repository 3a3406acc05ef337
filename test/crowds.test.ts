/** Many at once: those that say nothing, those that come and go together. Nobody else notices. */

import { connect, type Socket } from "node:net";
import { expect, setDefaultTimeout, test } from "bun:test";
import { startHubbub, within, type Hubbub, type JsonPeer } from "./hubbub.ts";

setDefaultTimeout(60_000);

const CROWD = 1000;

/** Opens a TCP connection and writes the beginning of a request, or nothing. */
async function dial(hub: Hubbub, start: string): Promise<Socket> {
  const socket = connect(hub.port, "127.0.0.1");
  const opened = Promise.withResolvers<void>();
  socket.once("connect", opened.resolve).once("error", opened.reject);
  await within(opened.promise, () => "a connection did not open");
  socket.on("error", () => {});
  if (start) socket.write(start);
  return socket;
}

/** The room goes on as if nothing were. */
async function talk(ann: JsonPeer, bob: JsonPeer, count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    ann.says(`${i}`);
    await bob.hears({ type: "message", from: "ann", text: `${i}` });
    await ann.hears({ type: "message", from: "ann", text: `${i}` });
  }
}

test("a thousand connections that say nothing, half a request, or nothing after the handshake", async () => {
  await using hub = await startHubbub();
  await using ann = await hub.joinJson("ann");
  await using bob = await hub.joinJson("bob");
  const handshake = `GET /ws/silent HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n`;
  const starts = ["", handshake, `${handshake}\r\n`, "\x16\x03\x01"];
  const silent = await Promise.all(
    Array.from({ length: CROWD }, (_, i) => dial(hub, starts[i % starts.length] ?? "")),
  );
  await talk(ann, bob, 50);
  expect((await hub.get("/client")).status).toBe(200);
  for (const socket of silent) socket.destroy();
  await talk(ann, bob, 50);
});

test("a storm of joins and leaves: everyone is counted, and announced once", async () => {
  await using hub = await startHubbub();
  await using ann = await hub.joinJson("ann");
  await using bob = await hub.joinJson("bob");
  await using text = await hub.join("text");
  const crowd = await Promise.all(Array.from({ length: CROWD }, (_, i) => hub.join(`c${i}`)));
  await talk(ann, bob, 20);
  await using late = await hub.joinJson("late");
  expect(late.welcome).toMatchObject({ count: CROWD + 4 });
  for (const peer of crowd) peer.vanishes();
  await talk(ann, bob, 20);
  await late.leaves();
  const left = new Set<string>();
  while (left.size < CROWD + 1) {
    const line = String(await text.next(`${left.size} of ${CROWD + 1} were said to have left`));
    const name = /^Client #(\S+) left the chat$/.exec(line)?.[1];
    if (name === undefined) continue;
    if (left.has(name)) throw new Error(`${name} left twice`);
    left.add(name);
  }
  await text.hearsNothing();
  await using after = await hub.joinJson("after");
  expect(after.welcome).toMatchObject({ count: 4 });
});
