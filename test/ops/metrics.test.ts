/** What `/metrics` shows, and to whom. */

import { expect, test } from "bun:test";
import { version } from "../../package.json";
import { AccessControl } from "../../src/http/access-control.ts";
import { HttpProblem } from "../../src/http/problem.ts";
import { CLOSE_CODES, ERROR_MESSAGES, REJECTION_STATUS } from "../../src/protocol/codes.ts";
import { systemClock } from "../../src/util/clock.ts";
import { eventually } from "../support/deadline.ts";
import { bearer, SECRET, SECURED } from "../support/keys.ts";
import { findProgram } from "../support/programs.ts";
import { startServer } from "../support/server.ts";
import { unpadded } from "../support/docs.ts";
import { closing, frame, RawClient, request } from "../support/raw-websocket.ts";

const { path: promtool, skipped } = findProgram("prometheus", "promtool");

test("connections, rooms, messages, bytes, rejections, disconnects and resumes are counted", async () => {
  await using server = await startServer({ args: ["--max-message-bytes", "10"] });
  await using ann = await server.joinJson("ann");
  await using bob = await server.join("bob");
  await using carl = await server.join("carl");
  await using eve = await server.join("eve", { room: "tea" });
  ann.says("語");
  await ann.hears({ type: "message", from: "ann", text: "語" });
  for (const peer of [bob, carl]) await peer.hears("Client #ann says: 語");
  ann.says("x".repeat(11));
  await ann.next();
  await server.answer("/ws/a%20b");
  await server.answer("/rooms/a%20b/members");
  await eve.leaves();
  await using back = await server.joinJson("ann", { after: ann.after });
  await using lost = await server.joinJson("ann", { after: "1-0" });
  expect([back.welcome.recovered, lost.welcome.recovered]).toEqual([true, false]);
  await lost.hears({ type: "message", from: "ann", text: "語" });

  const { headers } = await server.get("/metrics");
  expect(headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  const metrics = await server.metrics();
  const frame = JSON.stringify({
    type: "message",
    id: ann.after,
    time: Number(ann.after.split("-")[0]),
    from: "ann",
    text: "語",
  });
  expect(
    Object.fromEntries(
      [...metrics].filter(([name, value]) => value !== 0 && !/_seconds|_bytes\b|^process_/.test(name)),
    ),
  ).toEqual({
    [`hubbub_build_info{version="${version}"}`]: 1,
    hubbub_connections: 5,
    hubbub_rooms: 1,
    hubbub_store_ready: 1,
    hubbub_received_messages_total: 1,
    hubbub_received_bytes_total: 3,
    hubbub_sent_messages_total: 4,
    hubbub_sent_bytes_total: 2 * Buffer.byteLength(frame) + 2 * Buffer.byteLength("Client #ann says: 語"),
    'hubbub_rejected_messages_total{reason="message-too-big"}': 1,
    'hubbub_rejected_requests_total{reason="bad-name"}': 2,
    'hubbub_disconnects_total{code="1005"}': 1,
    'hubbub_resumes_total{recovered="true"}': 1,
    'hubbub_resumes_total{recovered="false"}': 1,
  });
  expect(metrics.get("hubbub_buffered_bytes")).toBe(0);
  expect(metrics.get("hubbub_store_delay_seconds_count")).toBe(1);
  expect(metrics.get('hubbub_store_delay_seconds_bucket{le="+Inf"}')).toBe(1);
  expect(metrics.get("hubbub_event_loop_delay_seconds_sum")).toBeGreaterThanOrEqual(0);
});

test("a removal counts as bytes sent, not as a message", async () => {
  await using server = await startServer({ secret: SECRET });
  await using ann = await server.joinJson("ann");
  await ann.saysAndHears("hi");
  const sent = async () => {
    const metrics = await server.metrics();
    return ["messages", "bytes"].map((what) => metrics.get(`hubbub_sent_${what}_total`) ?? NaN);
  };
  const [messages = NaN, bytes = NaN] = await sent();
  const headers = server.authorization("mod", ["read", "write", "moderate"]);
  await server.answer("/rooms/lobby/messages?from=ann", { method: "DELETE", headers });
  const removal = JSON.stringify(await ann.next());
  expect(JSON.parse(removal)).toMatchObject({ type: "removed", from: "ann" });
  expect(await sent()).toEqual([messages, bytes + removal.length]);
});

test("counters with a label have all their values from the start, at 0", async () => {
  await using server = await startServer();
  const metrics = await server.metrics();
  const counters = [
    ...Object.keys(ERROR_MESSAGES).map((code) => `hubbub_rejected_messages_total{reason="${code}"}`),
    ...Object.keys(REJECTION_STATUS).map((code) => `hubbub_rejected_requests_total{reason="${code}"}`),
    ...[1000, 1001, 1005, 1006, "other", ...Object.values(CLOSE_CODES).map(([code]) => code)].map(
      (code) => `hubbub_disconnects_total{code="${code}"}`,
    ),
    ...[true, false].map((recovered) => `hubbub_resumes_total{recovered="${recovered}"}`),
    ...["remove-message", "remove-client", "disconnect"].map(
      (action) => `hubbub_moderations_total{action="${action}"}`,
    ),
  ];
  expect(counters.map((name) => [name, metrics.get(name)])).toEqual(counters.map((name) => [name, 0]));
  expect([...metrics.keys()].filter((name) => /_total\{/.test(name)).sort()).toEqual(
    [...new Set(counters)].sort(),
  );
});

test.skipIf(process.platform !== "linux")("the process metrics agree with /proc", async () => {
  await using server = await startServer();
  const idle = await server.metrics();
  const { pid } = server.process;
  const files = await Bun.$`ls /proc/${pid}/fd`.text();
  expect(idle.get("process_open_fds")).toBe(files.trim().split("\n").length);
  const limits = await Bun.file(`/proc/${pid}/limits`).text();
  expect(idle.get("process_max_fds")).toBe(Number(/^Max open files +(\d+)/m.exec(limits)?.[1]));
  expect(idle.get("process_start_time_seconds")).toBeWithin(Date.now() / 1000 - 60, Date.now() / 1000);
  const status = await Bun.file(`/proc/${pid}/status`).text();
  const resident = 1024 * Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1]);
  expect(idle.get("process_resident_memory_bytes")).toBeWithin(resident / 4, resident + 1);
  await using ann = await server.open("/websocket");
  await using bob = await server.open("/websocket");
  for (const peer of [ann, bob]) await peer.hearsNothing();
  const busy = await server.metrics();
  expect(busy.get("process_open_fds")).toBe((idle.get("process_open_fds") ?? 0) + 2);
  expect(busy.get("process_cpu_seconds_total")).toBeGreaterThan(0);
});

