/** Rate limits and connection limits: what exceeds them is rejected with a reason, and others are not affected. */

import { describe, expect, test } from "bun:test";
import { connect } from "../../src/client/client.ts";
import { addressGroup, forwardedFor } from "../../src/http/client-address.ts";
import { costOf, TokenBucket, TokenBuckets } from "../../src/util/token-bucket.ts";
import { ERROR_MESSAGES } from "../../src/protocol/codes.ts";
import { TestClock } from "../support/clock.ts";
import { withDeadline } from "../support/deadline.ts";
import { startServer } from "../support/server.ts";
import { UPGRADE, openRaw, RawClient, request } from "../support/raw-websocket.ts";

const ABUSE = { code: 1008, reason: "Far above the rate limit. Slow down." };

describe("a token bucket", () => {
  const bucket = () => new TokenBucket({ perSecond: 20, burst: 40 });

  test("allows a burst, then a rate per second", () => {
    const mine = bucket();
    for (let i = 0; i < 40; i++) expect(mine.take(1, 1000)).toBe(0);
    expect(mine.take(1, 1000)).toBe(0.05);
    expect(mine.take(1, 1025)).toBe(0.025);
    expect(mine.take(1, 1050)).toBe(0);
    expect(mine.take(1, 1_000_000)).toBe(0);
    for (let i = 0; i < 39; i++) mine.take(1, 1_000_000);
    expect(mine.take(1, 1_000_000)).toBe(0.05);
  });

  test("charges for size: one more for each 4 KiB", () => {
    const mine = bucket();
    expect(
      ["", "x".repeat(4095), new Uint8Array(4096), "語".repeat(21_845), "x".repeat(65_536)].map(costOf),
    ).toEqual([1, 1, 2, 16, 17]);
    for (const cost of [2, 16, 17, 5]) expect(mine.take(cost, 1000)).toBe(0);
    expect(mine.take(1, 1000)).toBe(0.05);
  });

  test("allows the largest message, however small the burst", () => {
    const mine = new TokenBucket({ perSecond: 1, burst: 2 });
    expect(mine.take(17, 1000)).toBe(0);
    expect(mine.take(17, 1000)).toBe(2);
    expect(mine.take(17, 3000)).toBe(0);
  });

  test("tolerates ten times as much abuse", () => {
    const mine = bucket();
    for (let i = 0; i < 400; i++) expect(mine.chargeAbuse(1000)).toBe(true);
    expect(mine.chargeAbuse(1000)).toBe(false);
    expect(mine.chargeAbuse(1010)).toBe(true);
  });

  test("tolerates little abuse by large frames, and enough with a small burst", () => {
    const mine = bucket();
    for (let i = 0; i < 4; i++) expect(mine.chargeAbuse(1000, costOf("[".repeat(380_000)))).toBe(true);
    expect(mine.chargeAbuse(1000, costOf("[".repeat(380_000)))).toBe(false);
    const small = new TokenBucket({ perSecond: 20, burst: 1 });
    for (let i = 0; i < 100; i++) expect(small.chargeAbuse(1000)).toBe(true);
  });

  test("can start with less than a burst", () => {
    const many = new TokenBucket({ perSecond: 20, burst: 50 });
    expect([
      many.takeAvailable(40, 1000),
      many.takeAvailable(40, 1000),
      many.takeAvailable(40, 1000),
    ]).toEqual([40, 10, 0]);
    const mine = new TokenBucket({ perSecond: 20, burst: 40 }, 0);
    expect(mine.take(1, 1000)).toBe(0.05);
    expect(mine.take(1, 1050)).toBe(0);
  });

  test("is unlimited at a rate of 0", () => {
    const mine = new TokenBucket({ perSecond: 0, burst: 1 });
    for (let i = 0; i < 1000; i++) expect([mine.take(1, 0), mine.chargeAbuse(0)]).toEqual([0, true]);
  });
});

test("10,000 addresses are tracked; beyond that the least recently active one is forgotten", () => {
  const allowances = new TokenBuckets({ perSecond: 1, burst: 1 });
  const isFull = (address: string) => allowances.get(address).take(1, 0) === 0;
  for (const address of ["first", "second"]) expect(isFull(address)).toBe(true);
  for (let i = 0; i < 9_998; i++) isFull(`a${i}`);
  expect(isFull("first")).toBe(false);
  isFull("one more");
  expect([isFull("first"), isFull("second")]).toEqual([false, true]);
});

