/** The invitation: the room's link, in the clipboard and as a QR code, by the name that others know the server by. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { encodeQr } from "../../src/util/qr.ts";
import { findViolations, testLooks } from "../support/axe.ts";
import { LOCAL_NAME, joinPage, openPage, skipped, type Page } from "../support/browser.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const LINK = "$('link').value";
const HINT = "$('link-hint').textContent";
const COPIED = "Link copied. Whoever opens it joins this room.";
const SELECTED = "getSelection().toString()";

/** What the page writes to the clipboard, instead of this machine's. */
async function watchClipboard(page: Page): Promise<void> {
  await page.run(
    "(window.written = [], navigator.clipboard.writeText = async (text) => void written.push(text), 0)",
  );
}

/** Whether the code that is drawn is the link's, with the quiet zone around it. */
async function expectQrOf(page: Page, link: string): Promise<void> {
  const code = encodeQr(link) ?? [];
  const drawn = await page.run<boolean[][]>(`(() => {
    const [x, y, size] = $("qr").getAttribute("viewBox").split(" ").map(Number);
    const path = $("qr").querySelector("path");
    const at = (column, row) => path.isPointInFill(new DOMPoint(column + 0.5, row + 0.5));
    return Array.from({ length: size }, (_, row) => Array.from({ length: size }, (_, column) => at(column + x, row + y)));
  })()`);
  expect(drawn.length).toBe(code.length + 8);
  expect(drawn.map((row) => row.slice(4, -4)).slice(4, -4)).toEqual(code.map((row) => [...row]));
  const border = drawn.flatMap((row, y) =>
    row.filter((_, x) => [x, y].some((i) => i < 4 || i >= code.length + 4)),
  );
  expect(border.includes(true)).toBe(false);
}

describe.skipIf(skipped !== "")(`an invitation${skipped}`, () => {
  test("copies the room's link with one click, and shows it with its QR code", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann&room=tea");
    await watchClipboard(page);
    await page.click("#invite");
    const link = `${server.origin}/client?room=tea`;
    await page.shows(`[${LINK}, ${HINT}, written]`, [link, COPIED, [link]]);
    await page.shows(`[document.activeElement.id, ${SELECTED}]`, ["link", link]);
    await expectQrOf(page, link);
    await page.click("#copy-link");
    await page.shows("written", [link, link]);
    await page.press("Escape");
    await page.shows("[$('invitation').open, document.activeElement.id]", [false, "messageText"]);
    expect(page.complaints).toEqual([]);
  });

  test("the link leads another person into the same room", async () => {
    await using server = await startServer();
    using ann = await joinPage(server, "/client?id=ann&room=茶");
    await ann.click("#invite");
    await ann.shows(`${LINK} !== ""`, true);
    const { pathname, search } = new URL(await ann.run<string>(LINK));
    using bob = await openPage(server, pathname + search, { name: "localhost" });
    await bob.shows(`[$('room')?.textContent, ${bob.state}]`, ["茶", "open"]);
    await ann.press("Escape");
    await ann.shows("$('invitation').open", false);
    await ann.says("welcome");
    await bob.shows(bob.texts, ["welcome"]);
  });

  test("on a LAN address, which has no clipboard, the link is copied the older way, or selected", async () => {
    await using server = await startServer({ args: ["--allow-host", LOCAL_NAME] });
    using page = await joinPage(server, "/client?id=ann&room=tea", { name: LOCAL_NAME });
    await page.shows("[isSecureContext, typeof navigator.clipboard]", [false, "undefined"]);
    const link = `http://${LOCAL_NAME}:${server.port}/client?room=tea`;
    await page.run("document.addEventListener('copy', () => (window.copied = getSelection().toString()))");
    await page.click("#invite");
    await page.shows(`[${LINK}, ${HINT}, ${SELECTED}, copied]`, [link, COPIED, link, link]);
    await page.press("Escape");
    await page.shows("$('invitation').open", false);
    await page.run("(document.execCommand = () => false, 0)");
    await page.click("#invite");
    await page.shows(`[${HINT}, document.activeElement.id, ${SELECTED}]`, [
      "The link is selected: copy it. Whoever opens it joins this room.",
      "link",
      link,
    ]);
  });

  test("opened as localhost, it has the name that others know: the machine's address", async () => {
    await using server = await startServer({ args: ["--host", "0.0.0.0"] });
    const response = await server.get("/address");
    const { origin }: { origin: string } = JSON.parse(await response.text());
    using page = await joinPage(server);
    const shared = origin.includes("localhost") ? server.origin.replace("0.0.0.0", "127.0.0.1") : origin;
    await page.click("#invite");
    await page.shows(LINK, `${shared}/client?room=lobby`);
    await expectQrOf(page, `${shared}/client?room=lobby`);
  });

  test("without an answer from the server, it has the address of the page", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.run("(window.fetch = async () => new Response('<h1>502</h1>', { status: 502 }), 0)");
    await page.click("#invite");
    await page.shows(LINK, `${server.origin}/client?room=lobby`);
  });

  test("where tokens are required, it says that others need one, and does not give away one's own", async () => {
    await using server = await startServer(SECURED);
    using page = await joinPage(server, `/client?room=tea&token=${tokenOf("ann")}`);
    await page.click("#invite");
    await page.shows(LINK, `${server.origin}/client?room=tea`);
    await page.shows(
      `${HINT}.endsWith(" Others need a token of their own, unless guests are allowed here.")`,
      true,
    );
  });

  for (const width of [360, 390, 768, 1280])
    test(`at ${width} px it fits`, async () => {
      await using server = await startServer();
      using page = await joinPage(server, "/client?id=ann", { width, height: 640, language: "zh-CN" });
      await page.click("#invite");
      await page.shows("$('invitation').open", true);
      await page.shows(
        "(({ left, right, top, bottom }) => [left >= 0, right <= innerWidth, top >= 0, bottom <= innerHeight])($('invitation').getBoundingClientRect())",
        [true, true, true, true],
      );
      await page.shows("$('qr').getBoundingClientRect().width >= 160", true);
    });

  testLooks("in it", async (look) => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann", look);
    await page.click("#invite");
    await page.shows("$('invitation').open", true);
    return await findViolations(page);
  });
});