test("the bytes buffered for a slow consumer, and the delay of the event loop", async () => {
  await using server = await startServer();
  await using ann = await server.open("/websocket");
  ann.pauses();
  const text = "x".repeat(60_000);
  for (let i = 0; i < 70; i++) ann.says(text);
  await eventually(async () => ann.unsent === 0, "the server takes what is sent");
  await using reader = await server.open("/websocket");
  let buffered = 0;
  for (let i = 0; i < 100 && buffered === 0; i++) {
    ann.says(text);
    reader.says("x");
    await reader.hears("Message text was: x");
    buffered = (await server.metrics()).get("hubbub_buffered_bytes") ?? 0;
  }
  expect(buffered).toBeGreaterThan(0);
  server.process.kill("SIGSTOP");
  await Bun.sleep(400);
  server.process.kill("SIGCONT");
  const late = async () => (await server.metrics()).get("hubbub_event_loop_delay_seconds_sum") ?? 0;
  await eventually(async () => (await late()) >= 0.1, "the event loop was late");
});

test("a client that closes with a code of the server is counted as other", async () => {
  await using server = await startServer();
  await using ann = new RawClient(server.port);
  ann.sends(request("/ws/ann"), frame(8, closing(1013, "Reading too slowly. Reconnect and resume.")));
  await ann.head();
  await ann.rest();
  const metrics = await server.metrics();
  expect(metrics.get('hubbub_disconnects_total{code="other"}')).toBe(1);
  expect(metrics.get('hubbub_disconnects_total{code="1013"}')).toBe(0);
});

test("a slow consumer that is closed is counted", async () => {
  await using server = await startServer();
  await using ann = await server.join("ann");
  await using slow = await server.join("slow");
  slow.pauses();
  for (let i = 0; i < 300; i++) {
    ann.says(`${i} `.padEnd(32_768, "x"));
    await ann.hearsUpTo(`Client #ann says: ${`${i} `.padEnd(32_768, "x")}`);
  }
  slow.resumes();
  expect((await slow.closes()).code).toBe(1013);
  expect((await server.metrics()).get('hubbub_disconnects_total{code="1013"}')).toBe(1);
});

const FORWARDED = { "X-Forwarded-For": "192.0.2.1" };
const NOT_LOCAL = {
  status: 403,
  body: "Metrics are available only on the machine itself; behind a proxy, only with a token or --open-metrics.\n",
};
const NOT_OUR_PAGE = {
  status: 403,
  body: "Pages of other sites may not connect. Use this server's own /client, or allow the site with --allow-origin.\n",
};

test("they are available from this machine, but not through a proxy", async () => {
  await using server = await startServer();
  for (const host of ["localhost:9090", "127.0.0.1", "[::1]:8000", "hubbub.localhost"])
    await server.metrics({ headers: { Host: host } });
  for (const headers of [
    { Host: "localhost", "X-Forwarded-For": "192.0.2.1" },
    { Host: "localhost", Forwarded: "for=192.0.2.1" },
    { Host: "localhost", Via: "1.1 proxy" },
    { Host: "localhost", "X-Forwarded-Proto": "https" },
    { Host: "chat.example" },
    { Host: "evil.example" },
    { Host: "192.0.2.1" },
    { Host: "[2001:db8::1]:8000" },
  ])
    expect(await server.answer("/metrics", { headers })).toEqual(NOT_LOCAL);
});

