/** The page's languages, by the browser's preference. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { openPage, skipped } from "../support/browser.ts";
import { SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const EMPTY = new Map([
  ["en", "No messages yet. Say hello, or open this page in a second tab."],
  ["zh-Hant", "還沒有人說話。打個招呼，或在另一個分頁打開這個頁面。"],
  ["zh-Hans", "还没有人说话。打个招呼，或在另一个标签页打开这个页面。"],
]);

describe.skipIf(skipped !== "")(`the page's languages${skipped}`, () => {
  for (const [preferred, shown, placeholder] of [
    ["en-US", "en", "Message"],
    ["fr", "en", "Message"],
    ["zh", "zh-Hant", "訊息"],
    ["zh-TW", "zh-Hant", "訊息"],
    ["zh-HK", "zh-Hant", "訊息"],
    ["zh-Hant-CN", "zh-Hant", "訊息"],
    ["zh-CN", "zh-Hans", "消息"],
    ["zh-SG", "zh-Hans", "消息"],
    ["zh-Hans", "zh-Hans", "消息"],
    ["zh-Hans-TW", "zh-Hans", "消息"],
  ] as const)
    test(`a browser that prefers ${preferred} shows ${shown}`, async () => {
      await using server = await startServer();
      using page = await openPage(server, "/client", { language: preferred });
      await page.shows("[document.documentElement.lang, messageText.placeholder, $('empty').textContent]", [
        shown,
        placeholder,
        EMPTY.get(shown),
      ]);
    });

  for (const [language, foreign] of [
    ["zh-TW", /[这们请连线传开关闭选还没发间话语权员图复]|[a-z]{3}/],
    ["zh-CN", /[這們請連線傳開關閉選還沒發間話語權員圖複]|[a-z]{3}/],
  ] as const)
    test(`everything that ${language} shows is in its own characters`, async () => {
      await using server = await startServer();
      using page = await openPage(server, "/client", { language });
      await page.shows("document.documentElement.dataset.state", "open");
      const shown = await page.run<string[]>(
        `[...document.querySelectorAll("body *")].flatMap((each) =>
          [each.childElementCount ? "" : each.textContent, each.ariaLabel, each.title, each.placeholder])
          .filter((text) => text && !/^(lobby|\\d+)$/.test(text) && !text.includes("import"))`,
      );
      expect(shown.length).toBeGreaterThan(30);
      expect(shown.filter((text) => foreign.test(text))).toEqual([]);
    });

  test("a rejection that only the operator can lift names the operator: 管理員, 管理员", async () => {
    await using server = await startServer(SECURED);
    for (const [language, sentence] of [
      ["zh-TW", "這裡需要有效的權杖，請向管理員索取。"],
      ["zh-CN", "这里需要有效的令牌，请向管理员索取。"],
    ] as const) {
      using page = await openPage(server, "/client", { language });
      await page.shows("$('what').textContent", sentence);
    }
  });
});
