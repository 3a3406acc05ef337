/** Code in messages, and in the composer. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { LOCAL_NAME, joinPage, skipped, type Look, type Page } from "../support/browser.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

/** The blocks of code, as pairs of language and lines. */
const BLOCKS =
  "[...document.querySelectorAll('.code')].map((block) => [block.querySelector('span').textContent, block.querySelector('pre').textContent])";

/** Presses the keys that paste. */
async function pastes(page: Page) {
  await page.run("messageText.focus()");
  await page.cdp("Input.dispatchKeyEvent", { type: "keyDown", key: "v", commands: ["paste"] });
}

describe.skipIf(skipped !== "")(`code on the page${skipped}`, () => {
  const server = sharedServer({ args: ["--allow-host", LOCAL_NAME] });

  async function openWithBob(look: Look = {}) {
    const room = newRoom();
    const bob = await server().join("bob", { room });
    const page = await joinPage(server(), `/client?id=ann&room=${room}`, look);
    return {
      page,
      bob,
      async [Symbol.asyncDispose]() {
        page[Symbol.dispose]();
        await bob[Symbol.asyncDispose]();
      },
    };
  }

  test("a fenced block is monospaced and scrolls sideways; the text around it does not", async () => {
    await using opened = await openWithBob({ width: 360, height: 740 });
    const { page, bob } = opened;
    bob.says(`look:\n\`\`\`ts\nconst a = 1;\n\tif (a) ${"b".repeat(200)}\n\`\`\`\nnice`);
    await page.shows(BLOCKS, [["ts", `const a = 1;\n\tif (a) ${"b".repeat(200)}`]]);
    await page.shows(page.texts, [`look:\ntsCopyconst a = 1;\n\tif (a) ${"b".repeat(200)}nice`]);
    await page.shows(
      `(({ scrollWidth, clientWidth, firstChild }) => [scrollWidth > clientWidth, getComputedStyle(firstChild).fontFamily.includes("monospace")])(document.querySelector("pre"))`,
      [true, true],
    );
    await page.shows(
      "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth",
      true,
    );
    // Three lines would be a blank one between text and block.
    await page.shows(
      `(({ firstChild }) => { const range = new Range(); range.selectNode(firstChild); return range.getBoundingClientRect().height; })(document.querySelector(".bubble"))`,
      await page.run(
        "(({ lastChild }) => { const range = new Range(); range.selectNode(lastChild); return range.getBoundingClientRect().height; })(document.querySelector('.bubble'))",
      ),
    );
    // By keyboard.
    await page.run("document.querySelector('pre').focus()");
    await page.press("ArrowRight");
    await page.shows("document.querySelector('pre').scrollLeft > 0", true);
  });

  for (const touch of [false, true])
    test(`Copy is in the block's corner, beside the first line or the language, and no line of its own${touch ? ", on a phone" : ""}`, async () => {
      await using opened = await openWithBob({ width: 390, height: 740, touch });
      const { page, bob } = opened;
      bob.says("```\nshort\n```");
      bob.says("```ts\nshort\n```");
      await page.shows("document.querySelectorAll('.code').length", 2);
      const rectangles = `[...document.querySelectorAll(".code")].map((block) =>
        [block, ...["span", "button", "code"].map((each) => block.querySelector(each))].map((each) => each.getBoundingClientRect()))`;
      await page.shows(
        `${rectangles}.map(([block, language, button, code], i) => {
          const beside = i === 0 ? code : language;
          const middle = ({ top, height }) => top + height / 2;
          return [block.height <= (i === 0 ? 40 : 68), Math.abs(middle(button) - middle(beside)) <= 1, button.left >= beside.right, button.right <= block.right];
        })`,
        Array.from({ length: 2 }, () => [true, true, true, true]),
      );
    });

  test("a fence that nothing closes reaches to the end; a longer one may contain a shorter one; an empty one is text", async () => {
    await using opened = await openWithBob();
    const { page, bob } = opened;
    bob.says("```\n<b>&amp;\n\nend");
    bob.says("````md\n```\nx\n```\n````\n```\ny\n```");
    bob.says("```\n```");
    bob.says("``` no fence");
    await page.shows("document.querySelectorAll('.bubble').length", 4);
    await page.shows(BLOCKS, [
      ["", "<b>&amp;\n\nend"],
      ["md", "```\nx\n```"],
      ["", "y"],
    ]);
    await page.shows(`${page.texts}.slice(2)`, ["```\n```", "``` no fence"]);
  });

  test("inline code is monospaced; nothing else of Markdown is drawn, and nothing in code is a link", async () => {
    await using opened = await openWithBob();
    const { page, bob } = opened;
    bob.says("run `bun test` or ``a`b``, not ` nor ` `\n# *no* **bold** [x](y) > `https://a.example`");
    await page.shows("[...document.querySelectorAll('.bubble > code')].map((code) => code.textContent)", [
      "bun test",
      "a`b",
      " nor ",
      "https://a.example",
    ]);
    await page.shows(page.texts, [
      "run bun test or a`b, not  nor  `\n# *no* **bold** [x](y) > https://a.example",
    ]);
    await page.shows("document.querySelectorAll('.bubble :not(code)').length", 0);
  });

  for (const name of ["127.0.0.1", LOCAL_NAME])
    test(`Copy copies exactly the code, on ${name === LOCAL_NAME ? "a LAN address" : "this machine"}`, async () => {
      await using opened = await openWithBob({ name });
      const { page, bob } = opened;
      await page.cdp("Browser.grantPermissions", { permissions: ["clipboardSanitizedWrite"] });
      expect(await page.run("isSecureContext")).toBe(name !== LOCAL_NAME);
      const code = `${name}\n  two spaces\n\ta tab`;
      bob.says(`\`\`\`\n${code}\n\`\`\``);
      await page.click(".code button");
      await page.shows("document.querySelector('.code button').textContent", "Copied");
      await pastes(page);
      await page.shows("messageText.value", code);
      await page.shows("document.querySelector('.code button').textContent", "Copy");
    });

  test("a tab is four spaces wide; the Tab key writes one inside a fence, and after Escape leaves the field", async () => {
    await using opened = await openWithBob();
    const { page } = opened;
    await page.run("messageText.focus()");
    await page.type("```\nif");
    await page.press("Tab");
    await page.shows("[messageText.value, document.activeElement.id]", ["```\nif\t", "messageText"]);
    await page.cdp("Input.dispatchKeyEvent", { type: "keyDown", key: "z", commands: ["undo"] });
    await page.shows("messageText.value", "```\nif");
    await page.press("Tab");
    await page.press("Tab", "Shift");
    await page.shows("document.activeElement.id !== 'messageText'", true);
    await page.press("Tab");
    await page.shows("document.activeElement.id", "messageText");
    await page.press("Escape");
    await page.press("Tab");
    await page.shows("document.activeElement.id !== 'messageText'", true);
    await page.run("messageText.focus()");
    await page.type("\n```\nafter");
    await page.press("Tab");
    await page.shows("document.activeElement.id !== 'messageText'", true);
    await page.run("messageText.focus()");
    await page.press("Enter");
    await page.shows(BLOCKS, [["", "if\t"]]);
    await page.shows("getComputedStyle(document.querySelector('pre')).tabSize", "4");
  });

  test("64 KiB of backticks and fences are rendered without delay", async () => {
    await using opened = await openWithBob();
    const { page, bob } = opened;
    for (const text of [
      "` `` ".repeat(13_000),
      "```a\n".repeat(13_000),
      "`".repeat(65_000),
      "`a".repeat(32_000),
    ]) {
      bob.says(text);
      bob.says("next");
      await page.shows("messages.lastChild?.lastChild.querySelector('.bubble').textContent", "next");
      bob.says("and");
      await page.shows("messages.lastChild?.lastChild.querySelector('.bubble').textContent", "and");
    }
  });
});
