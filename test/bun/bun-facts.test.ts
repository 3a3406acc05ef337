/** What src/ relies on in Bun, WebSockets aside. A test that fails after an upgrade of Bun shows what has changed. */
import { expect, test } from "bun:test";
import { eventually, withDeadline } from "../support/deadline.ts";
import { openRaw } from "../support/raw-websocket.ts";

const LISTEN = { hostname: "127.0.0.1", port: 0, development: false } as const;

test("a static Response under GET answers HEAD and If-None-Match, and leaves other methods to fetch", async () => {
  await using server = Bun.serve({
    ...LISTEN,
    routes: { "/": { GET: new Response("static") } },
    fetch: ({ method }) => new Response(`fetch ${method}`),
  });
  const get = await fetch(server.url);
  const etag = get.headers.get("etag") ?? "";
  expect([await get.text(), etag]).toEqual(["static", expect.stringMatching(/^".+"$/)]);
  expect((await fetch(server.url, { headers: { "If-None-Match": etag } })).status).toBe(304);
  const head = await fetch(server.url, { method: "HEAD" });
  expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "6", ""]);
  for (const method of ["POST", "OPTIONS"])
    expect(await (await fetch(server.url, { method })).text()).toBe(`fetch ${method}`);
});

test("route parameters are percent-decoded, with U+FFFD for invalid UTF-8 and invalid escapes", async () => {
  await using server = Bun.serve({
    ...LISTEN,
    routes: { "/ws/:id": { GET: ({ params }) => Response.json(params.id) } },
  });
  const ids = { "a%2Fb": "a/b", "%00": "\0", "%E2%80%AE": "\u202E", "%FF": "\uFFFD", "%zz": "\uFFFD" };
  for (const [id, decoded] of Object.entries(ids))
    expect(await (await fetch(`${server.url}ws/${id}`)).json()).toBe(decoded);
});

test("repeated headers are joined in order, so that a second Host is visible", async () => {
  let seen: unknown;
  await using server = Bun.serve({
    ...LISTEN,
    fetch({ headers }) {
      seen = [headers.get("host"), headers.get("x-forwarded-for")];
      return new Response();
    },
  });
  await using raw = openRaw(server, "/", {
    host: "other",
    "X-Forwarded-For": "1, 2",
    "x-forwarded-for": "3",
  });
  expect((await raw.head())?.status).toBe(200);
  expect(seen).toEqual(["localhost, other", "1, 2, 3"]);
});

test("an exception or a rejection in a route reaches `error`", async () => {
  const fail = (how: string): Response => {
    throw new Error(how);
  };
  await using server = Bun.serve({
    ...LISTEN,
    routes: { "/now": { GET: () => fail("thrown") }, "/later": { GET: async () => fail("rejected") } },
    error: ({ message }) => new Response(message, { status: 500 }),
  });
  expect(await (await fetch(`${server.url}now`)).text()).toBe("thrown");
  expect(await (await fetch(`${server.url}later`)).text()).toBe("rejected");
});

test("server.requestIP is the address of the peer", async () => {
  await using server = Bun.serve({
    ...LISTEN,
    fetch: (request, server) => new Response(server.requestIP(request)?.address ?? "unknown"),
  });
  expect(await (await fetch(server.url)).text()).toBe("127.0.0.1");
});

test("outside development mode a port is shared, unless reusePort is false: then it is EADDRINUSE", async () => {
  const serve = (port: number | undefined, more: { reusePort?: false }) =>
    Bun.serve({ ...LISTEN, port: port ?? 0, fetch: () => new Response(), ...more });
  await using shared = serve(0, {});
  await using second = serve(shared.port, {});
  expect(second.port).toBe(shared.port);
  await using alone = serve(0, { reusePort: false });
  expect(() => serve(alone.port, { reusePort: false })).toThrow(
    expect.objectContaining({ code: "EADDRINUSE" }),
  );
});

test("an upgrade after an await works, and is false for a client that has disconnected or sent no key", async () => {
  const asked = Promise.withResolvers<AbortSignal>();
  const gate = Promise.withResolvers<void>();
  const gone = Promise.withResolvers<boolean>();
  await using server = Bun.serve({
    ...LISTEN,
    async fetch(request, server) {
      asked.resolve(request.signal);
      await gate.promise;
      const isUpgraded = server.upgrade(request);
      if (request.signal.aborted) gone.resolve(isUpgraded);
      return isUpgraded ? undefined : new Response("not upgraded", { status: 426 });
    },
    websocket: { message() {} },
  });
  await using leaving = openRaw(server, "/");
  const signal = await asked.promise;
  const noticed = new Promise((resolve) => signal.addEventListener("abort", resolve));
  leaving.vanishes();
  await withDeadline(noticed, () => "the server did not notice that the client has gone");
  gate.resolve();
  expect(await withDeadline(gone.promise, () => "no upgrade")).toBe(false);

  await using keyless = openRaw(server, "/", { "Sec-WebSocket-Key": undefined });
  expect((await keyless.head())?.status).toBe(426);
  await using staying = openRaw(server, "/");
  expect((await staying.head())?.status).toBe(101);
});

