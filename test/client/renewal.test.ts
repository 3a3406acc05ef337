/** Tokens that the client library gets from a function, and renews. */

import { expect, jest, setDefaultTimeout, test } from "bun:test";
import { connect, type Client, type ConnectionState } from "../../src/client/client.ts";
import { openPage, skipped as withoutBrowser } from "../support/browser.ts";
import { becomes, emitted } from "../support/client-events.ts";
import { eventually } from "../support/deadline.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { serveHttp } from "../support/http.ts";
import { bearer, tokenOf, SECRET } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const OTHER_SECRET = "another secret of thirty-two bytes, or more";
const EXPIRED = "This token has expired. Ask for a new one.";

/** A token of Ann's; each call returns another one. */
function token(seconds: number, secret = SECRET): string {
  return tokenOf("ann", { seconds: seconds + ++tokens / 1000, secret });
}
let tokens = 0;

const withSecret = (secret = SECRET, args: string[] = []) =>
  startServer({ env: { HUBBUB_SECRET: secret }, args });

/** A function that returns these tokens, then the last one again; an error is thrown. A function makes its token when called. */
function supply(...answers: (string | Error | (() => string))[]) {
  const get = async () => {
    const given = answers[Math.min(get.calls++, answers.length - 1)];
    const answer = typeof given === "function" ? given() : given;
    if (typeof answer !== "string") throw answer;
    return answer;
  };
  get.calls = 0;
  return get;
}

/** The states so far, as far as they do not depend on chance. */
function record(client: Client): unknown[] {
  const states: unknown[] = [];
  client.on("state", ({ status, ...more }) => {
    states.push("reason" in more ? [status, more.reason] : [status]);
  });
  return states;
}

test("a token that expires is replaced: each message is received and sent once, and the function is called once a token", async () => {
  await using server = await withSecret();
  const say = (text: string) => server.post("lobby", { text }, bearer("bob"));
  // Time enough to connect on a busy machine.
  const get = supply(
    () => token(3),
    () => token(3),
    token(600),
  );
  const ann = connect({ server: server.origin, id: "ann", token: get });
  const states = record(ann);
  const texts: string[] = [];
  ann.on("message", ({ text = "" }) => texts.push(text));
  await becomes(ann, "open");
  let sent = 0;
  // Until both have expired, both write, also while Ann is away.
  const open = () => states.filter((state) => Bun.deepEquals(state, ["open"])).length;
  await eventually(async () => {
    ann.send(`a${++sent}`);
    await say(`b${sent}`);
    return open() === 3;
  }, "the second token is replaced");
  await eventually(async () => ann.outbox.length === 0, "everything is acknowledged");
  await say("end");
  await eventually(async () => texts.at(-1) === "end", "everything is received");
  for (const sender of ["a", "b"])
    expect(texts.filter((text) => text.startsWith(sender))).toEqual(
      Array.from({ length: sent }, (_, i) => `${sender}${i + 1}`),
    );
  const expired = ["reconnecting", "The token has expired. Reconnect with a new one."];
  expect(states).toEqual([
    ["connecting"],
    ["open"],
    expired,
    ["connecting"],
    ["open"],
    expired,
    ["connecting"],
    ["open"],
  ]);
  expect(get.calls).toBe(3);
  ann.close();
}, 240_000);

test("reconnecting, retrying and reading the history need no new token", async () => {
  const server = await withSecret();
  const get = supply(token(600));
  const ann = connect({ server: server.origin, id: "ann", token: get });
  const early = ann.historyBefore("1-0");
  await becomes(ann, "open");
  expect((await early).messages).toEqual([]);
  const args = ["--port", `${server.port}`];
  await server.stop();
  await becomes(ann, "reconnecting");
  await using again = await withSecret(SECRET, args);
  ann.on("state", ({ status }) => status === "reconnecting" && ann.retryNow());
  ann.retryNow();
  await becomes(ann, "open");
  await ann.historyBefore("1-0");
  expect(get.calls).toBe(1);
  ann.close();
  expect(again.port).toBe(server.port);
});

test("a token that has expired before the first connection is replaced, and so is one that the server no longer verifies", async () => {
  const first = await withSecret();
  const args = ["--port", `${first.port}`];
  const get = supply(token(-60), token(600), token(600, OTHER_SECRET));
  const ann = connect({ server: first.origin, id: "ann", token: get });
  await becomes(ann, "open");
  expect(get.calls).toBe(2);
  await first.stop();
  await becomes(ann, "reconnecting");
  await using second = await withSecret(OTHER_SECRET, args);
  await becomes(ann, "open");
  expect([get.calls, second.port]).toEqual([3, first.port]);
  ann.close();
});

test("it gives up if the new token is no better; retryNow then gets another one", async () => {
  await using server = await withSecret();
  const same = token(-60);
  for (const [get, closed] of [
    [supply(token(-60), token(-60), token(600)), { statusCode: 401, code: "token-expired", reason: EXPIRED }],
    [supply(same, same, token(600)), { statusCode: 401, code: "token-expired", reason: EXPIRED }],
    [supply("", "", token(600)), { statusCode: 401, code: "no-token" }],
  ] as const) {
    const ann = connect({ server: server.origin, id: "ann", token: get });
    ann.send("hi");
    expect(await becomes(ann, "closed")).toMatchObject(closed);
    expect([get.calls, ann.outbox.length]).toEqual([2, 1]);
    const acknowledged = emitted(ann, "acknowledged");
    ann.retryNow();
    await acknowledged;
    expect(get.calls).toBe(3);
    ann.close();
  }
});

