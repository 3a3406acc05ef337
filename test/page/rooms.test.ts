/** The list of rooms: those visited before with what is unread in each, those of the server, and a field for another. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { findViolations, testLooks } from "../support/axe.ts";
import { openPage, skipped, type Page } from "../support/browser.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

/** A line per room: its name, who is there and what is new. */
const LIST =
  "[...document.querySelectorAll('#room-list a')].map((a) => [...a.children].map((each) => each.textContent).filter(Boolean).join(' · '))";

async function enter(page: Page, room: string): Promise<void> {
  await page.run(`(location.search = "?id=ann&room=${room}", 0)`);
  await isIn(page, room);
}

async function isIn(page: Page, room: string): Promise<void> {
  await page.shows(`[$('room')?.textContent, ${page.state}, ${page.busy}]`, [room, "open", "false"]);
}

describe.skipIf(skipped !== "")(`the list of rooms${skipped}`, () => {
  test("the room's name is a heading, and opens the list; the switch says what it is", async () => {
    await using server = await startServer({ args: ["--list-rooms"] });
    using page = await openPage(server, "/client?id=ann&room=tea");
    await isIn(page, "tea");
    await page.shows("[$('room').tagName, $('room').textContent, document.querySelectorAll('h1').length]", [
      "H1",
      "tea",
      1,
    ]);
    await page.shows("[$('switch').tagName, $('switch').ariaLabel, $('switch').title]", [
      "BUTTON",
      "Switch rooms",
      "Switch rooms",
    ]);
    const { x, y } = await page.run<{ x: number; y: number }>(
      "(({ x, y, height }) => ({ x: x + 10, y: y + height / 2 }))($('room').getBoundingClientRect())",
    );
    for (const type of ["mousePressed", "mouseReleased"])
      await page.cdp("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
    await page.shows("[$('rooms').open, document.activeElement.id]", [true, "room-name"]);
    await page.press("Escape");
    await page.shows("$('rooms').open", false);
    await page.run("$('switch').focus()");
    await page.press("Enter");
    await page.shows("$('rooms').open", true);
    expect(page.complaints).toEqual([]);
  });

  test("on a phone a short name of the room is shown whole, however long one's own is", async () => {
    await using server = await startServer();
    using page = await openPage(server, `/client?id=${"long-".repeat(12)}&room=coffee`, {
      width: 360,
      height: 740,
    });
    await isIn(page, "coffee");
    await page.shows("$('room').scrollWidth <= $('room').clientWidth", true);
    await page.shows("document.documentElement.scrollWidth <= innerWidth", true);
  });

  test("rooms visited before are listed, the last one first, with the number of messages not read there", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob", { room: "tea" });
    await using eve = await server.join("eve", { room: "design" });
    await using joe = await server.join("joe", { room: "quiet" });
    for (let i = 0; i < 3; i++) bob.says(`read ${i}`);
    await bob.hearsUpTo("Client #bob says: read 2");
    using page = await openPage(server, "/client?id=ann&room=tea");
    await isIn(page, "tea");
    await page.says("mine");
    await page.shows(page.pending, 0);
    for (const room of ["quiet", "design"]) await enter(page, room);
    await enter(page, "design");
    for (const text of ["1", "2"]) bob.says(text);
    await bob.hearsUpTo("Client #bob says: 2");
    for (let i = 0; i < 120; i++) joe.says(`${i}`);
    await joe.hearsUpTo("Client #joe says: 119");
    await page.click("#switch");
    await page.shows(LIST, ["design · 2 here", "quiet · 1 here · 99+ new", "tea · 1 here · 2 new"]);
    await page.shows("document.querySelector('#room-list [aria-current=page] bdi').textContent", "design");

    await page.run("document.querySelectorAll('#room-list a')[2].click()");
    await isIn(page, "tea");
    await page.shows(page.texts, ["read 0", "read 1", "read 2", "mine", "1", "2"]);
    await page.click("#switch");
    await page.shows(LIST, ["tea · 2 here", "design · 1 here", "quiet · 1 here · 99+ new"]);
    await eve.leaves();
    await joe.leaves();
  });

  test("messages that arrived while the page was hidden or scrolled up are not read", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob", { room: "tea" });
    using page = await openPage(server, "/client?id=ann&room=tea", { width: 360, height: 740 });
    await isIn(page, "tea");
    for (let i = 0; i < 40; i++) bob.says(`${i}`);
    await page.shows("document.querySelectorAll('.message').length", 40);
    await page.scrolls(-500);
    for (const text of ["a", "b"]) bob.says(text);
    await page.shows("document.title", "(2) tea · Hubbub");
    await enter(page, "lobby");
    await page.click("#switch");
    await page.shows(LIST, ["lobby · 1 here", "tea · 1 here · 2 new"]);
  });

  test("one's own messages from elsewhere are not new", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann&room=tea");
    await isIn(page, "tea");
    await enter(page, "lobby");
    await using self = await server.join("ann", { room: "tea" });
    self.says("from my phone");
    await self.hearsUpTo("Client #ann says: from my phone");
    await page.click("#switch");
    await page.shows(LIST, ["lobby · 1 here", "tea · 1 here"]);
  });

  test("the server's rooms follow where it lists them, and only there", async () => {
    for (const isListed of [true, false]) {
      await using server = await startServer({ args: isListed ? ["--list-rooms"] : [] });
      for (const room of ["public", "other"]) {
        const peer = await server.join("bob", { room });
        peer.says("hi");
        await peer.hearsUpTo("Client #bob says: hi");
      }
      using page = await openPage(server, "/client?id=ann&room=tea");
      await isIn(page, "tea");
      await page.click("#switch");
      await page.shows(LIST, ["tea · 1 here", ...(isListed ? ["other · 1 here", "public · 1 here"] : [])]);
      // Not even a request that fails, in the browser's console.
      expect(page.complaints).toEqual([]);
    }
  });

  test("the field leads to another room, by keyboard alone; what no room can be called is offered as it can be", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob", { room: "my-team" });
    using page = await openPage(server, "/client?id=ann");
    await isIn(page, "lobby");
    await page.run("$('switch').focus()");
    await page.press("Enter");
    await page.shows("document.activeElement.id", "room-name");
    await page.type("..");
    await page.press("Enter");
    await page.shows("[$('room-name').ariaInvalid, $('room-name-hint').textContent, $('rooms').open]", [
      "true",
      "That room name is not allowed. 1 to 64 letters, digits, “_”, “-” or “.”, in any script, without spaces.",
      true,
    ]);
    await page.run("$('room-name').select()");
    await page.type("my team");
    await page.shows("[$('room-name').ariaInvalid, $('room-name-hint').textContent]", [
      "false",
      "Written as my-team",
    ]);
    await page.press("Enter");
    await isIn(page, "my-team");
    await page.shows("location.search", "?id=ann&room=my-team");
    await page.says("hi");
    await bob.hears("Client #ann says: hi");
  });

  test("a click beside a dialog closes it", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann", { width: 768 });
    await isIn(page, "lobby");
    for (const [button, dialog] of [
      ["switch", "rooms"],
      ["here", "list"],
      ["invite", "invitation"],
    ] as const) {
      await page.run(`$("${button}").click()`);
      await page.shows(`$("${dialog}").open`, true);
      for (const type of ["mousePressed", "mouseReleased"])
        await page.cdp("Input.dispatchMouseEvent", { type, x: 20, y: 400, button: "left", clickCount: 1 });
      await page.shows(`[$("${dialog}").open, document.activeElement.id]`, [false, "messageText"]);
    }
  });

  test("Enter that ends a composition does not enter the room", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann");
    await isIn(page, "lobby");
    await page.click("#switch");
    await page.cdp("Input.imeSetComposition", { text: "茶", selectionStart: 1, selectionEnd: 1 });
    const composing = "{ key: 'Enter', cancelable: true, keyCode: 229 }";
    expect(await page.run(`$('room-name').dispatchEvent(new KeyboardEvent("keydown", ${composing}))`)).toBe(
      false,
    );
    await page.cdp("Input.insertText", { text: "茶室" });
    await page.press("Enter");
    await isIn(page, "茶室");
  });

  test("with a token, the rooms that it covers are described", async () => {
    await using server = await startServer({ ...SECURED, args: ["--list-rooms"] });
    const token = tokenOf("ann", { rooms: ["tea", "design"] });
    using page = await openPage(server, `/client?room=tea&token=${token}`);
    await isIn(page, "tea");
    await page.run("(location.search = '?room=design', 0)");
    await isIn(page, "design");
    await page.click("#switch");
    await page.shows(LIST, ["design · 1 here", "tea"]);
  });

  test("without storage, or with a damaged list, this room is listed", async () => {
    await using server = await startServer({ args: ["--list-rooms"] });
    using page = await openPage(server, "/client?id=ann&room=tea");
    await isIn(page, "tea");
    await page.run("localStorage.setItem('hubbub.rooms', '{')");
    await page.click("#switch");
    await page.shows(LIST, ["tea · 1 here"]);
    await using _storage = await page.disablesStorage();
    await isIn(page, "tea");
    await page.click("#switch");
    await page.shows(LIST, ["tea · 1 here"]);
    expect(page.complaints).toEqual([]);
  });

  test("without a connection, the rooms visited before are still listed", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann&room=tea");
    await isIn(page, "tea");
    await enter(page, "lobby");
    await page.run("(window.fetch = async () => new Response('<h1>502</h1>', { status: 502 }), 0)");
    await page.click("#switch");
    await page.shows(LIST, ["lobby", "tea"]);
  });

  testLooks("in it", async (look) => {
    await using server = await startServer();
    await using bob = await server.join("bob", { room: "tea" });
    using page = await openPage(server, "/client?id=ann&room=tea", look);
    await isIn(page, "tea");
    await enter(page, "lobby");
    bob.says("hi");
    await bob.hearsUpTo("Client #bob says: hi");
    await page.click("#switch");
    await page.shows(LIST, ["lobby · 1 here", "tea · 1 here · 1 new"]);
    return await findViolations(page);
  });
});
