/** Event streams: formats, resuming, access, limits, slow consumers, shutdown. */

import { describe, expect, test } from "bun:test";
import { eventually } from "../support/deadline.ts";
import { subscribe } from "../support/event-stream.ts";
import { sharedServer, newRoom } from "../support/shared-server.ts";
import { startServer, STORES } from "../support/server.ts";

const FORMATS = ["sse", "ndjson"] as const;

const says = (from: string, text: string) => ({ from, text });

for (const store of STORES)
  describe(`on ${store.name}`, () => {
    test("subscribers receive what is posted and sent from then on, in both formats and in one order", async () => {
      await using server = await startServer({ store, args: ["--history", "5"] });
      await using ann = await server.joinJson("ann", { room: "tea" });
      await ann.saysAndHears("before");
      await using sse = await subscribe(server.next(), "tea");
      await using ndjson = await subscribe(server.next(), "tea", { format: "ndjson" });
      await using elsewhere = await subscribe(server.next(), "coffee");
      for (const { welcome } of [sse, ndjson])
        expect(welcome).toEqual({ type: "welcome", room: "tea", last: ann.after });
      await ann.saysAndHears("語 \u2028\r\n");
      await server.post("tea", { data: "AQID", from: "ci" });
      await server.post("coffee", says("ci", "black"));
      for (const each of [sse, ndjson])
        await each.hears(says("ann", "語 \u2028\r\n"), { from: "ci", data: "AQID" });
      await elsewhere.hears(says("ci", "black"));
    });

    test("a stream resumes without gaps or duplicates; one that cannot says so and receives the latest messages", async () => {
      await using server = await startServer({ store, args: ["--history", "5"] });
      const last = (count: number) => Array.from({ length: count }, (_, i) => says("ci", `${8 - count + i}`));
      for (const format of FORMATS) {
        const ids: string[] = [];
        for (let i = 0; i < 8; i++) {
          const response = await server.post(format, says("ci", `${i}`));
          ids.push(JSON.parse(await response.text()).id);
        }
        const open = (query: string, headers: Record<string, string> = {}) =>
          subscribe(server.next(), format, { query, format, headers });
        await using after = await open(`?after=${ids[5]}`);
        expect(after.welcome).toEqual({ type: "welcome", room: format, last: ids[5], recovered: true });
        await after.hears(...last(2));

        await using header = await open("?after=1-1&history=0", { "Last-Event-ID": ids[4] ?? "" });
        expect(header.welcome).toEqual({ type: "welcome", room: format, last: ids[4], recovered: true });
        await header.hears(...last(3));

        await using unknown = await open("?history=2", { "Last-Event-ID": "1-1" });
        expect(unknown.welcome).toEqual({ type: "welcome", room: format, last: ids[2], recovered: false });
        await unknown.hears(...last(5));

        await using few = await open("?after=nonsense&history=2");
        expect(few.welcome).toEqual({ type: "welcome", room: format, last: ids[5], recovered: false });
        await few.hears(...last(2));

        const all = store.keepsEverything ? 8 : 5;
        await using history = await open("?history=1000");
        expect(history.welcome.recovered).toBeUndefined();
        await history.hears(...last(all));

        await server.post(format, says("ci", "live"));
        for (const each of [after, header, unknown, few, history]) await each.hears(says("ci", "live"));
      }
    });

    test("a long replay and what is posted meanwhile arrive in order, once", async () => {
      await using server = await startServer({ store, args: ["--history", "400"] });
      await using ann = await server.joinJson("ann", { room: "tea" });
      const start = ann.after;
      const texts = Array.from({ length: 300 }, (_, i) => `${i} `.padEnd(8192, "x"));
      for (const text of texts.slice(0, 200)) ann.says(text);
      for (const _ of texts.slice(0, 200)) await ann.next();
      const posting = (async () => {
        for (const text of texts.slice(200)) await ann.saysAndHears(text);
      })();
      await using stream = await subscribe(server.next(), "tea", { query: `?after=${start}` });
      expect(stream.welcome.recovered).toBe(true);
      await stream.hears(...texts.map((text) => says("ann", text)));
      await posting;
    });
  });

