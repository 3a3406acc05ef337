/** The page in a real Chromium, used as a person uses it. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { joinPage, openPage, skipped } from "../support/browser.ts";
import { eventually } from "../support/deadline.ts";
import { freePort, serveHttp } from "../support/http.ts";
import { skipped as skippedNginx, startNginx } from "../support/nginx.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

/** How long the page waits before it says that someone left. */
const LEAVE_GRACE_MS = 5_000;

const WELCOME = {
  type: "welcome",
  client: "ann",
  room: "lobby",
  last: "0-0",
  count: 1,
  members: ["ann"],
  connections: 1,
  can: ["read", "write"],
  pingSeconds: 25,
  maxMessageBytes: 65_536,
};

/** A message of bob's whose id is its text, as the server sends it. */
function message(text: string) {
  return { type: "message", id: text, time: 0, from: "bob", text };
}

function numbered(start: number, end: number) {
  return Array.from({ length: end - start }, (_, i) => message(`${start + i}`));
}

/** Serves the page of another server, and accepts its connection without ever sending anything. */
function startSilentServer({ origin }: { readonly origin: string }) {
  const silent = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
      const { pathname, search } = new URL(request.url);
      if (server.upgrade(request, { headers: { "Sec-WebSocket-Protocol": "hubbub.v1" } })) return;
      return fetch(origin + pathname + search);
    },
    websocket: { message() {} },
  });
  return { origin: silent.url.origin, [Symbol.asyncDispose]: () => silent.stop(true) };
}

