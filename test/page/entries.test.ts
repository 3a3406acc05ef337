/** In a long conversation the browser skips what is out of sight, and nothing that is read moves because of it. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { joinPage, type Page, skipped } from "../support/browser.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

const MINUTE_MS = 60_000;

/** How many messages the browser draws, visible or near. */
const DRAWN =
  "[...document.querySelectorAll('.message')].filter((each) => each.checkVisibility({ contentVisibilityAuto: true })).length";
const FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))";

/** Differences between the heights that the browser assumes for skipped blocks and those that they have; pixels. */
const WRONG_HEIGHTS = `(() => {
  const heights = () => [...document.querySelectorAll(".block")].map((each) => each.getBoundingClientRect().height);
  const assumed = heights();
  const all = new CSSStyleSheet();
  all.replaceSync(".block { content-visibility: visible !important }");
  document.adoptedStyleSheets = [all];
  const real = heights();
  document.adoptedStyleSheets = [];
  return real.map((each, i) => each - assumed[i]).filter((each) => each !== 0);
})()`;

describe.skipIf(skipped !== "")(`a long conversation${skipped}`, () => {
  const server = sharedServer();

  async function open(width = 1280): Promise<Page> {
    const page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`, { width, height: 740 });
    await page.receives(
      ...Array.from({ length: 300 }, (_, i) => ({
        type: "message",
        id: `1-${i}`,
        time: Date.now() - (300 - i) * MINUTE_MS,
        from: ["bob", "eve", "joe"][Math.floor(i / 7) % 3],
        text: `${i} ${"word ".repeat((i * 7) % 90)}`,
      })),
      ...Array.from({ length: 60 }, (_, i) => [
        { type: "presence", joined: [`c${i}`], left: [], count: 3 },
        { type: "message", id: `2-${i}`, time: Date.now(), from: i % 2 ? "bob" : `c${i}`, text: `${i}` },
      ]).flat(),
    );
    await page.shows("document.querySelectorAll('.message').length", 360);
    await isSkipped(page);
    return page;
  }

  const isSkipped = (page: Page) => page.shows(`${DRAWN} < 250`, true);

  test("the browser skips the messages that are out of sight, and draws them before they are seen", async () => {
    using page = await open();
    const isDrawn = (which: string) =>
      `[...document.querySelectorAll('.message')].${which}.checkVisibility({ contentVisibilityAuto: true })`;
    await page.shows(`[${isDrawn("at(0)")}, ${isDrawn("at(-1)")}]`, [false, true]);
    await page.run("(scroller.scrollTop = 0, 0)");
    await page.shows(`[${isDrawn("at(0)")}, ${isDrawn("at(200)")}]`, [true, false]);
  });

  test("what is read moves as far as one scrolls, from the end to the beginning, also after a change of the width", async () => {
    using page = await open();
    const scrollsUp = async () => {
      await page.run("(scroller.scrollTop = scroller.scrollHeight, 0)");
      await page.run(FRAME);
      const jumps = await page.run<number[]>(`(async () => {
        const jumps = [];
        while (scroller.scrollTop > 0) {
          const top = scroller.getBoundingClientRect().top;
          const entry = [...document.querySelectorAll(".message")].find((each) => each.getBoundingClientRect().bottom > top);
          const before = entry.getBoundingClientRect().top;
          const from = scroller.scrollTop;
          scroller.scrollTop -= 500;
          await ${FRAME};
          await ${FRAME};
          jumps.push(entry.getBoundingClientRect().top - before - (from - scroller.scrollTop));
        }
        return jumps;
      })()`);
      expect(jumps.length).toBeGreaterThan(10);
      expect(jumps.filter((each) => Math.abs(each) > 1)).toEqual([]);
    };
    await scrollsUp();
    await page.cdp("Emulation.setDeviceMetricsOverride", {
      width: 400,
      height: 740,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await isSkipped(page);
    await scrollsUp();
  });

  test("skipped messages have the height that they have in sight, also after an arrival, a removal and a change of the width", async () => {
    using page = await open(400);
    const isRight = async () => {
      await isSkipped(page);
      expect(await page.run<number[]>(WRONG_HEIGHTS)).toEqual([]);
    };
    await isRight();
    await page.receives({ type: "removed", id: "3-0", from: "eve", upTo: "1-999" });
    await page.shows("document.querySelector('.removed') !== null", true);
    await isRight();
    await page.receives({ type: "message", id: "3-1", time: Date.now(), from: "bob", text: "late" });
    await isRight();
    await page.cdp("Emulation.setDeviceMetricsOverride", {
      width: 1280,
      height: 740,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await page.run("(scroller.scrollTop -= 100, 0)");
    await isRight();
  });
});
