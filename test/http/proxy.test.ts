/** Behind a real nginx, configured as the documentation says. */

import { describe, expect, test } from "bun:test";
import { connect, type Client } from "../../src/client/client.ts";
import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { withDeadline } from "../support/deadline.ts";
import { JsonPeer, Peer } from "../support/peer.ts";
import { subscribe } from "../support/event-stream.ts";
import { startServer } from "../support/server.ts";
import { freePort } from "../support/http.ts";
import { skipped, startNginx } from "../support/nginx.ts";
import { RawClient, request } from "../support/raw-websocket.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { Redis, skipped as withoutRedis } from "../support/redis.ts";

const ca = await Bun.file(`${import.meta.dir}/../support/tls/localhost.crt`).text();
const JSON_WIRE = { "Sec-WebSocket-Protocol": SUBPROTOCOL };
const NOT_LOCAL =
  "Metrics are available only on the machine itself; behind a proxy, only with a token or --open-metrics.\n";

async function open(url: string, headers: Record<string, string> = {}): Promise<Peer> {
  const peer = new Peer(url, headers, ca);
  await peer.opened;
  return peer;
}

/** Resolves once exactly these were received, in this order. */
async function hears(client: Client, ...texts: readonly string[]): Promise<void> {
  const received: (string | undefined)[] = [];
  const all = Promise.withResolvers<void>();
  client.on("message", ({ text }) => received.push(text) === texts.length && all.resolve());
  await withDeadline(all.promise, () => `expected ${texts}, received ${received}`);
  expect(received).toEqual([...texts]);
}

