/** What the page says and offers when the server has rejected it for good. */

import { describe, setDefaultTimeout, test } from "bun:test";
import { findViolations, testLooks } from "../support/axe.ts";
import { joinPage, openPage, skipped } from "../support/browser.ts";
import { tokenOf, SECURED } from "../support/keys.ts";
import { startServer } from "../support/server.ts";

setDefaultTimeout(240_000);

const OFF = "[messageText.disabled, $('send').disabled]";
const ASKS_FOR_TOKEN = "$('token').checkVisibility()";
const RULE = "1 to 64 letters, digits, “_”, “-” or “.”, in any script, without spaces.";

describe.skipIf(skipped !== "")(`a rejected page${skipped}`, () => {
  for (const [how, given] of [
    ["a token", (token: string) => token],
    ["a link with one", (token: string) => `https://chat.example/client?room=tea&token=${token}`],
  ] as const)
    test(`without a token the composer is off, and a field asks for one: it takes ${how}`, async () => {
      await using server = await startServer(SECURED);
      using page = await openPage(server, "/client?room=tea");
      await page.shows(page.line, "A token is required. Ask this server's operator for one.");
      await page.shows(`[${OFF}, ${ASKS_FOR_TOKEN}, document.activeElement.id]`, [
        [true, true],
        true,
        "token",
      ]);
      // Nothing else is asked: the token names the user.
      await page.shows("$('naming').hidden", true);
      await page.type("nonsense");
      await page.press("Enter");
      await page.shows(`[${page.state}, ${page.line}]`, [
        "closed",
        "This token is not valid for this server. Ask its operator for a new one.",
      ]);
      await page.type(given(tokenOf("mary", { rooms: ["tea"] })));
      await page.press("Enter");
      await page.shows(`[${page.state}, ${page.line}, ${OFF}, $('me').disabled, $('ws-id').textContent]`, [
        "open",
        "",
        [false, false],
        true,
        "mary",
      ]);
      await page.says("hi");
      await page.shows(`[${page.pending}, ${page.conversation}]`, [0, ["me: hi"]]);
      await page.reload();
      await page.shows(`[${page.state}, $('ws-id').textContent]`, ["open", "mary"]);
    });

  test("when the token expires, what was written is kept and shown as not sent, and goes out with the next token", async () => {
    await using server = await startServer(SECURED);
    using page = await joinPage(server, `/client?room=tea&token=${tokenOf("mary", { seconds: 8 })}`);
    await page.run("messageText.focus()");
    await page.type("a draft");
    await page.shows(page.state, "closed");
    await page.shows(`[messageText.value, ${OFF}, ${ASKS_FOR_TOKEN}]`, ["a draft", [true, true], true]);
    await page.run("$('token').focus()");
    await page.type(tokenOf("mary", { rooms: ["tea"] }));
    await page.press("Enter");
    await page.shows(`[${page.state}, messageText.value]`, ["open", "a draft"]);
  });

  test("a message that was pending when the token expired is shown as not sent, and is sent once", async () => {
    await using first = await startServer(SECURED);
    using page = await joinPage(first, `/client?room=tea&token=${tokenOf("mary", { rooms: ["tea"] })}`);
    await page.losesConnection();
    await page.says("one");
    await page.says("two");
    await page.shows(page.progress, "Waiting for the connection");
    await first.stop();
    const other = "another secret of thirty-two bytes or more";
    await using second = await startServer({
      args: ["--port", `${first.port}`],
      env: { HUBBUB_SECRET: other },
    });
    await page.isBackOnline();
    await page.shows(page.state, "closed");
    await page.shows(`[${page.conversation}, ${page.progress}]`, [["me: one", "me: two"], "Not sent"]);
    await page.shows(`[${OFF}, ${ASKS_FOR_TOKEN}]`, [[true, true], true]);
    await page.run("$('token').focus()");
    await page.type(tokenOf("mary", { secret: other }));
    await page.press("Enter");
    await page.shows(page.state, "open");
    await page.shows(`[${page.pending}, ${page.progress}]`, [0, ""]);
    await page.shows(page.texts, ["one", "two"]);
    await second.stop();
  });

  test("a token for other rooms offers another room, and another token", async () => {
    await using server = await startServer(SECURED);
    using page = await openPage(server, `/client?room=coffee&token=${tokenOf("mary", { rooms: ["tea"] })}`);
    await page.shows(
      page.line,
      "This token does not cover this room. Choose a room that it names. Choose another room",
    );
    await page.shows(`[${OFF}, ${ASKS_FOR_TOKEN}]`, [[true, true], true]);
    await page.click("#action");
    await page.type("tea");
    await page.press("Enter");
    await page.shows(`[$('room')?.textContent, ${page.state}]`, ["tea", "open"]);
  });

  test("an expired token asks for a new one", async () => {
    await using server = await startServer(SECURED);
    using page = await openPage(server, `/client?token=${tokenOf("mary", { seconds: -60 })}`);
    await page.shows(page.line, "This token has expired. Ask for a new one.");
    await page.shows(`[${OFF}, ${ASKS_FOR_TOKEN}]`, [[true, true], true]);
  });

  test("an invalid room offers another", async () => {
    await using server = await startServer();
    using page = await openPage(server, "/client?id=ann&room=my%20team");
    await page.shows(page.line, `That room name is not allowed. ${RULE} Choose another room`);
    await page.shows(`[${OFF}, $('empty').hidden]`, [[true, true], true]);
    await page.click("#action");
    await page.type("my team");
    await page.shows("$('room-name-hint').textContent", "Written as my-team");
    await page.press("Enter");
    await page.shows(`[location.search, $('room')?.textContent, ${page.state}]`, [
      "?id=ann&room=my-team",
      "my-team",
      "open",
    ]);
  });

  test("where the server has a public name, its own page is offered instead of localhost", async () => {
    await using publicServer = await startServer();
    const name = `http://localhost:${publicServer.port}`;
    await using server = await startServer({ args: ["--public-url", name] });
    using page = await openPage(server, "/client?id=ann&room=tea");
    await page.shows(
      page.line,
      `This server does not accept connections from ${server.origin}. Its operator can allow this address with --public-url ${server.origin}. Open this server’s own page Try now`,
    );
    await page.shows(OFF, [true, true]);
    await page.click("#action");
    await page.shows(`[location.href, ${page.state}]`, [`${name}/client?id=ann&room=tea`, "open"]);
  });

  test("where a session continues in another tab, it can be continued here, and no token is asked for", async () => {
    await using server = await startServer(SECURED);
    const token = tokenOf("ann");
    using one = await joinPage(server, `/client?token=${token}`);
    const session = await one.run<string>("new URL(sockets.at(-1).url).searchParams.get('session')");
    await using _other = await server.joinJson("ann", { session, token });
    await one.shows(one.line, "Replaced by a newer connection of this session. Continue here");
    await one.shows(`[${OFF}, ${ASKS_FOR_TOKEN}]`, [[true, true], false]);
    await one.click("#action");
    await one.shows(`[${one.state}, ${OFF}]`, ["open", [false, false]]);
  });

  testLooks("without a token", async (look) => {
    await using server = await startServer(SECURED);
    using page = await openPage(server, "/client", look);
    await page.shows(`[${page.state}, ${ASKS_FOR_TOKEN}]`, ["closed", true]);
    return await findViolations(page);
  });
});