test("what a new token does not change is final, without another call", async () => {
  await using server = await withSecret();
  const get = supply(token(600));
  const eve = connect({ server: server.origin, id: "eve", token: get });
  expect(await becomes(eve, "closed")).toMatchObject({ statusCode: 403, code: "not-for-client" });
  expect(get.calls).toBe(1);
  const malformed = supply("not a token", token(600));
  const ann = connect({ server: server.origin, id: "ann", token: malformed });
  await becomes(ann, "closed");
  ann.retryNow();
  await becomes(ann, "open");
  ann.close();
});

test("a function that throws, or returns no token, is called again with back-off", async () => {
  await using server = await withSecret();
  for (const [get, reason] of [
    [supply(new Error("the site is down"), token(600)), "No token: the site is down"],
    // @ts-expect-error JavaScript may return anything
    [supply(undefined, token(600)), "No token: undefined"],
  ] as const) {
    const ann = connect({ server: server.origin, id: "ann", token: get });
    const state: ConnectionState = await becomes(ann, "reconnecting");
    expect(state).toMatchObject({ reason });
    await becomes(ann, "open");
    expect(get.calls).toBe(2);
    ann.close();
  }
  // @ts-expect-error
  const none = connect({ server: server.origin, id: "ann", token: () => undefined });
  expect(await becomes(none, "reconnecting")).toMatchObject({
    reason: "No token: expected a string, got undefined",
  });
  await expect(none.historyBefore("1-0")).rejects.toThrow("expected a string, got undefined");
  none.close();
});

test("while the function is slow, it is not called again; after close() its token is not used", async () => {
  await using server = await withSecret();
  const { promise, resolve } = Promise.withResolvers<string>();
  let calls = 0;
  const get = () => (calls++, promise);
  const ann = connect({ server: server.origin, id: "ann", token: get });
  const eve = connect({ server: server.origin, id: "ann", token: get });
  await eventually(async () => calls === 2, "both have called it");
  ann.retryNow();
  const history = ann.historyBefore("1-0");
  EventTarget.prototype.dispatchEvent.call(globalThis, new Event("online"));
  expect([ann.state.status, calls]).toEqual(["connecting", 2]);
  eve.close();
  resolve(token(600));
  await becomes(ann, "open");
  expect((await history).messages).toEqual([]);
  expect([eve.state.status, calls]).toEqual(["closed", 2]);
  expect((await server.metrics()).get("hubbub_connections")).toBe(1);
  ann.close();
});

test("a function that hangs is called again after 30 s", async () => {
  jest.useFakeTimers();
  try {
    let calls = 0;
    const hangs = () => (calls++, new Promise<string>(() => {}));
    const ann = connect({ server: "http://localhost:1", id: "ann", token: hangs });
    jest.advanceTimersByTime(1);
    await Promise.resolve();
    jest.advanceTimersByTime(29_000);
    expect([ann.state.status, calls]).toEqual(["connecting", 1]);
    // Once, on a busy machine, it was a few milliseconds late.
    for (let ms = 0; ms < 1500 && ann.state.status === "connecting"; ms++) jest.advanceTimersByTime(1);
    expect(ann.state).toMatchObject({ status: "reconnecting", reason: "No token: it takes too long" });
    jest.advanceTimersByTime(500);
    expect([ann.state.status, calls]).toEqual(["connecting", 2]);
    ann.close();
  } finally {
    jest.useRealTimers();
  }
});

test.skipIf(withoutBrowser !== "")(
  `in a page of another origin, a token is replaced that has expired before the connection or during it${withoutBrowser}`,
  async () => {
    const lives = [-60, 6]; // time enough to connect on a busy machine
    let issued = 0;
    await using site = serveHttp(({ url }) =>
      url.endsWith("/my-token")
        ? new Response(token(lives[issued++] ?? 600))
        : new Response("<title>a site</title>", { headers: { "Content-Type": "text/html" } }),
    );
    await using server = await withSecret(SECRET, ["--allow-origin", site.url.origin]);
    using page = await openPage({ origin: site.url.origin }, "/");
    await page.run(`import("${server.origin}/hubbub.js").then(({ connect }) => {
      window.states = [];
      window.room = connect({ id: "ann", token: async () => (await fetch("/my-token")).text() });
      room.on("state", ({ status, reason }) => states.push(reason ?? status));
      room.send("hi");
    })`);
    const renewed = ["The token has expired. Reconnect with a new one.", "connecting", "open"];
    await page.shows("states.slice(-3)", renewed);
    await page.shows("[states.includes('" + EXPIRED + "'), room.outbox.length]", [true, 0]);
    expect(issued).toBe(3);
  },
);

test("the documented example without the library renews its token and resumes", async () => {
  await using server = await withSecret();
  const code = substitute(codeBlock("src/client/README.md", "js", "rejection()"), {
    "http://localhost:8000": server.origin,
  });
  // One that has expired before it connects, one that expires while it is connected.
  await using issuer = serveHttp(() => new Response(token([-60, 3][issued++] ?? 600)));
  let issued = 0;
  const get = `const getToken = async () => (await fetch("${issuer.url}")).text();\n`;
  await using run = Bun.spawn([process.execPath, "--eval", get + code], { stdout: "pipe" });
  let out = "";
  const read = (async () => {
    for await (const chunk of run.stdout.pipeThrough(new TextDecoderStream())) out += chunk;
  })();
  let said = 0;
  const say = () => server.post("tea", { text: `${++said}` }, bearer("bob"));
  await eventually(async () => (await say(), issued === 3), "the second token is replaced");
  await eventually(async () => out.endsWith(`bob: ${said}\n`), "everything is received");
  expect(out).toBe(Array.from({ length: said }, (_, i) => `bob: ${i + 1}\n`).join(""));
  run.kill();
  await read;
}, 240_000);