describe("one server", () => {
  const server = sharedServer({ args: ["--open-metrics"] });

  test("the response is neither stored, buffered nor sniffed, and the client is asked to wait 1 to 3 seconds", async () => {
    const room = newRoom();
    for (const [accept, type] of [
      ["*/*", "text/event-stream"],
      ["application/x-ndjson", "application/x-ndjson"],
    ] as const) {
      const aborter = new AbortController();
      const init = { headers: { Accept: accept }, signal: aborter.signal };
      const { status, headers } = await server().get(`/rooms/${room}/events`, init);
      expect([status, headers.get("content-type")]).toEqual([200, `${type}; charset=utf-8`]);
      expect(headers.get("cache-control")).toBe("no-store");
      expect(headers.get("x-accel-buffering")).toBe("no");
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      aborter.abort();
    }
    const waits: (number | undefined)[] = [];
    for (let i = 0; i < 5; i++) {
      await using stream = await subscribe(server(), room);
      waits.push(stream.retryMs);
    }
    for (const ms of waits) expect(ms).toBeWithin(1000, 3000);
    expect(new Set(waits).size).toBeGreaterThan(1);
  });

  test("subscribers are no members: nobody sees them, and they see no presence", async () => {
    const room = newRoom();
    await using stream = await subscribe(server(), room);
    await using ann = await server().joinJson("ann", { room });
    await using bob = await server().join("bob", { room });
    expect([ann.welcome.count, ann.welcome.members]).toEqual([1, ["ann"]]);
    await ann.hearsPresence({ joined: ["ann", "bob"], left: [], count: 2 });
    expect(JSON.parse((await server().answer(`/rooms/${room}/members`)).body).count).toBe(2);
    await bob.leaves();
    await ann.hearsPresence({ joined: [], left: ["bob"], count: 1 });
    ann.says("hi");
    await stream.hears(says("ann", "hi"));
  });

  test("HEAD has the headers and opens nothing; other methods are 405; a page of another site is 403", async () => {
    const path = `/rooms/${newRoom()}/events`;
    const head = await server().get(path, { method: "HEAD" });
    expect([head.status, head.headers.get("content-type"), await head.text()]).toEqual([
      200,
      "text/event-stream; charset=utf-8",
      "",
    ]);
    for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
      const { status, headers } = await server().get(path, { method });
      expect([status, headers.get("allow")]).toEqual([405, "GET, HEAD, OPTIONS"]);
    }
    for (const headers of [
      { Origin: "https://evil.example" },
      { "Sec-Fetch-Site": "cross-site" },
      { Host: "evil.example" },
    ])
      expect(
        (await server().get(path, { headers: { Accept: "text/event-stream", ...headers } })).status,
      ).toBe(403);
    for (const [query, code] of [
      ["?history=x", "bad-history"],
      ["?history=-1", "bad-history"],
    ] as const) {
      const { status, headers } = await server().get(path + query);
      expect([status, headers.get("hubbub-code")]).toEqual([400, code]);
    }
    expect((await server().get("/rooms/a%20b/events")).status).toBe(400);
    expect((await server().metrics()).get("hubbub_event_streams")).toBe(0);
  });

  test("streams are counted while they are open, and a client that goes away leaves nothing behind", async () => {
    const room = newRoom();
    const count = async (name: string) => (await server().metrics()).get(name);
    await eventually(async () => (await count("hubbub_rooms")) === 0, "no room is open");
    const streams = await Promise.all(FORMATS.map((format) => subscribe(server(), room, { format })));
    expect([
      await count("hubbub_event_streams"),
      await count("hubbub_connections"),
      await count("hubbub_rooms"),
    ]).toEqual([2, 0, 1]);
    for (const stream of streams) await stream[Symbol.asyncDispose]();
    await eventually(async () => (await count("hubbub_event_streams")) === 0, "no stream is open");
    expect(await count("hubbub_rooms")).toBe(0);
  });
});

test("the page of an allowed origin may subscribe, and send Last-Event-ID itself", async () => {
  const origin = "https://news.example";
  await using server = await startServer({ args: ["--allow-origin", origin] });
  const preflight = await server.get("/rooms/tea/events", { method: "OPTIONS", headers: { Origin: origin } });
  expect([preflight.status, preflight.headers.get("access-control-allow-headers")]).toEqual([
    204,
    "Authorization, Content-Type, Last-Event-ID",
  ]);
  const aborter = new AbortController();
  const { status, headers } = await server.get("/rooms/tea/events", {
    headers: { Origin: origin, "Sec-Fetch-Site": "cross-site" },
    signal: aborter.signal,
  });
  expect([status, headers.get("access-control-allow-origin")]).toEqual([200, origin]);
  aborter.abort();
});

test("a quiet stream has a heartbeat", async () => {
  await using server = await startServer({ args: ["--ping-seconds", "1"] });
  for (const format of FORMATS) {
    await using stream = await subscribe(server, "tea", { format });
    for (let i = 0; i < 2; i++) await stream.hearsHeartbeat();
    await server.post("tea", says("ci", "hi"));
    await stream.hears(says("ci", "hi"));
  }
});