test("Bun selects the first subprotocol offered, or the one it is given, or none if that is empty", async () => {
  const given = new Map([
    ["/given", "b"],
    ["/none", ""],
  ]);
  await using server = Bun.serve({
    ...LISTEN,
    fetch(request, server) {
      const protocol = given.get(new URL(request.url).pathname);
      const headers = protocol === undefined ? {} : { "Sec-WebSocket-Protocol": protocol };
      return server.upgrade(request, { headers }) ? undefined : new Response("no WebSocket");
    },
    websocket: { message() {} },
  });
  for (const [path, protocol] of [...given, ["/unset", "a"] as const]) {
    await using raw = openRaw(server, path, { "Sec-WebSocket-Protocol": "a, b" });
    const head = await raw.head();
    const agreed = head?.headers.get("sec-websocket-protocol");
    expect([path, head?.status, agreed]).toEqual([path, 101, protocol || undefined]);
  }
});

const FAILING_SERVER = `
  const server = Bun.serve({
    ...${JSON.stringify(LISTEN)},
    fetch: (request, server) => (server.upgrade(request) ? undefined : new Response()),
    websocket: {
      message(socket, how) {
        if (how === "throw") throw new Error("thrown");
        if (how === "reject") void Promise.reject(new Error("rejected"));
        if (how === "timer") setTimeout(() => { throw new Error("thrown later"); });
        if (how === "timer") setTimeout(() => socket.send("alive"));
      },
    },
  });
  const socket = new WebSocket("ws://127.0.0.1:" + server.port);
  socket.onmessage = () => process.exit(0);
`;

async function runFailing(script: string) {
  const child = Bun.spawn([process.execPath, "-e", FAILING_SERVER + script], { stderr: "ignore" });
  const output = new Response(child.stdout).text();
  return { exitCode: await withDeadline(child.exited, () => "still running"), output: await output };
}

for (const how of ["throw", "reject", "timer"])
  test.concurrent(`a failure (${how}) in a socket's handler ends the process`, async () =>
    expect(await runFailing(`socket.onopen = () => socket.send("${how}");`)).toEqual({
      exitCode: 1,
      output: "",
    }),
  );

test.concurrent("with listeners for uncaught errors the process continues", async () => {
  const script = `
    process.on("uncaughtException", ({ message }) => console.log(message));
    process.on("unhandledRejection", ({ message }) => console.log(message));
    socket.onopen = () => ["throw", "reject", "timer"].forEach((how) => socket.send(how));`;
  expect(await runFailing(script)).toEqual({ exitCode: 0, output: "thrown\nrejected\nthrown later\n" });
});

test("CryptoHasher with a key is HMAC, in one Buffer (RFC 4231, test case 2)", () => {
  const digest = new Bun.CryptoHasher("sha256", "Jefe").update("what do ya want for nothing?").digest();
  expect(digest).toBeInstanceOf(Buffer);
  expect(digest.toString("hex")).toBe("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
});

test("Buffer.from(…, 'base64url') accepts anything: padding, the other alphabet, invalid characters", () => {
  const bytes = Buffer.from([0xfb, 0xff]);
  for (const text of ["-_8", "-_8=", "+/8", "-_9", "- _\n8", "-_8*", "-_8=A"])
    expect([text, Buffer.from(text, "base64url")]).toEqual([text, bytes]);
});

test("a streamed response: desiredSize shows what waits, pull follows when it is read, cancel when the client is gone", async () => {
  const CHUNK = new Uint8Array(65_536);
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  let pulls = 0;
  const gone = Promise.withResolvers<void>();
  await using server = Bun.serve({
    ...LISTEN,
    fetch(request, server) {
      server.timeout(request, 0);
      const source = {
        start: (started: ReadableStreamDefaultController<Uint8Array>) => void (controller = started),
        pull: () => void pulls++,
        cancel: () => gone.resolve(),
      };
      const size = (chunk: Uint8Array | undefined) => chunk?.byteLength ?? 0;
      return new Response(new ReadableStream(source, { highWaterMark: CHUNK.length, size }));
    },
  });
  const client = await Bun.connect({
    hostname: "127.0.0.1",
    port: server.port ?? 0,
    socket: { data() {} },
  });
  client.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await eventually(async () => controller !== undefined, "the request arrives");
  client.pause();
  const waiting = () => CHUNK.length - (controller?.desiredSize ?? 0);
  await eventually(async () => {
    for (let i = 0; i < 16; i++) controller?.enqueue(CHUNK);
    return waiting() > 1024 * 1024;
  }, "chunks wait");
  const before = pulls;
  client.resume();
  await eventually(async () => pulls > before && waiting() === 0, "all is read");
  client.terminate();
  await withDeadline(gone.promise, () => "the stream was not cancelled");
  expect(() => controller?.enqueue(CHUNK)).toThrow();
});
