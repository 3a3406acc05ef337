/** What is around a message's text: its time, its day, its sender's colour and initial, and the way to the latest one. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { joinPage, skipped, type Look, type Page } from "../support/browser.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

/** The visible texts of all times. */
const TIMES =
  "[...document.querySelectorAll('.message > time')].map((time) => (getComputedStyle(time).opacity === '1' ? time.textContent : ''))";

/** Delivers messages as [client, local time, text]. */
function receives(page: Page, ...messages: (readonly [string, string, string])[]) {
  return page.receives(
    ...messages.map(([from, time, text], i) => ({
      type: "message",
      id: `${new Date(time).getTime()}-${i}`,
      time: new Date(time).getTime(),
      from,
      text,
    })),
  );
}

describe.skipIf(skipped !== "")(`messages on the page${skipped}`, () => {
  const server = sharedServer();
  const thisYear = new Date().getFullYear();

  async function open(look: Look = {}): Promise<Page> {
    const page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`, look);
    return page;
  }

  for (const width of [360, 1280])
    for (const language of ["en-GB", "en-US"])
      test(`at ${width} px, in ${language}: a group shows its first time, every other message its own on hover`, async () => {
        using page = await open({ width, height: 740, language });
        const [ten, five] = language === "en-GB" ? ["10:00", "10:02"] : ["10:00 AM", "10:02 AM"];
        const at = (minute: number) => `${thisYear}-01-02T10:0${minute}:00`;
        await receives(
          page,
          ["bob", at(0), "first"],
          ["bob", at(2), `long ${"word ".repeat(40)}`],
          ["ann", at(0), "mine"],
          ["ann", at(2), `mine ${"word ".repeat(40)}`],
        );
        await page.shows(TIMES, [ten, "", ten, ""]);
        for (const [index, times] of [
          [1, [ten, five, ten, ""]],
          [3, [ten, "", ten, five]],
        ] as const) {
          const at = await page.run<{ x: number; y: number }>(
            `(({ x, y, width, height }) => ({ x: x + width / 2, y: y + height / 2 }))(document.querySelectorAll(".bubble")[${index}].getBoundingClientRect())`,
          );
          await page.cdp("Input.dispatchMouseEvent", { type: "mouseMoved", ...at });
          await page.shows(TIMES, times);
        }
        // Beside the bubble, neither over it nor outside the page.
        await page.shows(
          `[...document.querySelectorAll(".message")].every((message) => {
            const [time, bubble, all] = [message.querySelector("time"), message.querySelector(".bubble"), message].map((each) => each.getBoundingClientRect());
            const isApart = time.right <= bubble.left || time.left >= bubble.right || time.bottom <= bubble.top;
            return isApart && time.left >= all.left && time.right <= all.right && bubble.width <= 0.85 * all.width;
          })`,
          true,
        );
        await page.shows("scroller.scrollWidth <= scroller.clientWidth", true);
      });

  test("the corners between the messages of a group are small, wherever one goes", async () => {
    using page = await open();
    const corners =
      "[...document.querySelectorAll('.bubble')].map((bubble) => { const { borderStartStartRadius: start, borderEndStartRadius: end } = getComputedStyle(bubble); return [start, end].join(' '); })";
    const at = `${thisYear}-01-02T10:00:00`;
    await receives(page, ["bob", at, "1"], ["bob", at, "2"], ["bob", at, "3"], ["eve", at, "4"]);
    await page.shows(corners, ["16px 4px", "4px 4px", "4px 16px", "16px 16px"]);
    // A line in between ends the group.
    await page.run("Object.defineProperty(document, 'hidden', { value: true, configurable: true })");
    await receives(page, ["eve", at, "5"]);
    await page.shows(corners, ["16px 4px", "4px 4px", "4px 16px", "16px 16px", "16px 16px"]);
  });

  test("by keyboard, each message can be reached and shows its time", async () => {
    using page = await open();
    const focused = "document.activeElement.querySelector?.('.bubble')?.textContent";
    await receives(
      page,
      ["bob", `${thisYear}-01-02T10:00:00`, "1"],
      ["bob", `${thisYear}-01-02T10:01:00`, "2"],
      ["bob", `${thisYear}-01-02T10:02:00`, "3"],
      ["bob", `${thisYear}-01-03T10:00:00`, "4"],
      ["bob", `${thisYear}-01-03T10:01:00`, "5"],
    );
    await page.shows("document.querySelectorAll('.message[tabindex=\"0\"]').length", 1);
    await page.run("$('attach').focus()"); // the first element of the composer
    await page.press("Tab", "Shift");
    await page.shows(`[${focused}, ${TIMES}]`, ["5", ["10:00", "", "", "10:00", "10:01"]]);
    for (const expected of ["4", "3", "2"]) {
      await page.press("ArrowUp");
      await page.shows(focused, expected);
    }
    await page.shows(TIMES, ["10:00", "10:01", "", "10:00", ""]);
    await page.shows("getComputedStyle(document.activeElement).outlineStyle", "solid");
    await page.press("End");
    await page.shows(focused, "5");
    await page.press("ArrowDown");
    await page.shows(focused, "5");
    await page.press("Home");
    await page.shows(focused, "1");
    await page.press("ArrowDown");
    await page.shows(focused, "2");
    // Tab comes back to where one was, and messages that arrive do not move the focus.
    await receives(page, ["bob", `${thisYear}-01-03T10:02:00`, "6"]);
    await page.shows(focused, "2");
    await page.press("Escape");
    await page.shows("document.activeElement.id", "messageText");
  });

  test("the day of another year has the year", async () => {
    using page = await open();
    await receives(
      page,
      ["bob", `${thisYear - 1}-12-31T10:00:00`, "old"],
      ["bob", `${thisYear}-01-02T10:00:00`, "new"],
    );
    const day = (date: string, year: { year?: "numeric" }) =>
      new Date(date).toLocaleDateString("en-GB", { weekday: "long", day: "numeric", month: "long", ...year });
    await page.shows(page.days, [
      day(`${thisYear - 1}-12-31T10:00`, { year: "numeric" }),
      day(`${thisYear}-01-02T10:00`, {}),
    ]);
    await page.shows(`${page.days}.map((day) => /\\d{4}/.test(day))`, [true, false]);
  });

  test("“↓ Latest” is there whenever one has scrolled up, and leads to the end", async () => {
    using page = await open();
    const button = "$('new').hidden ? '' : $('new').textContent";
    await page.shows(button, "");
    const line = (i: number) => ["bob", `${thisYear}-01-02T10:00:00`, `${i}`] as const;
    await receives(page, ...Array.from({ length: 60 }, (_, i) => line(i)));
    await page.shows(page.fromEnd, 0);
    await page.shows(button, "");
    await page.scrolls(-35);
    await page.shows(button, "");
    await page.scrolls(-300);
    await page.shows(button, "↓ Latest");
    await receives(page, line(60));
    await page.shows(button, "↓ 1 new");
    await page.click("#new");
    await page.shows(`[${button}, ${page.fromEnd}, document.activeElement.id]`, ["", 0, "messageText"]);
    await page.scrolls(-300);
    await page.shows(button, "↓ Latest");
    await page.scrolls(300);
    await page.shows(button, "");
  });

  test("twenty common names share few colours", async () => {
    using page = await open();
    const names =
      "james mary robert patricia john jennifer michael linda david elizabeth william barbara richard susan joseph jessica thomas karen christopher sarah";
    await receives(
      page,
      ...names.split(" ").map((name) => [name, `${thisYear}-01-02T10:00:00`, "hi"] as const),
    );
    const hues = await page.run<string[]>(
      "[...document.querySelectorAll('.message')].map(({ style }) => style.getPropertyValue('--hue'))",
    );
    const counts = Object.values(Object.groupBy(hues, (hue) => hue)).map((group) => group?.length ?? 0);
    expect(hues).toHaveLength(20);
    expect(counts.length).toBeGreaterThanOrEqual(9);
    expect(Math.max(...counts)).toBeLessThanOrEqual(3);
    // Each is a colour of its own.
    const colours = await page.run<string[]>(
      "[...document.querySelectorAll('.message .avatar')].map((avatar) => getComputedStyle(avatar).backgroundColor)",
    );
    expect(new Set(colours).size).toBe(counts.length);
  });

  test("an initial is a whole letter with its marks; emoji have a font of their own", async () => {
    using page = await open();
    const names = ["e\u0301va", "हिन्दी", "각하", "陳大文", "~guest", "1795552789506123", "7"];
    await receives(page, ...names.map((name) => [name, `${thisYear}-01-02T10:00:00`, "hi"] as const));
    await page.shows(
      "[...document.querySelectorAll('.message .avatar')].map(({ textContent }) => textContent)",
      ["E\u0301", "हि", "각", "陳", "G", "23", "7"],
    );
    await page.shows(
      "['Apple Color Emoji', 'Segoe UI Emoji', 'Noto Color Emoji'].every((font) => getComputedStyle(document.body).fontFamily.includes(font))",
      true,
    );
  });

  test("with forced colours, bubbles, the status line and buttons have borders", async () => {
    using page = await open({ forcedColors: true });
    expect(await page.run("matchMedia('(forced-colors: active)').matches")).toBe(true);
    await receives(
      page,
      ["bob", `${thisYear}-01-02T10:00:00`, "hi"],
      ["ann", `${thisYear}-01-02T10:00:00`, "hi"],
    );
    await page.losesConnection();
    await page.advancesClock(5_000);
    await page.shows("$('connection').hidden", false);
    await page.shows(
      `[...document.querySelectorAll(".bubble, .avatar, #connection, #send, #messageText")].filter((each) => each.checkVisibility() && getComputedStyle(each).borderTopWidth !== "1px").map((each) => each.id || each.className)`,
      [],
    );
  });
});
