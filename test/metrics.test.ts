/** What monitoring sees, and who may look. */

import { expect, test } from "bun:test";
import { Door } from "../src/door.ts";
import { Tokens } from "../src/tokens.ts";
import { startHubbub, until } from "./hubbub.ts";
import { closing, frame, RawClient, request } from "./raw.ts";

const promtool = Bun.which("promtool");
const skipped = promtool ? "" : " (skipped: there is no promtool here, which comes with prometheus)";

test("connections, rooms, messages and bytes, refusals, disconnects and resumes are counted", async () => {
  await using hub = await startHubbub({ args: ["--max-message-bytes", "10"] });
  await using ann = await hub.joinJson("ann");
  await using bob = await hub.join("bob");
  await using carl = await hub.join("carl");
  await using eve = await hub.join("eve", { room: "tea" });
  ann.says("語");
  await ann.hears({ type: "message", from: "ann", text: "語" });
  for (const peer of [bob, carl]) await peer.hears("Client #ann says: 語");
  ann.says("x".repeat(11));
  await ann.next();
  await hub.answer("/ws/a%20b");
  await hub.answer("/rooms/a%20b/members");
  await eve.leaves();
  await using back = await hub.joinJson("ann", { after: ann.after });
  await using lost = await hub.joinJson("ann", { after: "1-0" });
  expect([back.welcome.recovered, lost.welcome.recovered]).toEqual([true, false]);
  await lost.hears({ type: "message", from: "ann", text: "語" });

  const { headers } = await hub.get("/metrics");
  expect(headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  const metrics = await hub.metrics();
  const frame = JSON.stringify({
    type: "message",
    id: ann.after,
    time: Number(ann.after.split("-")[0]),
    from: "ann",
    text: "語",
  });
  expect(Object.fromEntries([...metrics].filter(([name]) => !/_seconds|_bytes\b/.test(name)))).toEqual({
    hubbub_connections: 5,
    hubbub_rooms: 1,
    hubbub_store_ready: 1,
    hubbub_received_messages_total: 1,
    hubbub_received_bytes_total: 3,
    hubbub_sent_messages_total: 4,
    hubbub_sent_bytes_total: 2 * Buffer.byteLength(frame) + 2 * Buffer.byteLength("Client #ann says: 語"),
    'hubbub_refused_messages_total{reason="message-too-big"}': 1,
    'hubbub_refused_requests_total{reason="bad-name"}': 2,
    'hubbub_disconnects_total{code="1005"}': 1,
    'hubbub_resumes_total{recovered="true"}': 1,
    'hubbub_resumes_total{recovered="false"}': 1,
  });
  expect(metrics.get("hubbub_buffered_bytes")).toBe(0);
  expect(metrics.get("hubbub_store_delay_seconds_count")).toBe(1);
  expect(metrics.get('hubbub_store_delay_seconds_bucket{le="+Inf"}')).toBe(1);
  expect(metrics.get("hubbub_event_loop_delay_seconds_sum")).toBeGreaterThanOrEqual(0);
});

test("what waits for a slow reader, and how late the event loop is", async () => {
  await using hub = await startHubbub();
  await using ann = await hub.open("/websocket");
  ann.pauses();
  const text = "x".repeat(60_000);
  for (let i = 0; i < 70; i++) ann.says(text);
  await until(async () => ann.unsent === 0, "the server takes what is sent", 20_000);
  await using reader = await hub.open("/websocket");
  let buffered = 0;
  for (let i = 0; i < 100 && buffered === 0; i++) {
    ann.says(text);
    reader.says("x");
    await reader.hears("Message text was: x");
    buffered = (await hub.metrics()).get("hubbub_buffered_bytes") ?? 0;
  }
  expect(buffered).toBeGreaterThan(0);
  hub.process.kill("SIGSTOP");
  await Bun.sleep(400);
  hub.process.kill("SIGCONT");
  const late = async () => (await hub.metrics()).get("hubbub_event_loop_delay_seconds_sum") ?? 0;
  await until(async () => (await late()) >= 0.1, "the event loop was late", 20_000);
});

test("a client that closes with a code of ours is not counted as ours", async () => {
  await using hub = await startHubbub();
  await using ann = new RawClient(hub.port);
  ann.sends(request("/ws/ann"), frame(8, closing(1013, "Reading too slowly: please come back and resume.")));
  await ann.head();
  await ann.rest();
  const metrics = await hub.metrics();
  expect(metrics.get('hubbub_disconnects_total{code="other"}')).toBe(1);
  expect(metrics.get('hubbub_disconnects_total{code="1013"}')).toBeUndefined();
});

test("a reader that is cut off is counted", async () => {
  await using hub = await startHubbub();
  await using ann = await hub.join("ann");
  await using slow = await hub.join("slow");
  slow.pauses();
  for (let i = 0; i < 300; i++) {
    ann.says(`${i} `.padEnd(32_768, "x"));
    await ann.hearsUpTo(`Client #ann says: ${`${i} `.padEnd(32_768, "x")}`);
  }
  slow.resumes();
  expect((await slow.closes()).code).toBe(1013);
  expect((await hub.metrics()).get('hubbub_disconnects_total{code="1013"}')).toBe(1);
});

test("they are for this machine, or for who has a token; never for who comes by a proxy", async () => {
  await using open = await startHubbub({ args: ["--public-url", "https://chat.example"] });
  await open.metrics({ headers: { Host: "localhost:9090" } });
  const refused = { status: 403, body: "This is for requests from the machine itself.\n" };
  for (const headers of [
    { Host: "localhost", "X-Forwarded-For": "192.0.2.1" },
    { Host: "localhost", Forwarded: "for=192.0.2.1" },
    { Host: "localhost", Via: "1.1 proxy" },
    { Host: "chat.example" },
    { Host: "evil.example" },
  ])
    expect(await open.answer("/metrics", { headers })).toEqual(refused);

  const secret = "a secret of thirty-two bytes, or more";
  await using closed = await startHubbub({ env: { HUBBUB_SECRET: secret } });
  await closed.metrics();
  const forwarded = { "X-Forwarded-For": "192.0.2.1" };
  expect(await closed.answer("/metrics", { headers: forwarded })).toHaveProperty("status", 401);
  const token = new Tokens(Buffer.from(secret)).sign("prometheus", [], Math.floor(Date.now() / 1000) + 60);
  await closed.metrics({ headers: { ...forwarded, Authorization: `Bearer ${token}` } });
});

test("not for another machine that writes this one's name into Host", () => {
  const rules = { publicUrl: undefined, allowHost: [], allowOrigin: [], tokens: undefined };
  const door = new Door({ ...rules, machineName: () => "server" });
  const request = new Request("http://localhost/metrics", { headers: { Host: "localhost" } });
  const codeFor = (address: string) => door.admitObserver(request, address, 0)?.code;
  for (const address of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
    expect(codeFor(address)).toBeUndefined();
  for (const address of ["192.0.2.1", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "::127.0.0.1", ""])
    expect(codeFor(address)).toBe("not-local");
});

test.skipIf(skipped !== "")(`promtool has nothing to say about /metrics${skipped}`, async () => {
  await using hub = await startHubbub();
  await using ann = await hub.join("ann");
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  await hub.answer("/ws/a%20b");
  const bob = await hub.join("bob");
  await bob.leaves();
  await ann.hears("Client #bob left the chat");
  const { body } = await hub.answer("/metrics");
  expect(body).toContain("hubbub_connections 1\n");
  const { exitCode, stdout, stderr } = await Bun.$`${promtool} check metrics < ${new Response(body)}`
    .quiet()
    .nothrow();
  expect({ exitCode, said: `${stdout}${stderr}` }).toEqual({ exitCode: 0, said: "" });
});

test("health and readiness are for anyone", async () => {
  await using hub = await startHubbub({ env: { HUBBUB_SECRET: "a secret of thirty-two bytes, or more" } });
  for (const path of ["/healthz", "/readyz"])
    expect(
      await hub.answer(path, { headers: { Host: "10.1.2.3", "X-Forwarded-For": "1.1.1.1" } }),
    ).toHaveProperty("status", 200);
});

test("the README's table is the code's", async () => {
  await using hub = await startHubbub();
  const { body } = await hub.answer("/metrics");
  const readme = (await Bun.file(`${import.meta.dir}/../README.md`).text()).replace(/ +/g, " ");
  const described = [...body.matchAll(/^# HELP (\S+) (.*)\n# TYPE \1 (.*)$/gm)];
  expect(described.length).toBe(14);
  for (const [, name, help, type] of described)
    expect(readme).toContain(`| \`${name}\` | ${type} | ${help} |`);
});
