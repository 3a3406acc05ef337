/** What src/ relies on in Bun's WebSockets. A test that fails after an upgrade of Bun shows what has changed. */
import { expect, test } from "bun:test";
import { withDeadline } from "../support/deadline.ts";
import { Peer } from "../support/peer.ts";
import {
  openRaw,
  binary,
  close,
  ping,
  pong,
  text,
  describeFrame,
  type RawClient,
} from "../support/raw-websocket.ts";

const BACKPRESSURE_LIMIT = 4 * 1024 * 1024;
const BLOCK = "x".repeat(65_536);
/** More than the kernel and Bun buffer for a client that does not read. */
const MANY_BLOCKS = 1000;

type Socket = Bun.ServerWebSocket<undefined>;
type Server = Bun.Server<undefined>;

function listen(websocket: Partial<Bun.WebSocketHandler<undefined>>): Server {
  return Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response("no WebSocket")),
    websocket: {
      backpressureLimit: BACKPRESSURE_LIMIT,
      closeOnBackpressureLimit: true,
      perMessageDeflate: false,
      idleTimeout: 960,
      sendPings: false,
      message() {},
      ...websocket,
    },
  });
}

async function connect({ port }: Server): Promise<Peer> {
  const peer = new Peer(`ws://127.0.0.1:${port}/`, {});
  await peer.opened;
  return peer;
}

async function connectRaw(server: Server): Promise<RawClient> {
  const raw = openRaw(server, "/");
  expect((await raw.head())?.status).toBe(101);
  return raw;
}

/** Everything received before the end, to the last byte. */
async function lastLines(raw: RawClient): Promise<string[]> {
  const heard = await raw.rest();
  expect(raw.unread).toBe(0);
  return heard.map(describeFrame);
}

test("all handlers get the same object for a socket", async () => {
  const seen: [string, Socket][] = [];
  const closed = Promise.withResolvers<void>();
  await using server = listen({
    open: (socket) => void seen.push(["open", socket]),
    message: (socket) => void seen.push(["message", socket]),
    ping: (socket) => void seen.push(["ping", socket]),
    pong: (socket) => void seen.push(["pong", socket]),
    close(socket) {
      seen.push(["close", socket]);
      closed.resolve();
    },
  });
  await using raw = await connectRaw(server);
  raw.sends(text("x"), ping("x"), pong("x"), close(1000));
  await withDeadline(closed.promise, () => "close was not called");
  expect(seen.map(([event]) => event)).toEqual(["open", "message", "ping", "pong", "close"]);
  expect(new Set(seen.map(([, socket]) => socket)).size).toBe(1);
});

test("close and terminate call the close handler before they return, and later frames are not delivered", async () => {
  const events: unknown[] = [];
  await using server = listen({
    message(socket, message) {
      if (message === "close") socket.close(4000, "enough");
      else if (message === "terminate") socket.terminate();
      events.push(message);
    },
    close: (_, code, reason) => void events.push([code, reason]),
  });
  await using closed = await connectRaw(server);
  closed.sends(text("close"), text("behind it"), ping());
  expect(await lastLines(closed)).toEqual(["close 4000 enough"]);
  await using terminated = await connectRaw(server);
  terminated.sends(text("terminate"), text("behind it"), ping());
  expect(await lastLines(terminated)).toEqual([]);
  expect(events).toEqual([[4000, "enough"], "close", [1006, ""], "terminate"]);
});

test("methods of a closed socket do nothing and do not throw, also in open and close handlers", async () => {
  const events: unknown[] = [];
  const touch = (socket: Socket) => {
    socket.close(1011, "again");
    socket.terminate();
    const { readyState } = socket;
    events.push([
      socket.send("x"),
      socket.ping(),
      socket.subscribe("t"),
      socket.unsubscribe("t"),
      readyState,
    ]);
  };
  await using server = listen({
    open(socket) {
      socket.close(4000, "enough");
      touch(socket);
    },
    close: touch,
  });
  await using peer = await connect(server);
  expect(await peer.closes()).toEqual({ code: 4000, reason: "enough" });
  expect(events).toEqual(Array(2).fill([0, 0, false, false, WebSocket.CLOSED]));
});

test("Bun answers pings; pings and pongs, also unsolicited ones, reach their handlers", async () => {
  const events: string[] = [];
  await using server = listen({
    ping(socket, data) {
      events.push(`ping ${data}`);
      socket.ping("ours");
    },
    pong: (_, data) => void events.push(`pong ${data}`),
  });
  await using raw = await connectRaw(server);
  raw.sends(ping("theirs"), pong("ours"), pong("unasked"), close(1000));
  expect(await lastLines(raw)).toEqual(["pong theirs", "ping ours", "close 1000 "]);
  expect(events).toEqual(["ping theirs", "pong ours", "pong unasked"]);
});

test("publish, send and publish arrive in that order, and a pong after them", async () => {
  await using server = listen({
    open: (socket) => void socket.subscribe("t"),
    message(socket) {
      server.publish("t", "1", false);
      socket.send("2");
      server.publish("t", "3", false);
    },
  });
  await using raw = await connectRaw(server);
  raw.sends(text(), ping(), close(1000));
  expect(await lastLines(raw)).toEqual(["text 1", "text 2", "text 3", "pong ", "close 1000 "]);
});

