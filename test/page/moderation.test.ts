/** Moderators remove messages on the page, and everyone sees that they are removed. */

import { Database } from "bun:sqlite";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { findViolations, testLooks } from "../support/axe.ts";
import { joinPage, openPage, skipped, type Page } from "../support/browser.ts";
import { tokenOf, SECRET } from "../support/keys.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const MENU = "document.querySelectorAll('.options').length";
const OPEN = "$('moderation').open";

describe.skipIf(skipped !== "")(`moderation on the page${skipped}`, () => {
  const start = () => startServer({ secret: SECRET });
  const open = (server: Awaited<ReturnType<typeof start>>, client: string, name?: string) => {
    const can = client === "mod" ? (["read", "write", "moderate"] as const) : (["read", "write"] as const);
    return openPage(server, `/client?token=${tokenOf(client, { can })}`, name === undefined ? {} : { name });
  };
  const focus = (page: Page, text: string) =>
    page.run(`[...document.querySelectorAll('.message')].find((each) =>
      each.querySelector('.bubble').textContent === ${JSON.stringify(text)}).focus()`);

  test("one message, and all of a person, are removed for everyone, and stay removed for newcomers", async () => {
    await using server = await start();
    await using ann = await server.joinJson("ann");
    using mod = await open(server, "mod");
    using bob = await open(server, "bob", "localhost");
    for (const page of [mod, bob]) await page.shows(page.state, "open");
    for (const text of ["one", "two", "three"]) await ann.saysAndHears(text);
    await bob.says("mine");
    for (const page of [mod, bob]) await page.shows(page.texts, ["one", "two", "three", "mine"]);

    await focus(mod, "two");
    await mod.shows(MENU, 1);
    await mod.press("Tab");
    await mod.press("Enter");
    await mod.shows(`[${OPEN}, $('moderation-title').textContent]`, [true, "ann"]);
    await mod.click("#remove-message");
    const afterOne = ["one", "Message removed", "three", "mine"];
    for (const page of [mod, bob]) await page.shows(page.texts, afterOne);
    await mod.shows(OPEN, false);
    await focus(mod, "Message removed");
    await mod.shows(MENU, 0); // there is nothing more to remove

    await focus(mod, "three");
    await mod.run(
      "document.querySelector('.removed').dispatchEvent(new PointerEvent('pointerover', { bubbles: true }))",
    );
    await mod.shows(MENU, 1); // the mouse happens to be over another one
    await mod.click(".options");
    await mod.click("#remove-person");
    expect(await ann.peer.closes()).toEqual({ code: 4003, reason: "Disconnected by a moderator." });
    const afterAll = ["Message removed", "Message removed", "Message removed", "mine"];
    for (const page of [mod, bob]) await page.shows(page.texts, afterAll);
    await mod.shows(OPEN, false);
    await bob.reload();
    await bob.shows(bob.texts, afterAll);
    await focus(bob, "mine");
    await bob.shows(MENU, 0); // bob may not moderate
    await mod.says("bye");
    await bob.shows(bob.texts, [...afterAll, "bye"]);
  });

  test("a person who is removed sees why, stays out, and does not reconnect", async () => {
    await using server = await start();
    using mod = await open(server, "mod");
    using eve = await open(server, "eve", "localhost");
    for (const page of [mod, eve]) await page.shows(page.state, "open");
    await eve.says("spam");
    await mod.shows(mod.texts, ["spam"]);
    await focus(mod, "spam");
    await mod.click(".options");
    await mod.click("#remove-person");
    await eve.shows(`[${eve.state}, ${eve.line}]`, ["closed", "Disconnected by a moderator. Try now"]);
    await eve.reload();
    await eve.shows(`[${eve.state}, ${eve.line}]`, [
      "closed",
      "A moderator has disconnected you from this room. Try now",
    ]);
  });

  for (const width of [360, 1280])
    test(`at ${width} px, the button covers no message, short or long, and one's own offers no removal of oneself`, async () => {
      await using server = await start();
      await using ann = await server.joinJson("ann");
      using mod = await openPage(
        server,
        `/client?token=${tokenOf("mod", { can: ["read", "write", "moderate"] })}`,
        {
          width,
          height: 740,
          touch: width < 600,
        },
      );
      await mod.shows(mod.state, "open");
      for (const text of ["a", "b", "long ".repeat(50)]) await ann.saysAndHears(text);
      for (const text of ["c", "d", "own ".repeat(50)]) {
        await mod.run(`(messageText.value = ${JSON.stringify(text)}, composer.requestSubmit(), 0)`);
        await mod.shows(`${mod.texts}.includes(${JSON.stringify(text)})`, true);
      }
      await mod.shows(mod.pending, 0);
      expect(
        await mod.run<string[]>(`[...document.querySelectorAll(".message")].filter((message) => {
          message.focus();
          const [bubble, button] = [".bubble", ".options"].map((each) => message.querySelector(each).getBoundingClientRect());
          const isInside = button.left >= 0 && button.right <= innerWidth;
          return !isInside || (bubble.left < button.right && button.left < bubble.right && bubble.top < button.bottom && button.top < bubble.bottom);
        }).map((message) => message.querySelector(".bubble").textContent.slice(0, 10))`),
      ).toEqual([]);
      await mod.click(".options");
      await mod.shows(
        `[${OPEN}, $("remove-message").checkVisibility(), $("remove-person").checkVisibility()]`,
        [true, true, false],
      );
    });

  test("a removal that fails says so, and removes nothing", async () => {
    await using server = await start();
    using mod = await open(server, "mod");
    await mod.shows(mod.state, "open");
    await mod.says("stays");
    await mod.shows(mod.pending, 0);
    await mod.run("(window.fetch = async () => Response.json({}, { status: 503 }), 0)");
    await focus(mod, "stays");
    await mod.click(".options");
    await mod.click("#remove-message");
    await mod.shows(`[${OPEN}, $('moderation-problem').textContent]`, [true, "Not removed. Try again."]);
    await mod.press("Escape");
    await mod.shows(`[${OPEN}, ${mod.texts}]`, [false, ["stays"]]);
  });

  test("a replay without a resume, which repeats old removals, leaves later messages as they are", async () => {
    using folder = new TempFolder();
    const setup = { secret: SECRET, store: { name: "SQLite", url: "sqlite:chat.db" }, cwd: folder.path };
    const first = await startServer(setup);
    const ann = await first.joinJson("ann");
    using page = await open(first, "bob");
    await page.run("(Math.random = () => 0.3)()"); // tries again after 0.3, 0.6, 1.2, … s
    await page.shows(page.state, "open");
    await ann.saysAndHears("before");
    const headers = first.authorization("mod", ["read", "write", "moderate"]);
    await first.answer("/rooms/lobby/messages?from=ann", { method: "DELETE", headers });
    expect(await ann.next()).toMatchObject({ type: "removed", from: "ann" });
    await ann.saysAndHears("after");
    await page.shows(page.texts, ["Message removed", "after"]);
    await first.stop();
    const database = new Database(`${folder.path}/chat.db`);
    database.run("UPDATE origin SET damaged_up_to = (SELECT max(id) FROM messages)"); // nobody resumes
    database.close();
    await using _second = await startServer({ ...setup, args: ["--port", `${first.port}`] });
    await page.shows(page.texts, ["Message removed", "after", "Message removed", "after"]);
    await first[Symbol.asyncDispose]();
  });

  test("earlier messages that were requested before a removal, and arrive after it", async () => {
    await using server = await startServer({ secret: SECRET, args: ["--history", "300"] });
    await using ann = await server.joinJson("ann");
    for (let i = 1; i <= 250; i++) await ann.saysAndHears(`${i}`);
    using page = await open(server, "bob");
    await page.shows(page.state, "open");
    await page.shows(`${page.texts}.at(-1)`, "250");
    // Holds back the answer, not the request.
    await page.run(`(() => {
      const { fetch } = window;
      window.arrived = 0;
      window.fetch = async (...request) => {
        const answer = await fetch(...request);
        const body = await answer.text();
        if (window.arrived++ === 0) await new Promise((resolve) => (window.release = resolve));
        return new Response(body, answer);
      };
    })()`);
    await page.scrolls(-100_000);
    await page.shows("window.arrived", 1);
    const headers = server.authorization("mod", ["read", "write", "moderate"]);
    await server.answer("/rooms/lobby/messages?from=ann", { method: "DELETE", headers });
    await page.shows(`${page.texts}.at(-1)`, "Message removed");
    await page.run("window.release()");
    await page.shows("window.arrived > 1", true);
    await page.shows(`${page.texts}.length > 150`, true);
    await page.shows(`${page.texts}.filter((text) => text !== "Message removed")`, []);
  });

  testLooks("in moderation", async (look) => {
    await using server = await start();
    using mod = await joinPage(
      server,
      `/client?token=${tokenOf("mod", { can: ["read", "write", "moderate"] })}`,
      look,
    );
    for (const text of ["one", "two"]) await mod.says(text);
    await mod.shows(mod.pending, 0);
    await focus(mod, "one");
    await mod.click(".options");
    await mod.shows(OPEN, true);
    const found = await findViolations(mod);
    await mod.click("#remove-message");
    await mod.shows(`[${OPEN}, ${mod.texts}]`, [false, ["Message removed", "two"]]);
    await focus(mod, "two");
    await mod.shows(MENU, 1);
    return [...found, ...(await findViolations(mod))];
  });
});
