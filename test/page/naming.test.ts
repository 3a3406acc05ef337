/** Who one is on the page: the card that asks for a name, the address, an earlier visit, and a token. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { parseName } from "../../src/protocol/names.ts";
import { findViolations, testLooks } from "../support/axe.ts";
import { joinPage, openPage, skipped, type Page } from "../support/browser.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

/** How long the page waits before it says that someone left. */
const LEAVE_GRACE_MS = 5_000;
const RULE = "1 to 64 letters, digits, “_”, “-” or “.”, in any script, without spaces.";

/** The card's field and its hint, null while the card is closed. */
const CARD = "$('naming').hidden ? null : [$('name').value, $('name-hint').textContent]";
const ME = "$('ws-id').textContent";

async function firstVisit(page: Page): Promise<void> {
  await page.shows(page.state, "open");
  await page.shows(`[$('naming').hidden, document.activeElement.id]`, [false, "name"]);
}

describe.skipIf(skipped !== "")(`the name on the page${skipped}`, () => {
  test("a first visit asks for a name, in a card that is no dialog; Enter takes it, and it lasts", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await using bob = await server.join("bob");
    await firstVisit(page);
    await page.shows("$('name').labels[0].textContent", "What should others call you?");
    await page.shows("document.querySelectorAll('dialog[open], [aria-modal]').length", 0);
    const generated = await page.run<string>(ME);
    expect(generated).toMatch(/^\d{16}$/);
    await page.type("mary");
    await page.press("Enter");
    await page.shows(`[${CARD}, ${ME}, document.activeElement.id]`, [null, "mary", "messageText"]);
    expect(await bob.next()).toBe(`Client #${generated} left the chat`);
    await page.says("hi");
    await bob.hears("Client #mary says: hi");
    await page.shows(page.pending, 0);
    await page.run("sessionStorage.clear()");
    await page.reload();
    await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, "mary"]);
  });

  test("nothing waits for a name: a message is sent under the generated id, and the card goes away for good", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await using bob = await server.join("bob");
    await firstVisit(page);
    const id = await page.run<string>(ME);
    await page.says("hi");
    await bob.hears(`Client #${id} says: hi`);
    await page.shows(CARD, null);
    await page.shows(page.pending, 0);
    await page.reload();
    await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, id]);
  });

  test("a name that is typed but not taken is that of the first message", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await using bob = await server.joinJson("bob");
    await firstVisit(page);
    await page.type("mary");
    await page.run("messageText.focus()");
    await page.type("hi");
    await page.press("Enter");
    await page.shows(page.pending, 0);
    await page.shows(`[${page.conversation}.at(-1), ${ME}]`, ["me: hi", "mary"]);
    await bob.hears({ type: "message", from: "mary", text: "hi" });
  });

  for (const [how, decline] of [
    ["“Not now”", (page: Page) => page.click("#not-now")],
    ["Escape", (page: Page) => page.press("Escape")],
    [
      "“Not now” by keyboard",
      async (page: Page) => {
        for (const key of ["Tab", "Tab", "Enter"] as const) await page.press(key);
      },
    ],
  ] as const)
    test(`${how} keeps the generated id, and is not asked again`, async () => {
      await using server = await startServer();
      using page = await openPage(server);
      await firstVisit(page);
      const id = await page.run<string>(ME);
      await decline(page);
      await page.shows(`[${CARD}, ${ME}, document.activeElement.id]`, [null, id, "messageText"]);
      await page.reload();
      await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, id]);
    });

  test("a server restart leaves the card and what was typed in it", async () => {
    await using first = await startServer();
    using page = await openPage(first);
    await firstVisit(page);
    await page.type("mary");
    await first.stop();
    await page.shows(page.state, "reconnecting");
    await page.shows(`[${CARD}, document.activeElement.id]`, [["mary", ""], "name"]);
    await page.press("Enter");
    await page.says("hi");
    await page.shows(`[${page.conversation}, ${page.progress}]`, [["me: hi"], "Waiting for the connection"]);
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    await using bob = await second.join("bob");
    await page.isBackOnline();
    await bob.hears("Client #mary says: hi");
    await page.shows(`[${page.pending}, ${page.progress}]`, [0, ""]);
  });

  test("a card that was not answered asks again", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await firstVisit(page);
    await page.reload();
    await firstVisit(page);
  });

  test("an id in the address comes before the name chosen before, and neither is asked for", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann");
    await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, "ann"]);
    await page.run("localStorage.setItem('hubbub.name', 'mary')");
    await page.reload();
    await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, "ann"]);
    await page.run("(location.search = '', 0)");
    await page.shows(`[location.search, ${page.state}, ${CARD}, ${ME}]`, ["", "open", null, "mary"]);
  });

  test("a name with blanks is offered as it can be, and taken so", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await firstVisit(page);
    for (const [typed, hint] of [
      ["mary jane", "Written as mary-jane"],
      ["  Mary  Jane ", "Written as Mary-Jane"],
      ["陳 大文", "Written as 陳-大文"],
      ["Zoë 😀", "Written as Zoë"],
      ["mary-jane", ""],
      ["😀", `That name is not allowed. ${RULE}`],
    ] as const) {
      await page.run("$('name').select()");
      await page.type(typed);
      await page.shows(CARD, [typed, hint]);
    }
    await page.press("Enter");
    await page.shows("[$('name').ariaInvalid, document.activeElement.id]", ["true", "name"]);
    await page.run("$('name').select()");
    await page.type("mary jane");
    await page.press("Enter");
    await page.shows(`[${page.state}, ${CARD}, ${ME}]`, ["open", null, "mary-jane"]);
  });

  test("Enter that ends a composition does not take the name", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await firstVisit(page);
    await page.cdp("Input.imeSetComposition", { text: "陳大", selectionStart: 2, selectionEnd: 2 });
    for (const composing of ["{ isComposing: true }", "{ keyCode: 229 }"])
      expect(
        await page.run(
          `$("name").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true, ...${composing} }))`,
        ),
      ).toBe(false);
    await page.cdp("Input.insertText", { text: "陳大文" });
    await page.shows(CARD, ["陳大文", ""]);
    await page.press("Enter");
    await page.shows(`[${page.state}, ${ME}]`, ["open", "陳大文"]);
  });

  test("page and server agree on which names are valid", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await firstVisit(page);
    const names = [
      "a",
      "",
      " ",
      "a b",
      ".",
      "..",
      "...",
      "\u0301a",
      "a\u0301",
      "हिन्दी",
      "a\u200db",
      "\u3164",
      "😀",
      "𠮷".repeat(64),
      "𠮷".repeat(65),
      "a\u{13441}",
      "a\u{13442}",
      "a\u{16FE4}",
    ];
    const isValid = await page.run<boolean[]>(
      `${JSON.stringify(names)}.map((name) => {
        $("name").value = name;
        $("name").dispatchEvent(new InputEvent("input"));
        return $("name-hint").hidden;
      })`,
    );
    const isBlank = (name: string) => name.trim() === "";
    expect(isValid).toEqual(
      names.map((name) => isBlank(name) || "name" in parseName("client id", name.trim())),
    );
  });

  test("the name at the top opens the card with the name in it; a new one is stored and leaves no notice", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    await page.holdsTimers(LEAVE_GRACE_MS);
    await page.click("#me");
    await page.shows(`[${CARD}, $('not-now').textContent]`, [["ann", ""], "Cancel"]);
    await page.type("anna");
    await page.press("Enter");
    await bob.hears("Client #ann left the chat");
    await page.says("hi");
    await page.shows(`[${page.here}, ${page.people}]`, ["2 here", ["anna", "bob"]]);
    expect(await page.run("held.length")).toBe(0);
    await page.shows(page.conversation, ["me: hi"]);
    await page.shows("[location.search, localStorage.getItem('hubbub.name')]", ["?id=anna", "anna"]);
  });

  test("what was written offline under the former name goes out under the new one, once", async () => {
    await using server = await startServer();
    await using bob = await server.join("bob");
    using page = await joinPage(server);
    await page.losesConnection();
    await page.says("offline");
    await page.shows(page.progress, "Waiting for the connection");
    await page.click("#me");
    await page.type("anna");
    await page.press("Enter");
    await page.shows(`[${page.state}, ${page.pending}, ${page.progress}]`, ["open", 0, ""]);
    await page.shows(page.texts, ["offline"]);
    await bob.hearsUpTo("Client #anna says: offline");
  });

  test("an invalid id is reported at once, the composer is off, and another name can be chosen", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=a%20b");
    await page.shows(page.line, `That name is not allowed. ${RULE} Choose another name`);
    await page.shows("[messageText.disabled, $('send').disabled]", [true, true]);
    await page.click("#action");
    await page.run("$('name').select()");
    await page.type("ann");
    await page.press("Enter");
    await page.shows(`[${page.state}, ${ME}, ${page.line}, messageText.disabled]`, [
      "open",
      "ann",
      "",
      false,
    ]);
  });

  test("a name that is already present is asked about: it is mine, or another is chosen", async () => {
    await using server = await startServer();
    await using other = await server.join("ann");
    using page = await openPage(server, "/client?id=ann");
    const question = "Someone is already here as ann. That’s me Choose another";
    await page.shows(page.line, question);
    await page.shows("$('connection').className", "calm");
    await page.click("#action");
    await page.shows(page.line, "");
    await page.reload();
    await page.shows(page.state, "open");
    await page.shows(page.line, "");

    await page.run("sessionStorage.clear()");
    await page.reload();
    await page.shows(page.line, question);
    await page.click("#other");
    await page.shows(CARD, ["ann", ""]);
    await page.type("anna");
    await page.press("Enter");
    await page.shows(`[${page.state}, ${ME}, ${page.line}]`, ["open", "anna", ""]);
    await other.leaves();
  });

  test("a generated id is never asked about", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await firstVisit(page);
    await using other = await server.join(await page.run<string>(ME));
    await page.reload();
    await firstVisit(page);
    await page.shows(page.line, "");
    await other.leaves();
  });

  test("without storage one can chat, be asked, and choose a name", async () => {
    await using server = await startServer();
    using page = await openPage(server);
    await using _storage = await page.disablesStorage();
    await firstVisit(page);
    await page.type("mary");
    await page.press("Enter");
    await page.shows(`[${page.state}, ${ME}]`, ["open", "mary"]);
    await page.says("hi");
    await page.shows(`[${page.pending}, ${page.conversation}]`, [0, ["me: hi"]]);
    expect(page.complaints).toEqual([]);
  });

  test("a token in a link sets the name, leaves the address, and lasts over a reload and into other rooms", async () => {
    await using server = await startServer(SECURED);
    const token = tokenOf("陳大文", { rooms: ["tea"] });
    using page = await openPage(server, `/client?room=tea&id=eve&token=${token}`);
    for (const open of [async () => {}, () => page.reload()]) {
      await open();
      await page.shows(page.state, "open");
      await page.shows("[$('ws-id').textContent, $('me').disabled, $('naming').hidden, location.search]", [
        "陳大文",
        true,
        true,
        "?room=tea&id=eve",
      ]);
    }
    await page.says("hi");
    await page.shows(page.pending, 0);
    await page.shows(page.conversation, ["me: hi"]);
  });

  testLooks("in the card", async (look) => {
    await using server = await startServer();
    using page = await openPage(server, "/client", look);
    await firstVisit(page);
    await page.type("mary jane");
    return await findViolations(page);
  });
});
