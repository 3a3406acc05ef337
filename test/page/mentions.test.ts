/** Mentions: which are highlighted, what marks the message, and when the system notifies. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { findViolations, testLooks } from "../support/axe.ts";
import { LOCAL_NAME, joinPage, openPage, skipped, type Page } from "../support/browser.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

/** Per message: what is highlighted, one's own name in brackets. */
const MARKS =
  "[...document.querySelectorAll('.bubble')].map((bubble) => [...bubble.querySelectorAll('mark')].map((mark) => mark.matches('.me') ? `[${mark.textContent}]` : mark.textContent).join(' '))";
/** Whether a message has the colour of those that mention the user. */
const IS_MARKED =
  "[...document.querySelectorAll('.bubble')].map((bubble) => getComputedStyle(bubble).backgroundColor === 'rgb(255, 241, 204)')";
const BUTTON = "document.querySelector('aside .notify')";

const hides = (page: Page, isHidden: boolean) =>
  page.run(
    `(Object.defineProperty(document, "hidden", { value: ${isHidden}, configurable: true }), document.dispatchEvent(new Event("visibilitychange")), 0)`,
  );

/** Collects the system's notifications, as [title, body]. */
async function watchNotifications(page: Page): Promise<void> {
  await page.run(`(window.notified = [], window.Notification = class extends Notification {
    constructor(title, options) {
      super(title, options);
      notified.push([title, options.body]);
      window.latest = this;
    }
  }, 0)`);
}

