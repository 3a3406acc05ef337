/** The page's one line of status: a lost and a restored connection, and what waits for it. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { findViolations, testLooks } from "../support/axe.ts";
import { joinPage, skipped } from "../support/browser.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const LOOK = "getComputedStyle($('connection')).backgroundColor";

describe.skipIf(skipped !== "")(`the page's status${skipped}`, () => {
  test("all is well: there is no line of status", async () => {
    await using server = await startServer();
    using page = await joinPage(server);
    await page.says("hi");
    await page.shows(`[${page.pending}, ${page.line}, ${page.progress}]`, [0, "", ""]);
  });

  test("messages that were missed are counted, in neutral colours; where there were none, the line just goes", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    const reconnect = async (meanwhile: () => Promise<unknown> | void) => {
      await page.losesConnection();
      await page.advancesClock(5000);
      await page.shows(
        "!$('connection').hidden && $('what').textContent",
        "Connection lost. What you write is kept.",
      );
      const warning = await page.run<string>(LOOK);
      await meanwhile();
      await page.isBackOnline();
      await page.shows(page.state, "open");
      return warning;
    };
    for (const meanwhile of [() => {}, () => page.says("mine")]) {
      await reconnect(meanwhile);
      await page.shows(`[${page.pending}, ${page.line}]`, [0, ""]);
      // A screen reader has no other way to notice.
      await page.shows("$('announcer').textContent", "Back.");
    }
    for (const [texts, line] of [
      [["1"], "Back. 1 message caught up."],
      [["2", "3"], "Back. 2 messages caught up."],
    ] as const) {
      const warning = await reconnect(async () => {
        for (const text of texts) bob.says(text);
        await bob.hearsUpTo(`Client #bob says: ${texts.at(-1)}`);
      });
      await page.shows(page.line, line);
      expect(await page.run<string>(LOOK)).not.toBe(warning);
      expect(await page.run<string>(LOOK)).toBe("rgb(255, 255, 255)");
      await page.advancesClock(5000);
      await page.shows(page.line, "");
    }
  });

  test("what is written offline waits once, below the last message, and is sent in order", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    await page.losesConnection();
    for (const text of ["1", "2", "3"]) await page.says(text);
    await page.shows(page.conversation, ["me: 1", "me: 2", "me: 3"]);
    await page.shows(page.progress, "Waiting for the connection");
    await page.shows("document.body.innerText.split('Waiting for the connection').length - 1", 1);
    await page.shows("document.querySelectorAll('.state').length", 0);
    await page.isBackOnline();
    await page.shows(`[${page.pending}, ${page.progress}]`, [0, ""]);
    await bob.hearsUpTo("Client #ann says: 1");
    for (const text of ["2", "3"]) await bob.hears(`Client #ann says: ${text}`);
  });

  testLooks("while offline", async (look) => {
    await using server = await startServer();
    using page = await joinPage(server, "/client?id=ann", look);
    await page.losesConnection();
    await page.says("hi");
    await page.advancesClock(5000);
    await page.shows(`[$('connection').hidden, ${page.progress}]`, [false, "Waiting for the connection"]);
    return await findViolations(page);
  });
});
