/** The page on a phone: a narrow touch screen without a hardware keyboard. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { joinPage, openPage, skipped } from "../support/browser.ts";
import { SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

describe.skipIf(skipped !== "")(`the page on a phone${skipped}`, () => {
  const server = sharedServer();

  for (const width of [360, 390])
    test(`at ${width} px, long names of rooms and clients end in an ellipsis`, async () => {
      const long = `a-very-long-name-that-goes-on-and-on-${width}-`.padEnd(64, "x");
      await using bob = await server().join(long, { room: long });
      using page = await joinPage(server(), `/client?id=${long.replace("a-", "b-")}&room=${long}`, {
        width,
        height: 740,
        touch: true,
      });
      bob.says("hi");
      await page.shows(page.texts, ["hi"]);
      await page.click("#here");
      await page.shows("$('list').open", true);
      await page.shows(
        `["#room", "#ws-id", ".message .name", "#list .name"].map((selector) => {
          const element = document.querySelector(selector);
          const { textOverflow, whiteSpace, overflow } = getComputedStyle(element);
          return [selector, textOverflow, whiteSpace, overflow, element.scrollWidth > element.clientWidth, element.getBoundingClientRect().right <= innerWidth];
        })`,
        ["#room", "#ws-id", ".message .name", "#list .name"].map((selector) => [
          selector,
          "ellipsis",
          "nowrap",
          "hidden",
          true,
          true,
        ]),
      );
      // Something of both is left.
      expect(await page.run("$('room').clientWidth > 60 && $('ws-id').clientWidth > 60")).toBe(true);
      await page.shows("document.documentElement.scrollWidth <= innerWidth", true);
    });

  test("a name is shown whole where there is room, also above a block of code", async () => {
    const room = newRoom();
    await using maria = await server().join("maria", { room });
    using page = await joinPage(server(), `/client?id=ann&room=${room}`, { width: 390, touch: true });
    maria.says(`\`\`\`\n${"code ".repeat(40)}\n\`\`\``);
    await page.shows("document.querySelectorAll('.code').length", 1);
    await page.shows(
      "['.message .name', '#ws-id'].map((selector) => document.querySelector(selector)).map(({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)",
      [0, 0],
    );
    // The button of one's own name is as wide as the name, and one can still hit it.
    await page.shows(
      "((me, name) => [me.left + 8 - name.left, me.width])($('me').getBoundingClientRect(), $('ws-id').getBoundingClientRect()).map((x, i) => (i === 0 ? Math.abs(x) <= 1 : x >= 44))",
      [true, true],
    );
  });

  test("at 360 px, the name of the room loses nothing to one's own, and the field for a token fits", async () => {
    await using strict = await startServer(SECURED);
    const look = { width: 360, height: 740, touch: true, language: "zh-TW" };
    using page = await joinPage(server(), "/client?room=garden", look);
    // In fractions of a pixel, which are enough for an ellipsis.
    await page.shows(
      `(() => { const range = new Range(); range.selectNodeContents($("room")); return $("room").getBoundingClientRect().width - range.getBoundingClientRect().width; })()`,
      0,
    );
    using rejected = await openPage(strict, "/client", look);
    await rejected.shows("$('token-field').hidden", false);
    await rejected.shows(
      "(({ left, right }) => [left >= 12, innerWidth - right >= 12])($('connection').getBoundingClientRect())",
      [true, true],
    );
  });

  test("Enter breaks the line, and the button sends; the keyboard's key says so", async () => {
    using page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`, { width: 390, touch: true });
    await page.shows("[$('messageText').enterKeyHint, document.activeElement.id]", ["enter", ""]);
    await page.run("messageText.focus()");
    await page.type("one");
    await page.press("Enter");
    await page.type("two");
    await page.shows("messageText.value", "one\ntwo");
    await page.click("#send");
    await page.shows(`[${page.conversation}, messageText.value]`, [["me: one\ntwo"], ""]);
    await page.shows("document.activeElement.id", "messageText");
  });

  test("above a keyboard that covers the page, the composer and the latest message stay visible", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    using page = await joinPage(server(), `/client?id=ann&room=${room}`, {
      width: 390,
      height: 844,
      touch: true,
    });
    for (let i = 0; i < 30; i++) bob.says(`${i}`);
    await page.shows("document.querySelectorAll('.message').length", 30);
    const bottoms =
      "[messageText, [...document.querySelectorAll('.bubble')].at(-1)].map((each) => each.getBoundingClientRect().bottom)";
    for (const [height, isLow] of [
      [450, false],
      [844, true],
    ] as const) {
      await page.run(
        `(Object.defineProperty(visualViewport, "height", { value: ${height}, configurable: true }), visualViewport.dispatchEvent(new Event("resize")), 0)`,
      );
      await page.shows(`${bottoms}.map((bottom) => [bottom <= ${height}, bottom > 450])`, [
        [true, isLow],
        [true, isLow],
      ]);
    }
  });

  test("with a hardware keyboard, Enter sends", async () => {
    using page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`, { width: 390 });
    await page.shows("$('messageText').enterKeyHint", "send");
    await page.says("one");
    await page.shows(page.conversation, ["me: one"]);
  });

  test("everything that can be tapped is at least 44 px high", async () => {
    const room = newRoom();
    await using bob = await server().join("bob", { room });
    using page = await joinPage(server(), `/client?id=ann&room=${room}`, { width: 390, touch: true });
    bob.says("```\ncode\n```");
    await page.shows("document.querySelectorAll('.code').length", 1);
    await page.shows(
      "[...document.querySelectorAll('button, textarea')].filter((each) => each.checkVisibility() && each.getBoundingClientRect().height < 44).map((each) => each.id || each.textContent)",
      [],
    );
  });
});