describe.skipIf(skipped !== "")(`mentions${skipped}`, () => {
  test("the name of a client in the room after “@”, or “all”, is highlighted; its own marks the message", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    await using han = await server.join("陳大文");
    using page = await openPage(server, "/client?id=ann");
    await page.shows(`[${page.state}, ${page.people}]`, ["open", ["ann", "bob", "陳大文"]]);
    const texts = [
      ["@bob and @ann, hello", "@bob [@ann]"],
      ["@all: tea", "[@all]"],
      ["(@Ann)", "[@Ann]"],
      ["@bob.", "@bob"],
      ["@nobody @annabel a@ann.example ann", ""],
      ["請問@陳大文你好", "@陳大文"],
      ["`@ann` https://a.example/@ann", ""],
      ["@ann\n```\n@bob\n```", "[@ann]"],
      ["<mark class=me>@ann</mark>", "[@ann]"],
      ["مرحبا @ann", "[@ann]"],
    ] as const;
    for (const [text] of texts) bob.says(text);
    await page.shows(
      MARKS,
      texts.map(([, marks]) => marks),
    );
    await page.shows(
      IS_MARKED,
      texts.map(([, marks]) => marks.includes("[")),
    );
    await page.shows(`${page.texts}[0]`, "@bob and @ann, hello");
    expect(page.complaints).toEqual([]);
    await han.leaves();
  });

  test("the history and one's own messages are highlighted, but one's own are not marked", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    bob.says("@ann was here");
    await bob.hearsUpTo("Client #bob says: @ann was here");
    using page = await openPage(server, "/client?id=ann");
    await page.shows(MARKS, ["[@ann]"]);
    await page.shows("document.title", "lobby · Hubbub");
    await page.says("@ann and @bob");
    await page.shows(page.pending, 0);
    await page.shows(`[${MARKS}, ${IS_MARKED}]`, [
      ["[@ann]", "[@ann] @bob"],
      [true, false],
    ]);
  });

  test("a mention counts in the title until it is read", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    await hides(page, true);
    bob.says("hello");
    await page.shows("document.title", "(1) lobby · Hubbub");
    bob.says("@ann?");
    await page.shows("document.title", "(2 · @1) lobby · Hubbub");
    bob.says("@all?");
    await page.shows("document.title", "(3 · @2) lobby · Hubbub");
    await hides(page, false);
    await page.shows("document.title", "lobby · Hubbub");
  });

  test("of two people, the one who is mentioned learns of it, and the other sees the same highlight", async () => {
    await using server = await startServer();
    using ann = await openPage(server, "/client?id=ann");
    using bob = await openPage(server, "/client?id=bob", { name: "localhost" });
    await bob.shows(`[${bob.state}, ${bob.people}]`, ["open", ["bob", "ann"]]);
    await ann.shows(ann.people, ["ann", "bob"]);
    await hides(ann, true);
    await bob.says("@ann, tea?");
    await ann.shows(`[document.title, ${MARKS}, ${IS_MARKED}]`, [
      "(1 · @1) lobby · Hubbub",
      ["[@ann]"],
      [true],
    ]);
    await bob.shows(`[document.title, ${MARKS}, ${IS_MARKED}]`, ["lobby · Hubbub", ["@ann"], [false]]);
  });

  test("once allowed by a button, the system notifies of mentions while the page is hidden", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client?id=ann&room=lobby");
    await using _ = await page.decidesOnNotifications("granted");
    await page.shows(`[${page.state}, ${BUTTON}.textContent, ${BUTTON}.ariaPressed]`, [
      "open",
      "Notify me of mentions",
      "false",
    ]);
    await watchNotifications(page);
    const mention = async (text: string) => {
      bob.says(text);
      await page.shows(`${page.texts}.at(-1)`, text);
    };
    await hides(page, true);
    await mention("@ann not allowed yet");
    await hides(page, false);
    await page.click("aside .notify");
    await page.shows(`[${BUTTON}.textContent, ${BUTTON}.ariaPressed]`, [
      "You are notified of mentions",
      "true",
    ]);
    await mention("@ann while visible");
    await hides(page, true);
    await mention("no mention");
    await page.says("@ann from myself");
    await page.shows(page.pending, 0);
    await mention(`@ann ${"long ".repeat(100)}`);
    await mention("@all tea");
    await page.shows("notified", [
      ["bob · lobby", `@ann ${"long ".repeat(100)}`.slice(0, 200)],
      ["bob · lobby", "@all tea"],
    ]);
    await page.run("(window.focus = () => (window.wasFocused = true), latest.onclick())");
    expect(await page.run("wasFocused")).toBe(true);

    // It lasts, and can be turned off.
    await page.reload();
    await page.shows(`[${page.state}, ${BUTTON}.ariaPressed]`, ["open", "true"]);
    await page.click("aside .notify");
    await page.shows(`${BUTTON}.ariaPressed`, "false");
    await watchNotifications(page);
    await hides(page, true);
    await mention("@ann again");
    await page.shows("document.title.startsWith('(1 · @1)')", true);
    expect(await page.run("notified")).toEqual([]);
  });

  test("where the browser blocks notifications, the button says so", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await using _ = await page.decidesOnNotifications("denied");
    await page.shows(`[${page.state}, ${BUTTON}.textContent, ${BUTTON}.disabled]`, [
      "open",
      "The browser blocks notifications",
      true,
    ]);
  });

  test("on a LAN address, which has no notifications, there is no button, and mentions still count", async () => {
    await using server = await startServer({ args: ["--allow-host", LOCAL_NAME] });
    await using bob = await server.join("bob");
    using page = await openPage(server, "/client?id=ann", { name: LOCAL_NAME });
    await page.shows(`[${page.state}, ${BUTTON}.hidden]`, ["open", true]);
    await hides(page, true);
    bob.says("@ann?");
    await page.shows("document.title", "(1 · @1) lobby · Hubbub");
    expect(page.complaints).toEqual([]);
  });

  test("on a phone the button is in the list of people", async () => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann", { width: 360, height: 740 });
    await page.click("#here");
    await page.shows("document.querySelector('#list .notify').checkVisibility()", true);
  });

  test("in forced colours, a wider border marks the message", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client?id=ann", { forcedColors: true });
    for (const text of ["@ann", "hello"]) bob.says(text);
    await page.shows(
      "[...document.querySelectorAll('.bubble')].map((bubble) => getComputedStyle(bubble).borderInlineStartWidth)",
      ["4px", "1px"],
    );
  });

  test("64 KiB of mentions are rendered without delay", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    bob.says(`@${"a.".repeat(32_000)}`);
    bob.says("@x".repeat(32_000));
    bob.says("next");
    await page.shows(`${page.texts}.at(-1)`, "next");
  });

  testLooks("in mentions", async (look) => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server, "/client?id=ann", look);
    bob.says("@ann and @bob");
    await page.says("@ann and @bob");
    await page.shows(page.pending, 0);
    return await findViolations(page);
  });
});
