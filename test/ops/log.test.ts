/** The log: one line per event, never a message text or a token. */

import { expect, test } from "bun:test";
import { escapeControls } from "../../src/ops/log.ts";
import { TestClock } from "../support/clock.ts";
import { eventually } from "../support/deadline.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer, STORES } from "../support/server.ts";
import { closing, frame, RawClient, request } from "../support/raw-websocket.ts";

/** The log of a server with one client and two rejections, without the first line. */
async function logOf(format: "text" | "json" | "off") {
  const server = await startServer({ args: ["--log", format], ...SECURED });
  const token = tokenOf("ann");
  const ann = await server.open(`/ws/ann?room=tea&token=${token}`);
  ann.says("a private word");
  await ann.hears("You wrote: a private word", "Client #ann says: a private word");
  await ann.leaves();
  await server.answer(`/ws/bob?token=${token}`);
  await server.answer("/ws/%E2%80%AEbob?token=secret");
  server.process.kill("SIGTERM");
  await server.process.exited;
  const lines = (await server.output).trimEnd().split("\n").filter(Boolean);
  for (const line of lines) expect(line).not.toMatch(/private|token|secret|eyJ/);
  return lines;
}

test("a line of text per event", async () => {
  const lines = (await logOf("text")).map((line) =>
    line.replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ /, "TIME "),
  );
  expect(lines).toEqual([
    "TIME connected client=ann room=tea format=text address=127.0.0.1",
    "TIME disconnected client=ann room=tea format=text address=127.0.0.1 code=1005",
    "TIME rejected status=403 code=not-for-client path=/ws/bob address=127.0.0.1",
    "TIME rejected status=400 code=bad-name path=/ws/%E2%80%AEbob address=127.0.0.1",
    "TIME stopping connections=0",
    "TIME stopped",
  ]);
});

test("a line of JSON per event", async () => {
  const lines = (await logOf("json")).map((line): unknown => JSON.parse(line));
  const time = expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  const ann = { client: "ann", room: "tea", format: "text", address: "127.0.0.1" };
  expect(lines).toEqual([
    { time, event: "connected", ...ann },
    { time, event: "disconnected", ...ann, code: 1005 },
    { time, event: "rejected", status: 403, code: "not-for-client", path: "/ws/bob", address: "127.0.0.1" },
    {
      time,
      event: "rejected",
      status: 400,
      code: "bad-name",
      path: "/ws/%E2%80%AEbob",
      address: "127.0.0.1",
    },
    { time, event: "stopping", connections: 0 },
    { time, event: "stopped" },
  ]);
});

test("nothing with --log off", async () => expect(await logOf("off")).toEqual([]));

for (const store of STORES.filter(({ name }) => ["memory", "SQLite"].includes(name)))
  test(`that ids are ahead of the clock, and that they follow it again, is logged once each; ${store.name}`, async () => {
    const THOUSAND_DAYS_MS = 1000 * 24 * 60 * 60 * 1000;
    using clock = new TestClock();
    clock.adjust(THOUSAND_DAYS_MS);
    await using server = await startServer({ ...clock.setup, store, args: ["--log", "text"] });
    await using ann = await server.joinJson("ann");
    let time = Infinity;
    const say = async () => {
      ann.says("tick");
      time = Number((await ann.next()).time);
    };
    const DAY_MS = 24 * 60 * 60 * 1000;
    const isNow = () => time < Date.now() + DAY_MS;
    await say();
    expect(isNow()).toBe(false);
    clock.adjust(-THOUSAND_DAYS_MS);
    await eventually(async () => (await say(), isNow()), "ids follow the clock");
    for (let i = 0; i < 5; i++) await say();
    expect(isNow()).toBe(true);
    clock.adjust(THOUSAND_DAYS_MS);
    await eventually(async () => (await say(), !isNow()), "ids are ahead again");
    await say();
    server.process.kill("SIGTERM");
    await server.process.exited;
    const lines = (await server.output).split("\n").filter((line) => / ids /.test(line));
    expect(lines.map((line) => line.replace(/^\S+ /, "").replace(/=8\d{7}$/, "=N"))).toEqual([
      "ids ahead of clock seconds=N",
      "ids follow clock",
    ]);
  });