describe.skipIf(skipped !== "")(`the page${skipped}`, () => {
  test("has the tutorial's elements and a generated id, which survives a reload", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    const id = await page.run<string>("document.getElementById('ws-id').textContent");
    expect(id).toMatch(/^\d{16}$/);
    await page.shows("document.getElementById('messageText').tagName", "TEXTAREA");
    // Scripts for the tutorial's page find its only form, and the messages as list items.
    await page.says("hi");
    await page.shows(
      "[...document.querySelectorAll('#messages li .bubble')].map((each) => each.textContent)",
      ["hi"],
    );
    await page.shows("document.querySelector('form').contains(document.getElementById('messageText'))", true);
    await page.reload();
    await page.shows("document.getElementById('ws-id')?.textContent", id);
  });

  test("markup in a message is shown as text", async () => {
    await using server = await startServer();
    await using eve = await server.join("eve");
    using page = await joinPage(server, "/client");
    const texts = [
      "<script>document.title = 'taken'</script>",
      "<img src=x onerror=\"document.title = 'taken'\">",
      "javascript:alert(1) &amp; <b>bold</b>",
    ];
    for (const text of texts) eve.says(text);
    await page.shows(page.conversation, [`eve: ${texts[0]}`, texts[1], texts[2]]);
    await page.shows("document.querySelectorAll('#messages :is(script, img, b, a)').length", 0);
    await page.shows("document.title", "lobby · Hubbub");
    expect(page.complaints).toEqual([]);
  });

  test("after a server restart it reconnects, says that messages may be missing, and sends what was typed meanwhile", async () => {
    const first = await startServer();
    using page = await joinPage(first);
    await page.run("(Math.random = () => 0.3)()"); // tries again after 0.3, 0.6, 1.2, … s
    await page.says("before");
    await page.shows(page.pending, 0);
    await first.stop();
    await page.shows(page.state, "reconnecting");
    await page.says("meanwhile");
    await page.shows(page.conversation, ["me: before", "me: meanwhile"]);
    await page.shows(page.progress, "Waiting for the connection");
    await page.shows(
      `${page.line}.replace(/\\d+/, "N")`,
      "Connection lost. What you write is kept. Trying again in N s Try now",
    );

    await using second = await startServer({ args: ["--port", `${first.port}`] });
    await using bob = await second.join("bob");
    await bob.hears("Client #ann says: meanwhile");
    await page.shows(page.conversation, [
      "me: before",
      "Some messages may be missing here.",
      "me: meanwhile",
    ]);
    await page.shows(`[${page.line}, ${page.progress}]`, ["", ""]);
    await first[Symbol.asyncDispose]();
  });

  test("a message sent but not acknowledged is undecided: the writer retries or deletes it", async () => {
    await using first = await startServer();
    using page = await joinPage(first);
    first.process.kill("SIGSTOP");
    await page.says("one");
    await page.says("two");
    await page.shows(page.conversation, ["me: one", "me: two"]);
    await first.stop();
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    const doubt = "Maybe not sent Retry Delete";
    const both = [`me: one: ${doubt}`, `me: two: ${doubt}`];
    await page.shows(`${page.conversation}.slice(-2)`, both);
    await page.reload();
    await page.shows(page.conversation, both);
    await page.shows(page.state, "open");
    await using bob = await second.join("bob");
    // Not by their place on the screen: the status line may still come and go above them.
    await page.run("document.querySelector('.message:has(+ .message) .state button:last-of-type').click()");
    await page.shows("document.querySelectorAll('.state button').length", 2);
    await page.run("document.querySelector('.state button:first-of-type').click()");
    await bob.hears("Client #ann says: two");
    await page.shows(`${page.conversation}.filter((line) => line.startsWith("me"))`, ["me: two"]);
  });

  test("a draft survives a reload; a message that is too large stays in the composer, with the reason", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    const box = "document.getElementById('messageText').value";
    const problem = "document.getElementById('problem')";
    await page.run("document.getElementById('messageText').focus()");
    await page.type("half a thou");
    await page.reload();
    await page.shows(box, "half a thou");
    await page.run("messageText.focus()");
    await page.run(
      "Object.assign(messageText, { value: '語'.repeat(22_000) }).dispatchEvent(new Event('input'))",
    );
    await page.press("Enter");
    await page.shows(
      `${problem}.textContent`,
      "This message is too long (65 KB). Up to 64 KB fit into one: please split it.",
    );
    await page.shows(`${box}.length`, 22_000);
    await page.run(
      "Object.assign(messageText, { value: 'x'.repeat(65_536) }).dispatchEvent(new Event('input'))",
    );
    await page.press("Enter");
    await page.shows(
      "[...document.querySelectorAll('.bubble')].map((bubble) => bubble.textContent.length)",
      [65_536],
    );
    await page.shows(page.pending, 0);
    await page.shows(`[${problem}.hidden, ${box}]`, [true, ""]);
  });

  test("Enter sends, Shift+Enter breaks the line, Enter during composition does nothing, blank messages are not sent", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client");
    await page.says("  ");
    await page.press("Backspace");
    await page.press("Backspace");
    await page.type("one\ntwo");
    for (const composing of ["{ isComposing: true }", "{ keyCode: 229 }"])
      await page.run(
        `messageText.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true, ...${composing} }))`,
      );
    await page.shows("messages.childElementCount", 0);
    await page.press("Enter");
    await page.shows(page.conversation, ["me: one\ntwo"]);
  });

  test("the composer grows to six rows and no further", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    const rows = (count: number) =>
      page.run<number>(
        `(messageText.value = ${JSON.stringify("x\n".repeat(count - 1))}, messageText.clientHeight)`,
      );
    const [one, two, six, seven] = [await rows(1), await rows(2), await rows(6), await rows(7)];
    expect([two - one, six - one, seven - six]).toEqual([24, 120, 0]);
  });

  test("consecutive messages within five minutes share one name; each day has one date", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client");
    const at = (time: string, ...messages: [string, string][]) =>
      page.receives(
        ...messages.map(([from, text]) => ({ ...message(text), time: new Date(time).getTime(), from })),
      );
    await at("2026-03-01T10:00:00", ["ann", "1"], ["ann", "2"], ["bob", "3"]);
    await at("2026-03-01T10:04:59", ["bob", "4"]);
    await at("2026-03-01T10:09:59", ["bob", "5"]);
    await at("2026-03-02T00:01:00", ["bob", "6"], ["bob", "7"]);
    await page.shows(page.conversation, ["ann: 1", "2", "bob: 3", "4", "bob: 5", "bob: 6", "7"]);
    await page.shows(page.days, ["Sunday 1 March", "Monday 2 March"]);
  });

  test("the view follows the end, and holds still while one reads further up", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann", { width: 360, height: 740 });
    await using bob = await server.join("bob");
    const { fromEnd } = page;
    const count = "document.querySelectorAll('.message').length";
    for (let i = 0; i < 60; i++) bob.says(`message ${i} ${"long ".repeat(i % 30)}`);
    await page.shows(count, 60);
    await page.shows(`${page.conversation}[0]`, "bob joined");
    await page.shows(fromEnd, 0);

    await page.scrolls(-35);
    bob.says("near enough to the end");
    await page.shows(count, 61);
    await page.shows(fromEnd, 0);
    await page.scrolls(-500);
    const before = await page.run<number>(
      "document.querySelectorAll('.message')[40].getBoundingClientRect().top",
    );
    for (let i = 0; i < 3; i++) bob.says(`more ${i}`);
    await page.shows("document.getElementById('new').textContent", "↓ 3 new");
    await page.shows(count, 64);
    const after = await page.run<number>(
      "document.querySelectorAll('.message')[40].getBoundingClientRect().top",
    );
    expect(Math.abs(after - before)).toBeLessThanOrEqual(1);

    await page.click("#new");
    await page.shows(fromEnd, 0);
    await page.shows("document.getElementById('new').hidden", true);
  });

  test("a history that arrives in parts does not request earlier messages, although its top is in view", async () => {
    await using server = await startServer();
    await using silent = startSilentServer(server);
    using page = await openPage(silent, "/client?id=ann", { width: 360, height: 740 });
    await page.shows("sockets.length && sockets[0].readyState", 1);
    const frames =
      "(async () => { for (let i = 0; i < 3; i++) await new Promise(requestAnimationFrame); })()";
    await page.receives(WELCOME, ...numbered(0, 15));
    await page.run(frames);
    await page.receives(...numbered(15, 100), { type: "pong" });
    await page.run(frames);
    await page.shows(page.busy, "false");
    expect(await page.run(page.earlierRequests)).toBe(0);
    expect(await page.run("scroller.scrollTop > 1000")).toBe(true);
    expect(await page.run(page.fromEnd)).toBe(0);
  });

  test("a history that arrives at once is scrolled to its end before a frame is drawn", async () => {
    await using server = await startServer();
    await using silent = startSilentServer(server);
    using page = await openPage(silent, "/client?id=ann", { width: 360, height: 740 });
    await page.shows("sockets.length && sockets[0].readyState", 1);
    await page.receives(WELCOME, ...numbered(0, 100), { type: "pong" });
    expect(await page.run(page.earlierRequests)).toBe(0);
    expect(await page.run("scroller.scrollTop > 1000")).toBe(true);
    expect(await page.run(page.fromEnd)).toBe(0);
  });

  test("only web addresses become links, without the punctuation after them", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client");
    bob.says(
      "see https://a.example/x(1), (http://b.example/y). ftp://c.example javascript:x//https://d.example/！",
    );
    await page.shows(
      "[...document.querySelectorAll('.bubble a')].map((a) => [a.textContent, a.href, a.rel])",
      [
        ["https://a.example/x(1)", "https://a.example/x(1)", "noopener noreferrer"],
        ["http://b.example/y", "http://b.example/y", "noopener noreferrer"],
        ["https://d.example/", "https://d.example/", "noopener noreferrer"],
      ],
    );
  });

  test("one to three emoji alone are large; a word of 1,000 letters does not scroll sideways", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client", { width: 360, height: 740 });
    for (const text of ["👍", "👩‍👩‍👧‍👦🎉🇹🇼", "👍👍👍👍", "7", "x".repeat(1000)]) bob.says(text);
    await page.shows("[...document.querySelectorAll('.bubble')].map((bubble) => bubble.matches('.emoji'))", [
      true,
      true,
      false,
      false,
      false,
    ]);
    await page.shows(
      "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth",
      true,
    );
  });

  test("a binary message is shown as an image or a download", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client");
    const pixel =
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    bob.says(Uint8Array.fromBase64(pixel));
    bob.says(new Uint8Array(12_288));
    bob.says(new Uint8Array());
    await page.shows("document.querySelector('.bubble img')?.naturalWidth", 1);
    await page.shows(page.texts, ["", "12 KB · Download", "0 B · Download"]);
    expect(page.complaints).toEqual([]);
  });

  test("a lost connection is shown after two seconds", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client");
    await page.stopsClock();
    await server.stop();
    await page.shows(page.state, "reconnecting");
    await page.advancesClock(1_999);
    // The line is updated every 250 ms, and timers fire in order.
    await page.run("new Promise((done) => setTimeout(done, 251))");
    expect(await page.run<boolean>("$('connection').hidden")).toBe(true);
    await page.advancesClock(1);
    await page.shows("$('connection').hidden", false);
  });

  test("the button of a lost connection stays in place while pressed", async () => {
    await using first = await startServer();
    using page = await joinPage(first, "/client");
    await page.run("(Math.random = () => 1, 0)");
    await first.stop();
    // The countdown continues between press and release; attempts 1, 2, 4 and 8 s apart leave time for that.
    await page.shows("Number($('when').textContent.match(/\\d+/)) > 3", true);
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    const at = await page.run<{ x: number; y: number }>(
      "(({ x, y, width, height }) => ({ x: x + width / 2, y: y + height / 2 }))($('action').getBoundingClientRect())",
    );
    const mouse = (type: string) =>
      page.cdp("Input.dispatchMouseEvent", { type, ...at, button: "left", clickCount: 1 });
    await mouse("mousePressed");
    const countdown = await page.run<string>("$('when').textContent");
    await page.shows(`$('when').textContent !== ${JSON.stringify(countdown)}`, true);
    await mouse("mouseReleased");
    await page.shows(page.state, "open");
    await second.stop();
  });

  test("the page retries through a proxy's error pages until the server itself is back", async () => {
    await using first = await startServer();
    using page = await joinPage(first);
    await page.run("(Math.random = () => 0.001, 0)"); // tries again after some milliseconds
    await first.stop();
    const answers = [404, 502, 403, 200].map((status) => ({ status, asked: 0 }));
    for (const answer of answers) {
      await using proxy = serveHttp(() => {
        answer.asked++;
        return new Response("<h1>404 page not found</h1>", {
          status: answer.status,
          headers: { "Content-Type": "text/html" },
        });
      }, first.port);
      // A WebSocket, the request for the reason, and the next WebSocket: it has not given up.
      await eventually(async () => answer.asked >= 3, `the page tries again after HTTP ${answer.status}`);
      await proxy.stop(true);
    }
    await page.says("meanwhile");
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    await page.shows(`[${page.state}, ${page.pending}]`, ["open", 0]);
    await using bob = await second.join("bob", { history: 1 });
    await bob.hears("Client #ann says: meanwhile");
  });

  test.skipIf(skippedNginx !== "")(
    `behind nginx, which answers 502 while the server is down, nothing is lost${skippedNginx}`,
    async () => {
      const port = freePort();
      await using nginx = await startNginx(port);
      const origin = `http://127.0.0.1:${nginx.httpPort}`;
      const args = ["--port", `${port}`, "--public-url", origin];
      await using first = await startServer({ args });
      using page = await openPage({ origin }, "/client?id=ann");
      await page.shows(page.state, "open");
      await page.run("(Math.random = () => 0.001, 0)"); // tries again after some milliseconds
      await first.stop();
      await page.shows(page.state, "reconnecting");
      await page.shows(`fetch("/ws/ann").then(({ status }) => status)`, 502);
      await page.says("meanwhile");
      const tried = await page.run<number>("sockets.length");
      await page.shows(`sockets.length > ${tried + 1}`, true);
      await using second = await startServer({ args });
      await page.isBackOnline();
      await page.shows(`[${page.state}, ${page.pending}]`, ["open", 0]);
      await using bob = await second.join("bob", { history: 1 });
      await bob.hears("Client #ann says: meanwhile");
    },
  );

  test("a page served while the chat is down says that there is no connection yet, and retries", async () => {
    await using server = await startServer();
    const proxy = serveHttp((request) => {
      const { pathname, search } = new URL(request.url);
      return pathname === "/client" || pathname === "/hubbub.js"
        ? fetch(server.origin + pathname + search)
        : new Response("<h1>502</h1>", { status: 502, headers: { "Content-Type": "text/html" } });
    });
    const { port, url } = proxy;
    using page = await openPage({ origin: url.origin });
    await page.shows("$('what').textContent", "No connection yet. What you write is kept.");
    await proxy.stop(true);
    await page.run("(Math.random = () => 0.001, 0)"); // reconnects after some milliseconds
    await using _late = await startServer({ args: ["--port", `${port}`] });
    await page.isBackOnline();
    await page.shows(page.state, "open");
  });

  test("a page whose origin the server rejects says so, and stops", async () => {
    await using server = await startServer();
    // It changes Host, as proxies do by default.
    await using proxy = serveHttp((request) => {
      const { pathname, search } = new URL(request.url);
      const headers = new Headers(request.headers);
      headers.delete("host");
      for (const name of ["upgrade", "connection"]) headers.delete(name);
      // A plain request with the same headers gets the rejection that the handshake would get.
      return fetch(server.origin + pathname + search, { method: request.method, headers });
    });
    const origin = proxy.url.origin;
    using page = await openPage({ origin }, "/client?id=ann");
    await page.shows(
      page.line,
      `This server does not accept connections from ${origin}. Its operator can allow this address with --public-url ${origin}. Open this server’s own page Try now`,
    );
    await page.shows(page.state, "closed");
    // It may have tried again before it knew the reason.
    const tried = await page.run<number>("sockets.length");
    for (const wake of [
      "window.dispatchEvent(new Event('online'))",
      "document.dispatchEvent(new Event('visibilitychange'))",
    ])
      await page.run(wake);
    await page.shows(`[${page.state}, sockets.length]`, ["closed", tried]);
    await page.click("#other");
    await page.shows(`sockets.length > ${tried}`, true);
    await page.shows(page.state, "closed");
    await page.click("#action");
    await page.shows(`[location.href, ${page.state}]`, [
      `http://localhost:${server.port}/client?id=ann`,
      "open",
    ]);
  });

  test("two tabs of one session do not replace each other when the network is back", async () => {
    await using server = await startServer();
    const open = async () => {
      const page = await joinPage(server);
      await page.stores("outbox.lobby", { me: "ann", session: "s" });
      await page.reload();
      await page.shows(`[${page.state}, new URL(sockets.at(-1).url).searchParams.get("session")]`, [
        "open",
        "s",
      ]);
      return page;
    };
    using one = await open();
    using two = await open();
    await one.shows(one.state, "closed");
    await one.shows("$('connection').hidden", false);
    const opened = "sockets.length";
    for (const page of [one, two]) expect(await page.run<number>(opened)).toBe(1);
    for (const page of [one, two])
      for (const wake of [
        "window.dispatchEvent(new Event('online'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
      ])
        await page.run(wake);
    await two.says("still here");
    await two.shows(two.pending, 0);
    for (const page of [one, two]) expect(await page.run<number>(opened)).toBe(1);
    expect(await one.run(one.state)).toBe("closed");
  });

  for (const wake of [
    "window.dispatchEvent(new Event('online'))",
    "document.dispatchEvent(new Event('visibilitychange'))",
  ])
    test(`a dead connection is detected long before the next ping: ${wake}`, async () => {
      await using server = await startServer();
      using page = await joinPage(server);
      await using bob = await server.join("bob");
      // The presence event of both joins is the last: from here on nothing is under way that would count as a response.
      await page.shows(page.people, ["ann", "bob"]);
      server.freeze();
      await page.run(wake);
      // Two pings take 50 s; this test waits for at most 15 s. Meanwhile the state changes with each attempt.
      await page.shows("$('what').textContent", "Connection lost. What you write is kept.");
      server.thaw();
      await page.shows(page.state, "open");
      await bob.leaves();
    });

  test("three restarts without messages in between are one gap, also in an empty room", async () => {
    let server = await startServer();
    using page = await joinPage(server, "/client");
    for (let i = 0; i < 3; i++) {
      await server.stop();
      await page.shows(page.state, "reconnecting");
      server = await startServer({ args: ["--port", `${server.port}`] });
      await page.isBackOnline();
      await page.shows(page.state, "open");
    }
    await page.shows(page.conversation, ["Some messages may be missing here."]);
    await page.shows("$('empty').hidden", true);
    await server.stop();
  });

  test("joins and leaves in a row share one notice; a client back within five seconds never left", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=me");
    const peers = [];
    for (const id of ["ann", "bob", "eve", "joe", "kim"]) {
      peers.push(await server.join(id));
      await page.shows(`${page.people}.includes("${id}")`, true);
    }
    await page.shows(page.conversation, ["ann, bob, eve and 2 others joined"]);
    await Promise.all(peers.slice(0, 4).map((peer) => peer.leaves()));
    await page.shows(page.here, "2 here");
    await using back = await server.join("ann");
    await page.shows(page.here, "3 here");
    await page.shows(page.conversation, ["ann and kim joined · bob, eve and joe left"]);
    await back.leaves();
  });

  test("a day has one date, wherever an entry is inserted or removed", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client");
    server.process.kill("SIGSTOP");
    const reject = (seq: number) => page.receives({ type: "error", code: "no", message: "a reason", seq });
    const today = (text: string) => ({ ...message(text), time: Date.now() });
    await page.says("one");
    await page.receives(today("first"));
    await page.shows(page.conversation, ["bob: first", "me: one"]);
    await page.shows(`${page.days}.length`, 1);
    await reject(1);
    await page.shows(page.conversation, ["bob: first", "me: one: Not sent: a reason Retry Delete"]);
    await page.shows(`${page.days}.length`, 1);
    await page.run("document.querySelector('.state button:last-of-type').click()");
    await page.shows(page.conversation, ["bob: first"]);
    await page.shows(`${page.days}.length`, 1);
    server.process.kill("SIGCONT");
  });

  test("after a deletion the date moves to the entry below, and an empty room says so", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.stores("outbox.lobby", { undecided: [{ text: "undecided", writtenAt: Date.now() }] });
    await page.reload();
    await page.shows(page.conversation, ["me: undecided: Maybe not sent Retry Delete"]);
    await page.shows(page.state, "open");
    await page.says("mine");
    await page.shows(page.pending, 0);
    await page.shows(page.texts, ["undecided", "mine"]);
    await page.shows(`${page.days}.length`, 1);
    await page.run("document.querySelector('.state button:last-of-type').click()");
    await page.shows(page.conversation, ["me: mine"]);
    await page.shows(`${page.days}.length`, 1);

    await page.stores("outbox.tea", { undecided: [{ text: "undecided", writtenAt: Date.now() }] });
    await page.run("(location.search = '?id=ann&room=tea', 0)");
    await page.shows(`[$('room')?.textContent, ${page.state}]`, ["tea", "open"]);
    await page.run("document.querySelector('.state button:last-of-type').click()");
    await page.shows("[messages.childElementCount, $('empty').hidden]", [0, false]);
  });

  test("in a room of more than a hundred, clients that left during a disconnection are not listed", async () => {
    await using server = await startServer();
    const join = (ids: string[]) => Promise.all(ids.map((id) => server.join(id)));
    const named = (prefix: string, count: number) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);
    await join(named("early", 110));
    using page = await joinPage(server, "/client?id=me");
    const late = await join(named("late", 29));
    await using observer = await server.joinJson("late29");
    await page.shows(`[${page.here}, ${page.people}.includes('late29')]`, ["141 here", true]);
    await page.holdsTimers(LEAVE_GRACE_MS);
    await page.losesConnection();
    await Promise.all(late.slice(0, 20).map((peer) => peer.leaves()));
    // Otherwise the page would receive the presence event of these leaves after its welcome.
    for (const left = new Set<string>(); left.size < 20;)
      for (const name of Object(await observer.nextPresence()).left) if (name !== "me") left.add(name);
    await page.isBackOnline();
    await page.shows(`[${page.state}, ${page.here}]`, ["open", "121 here"]);
    expect(
      await page.run(
        "[...document.querySelectorAll('aside bdi')].filter((bdi) => /^late/.test(bdi.textContent)).length",
      ),
    ).toBeLessThanOrEqual(10);
    await page.shows("[...document.querySelectorAll('aside li')].at(-1).textContent", "20 others");
    await page.shows("document.querySelectorAll('aside bdi').length", 101);
    expect(await page.run("held.length")).toBe(0);
  });

  test("earlier messages that arrive after the list was trimmed leave no hole", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann", { width: 360, height: 740 });
    await page.run(`(() => {
      window.asked = [];
      window.fetch = (url) => new Promise((answer) => {
        const reply = (page) => answer(new Response(JSON.stringify(page)));
        asked.push([new URL(url).searchParams.get("before"), reply]);
      });
    })()`);
    await page.receives(...numbered(100, 5100));
    await page.shows("scroller.scrollTop > 1000", true);
    await page.run("scroller.scrollTop = 0");
    await page.shows("asked.map(([before]) => before)", ["100"]);
    // Back at the end, where the start of the list is trimmed.
    await page.scrolls(1_000_000);
    await page.receives(...numbered(5100, 5201));
    const shown =
      "(([first, ...rest]) => [first, rest.length, rest.every((text, i) => Number(text) === Number(first) + i + 1)])([...document.querySelectorAll('.bubble')].map((bubble) => bubble.textContent))";
    await page.shows(shown, ["201", 4999, true]);
    const answer = (start: number, end: number) =>
      JSON.stringify({ messages: numbered(start, end), more: true });
    await page.run(`(asked.shift()[1](${answer(50, 100)}), new Promise((done) => setTimeout(done)))`);
    await page.shows(shown, ["201", 4999, true]);
    await page.run("scroller.scrollTop = 0");
    await page.shows("asked.map(([before]) => before)", ["201"]);
    await page.run(`(asked.shift()[1](${answer(151, 201)}), 0)`);
    await page.shows(shown, ["151", 5049, true]);
    await page.run("scroller.scrollTop = 0");
    await page.shows("asked.map(([before]) => before)", ["151"]);
  });

  test("unsent messages keep their date and time over a reload", async () => {
    await using server = await startServer({
      store: { name: "a store that refuses", url: "delayed:?reject=1&seed=1", preload: "delayed-store.ts" },
    });
    using page = await joinPage(server);
    const writtenAt = Date.parse("2026-03-01T23:58:00Z");
    await page.stores("outbox.lobby", { undecided: [{ text: "undecided", writtenAt }] });
    await page.reload();
    await page.shows(page.state, "open");
    await page.run(`(Date.now = () => ${writtenAt}, 0)`);
    await page.says("pending");
    const written = "[...document.querySelectorAll('.message time')].map((time) => time.dateTime)";
    await page.shows(
      written,
      Array.from({ length: 2 }, () => "2026-03-01T23:58:00.000Z"),
    );
    await page.reload();
    await page.shows(page.state, "open");
    await page.shows(page.texts, ["undecided", "pending"]);
    await page.shows(
      written,
      Array.from({ length: 2 }, () => "2026-03-01T23:58:00.000Z"),
    );
    await page.shows(`${page.days}.length`, 1);
  });

  test("the history keeps its date and name above an undecided message", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.says("said");
    await page.shows(page.pending, 0);
    await page.stores("outbox.lobby", { undecided: [{ text: "undecided", writtenAt: Date.now() }] });
    await page.reload();
    await page.shows(page.state, "open");
    await page.shows(page.conversation, ["me: said", "me: undecided: Maybe not sent Retry Delete"]);
    await page.shows(
      "[...document.querySelectorAll('.message')].map((entry) => [!entry.querySelector('.day').hidden, !entry.querySelector('.who').hidden])",
      [
        [true, true],
        [false, false],
      ],
    );
  });

  test("a server restart does not announce clients that were present and return", async () => {
    const first = await startServer();
    await using bob = await first.join("bob");
    using page = await openPage(first, "/client?id=ann");
    await page.shows(`[${page.state}, ${page.people}]`, ["open", ["ann", "bob"]]);
    await page.holdsTimers(LEAVE_GRACE_MS);
    await page.run("(Math.random = () => 20, 0)"); // bob is back first
    await first.stop();
    await page.shows(page.state, "reconnecting");
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    await using again = await second.join("bob");
    await page.isBackOnline();
    await page.shows(`[${page.state}, ${page.here}, ${page.people}]`, ["open", "2 here", ["ann", "bob"]]);
    expect(await page.run("held.length")).toBe(0);
    await page.shows(page.conversation, ["Some messages may be missing here."]);
    await bob[Symbol.asyncDispose]();
    await again.leaves();
  });

  test("a rejected message says why, and can be retried or deleted", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.stores("outbox.lobby", { me: "ann", session: "s", outbox: [{ text: "x".repeat(65_537) }] });
    await page.reload();
    const why = "Not sent: The message is too large for this server. Retry Delete";
    await page.shows("document.querySelector('.state')?.textContent", why);
    await page.run("document.querySelector('.state button').click()");
    await page.shows("document.querySelectorAll('.message').length", 1);
    await page.shows("document.querySelector('.state')?.textContent", why);
    await page.run("document.querySelector('.state button:last-child').click()");
    await page.shows("document.querySelectorAll('.message').length", 0);
    await page.shows("document.activeElement.id", "messageText");
  });

  test("a message has its own text direction, and a name does not affect the text around it", async () => {
    await using server = await startServer();
    await using bob = await server.join("\u0645\u0631\u062d\u0628\u0627");
    using page = await joinPage(server);
    for (const text of ["\u05e9\u05dc\u05d5\u05dd 123", "hello"]) bob.says(text);
    await page.shows(
      "[...document.querySelectorAll('.bubble')].map((each) => getComputedStyle(each).direction)",
      ["rtl", "ltr"],
    );
    await page.shows("document.querySelector('.who .name').tagName", "BDI");
  });

  test("everything can be reached by keyboard, and the focus returns to the composer", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.run("document.body.focus(), document.activeElement.blur()");
    const reached = new Set<string>();
    for (let i = 0; i < 8; i++) {
      await page.press("Tab");
      reached.add(await page.run<string>("document.activeElement.id"));
      const outline = await page.run<string>("getComputedStyle(document.activeElement).outlineStyle");
      // After the last element, the focus leaves the page.
      if (!(await page.run("document.activeElement === document.body"))) expect(outline).not.toBe("none");
    }
    for (const id of ["switch", "me", "scroller", "messageText", "send"]) expect(reached).toContain(id);
    await page.run("$('me').focus()");
    await page.press("Enter");
    await page.shows("[$('naming').hidden, document.activeElement.id]", [false, "name"]);
    await page.press("Escape");
    await page.shows("[$('naming').hidden, document.activeElement.id]", [true, "messageText"]);
    await page.says("hi");
    await page.shows("document.activeElement.id", "messageText");
    await page.click("#send");
    await page.shows("document.activeElement.id", "messageText");
    await page.shows("[document.querySelector('[role=log]') !== null, $('announcer').role]", [
      true,
      "status",
    ]);
  });

  test("printing shows the whole conversation, black on white, without controls", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client?id=ann", { dark: true });
    for (let i = 0; i < 160; i++) bob.says(`${i}`);
    bob.says(`\`\`\`\n${"code".repeat(100)}\n\`\`\``);
    await page.shows("document.querySelectorAll('.message').length", 161);
    const drawn =
      "[...document.querySelectorAll('.message')].filter((each) => each.checkVisibility({ contentVisibilityAuto: true })).length";
    await page.shows(`${drawn} < 161`, true);
    await page.shows(
      "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.querySelector('pre'))",
      true,
    );
    await page.cdp("Emulation.setEmulatedMedia", { media: "print" });
    await page.shows(
      "(({ scrollWidth, clientWidth }) => scrollWidth > clientWidth)(document.querySelector('pre'))",
      false,
    );
    await page.shows("getComputedStyle(document.querySelector('footer')).display", "none");
    await page.shows("['me', 'here', 'new'].map((id) => getComputedStyle($(id)).display)", [
      "none",
      "none",
      "none",
    ]);
    await page.shows("scroller.scrollHeight === scroller.clientHeight", true);
    await page.shows(drawn, 161);
    await page.shows("getComputedStyle(document.body).color", "rgb(28, 27, 25)");
  });

  test("reduced motion is respected, and names have one of twelve hues", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann");
    await page.shows(
      "[...document.querySelectorAll('*')].every((each) => Number.parseFloat(getComputedStyle(each).transitionDuration) === 0 && getComputedStyle(each).animationName === 'none')",
      true,
    );
    await page.shows(page.state, "open");
    await page.receives(...numbered(0, 500).map((each) => ({ ...each, from: `client ${each.text}` })));
    const hues = await page.run<string[]>(
      "[...document.querySelectorAll('.message')].map(({ style }) => style.getPropertyValue('--hue'))",
    );
    expect([...new Set(hues.map(Number))].sort((a, b) => a - b)).toEqual(
      Array.from({ length: 12 }, (_, i) => i * 30),
    );
  });

  test("a link of 64 KiB is rendered without delay", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client");
    bob.says(`https://a.example/${")".repeat(65_000)}`);
    bob.says("next");
    await page.shows("messages.lastChild?.lastChild.querySelector('.bubble').textContent", "next");
    await page.shows("document.querySelector('.bubble a').href", "https://a.example/");
  });

  test("a screen reader announces at most one sentence per two seconds, and no own messages", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client");
    const announced = "document.getElementById('announcer').textContent";
    await page.says("mine");
    await page.shows(page.pending, 0);
    await page.shows(announced, "");
    await page.holdsTimers(2_000);
    for (const text of ["1", "2", "3"]) bob.says(text);
    await page.shows(page.texts, ["mine", "1", "2", "3"]);
    expect(await page.run<string>(announced)).toBe("bob: 1");
    await page.firesTimer();
    expect(await page.run<string>(announced)).toBe("2 new messages");
    bob.says("4");
    await page.shows(page.texts, ["mine", "1", "2", "3", "4"]);
    expect(await page.run<string>(announced)).toBe("2 new messages");
    await page.firesTimer();
    expect(await page.run<string>(announced)).toBe("bob: 4");
  });

  for (const width of [360, 768, 1280])
    for (const dark of [false, true])
      test(`at ${width} px, ${dark ? "dark" : "light"}: only the conversation scrolls, targets are large, contrast is sufficient`, async () => {
        await using server = await startServer();
        await using bob = await server.join("bob");
        using page = await joinPage(server, "/client", { width, height: 740, dark });
        bob.says("hello https://a.example");
        for (let i = 0; i < 20; i++) bob.says(`${i}`);
        await page.says("hello");
        await page.shows(page.pending, 0);
        await page.shows("document.querySelectorAll('.message').length", 22);
        await page.shows(
          "[document.documentElement.scrollWidth <= innerWidth, document.documentElement.scrollHeight <= innerHeight]",
          [true, true],
        );
        await page.shows(
          "['me', 'send', 'messageText'].map((id) => document.getElementById(id).offsetHeight >= 44)",
          [true, true, true],
        );
        // The contrast of each text with its background (WCAG 2.2, 1.4.3), as the browser paints them.
        await page.shows(
          `(() => {
            const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const luminance = (colour) => {
              canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
              const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const behind = (element) => { const colour = getComputedStyle(element).backgroundColor; return colour === "rgba(0, 0, 0, 0)" && element.parentElement ? behind(element.parentElement) : colour; };
            return [...document.querySelectorAll("h1, #me span, #ws-id, .name, time, .bubble, .bubble a, .avatar, .day")]
              .filter((element) => element.checkVisibility())
              .filter((element) => { const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) < 4.5; })
              .map((element) => element.className || element.tagName);
          })()`,
          [],
        );
        expect(page.complaints).toEqual([]);
      });
});