for (const args of [["--public-url", "https://chat.example"], ["--trust-proxy"]])
  test(`with ${args[0]}, direct requests read them, and those for the public host through a proxy do not`, async () => {
    await using server = await startServer({ args });
    expect(await server.answer("/metrics", { headers: { Host: "chat.example" } })).toEqual(NOT_LOCAL);
    for (const Host of ["localhost", `127.0.0.1:${server.port}`])
      expect(await server.answer("/metrics", { headers: { Host } })).toHaveProperty("status", 200);
  });

test("they are available with a token that grants metrics, but not with any other", async () => {
  await using server = await startServer(SECURED);
  await server.metrics();
  expect(await server.answer("/metrics", { headers: FORWARDED })).toHaveProperty("status", 401);
  const { exitCode, stdout } =
    await Bun.$`${process.execPath} ${import.meta.dir}/../../src/server.ts token prometheus --can metrics --port ${server.port}`
      .env({ ...process.env, HUBBUB_SECRET: SECRET })
      .quiet();
  const link = new URL(`${stdout}`.trim());
  expect([exitCode, link.origin + link.pathname]).toEqual([0, `http://localhost:${server.port}/metrics`]);
  const token = link.searchParams.get("token");
  await server.metrics({ headers: { ...FORWARDED, Authorization: `Bearer ${token}` } });
  expect(await server.answer(`/metrics?token=${token}`, { headers: FORWARDED })).toHaveProperty(
    "status",
    200,
  );
  for (const other of [bearer("ann"), bearer("ann", { can: ["read", "write", "moderate"] })])
    expect(await server.answer("/metrics", { headers: { ...FORWARDED, ...other } })).toEqual({
      status: 403,
      body: "This token does not grant access to metrics. Use one made with --can metrics.\n",
    });
});

test("they are available to anyone with --open-metrics", async () => {
  for (const env of [{}, { HUBBUB_SECRET: SECRET }]) {
    await using server = await startServer({ args: ["--open-metrics"], env });
    await server.metrics({ headers: { ...FORWARDED, Host: "hubbub:8000" } });
    expect(await server.answer("/metrics", { headers: { "Sec-Fetch-Site": "cross-site" } })).toEqual(
      NOT_OUR_PAGE,
    );
  }
});

test("they are not available to another machine that sends Host: localhost", () => {
  const options = {
    publicUrl: undefined,
    allowHost: [],
    allowOrigin: [],
    openMetrics: false,
    secretFile: [],
    publicKeyFile: [],
    allowGuests: [],
    guests: "write" as const,
  };
  const access = new AccessControl(options, systemClock);
  const request = new Request("http://localhost/metrics", { headers: { Host: "localhost" } });
  const codeFor = (address: string) => {
    try {
      access.authorizeMetrics(request, address);
    } catch (error) {
      return error instanceof HttpProblem ? error.code : error;
    }
    return undefined;
  };
  for (const address of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
    expect(codeFor(address)).toBeUndefined();
  for (const address of ["192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "::127.0.0.1", ""])
    expect(codeFor(address)).toBe("not-local");
});

test.skipIf(skipped !== "")(`promtool finds no problem in /metrics${skipped}`, async () => {
  await using server = await startServer();
  await using ann = await server.join("ann");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  await server.answer("/ws/a%20b");
  const bob = await server.join("bob");
  await bob.leaves();
  await ann.hears("Client #bob left the chat");
  const { body } = await server.answer("/metrics");
  expect(body).toContain("hubbub_connections 1\n");
  const { exitCode, stdout, stderr } = await Bun.$`${promtool} check metrics < ${new Response(body)}`
    .quiet()
    .nothrow();
  expect({ exitCode, output: `${stdout}${stderr}` }).toEqual({ exitCode: 0, output: "" });
});

test("health and readiness are available to anyone", async () => {
  await using server = await startServer(SECURED);
  for (const path of ["/healthz", "/readyz"])
    expect(
      await server.answer(path, { headers: { Host: "10.1.2.3", "X-Forwarded-For": "1.1.1.1" } }),
    ).toHaveProperty("status", 200);
});

test("the documented metrics are those of the server", async () => {
  await using server = await startServer();
  const { body } = await server.answer("/metrics");
  const readme = unpadded("src/ops/README.md");
  const described = [...body.matchAll(/^# HELP (\S+) (.*)\n# TYPE \1 (.*)$/gm)];
  expect(described.length).toBe(22);
  for (const [, name, help, type] of described)
    expect(readme).toContain(`| \`${name}\` | ${type} | ${help} |`);
});