/** So slow a rate that hardly anything is refilled during a test. */
const slow = (burst: number) => ["--message-rate", "1", "--message-burst", `${burst}`];

test("the text wire: a message beyond the limit is not broadcast, and its sender is told", async () => {
  using clock = new TestClock();
  await using server = await startServer({ ...clock.setup, args: slow(2) });
  await using ann = await server.join("ann");
  await using bob = await server.join("bob");
  for (const text of ["1", "2", "3"]) ann.says(text);
  await ann.hears("You wrote: 1", "Client #ann says: 1", "You wrote: 2", "Client #ann says: 2");
  await ann.hears("Not sent (rate-limited): 3");
  await bob.hears("Client #ann says: 1", "Client #ann says: 2");
  bob.says("I may");
  await bob.hears("You wrote: I may", "Client #bob says: I may");
  ann.says(new Uint8Array(8192));
  await ann.hears("Client #bob says: I may", "Not sent (rate-limited): 8192 bytes");
});

test("the echo is never rate-limited, and its connections do not count against those in rooms", async () => {
  using clock = new TestClock();
  await using server = await startServer({ ...clock.setup, args: slow(1) });
  await using ann = await server.open("/websocket");
  const lines = Array.from({ length: 5000 }, (_, i) => `${i}`);
  for (const line of lines) ann.says(line);
  for (let i = 0; i < 200; i++) ann.pings();
  await ann.hears(...lines.map((line) => `Message text was: ${line}`));
  for (let i = 0; i < 200; i++) await (await server.open("/websocket")).leaves();
  await using bob = await server.join("bob");
  bob.says("I may");
  await bob.hears("You wrote: I may", "Client #bob says: I may");
  await ann.hearsNothing();
});

test("the JSON wire: the error says when to retry, and later messages wait for it", async () => {
  using clock = new TestClock();
  const args = ["--message-rate", "2", "--message-burst", "1"];
  await using server = await startServer({ ...clock.setup, args });
  await using ann = await server.joinJson("ann", { session: "s" });
  for (const seq of [1, 2, 3]) ann.says(`${seq}`, { seq });
  await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", text: "1" });
  const limited = { type: "error", code: "rate-limited", message: ERROR_MESSAGES["rate-limited"], seq: 2 };
  await ann.hears({ ...limited, retryAfterSeconds: 0.5 });
  await ann.hears({ type: "error", code: "out-of-order", message: ERROR_MESSAGES["out-of-order"], seq: 3 });
  ann.sends({ type: "ping" });
  await ann.hears({ type: "pong" });
  clock.advance(250);
  ann.says("2", { seq: 2 });
  await ann.hears({ ...limited, retryAfterSeconds: 0.25 });
  clock.advance(250);
  ann.says("2", { seq: 2 });
  await ann.hears({ type: "ack", seq: 2 }, { type: "message", from: "ann", text: "2" });
});

test("a client that continues regardless is closed, on either wire: messages, empty ones, pings or malformed frames", async () => {
  await using server = await startServer({ args: slow(10) });
  await using bob = await server.join("bob");
  const flood = async (what: string, peer: Awaited<ReturnType<typeof server.join>>, frame: string) => {
    for (let i = 0; i < 200; i++) peer.says(frame);
    expect({ what, ...(await peer.closes()) }).toEqual({ what, ...ABUSE });
  };
  await flood("messages", await server.join("ann", { room: "a" }), "hi");
  await flood("empty ones", await server.join("ann", { room: "b" }), "");
  const json = async (room: string) => (await server.joinJson("ann", { room, session: "s" })).peer;
  await flood("pings", await json("c"), '{"type":"ping"}');
  await flood("malformed", await json("d"), "{");
  await flood("numbered", await json("e"), '{"type":"message","text":"","seq":1}');
  const pinging = await server.join("ann", { room: "f" });
  for (let i = 0; i < 200; i++) pinging.pings();
  expect(await pinging.closes()).toEqual(ABUSE);
  bob.says("all quiet");
  await bob.hears("You wrote: all quiet", "Client #bob says: all quiet");
});