test.skipIf(skipped !== "")(
  `a tab used again has nothing stored of an earlier server at its port${skipped}`,
  async () => {
    const KEPT = "[localStorage, sessionStorage].map((storage) => storage.getItem('kept'))";
    await using server = await startServer();
    for (const name of ["127.0.0.1", "localhost"]) {
      const laterServer = { origin: server.origin };
      {
        using page = await openPage(server, "/client?id=ann", { name });
        await page.run("localStorage.setItem('kept', 1), sessionStorage.setItem('kept', 1)");
        await page.reload();
        expect(await page.run(KEPT)).toEqual(["1", "1"]);
      }
      {
        using page = await openPage(server, "/client?id=ann", { name });
        expect(await page.run(KEPT)).toEqual(["1", null]);
      }
      using page = await openPage(laterServer, "/client?id=ann", { name });
      expect(await page.run(KEPT)).toEqual([null, null]);
    }
  },
);

test("the page's policy allows exactly its own script and style, by hash", async () => {
  await using server = await startServer();
  const response = await server.get("/client");
  const html = await response.text();
  const hash = (element: string) => {
    const source = new RegExp(`<${element}[^>]*>(.*?)</${element}>`, "s").exec(html)?.[1] ?? "";
    return `'sha256-${new Bun.CryptoHasher("sha256").update(source).digest("base64")}'`;
  };
  const etag = response.headers.get("etag") ?? "";
  expect(Object.fromEntries(response.headers)).toMatchObject({
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": `default-src 'none'; script-src ${hash("script")}; style-src ${hash("style")}; connect-src 'self'; img-src blob: data:; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
  });
  expect((await server.get("/client", { headers: { "If-None-Match": etag } })).status).toBe(304);
  const head = await server.get("/client", { method: "HEAD" });
  expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([
    200,
    `${Buffer.byteLength(html)}`,
    "",
  ]);
  // The client library is part of it.
  expect(Bun.gzipSync(html).byteLength).toBeLessThanOrEqual(32 * 1024);
  const clientModule = await (await server.get("/hubbub.js")).text();
  expect(Bun.gzipSync(clientModule).byteLength).toBeLessThanOrEqual(4.5 * 1024);
});