test("a socket that subscribes after a publish in the same tick does not receive it; one that unsubscribes after it does", async () => {
  await using server = listen({
    message(socket, message) {
      if (message === "come") server.publish("t", "before", false);
      if (message === "come") socket.subscribe("t");
      if (message !== "go") return;
      server.publish("t", "last", false);
      socket.unsubscribe("t");
      server.publish("t", "after", false);
      socket.close(4000, "gone");
    },
  });
  await using other = await connect(server);
  other.says("come");
  await other.hearsNothing();
  await using raw = await connectRaw(server);
  raw.sends(text("come"), ping());
  await raw.hears("pong ");
  raw.sends(text("go"));
  expect(await lastLines(raw)).toEqual(["text last", "close 4000 gone"]);
  await other.hears("before", "last", "after");
});

test("a binary message is a separate Buffer, which later messages do not overwrite", async () => {
  const kept: unknown[] = [];
  await using server = listen({ message: (_, message) => void kept.push(message) });
  await using raw = await connectRaw(server);
  for (const round of ["1", "2"]) {
    raw.sends(binary(`a${round}`), binary(`b${round}`), ping(round));
    await raw.hears(`pong ${round}`);
  }
  expect(kept).toEqual(["a1", "b1", "a2", "b2"].map((content) => Buffer.from(content)));
});

test("a message beyond maxPayloadLength ends with 1009 and one that is not UTF-8 with 1007, undelivered", async () => {
  const events: unknown[] = [];
  await using server = listen({
    maxPayloadLength: 100,
    message: (_, { length }) => void events.push(length),
    close: (_, code) => void events.push(code),
  });
  const endings = { 1009: "x".repeat(101), 1007: Buffer.from([0xed, 0xa0, 0x80]) };
  for (const [code, content] of Object.entries(endings)) {
    await using raw = await connectRaw(server);
    raw.sends(text("x".repeat(100)), text(content));
    expect(await lastLines(raw)).toEqual([expect.stringMatching(new RegExp(`^close ${code} .`))]);
  }
  expect(events).toEqual([100, 1006, 100, 1006]);
});

test("send and publish return -1 if any reader is behind; it misses nothing, and drain reports that it has caught up", async () => {
  const drained = Promise.withResolvers<number>();
  let blocks = 0;
  let waiting: number[] = [];
  await using server = listen({
    open: (socket) => void socket.subscribe("t"),
    message(socket) {
      // The reader is in the same process, and cannot read before this returns.
      do blocks++;
      while (socket.send(BLOCK) > 0 && blocks < MANY_BLOCKS);
      waiting = [socket.getBufferedAmount(), server.publish("t", BLOCK, false), socket.getBufferedAmount()];
    },
    drain: (socket) => drained.resolve(socket.getBufferedAmount()),
  });
  await using before = await connect(server);
  await using slow = await connect(server);
  await using after = await connect(server);
  slow.says("");
  expect(await withDeadline(drained.promise, () => "no drain")).toBe(0);
  const [atFirst = 0, published, later = 0] = waiting;
  expect([atFirst > 0, published, later - atFirst >= BLOCK.length]).toEqual([true, -1, true]);
  await slow.hears(...Array<string>(blocks + 1).fill(BLOCK));
  for (const peer of [before, after]) await peer.hears(BLOCK);
  for (const peer of [before, slow, after]) await peer.hearsNothing();
});

test("close sends what is buffered, below the backpressure limit, and then its code", async () => {
  let blocks = 0;
  await using server = listen({
    message(socket) {
      while (socket.getBufferedAmount() < BACKPRESSURE_LIMIT / 2 && blocks++ < MANY_BLOCKS)
        socket.send(BLOCK);
      socket.close(1013, "slow");
    },
  });
  await using peer = await connect(server);
  peer.says("");
  expect(await peer.closes()).toEqual({ code: 1013, reason: "slow" });
  expect(peer.unread()).toEqual(Array<string>(blocks).fill(BLOCK));
});

test("with a long idle timeout, a reader that starts only seconds after a close still gets its code", async () => {
  const closed = Promise.withResolvers<void>();
  await using server = listen({
    message(socket) {
      let blocks = 0;
      while (socket.getBufferedAmount() < BACKPRESSURE_LIMIT / 2 && blocks++ < MANY_BLOCKS)
        socket.send(BLOCK);
      socket.close(1013, "slow");
    },
    close: () => closed.resolve(),
  });
  await using peer = await connect(server);
  peer.says("");
  peer.pauses();
  await withDeadline(closed.promise, () => "close was not called");
  await Bun.sleep(5000); // with an idle timeout of 0 it has at most 4 s, with this one at least 12 s
  peer.resumes();
  expect(await peer.closes()).toEqual({ code: 1013, reason: "slow" });
});

test("beyond the backpressure limit a publish is not sent, and its reader is closed with 1006, but only later", async () => {
  const events: unknown[] = [];
  await using server = listen({
    open: (socket) => void socket.subscribe("t"),
    message(socket) {
      let blocks = 0;
      while (server.publish("t", BLOCK, false) !== 0 && blocks++ < MANY_BLOCKS);
      events.push(socket.readyState, blocks < MANY_BLOCKS);
    },
    close: (_, code) => void events.push(code),
  });
  await using peer = await connect(server);
  peer.says("");
  expect(await peer.closes()).toEqual({ code: 1006, reason: "" });
  expect(events).toEqual([WebSocket.OPEN, true, 1006]);
});