test("a frame much longer than its text is charged as abuse beyond 4 KiB", async () => {
  await using server = await startServer({ args: slow(100) });
  const padded = (blanks: number) => `{"type":"message",${" ".repeat(blanks)}"text":"hi"}`;
  await using ann = await server.joinJson("ann", { room: "a" });
  for (let i = 0; i < 50; i++) ann.sends(padded(4000));
  for (let i = 0; i < 50; i++) await ann.hears({ type: "message", from: "ann", text: "hi" });
  await using eve = await server.joinJson("eve", { room: "b" });
  // Each costs 74 against ten bursts of abuse; by number they would be allowed.
  for (let i = 0; i < 20; i++) eve.sends(padded(300_000));
  expect(await eve.peer.closes()).toEqual(ABUSE);
});

test("reconnecting does not yield a new burst each time", async () => {
  using clock = new TestClock();
  const args = ["--message-rate", "1", "--message-burst", "2"];
  await using server = await startServer({ ...clock.setup, args });
  await using bob = await server.join("bob", { room: "elsewhere" });
  /** Of two messages on each of several connections, one after the other, how many are stored. */
  const comes = async (times: number) => {
    let stored = 0;
    for (let i = 0; i < times; i++) {
      await using ann = await server.join("ann");
      ann.says("1");
      ann.says("2");
      for (let n = 0; n < 2; n++) {
        const line = String(await ann.next());
        if (line.startsWith("Not sent")) continue;
        stored++;
        await ann.hears(line.replace("You wrote", "Client #ann says"));
      }
    }
    return stored;
  };
  // The bursts of a hundred connections less bob's, plus what is refilled for a hundred.
  expect(await comes(120)).toBe(2 * 99);
  clock.advance(100);
  expect(await comes(20)).toBe(10);
  bob.says("nobody else notices");
  await bob.hears("You wrote: nobody else notices", "Client #bob says: nobody else notices");
});

test("the smallest burst does not close our own client", async () => {
  await using server = await startServer({ args: ["--message-rate", "500", "--message-burst", "1"] });
  await using bob = await server.join("bob");
  const ann = connect({ server: server.origin, id: "ann" });
  for (let i = 0; i < 60; i++) ann.send(`${i}`);
  for (let i = 0; i < 60; i++) await bob.hears(`Client #ann says: ${i}`);
  ann.close();
});

test("our own client slows down, and loses nothing", async () => {
  await using server = await startServer({ args: ["--message-rate", "200", "--message-burst", "20"] });
  await using bob = await server.join("bob");
  const ann = connect({ server: server.origin, id: "ann" });
  for (let i = 0; i < 300; i++) ann.send(`${i}`);
  for (let i = 0; i < 300; i++) await bob.hears(`Client #ann says: ${i}`);
  ann.close();
});