test("the reason of a disconnect", async () => {
  const server = await startServer({ args: ["--log", "text", "--max-message-bytes", "10"] });
  await using eve = await server.join("eve");
  const ann = await server.join("ann");
  ann.says("x".repeat(11));
  await ann.closes();
  const bob = await server.join("bob");
  bob.vanishes();
  await eve.hears("Client #ann left the chat", "Client #bob left the chat");
  server.process.kill("SIGTERM");
  await server.process.exited;
  const reasons = [...(await server.output).matchAll(/disconnected client=(\w+) .* code=(.*)/g)].map(
    ([, ...parts]) => parts.join(" "),
  );
  expect(reasons).toEqual([
    'ann 1009 reason="The message is too large."',
    "bob 1006",
    'eve 1012 reason="The server is stopping, perhaps to restart. Reconnect in a moment."',
  ]);
});

test("a flood of one event is cut to 100 lines per second and a count", async () => {
  using clock = new TestClock();
  const server = await startServer({ ...clock.setup, args: ["--log", "text"] });
  const reject = async (times: number) => {
    for (let i = 0; i < times; i++) await server.answer("/ws/a%20b");
  };
  await reject(150);
  clock.advance(999);
  await reject(150);
  clock.advance(1);
  await reject(101);
  server.process.kill("SIGTERM");
  await server.process.exited;
  const events = [...(await server.output).matchAll(/rejected|suppressed.*|stopping|stopped/g)].map(String);
  const hundred = Array<string>(100).fill("rejected");
  expect(events).toEqual([
    ...hundred,
    "suppressed lines=200",
    ...hundred,
    "stopping",
    "suppressed lines=1",
    "stopped",
  ]);
});

test("a log that is no longer read does not stop the server", async () => {
  await using server = await startServer({ args: ["--log", "text"], reads: "first line" });
  for (let i = 0; i < 50; i++) {
    const ann = await server.join("ann");
    ann.says("hi");
    await ann.hears("You wrote: hi", "Client #ann says: hi");
    await ann.leaves();
  }
  expect(await server.answer("/healthz")).toHaveProperty("status", 200);
});

for (const format of ["text", "json"])
  test(`what a client sends cannot start a line of its own, and is cut: ${format}`, async () => {
    const server = await startServer({ args: ["--log", format] });
    await using client = new RawClient(server.port);
    const reason = "\x1b]0;pwned\x07\u009b2J\u202e\u2028\nrejected status=200";
    client.sends(request("/ws/ann"), frame(8, closing(4000, reason)));
    await client.head();
    await client.rest();
    await server.answer(`/ws/${"%20".repeat(1000)}`);
    server.process.kill("SIGTERM");
    await server.process.exited;
    const output = await server.output;
    expect(output).not.toMatch(/[^\P{Cc}\n]|\p{Bidi_Control}|[\u2028\u2029]/u);
    const [, disconnected = "", rejected = ""] = output.split("\n");
    expect(disconnected).toContain("\\u001b]0;pwned\\u0007\\u009b2J\\u202e\\u2028\\nrejected status=200");
    expect(rejected).toContain("bad-name");
    expect(/\/ws\/[^" ]*/.exec(rejected)?.[0]).toHaveLength(200);
  });

test("control and bidirectional characters are escaped", () =>
  expect(escapeControls("a\x1b[31m\u202eb\tc\n")).toBe("a\\u001b[31m\\u202eb\tc\\u000a"));

test("the documented events are those that the code logs", async () => {
  const source = `${import.meta.dir}/../../src`;
  const readme = await Bun.file(`${source}/ops/README.md`).text();
  const files = await Array.fromAsync(new Bun.Glob("**/*.ts").scan(source), (path) =>
    Bun.file(`${source}/${path}`).text(),
  );
  const code = files.join("");
  const rows = /\| event .*\n.*\n((?:\|.*\n)+)/.exec(readme)?.[1] ?? "";
  const documented = [...rows.matchAll(/^\| `(.+?)`/gm)].map(([, event]) => event);
  for (const event of documented) expect(code).toContain(`"${event}"`);
  for (const [, event] of code.matchAll(/logEvent\(\s*"(.+?)"/g)) expect(documented).toContain(event);
});
