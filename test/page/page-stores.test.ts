/** The page with each store: history, presence and pending messages. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { LOCAL_NAME, joinPage, openPage, skipped } from "../support/browser.ts";
import { startServer, STORES } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

/** How long the page waits before it says that someone left. */
const LEAVE_GRACE_MS = 5_000;

// The other tests of the page run on memory. Two nodes on one Redis also cover one node, other stores that answer late,
// and two nodes on Postgres.
const COVERED = ["memory", "Redis", "a delayed store", "Postgres, two nodes"];
for (const store of STORES.filter(({ name }) => !COVERED.includes(name)))
  describe.skipIf(skipped !== "")(`the page, with ${store.name}${skipped}`, () => {
    test("two people talk, and one leaves", async () => {
      await using server = await startServer({ store });
      using ann = await joinPage(server);
      using bob = await openPage(server, "/client?id=bob", { name: "localhost" });
      await ann.shows(ann.conversation, ["bob joined"]);
      await ann.says("hi bob");
      await bob.shows(bob.conversation, ["ann: hi bob"]);
      await bob.says("hi ann");
      await ann.shows(ann.conversation, ["bob joined", "me: hi bob", "bob: hi ann"]);
      await bob.shows(bob.conversation, ["ann: hi bob", "me: hi ann"]);
      expect(bob.complaints).toEqual([]);
      bob.close();
      await ann.shows("$('here').textContent", "1 here");
      expect(ann.complaints).toEqual([]);
    });

    test("a client that writes as soon as it joins is shown as joined first", async () => {
      await using server = await startServer({ store });
      using page = await joinPage(server);
      await page.holdsTimers(LEAVE_GRACE_MS);
      for (const id of ["bob", "eve"]) {
        await using peer = await server.join(id);
        peer.says("hi");
        await page.shows(`${page.conversation}.slice(-2)`, [`${id} joined`, `${id}: hi`]);
        peer.says("hi again");
        await page.shows(`${page.conversation}.slice(-3)`, [`${id} joined`, `${id}: hi`, "hi again"]);
        await peer.leaves();
        await page.shows(page.here, "1 here");
      }
    });

    test("two tabs of one client: a message from one is shown as own in the other", async () => {
      await using server = await startServer({ store });
      using one = await openPage(server, "/client?id=ann");
      using two = await joinPage(server);
      await one.says("hi");
      await two.shows(two.conversation, ["me: hi"]);
      await two.says("hi");
      await one.shows(one.conversation, ["me: hi", "me: hi"]);
      await two.shows(two.conversation, ["me: hi", "me: hi"]);
    });

    test("own messages appear where the room's order puts them", async () => {
      await using server = await startServer({ store });
      await using bob = await server.joinJson("bob");
      using page = await joinPage(server);
      server.freeze();
      for (const text of ["1", "2", "3"]) {
        await page.says(`ann ${text}`);
        bob.says(`bob ${text}`);
      }
      await page.shows(page.conversation, ["me: ann 1", "me: ann 2", "me: ann 3"]);
      await page.shows(page.progress, "Sending…");
      server.thaw();
      const order = [];
      while (order.length < 6) order.push((await bob.next()).text);
      await page.shows(
        "[...document.querySelectorAll('.bubble')].map((bubble) => bubble.textContent)",
        order,
      );
      await page.shows(`[${page.progress}, document.querySelectorAll('.state').length]`, ["", 0]);
    });

    test("the history is shown on arrival and after a reload, and does not count as new", async () => {
      await using server = await startServer({ store });
      await using bob = await server.join("bob");
      using page = await joinPage(server);
      await page.says("mine");
      await bob.hears("Client #ann says: mine");
      bob.says("and mine");
      const both = ["me: mine", "bob: and mine"];
      await page.shows(page.conversation, both);
      await page.reload();
      await page.shows(page.conversation, both);
      await page.shows("[document.title, document.querySelector('.unread'), $('announcer').textContent]", [
        "lobby · Hubbub",
        null,
        "",
      ]);
    });

    test("missed messages are caught up, and the page says so; nothing is shown twice", async () => {
      await using server = await startServer({ store });
      await using zoe = await server.join("zoe"); // with the same node as the page
      await using bob = await server.join("bob");
      using page = await joinPage(server);
      await page.says("1");
      await page.shows(page.pending, 0);
      await page.losesConnection();
      await page.advancesClock(5000);
      await page.shows("$('what').textContent", "Connection lost. What you write is kept.");
      await zoe.hears("Client #ann says: 1", "Client #ann left the chat");
      for (const text of ["2", "3", "4"]) bob.says(text);
      await zoe.hears(...["2", "3", "4"].map((text) => `Client #bob says: ${text}`));
      await page.isBackOnline();
      await page.shows(page.line, "Back. 3 messages caught up.");
      await page.shows(page.conversation, ["me: 1", "bob: 2", "3", "4"]);
    });

    test("the people present are counted and listed, oneself first", async () => {
      await using server = await startServer({ store });
      await using zoe = await server.join("zoe");
      await using bob = await server.join("bob");
      for (const [width, list] of [
        [1280, "aside .people"],
        [360, "#list .people"],
      ] as const) {
        using page = await openPage(server, "/client?id=mia", { width, height: 740 });
        await page.shows("$('here').textContent", "3 here");
        if (width < 1280) await page.click("#here");
        await page.shows(`document.querySelector("${list}").checkVisibility()`, true);
        await page.shows(`[...document.querySelectorAll("${list} li")].map((person) => person.textContent)`, [
          "Mmia (you)",
          "Bbob",
          "Zzoe",
        ]);
        await page.press("Escape");
      }
      await zoe.leaves();
      await bob.leaves();
    });

    test("pending messages stay in their room, and are sent once over a reload", async () => {
      await using server = await startServer({ store });
      await using bob = await server.join("bob", { room: "tea" });
      await using eve = await server.join("eve");
      using page = await joinPage(server, "/client?id=ann&room=tea");
      server.freeze();
      await page.says("for tea");
      await page.shows(page.conversation, ["me: for tea"]);
      // The tab closes before the acknowledgement.
      const stored = await page.run<object>("JSON.parse(sessionStorage['hubbub.outbox.tea'])");
      server.thaw();
      await bob.hears("Client #ann says: for tea");
      await page.shows(page.pending, 0);
      await page.stores("outbox.tea", {
        ...stored,
        undecided: [{ text: "in doubt", writtenAt: Date.now() }],
      });
      await page.reload();
      await page.shows(page.conversation, ["me: for tea", "me: in doubt: Maybe not sent Retry Delete"]);
      await page.run("(location.search = '?id=ann', 0)");
      await page.shows(`[$('room')?.textContent, ${page.state}]`, ["lobby", "open"]);
      await page.shows(page.conversation, []);
      await bob.hears("Client #ann left the chat");
      await eve.hearsNothing();
    });

    test("scrolling up loads earlier messages to the beginning, and the view holds still; by host name on a local network", async () => {
      await using server = await startServer({ store, args: ["--history", "1000"] });
      await using bob = await server.join("bob");
      for (let i = 0; i < 250; i++) bob.says(`${i}`);
      await bob.hearsUpTo("Client #bob says: 249");
      using page = await openPage(server, "/client?id=ann", { width: 360, height: 740, name: LOCAL_NAME });
      const { texts } = page;
      const from = (start: number) => Array.from({ length: 250 - start }, (_, i) => `${start + i}`);
      await page.shows(texts, from(150));
      expect(await page.run("isSecureContext")).toBe(false);
      await page.says("hi");
      await page.shows(`${texts}.at(-1)`, "hi");
      // Until it is in its final place, the view follows it.
      await page.shows(page.pending, 0);

      // What is in view stays in place while earlier messages are added above it.
      const up = (text: number) =>
        page.run<number>(`(() => {
        scroller.scrollTop = 100;
        const entry = [...document.querySelectorAll(".message")].find((each) => each.querySelector(".bubble").textContent === "${text}");
        window.watched = entry;
        return entry.getBoundingClientRect().top;
      })()`);
      for (const start of [50, 0]) {
        const before = await up(start + 105);
        await page.shows(texts, [...from(start), "hi"]);
        expect(
          Math.abs((await page.run<number>("watched.getBoundingClientRect().top")) - before),
        ).toBeLessThan(1.01);
      }
      await page.shows("$('announcer').textContent", "50 earlier messages");
      // The server has said that there are no more.
      await page.scrolls(-100_000);
      await page.shows(page.earlierRequests, 2);
      await page.shows(page.days.concat(".length"), 1);
      await page.shows(`${texts}.length`, 251);
      expect(page.complaints).toEqual([]);
    });

    test("unread messages are counted in the title and have a line above them; own messages are not counted", async () => {
      await using server = await startServer({ store });
      await using bob = await server.join("bob");
      using page = await joinPage(server, "/client?id=ann", { width: 360, height: 740 });
      for (let i = 0; i < 40; i++) bob.says(`${i}`);
      await page.shows("document.querySelectorAll('.message').length", 40);
      await page.shows("document.title", "lobby · Hubbub");
      await page.shows(page.fromEnd, 0);
      await page.scrolls(-500);
      for (const text of ["a", "b", "c"]) bob.says(text);
      await page.shows("document.title", "(3) lobby · Hubbub");
      await page.shows(`${page.conversation}.slice(-4)`, ["New", "bob: a", "b", "c"]);
      await page.click("#new");
      await page.shows("document.title", "lobby · Hubbub");
      await page.says("mine");
      await page.shows(`${page.conversation}.slice(-1)`, ["me: mine"]);
      await page.shows("document.title", "lobby · Hubbub");
    });

    if (store.keepsEverything)
      test("after the server was killed and restarted, nothing is missing and nothing undecided", async () => {
        using folder = new TempFolder();
        const first = await startServer({ store, cwd: folder.path });
        using page = await joinPage(first);
        await page.run("(Math.random = () => 0.3)()"); // tries again after 0.3, 0.6, 1.2, … s
        await page.says("before");
        await page.shows(page.pending, 0);
        await first.stop("SIGKILL");
        await page.shows(page.state, "reconnecting");
        await page.says("meanwhile");
        await using second = await startServer({
          store,
          cwd: folder.path,
          args: ["--port", `${first.port}`],
        });
        await using bob = await second.join("bob", { history: 1 });
        await bob.hears("Client #ann says: before", "Client #ann says: meanwhile");
        await page.shows(page.pending, 0);
        await page.shows(page.texts, ["before", "meanwhile"]);
        await page.shows("document.querySelectorAll('.gap, .state').length", 0);
      });
  });
