/** Posting plain text: the body is the message, the query says from whom. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { ERROR_MESSAGES } from "../../src/protocol/codes.ts";
import { openPage, skipped as withoutBrowser } from "../support/browser.ts";
import { serveHttp } from "../support/http.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { COVERING_STORES, startServer, type TestServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const PLAIN = { "Content-Type": "text/plain" };

async function post(
  server: TestServer,
  query: string,
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = PLAIN,
) {
  const response = await server.get(`/rooms/builds/messages${query}`, { method: "POST", body, headers });
  const { id, code, detail } = JSON.parse(await response.text());
  return { status: response.status, id, code, detail };
}

describe.each(COVERING_STORES)("on $name", (store) => {
  test("the text arrives unchanged; within a session each seq is stored once", async () => {
    await using server = await startServer({ store });
    await using bob = await server.join("bob", { room: "builds" });
    const text = 'Build 7:\r\n\t"é 語 😀" {"text":"not JSON"}\n';
    expect((await post(server, "?from=ci", text)).status).toBe(201);
    await bob.hears(`Client #ci says: ${text}`);
    const first = await post(server, "?from=ci&session=s&seq=1", "one");
    expect(await post(server, "?from=ci&session=s&seq=1", "one")).toMatchObject({
      status: 200,
      id: first.id,
    });
    const json = JSON.stringify({ text: "one", from: "ci", session: "s", seq: 1 });
    expect(await post(server, "", json, {})).toMatchObject({ status: 200, id: first.id });
    expect((await post(server, "?from=%C3%A9&session=s&seq=1", "")).status).toBe(201);
    await bob.hears("Client #ci says: one", "Client #é says: ");
    await bob.hearsNothing();
  });
});

test("the Content-Type decides: plain text in UTF-8, or JSON, which is also what curl -d calls a form", async () => {
  await using server = await startServer();
  await using bob = await server.join("bob", { room: "builds" });
  for (const type of ["text/plain", "Text/Plain ; charset=UTF-8", 'text/plain;charset="utf-8"']) {
    expect((await post(server, "?from=ci", "{}", { "Content-Type": type })).status).toBe(201);
    await bob.hears("Client #ci says: {}");
  }
  const json = JSON.stringify({ text: "hi", from: "ci" });
  for (const type of [
    "application/json",
    "application/json; charset=utf-8",
    "application/vnd.hubbub+json",
    "application/x-www-form-urlencoded",
  ]) {
    expect((await post(server, "", json, { "Content-Type": type })).status).toBe(201);
    await bob.hears("Client #ci says: hi");
  }
  for (const type of [
    "text/plain; charset=iso-8859-1",
    "text/html",
    "multipart/form-data; boundary=x",
    "application/octet-stream",
    "x",
  ])
    expect(await post(server, "?from=ci", json, { "Content-Type": type })).toMatchObject({
      status: 415,
      code: "unsupported-type",
      detail: "The Content-Type must be application/json, or text/plain in UTF-8.",
    });
  for (const type of ["text/plain", "application/json"]) {
    const compressed = { "Content-Type": type, "Content-Encoding": "br" };
    expect(await post(server, "?from=ci", json, compressed)).toMatchObject({
      status: 415,
      code: "unsupported-type",
      detail: "Send the body uncompressed, without Content-Encoding.",
    });
  }
  const identity = { "Content-Type": "text/plain", "Content-Encoding": "identity" };
  expect((await post(server, "?from=ci", "\ufeffhi", identity)).status).toBe(201);
  await bob.hears("Client #ci says: hi");
  await bob.hearsNothing();
});

test("malformed requests are rejected, and nothing is broadcast", async () => {
  await using server = await startServer({ args: ["--max-message-bytes", "10"] });
  await using bob = await server.join("bob", { room: "builds" });
  const rejection = async (query: string, body: string | Uint8Array<ArrayBuffer>) => {
    const { status, code, detail } = await post(server, query, body);
    return [status, code, detail];
  };
  const sender =
    "Name the sender in the address: ?from=NAME. If the body is JSON, send Content-Type: application/json.";
  expect(await rejection("", "hi")).toEqual([400, "bad-name", sender]);
  expect((await rejection("?from=a%20b", "hi")).slice(0, 2)).toEqual([400, "bad-name"]);
  expect((await rejection("?from=ci&session=", "hi")).slice(0, 2)).toEqual([400, "bad-name"]);
  for (const seq of ["", "0", "-1", "1.5", "1e3", "0x1", "9007199254740993", "9".repeat(400)])
    expect(await rejection(`?from=ci&session=s&seq=${seq}`, "hi")).toEqual([
      400,
      "bad-seq",
      ERROR_MESSAGES["bad-seq"],
    ]);
  expect(await rejection("?from=ci", Buffer.from([0x68, 0xe9]))).toEqual([
    400,
    "not-utf8",
    "The body must be UTF-8.",
  ]);
  for (const body of ["x".repeat(11), "é".repeat(6), "x".repeat(100_000)])
    expect((await rejection("?from=ci", body)).slice(0, 2)).toEqual([413, "message-too-big"]);
  expect((await post(server, "?from=ci", "é".repeat(5))).status).toBe(201);
  await bob.hears(`Client #ci says: ${"é".repeat(5)}`);
  await bob.hearsNothing();
});

test("with tokens, the sender is the token's client, and may be left out", async () => {
  await using server = await startServer(SECURED);
  const token = tokenOf("ci");
  const headers = { ...PLAIN, Authorization: `Bearer ${token}` };
  expect((await post(server, "", "hi", headers)).status).toBe(201);
  expect((await post(server, `?from=ci&token=${token}`, "hi")).status).toBe(201);
  expect(await post(server, "?from=eve", "hi", headers)).toMatchObject({
    status: 403,
    code: "not-for-client",
  });
  expect(await post(server, "?from=ci", "hi")).toMatchObject({ status: 401, code: "no-token" });
});

// A browser sends such a request without a preflight: only its Origin tells that a foreign page sends it.
test.skipIf(withoutBrowser !== "")(
  `pages of other sites cannot post, by whatever means${withoutBrowser}`,
  async () => {
    await using server = await startServer();
    await using bob = await server.join("bob", { room: "builds" });
    await using other = serveHttp(
      () => new Response("<iframe name=sink></iframe>", { headers: { "Content-Type": "text/html" } }),
    );
    using page = await openPage({ origin: other.url.origin }, "/");
    const url = JSON.stringify(`${server.origin}/rooms/builds/messages?from=eve`);
    // The response of the last one shows that the ones before it have been answered.
    await page.run(`(async () => {
      await fetch(${url}, { method: "POST", body: "fetch", mode: "no-cors" });
      const iframe = document.createElement("iframe");
      iframe.sandbox = "allow-scripts";
      const done = new Promise((resolve) => addEventListener("message", resolve));
      iframe.srcdoc = \`<script>
        fetch(${url}, { method: "POST", body: "opaque origin", mode: "no-cors" }).then(() => parent.postMessage("", "*"));
      </script>\`;
      document.body.append(iframe);
      await done;
      const form = document.createElement("form");
      Object.assign(form, { action: ${url}, method: "POST", enctype: "text/plain", target: "sink" });
      form.innerHTML = "<input name=form value=text>";
      document.body.append(form);
      const answered = new Promise((resolve) => { document.querySelector("[name=sink]").onload = resolve; });
      form.submit();
      await answered;
      navigator.sendBeacon(${url}, "beacon");
      await fetch(${url}, { method: "POST", body: "fetch again", mode: "no-cors" });
    })()`);
    await bob.hearsNothing();
    const rejected = (await server.metrics()).get('hubbub_rejected_requests_total{reason="origin"}');
    expect(rejected).toBeGreaterThanOrEqual(4);
    using own = await openPage(server, "/healthz");
    await own.run(`fetch("/rooms/builds/messages?from=ann", { method: "POST", body: "hi" })`);
    await bob.hears("Client #ann says: hi");
  },
);
