/** Dead connections are closed, even in a busy room; silent ones that answer pings stay. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { TestClock } from "../support/clock.ts";
import { withDeadline } from "../support/deadline.ts";
import type { Peer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { frame, RawClient, request, describeFrame } from "../support/raw-websocket.ts";

setDefaultTimeout(240_000);

/** A client in a separate process, which can be frozen. Resolves once it has joined. */
async function startClient(server: TestServer, id: string) {
  const source = `
    const socket = new WebSocket("ws://127.0.0.1:${server.port}/ws/${id}");
    socket.onopen = () => console.log("in");
  `;
  const client = Bun.spawn([process.execPath, "--eval", source], { stdout: "pipe", stderr: "ignore" });
  await client.stdout.getReader().read();
  return client;
}

/** Sends until the listener has received that line, so that the room is never quiet. @returns the leaves it received */
async function talkUntil(peer: Peer, listener: Peer, line: string): Promise<string[]> {
  const received: string[] = [];
  for (let i = 0; received.at(-1) !== line; i++) {
    peer.says(`${i}`);
    do received.push(String(await listener.next(() => `expected ${line}`)));
    while (received.at(-1) !== `Client #talker says: ${i}` && received.at(-1) !== line);
    await Bun.sleep(5); // a busy room, not a storm
  }
  return received.filter((each) => each.endsWith("left the chat"));
}

test.concurrent(
  "a frozen client in a busy room is closed, and its leave announced; a silent one stays",
  async () => {
    await using server = await startServer({ args: ["--ping-seconds", "1"] });
    await using talker = await server.join("talker");
    await using bob = await server.join("bob");
    await using silent = await server.join("silent");
    await using silentEcho = await server.open("/websocket");
    await using frozen = await startClient(server, "frozen");
    frozen.kill("SIGSTOP");
    const leave = "Client #frozen left the chat";
    expect(await withDeadline(talkUntil(talker, bob, leave), () => `never: ${leave}`)).toEqual([leave]);
    await silentEcho.hearsNothing();
    silent.unread();
    await silent.hearsNothing();
    frozen.kill("SIGKILL");
  },
);

test.concurrent("a connection is cut after two unanswered pings", async () => {
  await using server = await startServer({ args: ["--ping-seconds", "1"] });
  for (const path of ["/ws/ann", "/websocket"]) {
    await using client = new RawClient(server.port);
    client.sends(request(path));
    expect((await client.head())?.status).toBe(101);
    expect((await client.rest()).map(describeFrame)).toEqual(["ping ", "ping "]);
  }
});

for (const [what, sign, answer] of [
  ["a message", frame(1, "x"), "text Message text was: x"],
  ["a ping", frame(9, "x"), "pong x"],
] as const)
  test.concurrent(
    `${what} counts as a sign of life like a pong; the connection is cut when the third ping after it is due`,
    async () => {
      using clock = new TestClock();
      await using server = await startServer({ ...clock.setup, args: ["--ping-seconds", "1"] });
      await using client = new RawClient(server.port);
      client.sends(request("/websocket"));
      await client.head();
      for (let i = 0; i < 4; i++) {
        clock.advance(1000);
        await client.hears("ping ");
        client.sends(sign);
        await client.hears(answer);
      }
      for (let i = 0; i < 2; i++) {
        clock.advance(1000);
        await client.hears("ping ");
      }
      clock.advance(1000);
      expect(await client.rest()).toEqual([]);
    },
  );

test.concurrent("a server that was frozen itself does not cut its clients", async () => {
  await using server = await startServer({ args: ["--ping-seconds", "1"] });
  await using ann = await server.join("ann");
  await using bob = await server.join("bob");
  server.process.kill("SIGSTOP");
  await Bun.sleep(2_500); // more than two pings
  server.process.kill("SIGCONT");
  await Bun.sleep(1_000);
  ann.says("still here");
  await bob.hears("Client #ann says: still here");
});

test.concurrent("a slow but steady reader stays, though its pongs are late", async () => {
  await using server = await startServer({ args: ["--ping-seconds", "2", "--history", "1000"] });
  await using ann = await server.joinJson("ann");
  for (let i = 0; i < 200; i++) {
    await ann.saysAndHears(`${i} `.padEnd(60_000, "x"));
  }
  await using slow = await server.joinJson("slow", { history: 200 });
  // A ping queues behind up to 10 MB in the kernel's buffers, for longer than two ping intervals.
  for (let i = 0; i < 200; i++) {
    if (i % 10 === 0 && i < 70) {
      slow.peer.pauses();
      await Bun.sleep(700);
      slow.peer.resumes();
    }
    const { text } = await slow.next(() => `expected ${i}`);
    expect(String(text).split(" ")[0]).toBe(`${i}`);
  }
  await slow.hearsNothing();
});