describe("connections", () => {
  test("in total: the next one is rejected until one leaves", async () => {
    await using server = await startServer({ args: ["--max-connections", "2"] });
    await using ann = await server.join("ann");
    await using echo = await server.open("/websocket");
    for (const headers of [{}, UPGRADE])
      for (const path of ["/ws/bob", "/websocket"]) {
        const response = await server.get(path, { headers });
        expect([response.status, response.headers.get("retry-after")]).toEqual([503, "5"]);
        expect(await response.text()).toBe("The server is full. Try again in a moment.\n");
      }
    await ann.leaves();
    await using bob = await server.join("bob");
    await bob.hearsNothing();
    await echo.hearsNothing();
  });

  // Bun raises the soft limit to the hard one, so the hard one is set.
  const withDescriptors = (count: number) => [
    "sh",
    "-c",
    `ulimit -n ${count}; exec "$0" "$@"`,
    process.execPath,
    `${import.meta.dir}/../../src/server.ts`,
  ];

  test.skipIf(process.platform === "win32")(
    "are limited by the file descriptors: the rest are rejected, and the log says once that the server is full",
    async () => {
      const env = { ...process.env, LANG: "C" };
      await using server = await startServer({ command: withDescriptors(80), env, args: ["--log", "text"] });
      const clients = Array.from({ length: 120 }, () => openRaw(server, "/websocket"));
      const heads = await Promise.all(clients.map((client) => client.head()));
      const statuses = Map.groupBy(heads, (head) => head?.status);
      expect(Object.fromEntries([...statuses].map(([status, of]) => [status, of.length]))).toEqual({
        101: 48,
        503: 72,
      });
      // A rejected connection that stayed open would use up a descriptor.
      await Promise.all(clients.filter((_, i) => heads[i]?.status === 503).map((client) => client.ended()));
      expect(await server.answer("/healthz")).toHaveProperty("status", 200);
      for (const client of clients) client.vanishes();
      await server.stop("SIGTERM");
      const lines = (await server.output).split("\n");
      expect(lines.filter((line) => line.includes(" full ")).map((line) => line.slice(21))).toEqual([
        "full connections=48",
      ]);
    },
  );

  test.skipIf(process.platform === "win32")(
    "idle keep-alive connections are closed when file descriptors run out",
    async () => {
      const env = { ...process.env, LANG: "C" };
      await using server = await startServer({ command: withDescriptors(80), env, args: ["--log", "text"] });
      await using ann = await server.join("ann");
      const clients = Array.from({ length: 120 }, () =>
        openRaw(server, "/healthz", { Connection: "keep-alive" }),
      );
      for (const client of clients) expect((await client.head())?.status).toBe(200);
      ann.says("still here");
      await ann.hears("You wrote: still here", "Client #ann says: still here");
      for (const client of clients) client.vanishes();
      await server.stop("SIGTERM");
      expect(await server.output).toContain(" file descriptors low limit=80 ");
    },
  );

  test.skipIf(process.platform === "win32").each(["Content-Length: 1000", "Transfer-Encoding: chunked"])(
    "slow bodies are rejected when file descriptors run out: %s",
    async (framing) => {
      const env = { ...process.env, LANG: "C" };
      await using server = await startServer({ command: withDescriptors(80), env });
      const head = `POST /rooms/x/messages HTTP/1.1\r\nHost: localhost\r\n${framing}\r\n\r\n3\r\nabc\r\n`;
      const clients = Array.from({ length: 100 }, () => new RawClient(server.port));
      for (const client of clients) client.sends(Buffer.from(head));
      const rejected = await withDeadline(
        Promise.race(clients.map(async (client) => ({ client, head: await client.head() }))),
        () => "no body is rejected",
      );
      expect([rejected.head?.status, rejected.head?.headers.get("connection")]).toEqual([503, "close"]);
      await rejected.client.ended();
      const healthy = await withDeadline(server.answer("/healthz"), () => "/healthz does not answer");
      expect(healthy).toHaveProperty("status", 200);
      for (const client of clients) client.vanishes();
    },
  );

  test.skipIf(process.platform === "win32")(
    "more than the file descriptors allow: the start warns",
    async () => {
      const args = ["--max-connections", "49"];
      await using server = await startServer({
        command: withDescriptors(80),
        env: { ...process.env, LANG: "C" },
        args,
      });
      await server.stop("SIGTERM");
      expect(await server.errors).toBe(
        "--max-connections: 49 is more than the file descriptor limit of 80 allows, which is 48 (ulimit -n)\n",
      );
    },
  );

  test("rejected ones are not kept alive", async () => {
    await using server = await startServer();
    for (const path of ["/ws/a%20b", "/websocket"]) {
      await using client = openRaw(server, path, { Origin: "http://evil.example" });
      const head = await client.head();
      expect([head?.status, head?.headers.get("connection")]).toEqual([403, "close"]);
      await client.ended();
    }
  });

  test("new ones from one address: beyond the rate they are rejected, other addresses are not affected", async () => {
    using clock = new TestClock();
    const args = ["--connection-rate", "2", "--trust-proxy"];
    await using server = await startServer({ ...clock.setup, args });
    const answersTo = async (address: string, times: number) => {
      const counts: Record<string, number> = {};
      for (let i = 0; i < times; i++) {
        await using client = openRaw(server, "/ws/ann", { "X-Forwarded-For": address });
        const head = await client.head();
        const answer = `${head?.status} ${head?.headers.get("retry-after") ?? ""}`.trim();
        counts[answer] = (counts[answer] ?? 0) + 1;
      }
      return counts;
    };
    // The burst is 25 seconds' worth; an IPv6 /64 counts as one address.
    expect(await answersTo("2001:db8::1", 40)).toEqual({ 101: 40 });
    expect(await answersTo("2001:db8::2", 20)).toEqual({ 101: 10, "429 1": 10 });
    for (const other of ["2001:db8:0:1::1", "192.0.2.1"])
      expect(await answersTo(other, 1)).toEqual({ 101: 1 });
    expect(await server.answer("/ws/ann", { headers: { "X-Forwarded-For": "2001:db8::3" } })).toEqual({
      status: 429,
      body: "Too many new connections from your address. Try again in a moment.\n",
    });
    clock.advance(1000);
    expect(await answersTo("2001:db8::1", 3)).toEqual({ 101: 2, "429 1": 1 });
  });

  test("a failed upgrade releases its place and the room", async () => {
    await using server = await startServer({ args: ["--max-connections", "1"] });
    for (const path of ["/ws/ann", "/websocket"])
      for (let i = 0; i < 5; i++) {
        await using client = new RawClient(server.port);
        client.sends(request(path, { "Sec-WebSocket-Key": undefined }));
        expect((await client.head())?.status).toBe(426);
      }
    await using ann = await server.join("ann");
    await ann.hearsNothing();
    await ann.leaves();
    const { body } = await server.answer("/metrics");
    expect(body).toContain("hubbub_rooms 0\n");
  });

  test("per address: others can connect; a request rejected for another reason takes no place", async () => {
    const args = ["--max-connections-per-address", "2", "--trust-proxy"];
    await using server = await startServer({ args });
    const from = (address: string) => ({ "X-Forwarded-For": `1.1.1.1, ${address}` });
    for (let i = 0; i < 5; i++)
      await server.answer("/ws/a%20b", { headers: { ...UPGRADE, ...from("192.0.2.1") } });
    await using ann = await server.open("/ws/ann", from("192.0.2.1"));
    await using twin = await server.open("/ws/ann", from("::ffff:192.0.2.1"));
    const response = await server.get("/ws/ann", { headers: from("192.0.2.1") });
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "5"]);
    expect(await response.text()).toBe(
      "Too many connections from your address. Close one of them, or try again in a moment.\n",
    );
    await using bob = await server.open("/ws/bob", from("192.0.2.2"));
    await bob.hearsNothing();
    await twin.leaves();
    await using again = await server.open("/ws/ann", from("192.0.2.1"));
    await again.hearsNothing();
    await ann.hearsNothing();
    await using one = await server.open("/ws/one", from("2001:db8:0:1::1"));
    await using two = await server.open("/ws/two", from("2001:db8::1:a:b:c:d"));
    expect(await server.answer("/ws/three", { headers: from("2001:db8:0:1:ffff::") })).toHaveProperty(
      "status",
      429,
    );
    await using other = await server.open("/ws/other", from("2001:db8:0:2::1"));
    // When all connections of the address have closed, all of its places are free.
    for (const peer of [ann, again]) await peer.leaves();
    await using first = await server.open("/ws/ann", from("192.0.2.1"));
    await using second = await server.open("/ws/ann", from("192.0.2.1"));
    expect(await server.answer("/ws/ann", { headers: from("192.0.2.1") })).toHaveProperty("status", 429);
    for (const peer of [first, second]) await peer.hearsNothing();
    for (const peer of [one, two, other]) await peer.hearsNothing();
  });

  test("without --trust-proxy X-Forwarded-For is ignored, and the log says so once", async () => {
    await using server = await startServer({ args: ["--max-connections-per-address", "1", "--log", "text"] });
    await using ann = await server.open("/ws/ann", { "X-Forwarded-For": "192.0.2.1" });
    for (const address of ["192.0.2.2", "192.0.2.3"])
      expect(await server.answer("/ws/bob", { headers: { "X-Forwarded-For": address } })).toHaveProperty(
        "status",
        429,
      );
    await ann.hearsNothing();
    await server.stop("SIGTERM");
    const lines = (await server.output).split("\n").filter((line) => line.includes("X-Forwarded-For"));
    expect(lines.map((line) => line.slice(21))).toEqual([
      'X-Forwarded-For ignored address=127.0.0.1 hint="behind a proxy, start with --trust-proxy"',
    ]);
  });

  describe("X-Forwarded-For", () => {
    const forwarded = (value: string) => forwardedFor(new Headers({ "X-Forwarded-For": value }));
    const spellings: Record<string, readonly string[]> = {
      "203.0.113.7": [
        "203.0.113.7",
        "203.0.113.7:52311",
        '"203.0.113.7"',
        '"203.0.113.7:52311"',
        "203.0.113.7:_hidden",
        "203.0.113.7:",
        "203.0.113.7,",
        "192.0.2.1, 203.0.113.7 , ,",
        "[203.0.113.7]:52311",
        "::ffff:203.0.113.7",
        '"[::ffff:203.0.113.7]:52311"',
        "::ffff:cb00:7107",
        "unknown, 203.0.113.7 ",
        "192.0.2.1,203.0.113.7",
      ],
      "2001:db8:0:7": [
        "2001:db8:0:7::1",
        "2001:DB8:0:7:0:0:0:1",
        "[2001:db8:0:7::1]",
        "[2001:db8:0:7::1]:52311",
        '"[2001:db8:0:7::1]:52311"',
        '"[2001:db8:0:7::1]:_port"',
        "2001:db8:0:7:1:2:3:4:52311",
        "2001:db8:0:7::1:52311",
        "2001:db8:0:7:::52311",
        "2001:db8:0:7::1%eth0",
        "[2001:db8:0:7::1%25eth0]:80",
      ],
    };
    for (const [network, values] of Object.entries(spellings))
      for (const value of values)
        test(`${value} is in ${network}`, () => expect(addressGroup(forwarded(value) ?? "")).toBe(network));

    const none = [
      "",
      "unknown",
      "unknown:80",
      "_hidden",
      '"_SEVKISEK"',
      "203.0.113.7, unknown",
      ", ,",
      "203.0.113.7:523110",
      "203.0.113.256",
      "203.0.113",
      '"[2001:db8::1]',
      "[2001:db8::1]x",
      "[2001:db8::1",
      "2001:db8::1:",
      "2001:db8::1::2",
      ":80",
      "localhost",
      `${"[".repeat(10_000)}`,
      `${"1:".repeat(8_000)}1`,
    ];
    for (const value of none)
      test(`${value.slice(0, 40)} is not an address`, () => expect(forwarded(value)).toBeUndefined());
  });

  const networks: [string, string][] = [
    ["192.0.2.1", "192.0.2.1"],
    ["::ffff:192.0.2.1", "192.0.2.1"],
    ["::FFFF:C000:0201", "192.0.2.1"],
    ["0:0:0:0:0:ffff:192.0.2.1", "192.0.2.1"],
    ["::1", "0:0:0:0"],
    ["fe80::1%eth0", "fe80:0:0:0"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2"],
    ["2001:0DB8::", "2001:db8:0:0"],
    ["1::4:5:6:7:8", "1:0:0:4"],
    ["64:ff9b::192.0.2.1", "64:ff9b:0:0"],
    ["", ""],
  ];
  for (const [address, network] of networks)
    test(`${address} is in ${network}`, () => expect(addressGroup(address)).toBe(network));
});

test("--max-message-bytes is the largest message, on both wires", async () => {
  await using server = await startServer({ args: ["--max-message-bytes", "10"] });
  await using ann = await server.joinJson("ann");
  expect(ann.welcome.maxMessageBytes).toBe(10);
  ann.says("語".repeat(3));
  ann.says("x".repeat(11));
  await ann.hears(
    { type: "message", from: "ann", text: "語".repeat(3) },
    { type: "error", code: "message-too-big", message: ERROR_MESSAGES["message-too-big"] },
  );
  await using bob = await server.join("bob");
  bob.says("x".repeat(11));
  expect(await bob.closes()).toEqual({ code: 1009, reason: "The message is too large." });
  await using text = await server.open("/websocket");
  text.says("x".repeat(11));
  expect((await text.closes()).code).toBe(1009);
});
