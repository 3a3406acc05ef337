/** The socket handlers without a server, as a simulator calls them. */

import { expect, jest, test } from "bun:test";
import { Keyring } from "../../src/auth/keyring.ts";
import type { Connection } from "../../src/chat/connection.ts";
import { socketHandlers } from "../../src/http/socket-handlers.ts";
import { SocketRegistry, type ServerSocket, type SocketData } from "../../src/http/socket-registry.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import type { MessageStore, StoreListener } from "../../src/store/store.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { passes, useFakeTime } from "../support/fake-time.ts";
import { FakeSocket, startHub } from "../support/hub.ts";

const PING_SECONDS = 25;

useFakeTime();

class FakeServerSocket extends FakeSocket implements ServerSocket {
  override readonly data: SocketData;
  pings = 0;
  isPaused = false;
  isTerminated = false;

  constructor(connection?: Connection) {
    super(new Map());
    this.data = {
      connection,
      addressGroup: "192.0.2.1",
      expiresMs: Infinity,
      key: undefined,
      missedPongs: 0,
      pingedMs: 0,
    };
  }

  override ping(): number {
    return ++this.pings;
  }

  pause(): void {
    this.isPaused = true;
  }

  resume(): void {
    this.isPaused = false;
  }

  terminate(): void {
    this.isTerminated = true;
  }
}

function start(makeStore?: (listener: StoreListener) => MessageStore) {
  const { hub } = startHub(makeStore && { makeStore });
  const limits = {
    maxConnections: 0,
    connectionRate: 0,
    maxConnectionsPerAddress: 0,
    pingSeconds: PING_SECONDS,
  };
  const sockets = new SocketRegistry(limits, systemClock, new Keyring([]));
  const handlers = socketHandlers(hub, sockets, { maxMessageBytes: 65_536 }, systemClock);
  return { hub, sockets, handlers };
}

test("an echo and a chat connection, from open to close", async () => {
  const { hub, sockets, handlers } = start();
  const echo = new FakeServerSocket();
  const request = { client: "ann", room: "tea", wire: "text", history: 0, can: ["read", "write"] } as const;
  const connection = await hub.reserve(request, new TokenBucket({ perSecond: 0, burst: 0 }));
  const ann = new FakeServerSocket(connection);
  for (const socket of [echo, ann]) {
    handlers.open(socket);
    handlers.message(socket, "hi");
  }
  expect([echo.takes(), ann.takes()]).toEqual([["Message text was: hi"], ["You wrote: hi"]]);
  expect([sockets.size, hub.roomCount]).toEqual([2, 1]);
  for (const socket of [echo, ann]) handlers.close(socket, 1000, "");
  expect([sockets.size, hub.roomCount]).toEqual([0, 0]);
});

test("a socket that answers pings stays; one that misses two is terminated when the third is due", () => {
  const { sockets, handlers } = start();
  const [alive, dead] = [new FakeServerSocket(), new FakeServerSocket()];
  for (const socket of [alive, dead]) handlers.open(socket);
  sockets.startPinging();
  for (const pings of [1, 2, 3]) {
    jest.advanceTimersByTime(PING_SECONDS * 1000);
    expect(alive.pings).toBe(pings);
    expect([dead.pings, dead.isTerminated]).toEqual(pings < 3 ? [pings, false] : [2, true]);
    handlers.pong(alive);
  }
  expect([alive.isTerminated, dead.data.disconnectReason]).toEqual([false, "silent"]);
});

test("a socket whose answers are unread is paused, and resumed once they are read", () => {
  const { handlers } = start();
  const socket = new FakeServerSocket();
  handlers.open(socket);
  socket.buffered = 300 * 1024;
  for (const frame of ["1", "2"]) handlers.message(socket, frame);
  expect([socket.isPaused, socket.takes()]).toEqual([true, ["Message text was: 1"]]);
  socket.buffered = 0;
  handlers.drain(socket);
  expect([socket.isPaused, socket.takes()]).toEqual([false, ["Message text was: 2"]]);
});

test("a paused socket that reads nothing for 15 s is a slow consumer; one that reads a part of it by then is not", () => {
  const { handlers } = start();
  const [stuck, slow] = [new FakeServerSocket(), new FakeServerSocket()];
  for (const socket of [stuck, slow]) {
    handlers.open(socket);
    socket.buffered = 300 * 1024;
    handlers.message(socket, "1");
  }
  jest.advanceTimersByTime(14_000);
  handlers.drain(slow);
  expect([stuck.closed, slow.closed]).toEqual([undefined, undefined]);
  jest.advanceTimersByTime(2_000);
  expect([stuck.closed?.code, slow.closed]).toEqual([1013, undefined]);
});

/** Never answers. */
class StuckStore extends MemoryStore {
  override append(): void {}
}

test("a socket that is paused until the store answers is not terminated, although its pongs are not read", async () => {
  const { hub, sockets, handlers } = start(
    ({ onEntry }) => new StuckStore(100, onEntry, systemClock, systemRandom),
  );
  const request = { client: "ann", room: "tea", wire: "text", history: 0, can: ["read", "write"] } as const;
  const ann = new FakeServerSocket(await hub.reserve(request, new TokenBucket({ perSecond: 0, burst: 0 })));
  handlers.open(ann);
  sockets.startPinging();
  for (let i = 0; i < 5; i++) handlers.message(ann, "x".repeat(60_000));
  expect(ann.isPaused).toBe(true);
  jest.advanceTimersByTime(5 * PING_SECONDS * 1000);
  expect([ann.isPaused, ann.isTerminated, ann.closed]).toEqual([true, false, undefined]);
});

test("the sockets of a crowd are closed evenly over the time for it", async () => {
  const { sockets, handlers } = start();
  const crowd = Array.from({ length: 500 }, () => new FakeServerSocket());
  for (const socket of crowd) handlers.open(socket);
  const isClosed = ({ closed }: FakeServerSocket) => closed !== undefined;
  const done = sockets.closeAll(1000, () => {});
  const counts: number[] = [];
  for (let ms = 0; ms < 1000; ms += 10) {
    await passes(10);
    for (const socket of crowd.filter(isClosed)) handlers.close(socket, 1012, "");
    if (ms % 250 === 230) counts.push(crowd.filter(isClosed).length);
  }
  await done;
  // Batches of ten, 20 ms apart.
  expect(counts).toEqual([130, 250, 380, 500]);
});
