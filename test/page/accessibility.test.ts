/** axe-core finds no problem in the conversation and in any dialog, at every width and in every theme. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { findViolations, skippedAxe } from "../support/axe.ts";
import { joinPage, skipped, THEMES, WIDTHS, type Page } from "../support/browser.ts";
import { photo } from "../support/images.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

/** Each opens something over the conversation; afterwards Escape closes it. */
const DIALOGS: Record<string, (page: Page) => Promise<unknown>> = {
  rooms: (page) => page.click("#switch"),
  people: (page) => page.run("here.click()"),
  "an image": (page) => page.run("document.querySelector('.image button').click()"),
};

describe.skipIf(skipped !== "" || skippedAxe !== "")(`axe-core${skipped || skippedAxe}`, () => {
  const server = sharedServer();

  test("finds an image without a description", async () => {
    using page = await joinPage(server(), `/client?room=${newRoom()}`);
    await page.run("(document.querySelector('main').append(new Image()), 0)");
    expect(await findViolations(page)).toEqual(
      THEMES.map(({ title }) => expect.stringContaining(`${title}: image-alt: `)),
    );
  });

  for (const width of WIDTHS)
    test(`finds nothing at ${width} px`, async () => {
      const room = newRoom();
      await using bob = await server().join("bob", { room });
      using page = await joinPage(server(), `/client?id=ann&room=${room}`, { width, height: 844 });
      for (const text of ["hello https://a.example", "again `code`", "👍", "```ts\ncode\n```"])
        bob.says(text);
      await page.says("hi");
      await page.receives({ type: "message", id: "1-0", time: 0, from: "ann", text: "```sh\nmine\n```" });
      await page.run(`${photo(300, 200)}.then((file) => {
        const data = new DataTransfer();
        data.items.add(file);
        $("log").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
      })`);
      await page.shows("document.querySelectorAll('#attachments img').length", 1);
      expect(await findViolations(page)).toEqual([]);
      await page.press("Enter");
      await page.shows("document.querySelectorAll('.image').length", 1);
      await page.shows(page.pending, 0);
      expect(await findViolations(page)).toEqual([]);
      for (const [name, open] of Object.entries(DIALOGS)) {
        await open(page);
        await page.shows("document.querySelectorAll('dialog[open]').length", 1);
        expect({ name, found: await findViolations(page) }).toEqual({ name, found: [] });
        await page.press("Escape");
        await page.shows("document.querySelectorAll('dialog[open]').length", 0);
      }
    });
});