describe.skipIf(skipped !== "")(`behind nginx${skipped}`, () => {
  test("event streams are not buffered, and end with the server", async () => {
    await using server = await startServer({ args: ["--trust-proxy"] });
    await using nginx = await startNginx(server.port);
    const origin = `http://127.0.0.1:${nginx.httpPort}`;
    await using sse = await subscribe({ origin }, "tea");
    await using ndjson = await subscribe({ origin }, "tea", { format: "ndjson" });
    for (const text of ["1", "2"]) {
      await server.post("tea", { from: "ci", text });
      for (const stream of [sse, ndjson]) await stream.hears({ from: "ci", text });
    }
    server.process.kill("SIGTERM");
    for (const stream of [sse, ndjson]) expect(await stream.ends()).toEqual({ unread: [], isComplete: true });
  });

  test("the page, both wires and the rooms API work by the public name and over TLS", async () => {
    await using server = await startServer({
      args: ["--public-url", "https://chat.example", "--trust-proxy"],
    });
    await using nginx = await startNginx(server.port);
    const ours = { Host: "chat.example", Origin: "https://chat.example" };
    const at = (path: string) => `https://localhost:${nginx.httpsPort}${path}`;
    const get = (path: string, headers: Record<string, string>, init: RequestInit = {}) =>
      fetch(at(path), { ...init, headers, tls: { ca } });
    const page = await get("/client", ours);
    expect(page.headers.get("content-type")).toBe("text/html; charset=utf-8");
    expect(await page.text()).toBe(await (await server.get("/client")).text());

    await using ann = await open(at("/ws/%E8%AA%9E").replace("https", "wss"), ours);
    const url = at("/ws/bob?session=s").replace("https", "wss");
    await using bob = await JsonPeer.over(await open(url, { ...ours, ...JSON_WIRE }));
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #語 says: hi");
    await bob.hears({ type: "message", from: "語", text: "hi" });
    const text = "語".repeat(20_000);
    bob.says(text, { seq: 1 });
    await bob.hears({ type: "ack", seq: 1 }, { type: "message", from: "bob", text });
    await ann.hears(`Client #bob says: ${text}`);
    const body = JSON.stringify({ from: "eve", text: "ho" });
    const posted = await get("/rooms/lobby/messages", ours, { method: "POST", body });
    expect(posted.status).toBe(201);
    await ann.hears("Client #eve says: ho");
    await bob.leaves();
    await ann.hears("Client #bob left the chat");

    for (const [headers, status] of [
      [ours, 426],
      [{ ...ours, Origin: "https://elsewhere.example" }, 403],
      [{ Host: "elsewhere.example" }, 403],
    ] as const)
      expect(await get("/ws/ann", headers)).toHaveProperty("status", status);
  });

  test("a public name with a port reaches the server unchanged", async () => {
    const port = freePort();
    await using nginx = await startNginx(port);
    const host = `chat.example:${nginx.httpPort}`;
    await using server = await startServer({ args: ["--port", `${port}`, "--public-url", `http://${host}`] });
    expect(server.greeting).toContain(
      `is listening on port ${port}, reached as http://${host}/client; who can join: anyone who can reach it, under any name\n`,
    );
    const url = `ws://127.0.0.1:${nginx.httpPort}/ws/ann`;
    await using ann = await open(url, { Host: host, Origin: `http://${host}` });
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    const without = await fetch(url.replace("ws", "http"), { headers: { Host: "chat.example" } });
    expect(without.status).toBe(403);
  });

  // Only Linux has all of 127.0.0.0/8 without configuration.
  test.skipIf(process.platform !== "linux")(
    "--trust-proxy: each address has its own places, and none by what it says of itself",
    async () => {
      for (const trust of [true, false]) {
        const args = ["--max-connections-per-address", "1", ...(trust ? ["--trust-proxy"] : [])];
        await using server = await startServer({ args });
        await using nginx = await startNginx(server.port);
        await using ann = await open(`ws://127.0.0.1:${nginx.httpPort}/ws/ann`);
        const statusFor = async (from: string, claimed?: string) => {
          await using client = new RawClient(nginx.httpPort, from);
          client.sends(request("/ws/bob", { Upgrade: undefined, "X-Forwarded-For": claimed }));
          return (await client.head())?.status;
        };
        expect(await statusFor("127.0.0.1")).toBe(429);
        expect(await statusFor("127.0.0.1", "192.0.2.7")).toBe(429);
        expect(await statusFor("127.0.0.1", "192.0.2.7\r\nX-Forwarded-For: 192.0.2.8")).toBe(429);
        expect(await statusFor("127.0.0.2")).toBe(trust ? 426 : 429);
        expect(await statusFor("127.0.0.2", "127.0.0.1")).toBe(trust ? 426 : 429);
        await ann.hearsNothing();
      }
    },
  );

  test("/metrics is rejected through it, and answered on the machine itself", async () => {
    await using server = await startServer();
    await using nginx = await startNginx(server.port);
    const through = await fetch(`http://localhost:${nginx.httpPort}/metrics`);
    expect({ status: through.status, body: await through.text() }).toEqual({ status: 403, body: NOT_LOCAL });
    expect(await server.answer("/metrics")).toHaveProperty("status", 200);
  });

  test("pings keep an idle connection open that nginx would close", async () => {
    await using server = await startServer({ args: ["--ping-seconds", "1"] });
    await using quiet = await startServer();
    const impatient = "proxy_read_timeout 2s; proxy_send_timeout 2s;";
    await using nginx = await startNginx(server.port, impatient);
    await using other = await startNginx(quiet.port, impatient);
    await using ann = await open(`ws://127.0.0.1:${nginx.httpPort}/ws/ann`);
    await using bob = await open(`ws://127.0.0.1:${nginx.httpPort}/ws/bob`, JSON_WIRE);
    await using eve = await open(`ws://127.0.0.1:${other.httpPort}/ws/eve`);
    const cut = eve.closes();
    await Bun.sleep(5_000);
    expect(await cut).toHaveProperty("code", 1006);
    ann.says("still here");
    await ann.hears("You wrote: still here", "Client #ann says: still here");
    await bob.leaves();
    await ann.hears("Client #bob left the chat");
  }, 240_000);

  test("while the server is down, nginx answers 502; the client library reconnects and loses nothing", async () => {
    const port = freePort();
    const args = ["--port", `${port}`];
    await using nginx = await startNginx(port);
    const server = `http://localhost:${nginx.httpPort}`;
    const first = await startServer({ args });
    const [ann, bob] = [connect({ server, id: "ann" }), connect({ server, id: "bob" })];
    try {
      const before = Promise.all([hears(ann, "before"), hears(bob, "before")]);
      ann.send("before");
      await before;
      await first.stop("SIGTERM");
      expect(await first.process.exited).toBe(0);
      expect(await fetch(`${server}/client`)).toHaveProperty("status", 502);
      const texts = Array.from({ length: 100 }, (_, i) => `${i}`);
      const after = Promise.all([hears(ann, ...texts), hears(bob, ...texts)]);
      for (const text of texts) ann.send(text);
      await using second = await startServer({ args });
      await after;
      expect(ann.outbox).toEqual([]);
      expect(second.port).toBe(port);
    } finally {
      for (const client of [ann, bob]) client.close();
    }
  });

  test.skipIf(withoutRedis !== "")(
    `two nodes on one Redis: clients of a node that dies resume on the other${withoutRedis}`,
    async () => {
      const [redisLine = "", ...lines] = codeBlock("src/store/redis/README.md", "sh", "redis-server")
        .trim()
        .split("\n");
      await using redis = await Redis.start(redisLine.split(" ").slice(1));
      const start = (line = "") => {
        const port = `--port ${freePort()}`;
        const filled = substitute(line.replace(/--port 800\d/, port), {
          "redis://localhost": redis.url("proxied"),
        });
        return startServer({ args: filled.split(" ").slice(1) });
      };
      await using one = await start(lines[0]);
      await using two = await start(lines[1]);
      await using nginx = await startNginx(one.port, "", two.port);
      const ours = { Host: "chat.example" };
      const at = `http://127.0.0.1:${nginx.httpPort}`;
      const open = async (id: string) => {
        const peer = new Peer(`${at}/ws/${id}?session=s&history=0`.replace("http", "ws"), {
          ...ours,
          ...JSON_WIRE,
        });
        await peer.opened;
        return JsonPeer.over(peer);
      };
      const [ann, bob] = [await open("ann"), await open("bob")]; // in turn, so one with each
      ann.says("hi", { seq: 1 });
      await ann.hears({ type: "ack", seq: 1 });
      await bob.hears({ type: "message", from: "ann", text: "hi" });
      await one.stop();
      const alive = await Promise.race([
        ann.peer.closes().then(() => bob),
        bob.peer.closes().then(() => ann),
      ]);
      await using again = await open("eve");
      again.says("still here", { seq: 1 });
      await again.hears({ type: "ack", seq: 1 }, { type: "message", from: "eve", text: "still here" });
      if (alive === ann) await alive.hears({ type: "message", from: "ann", text: "hi" });
      await alive.hears({ type: "message", from: "eve", text: "still here" });
      for (const peer of [ann, bob]) await peer[Symbol.asyncDispose]();
    },
  );
});
