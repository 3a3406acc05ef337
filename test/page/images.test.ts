/** Pictures and other files: into the composer, to the others, and enlarged. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { LOCAL_NAME, joinPage, openPage, skipped, type Look, type Page } from "../support/browser.ts";
import { file, photo } from "../support/images.ts";
import { startServer } from "../support/server.ts";
import { newRoom, sharedServer } from "../support/shared-server.ts";

setDefaultTimeout(240_000);

const MAX_BYTES = 65_536;

type Way = "paste" | "drop" | "pick";

/** Gives files to the page as the browser does for one of the user's ways. */
async function gives(page: Page, way: Way, ...files: readonly string[]): Promise<void> {
  const event = {
    paste: `messageText.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }))`,
    drop: `$("log").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }))`,
    pick: `($("files").files = data.files, $("files").dispatchEvent(new Event("change")))`,
  };
  await page.run(
    `Promise.all([${files.join(", ")}]).then((files) => {
      const data = new DataTransfer();
      for (const file of files) data.items.add(file);
      ${event[way]};
    })`,
  );
}

/** The files in the composer: name, size, and whether there is a picture. */
const TRAY =
  "[...document.querySelectorAll('#attachments li')].map((tile) => [tile.querySelector('bdi').textContent, tile.querySelector('span').textContent, tile.querySelector('img') !== null])";

/** The images of the conversation that are loaded: width and height. */
const IMAGES =
  "[...document.querySelectorAll('.bubble img')].map((image) => image.complete && [image.naturalWidth, image.naturalHeight])";

describe.skipIf(skipped !== "")(`pictures on the page${skipped}`, () => {
  const server = sharedServer({ args: ["--allow-host", LOCAL_NAME] });

  /** Two people: the other's page has an origin of its own. */
  async function openTwo(look: Look = {}, on = server()) {
    const room = newRoom();
    const ann = await openPage(on, `/client?id=ann&room=${room}`, look);
    const bob = await openPage(on, `/client?id=bob&room=${room}`, { ...look, name: "localhost" });
    for (const page of [ann, bob]) await page.shows(page.busy, "false");
    return {
      ann,
      bob,
      room,
      [Symbol.dispose]() {
        ann[Symbol.dispose]();
        bob[Symbol.dispose]();
      },
    };
  }

  for (const way of ["paste", "drop", "pick"] as const)
    test(`a picture is shown before it is sent, and then to the others: ${way}`, async () => {
      using two = await openTwo();
      const { ann, bob } = two;
      await gives(ann, way, photo(640, 480, { type: "image/png", noise: 0 }));
      await ann.shows(`${TRAY}.map(([name, size, hasPicture]) => [name, / KB$/.test(size), hasPicture])`, [
        ["photo.png", true, true],
      ]);
      await ann.shows("document.activeElement.id", "messageText");
      await ann.shows(IMAGES, []);
      await ann.press("Enter");
      await bob.shows(IMAGES, [[640, 480]]);
      await bob.shows("$('announcer').textContent", "ann: Image");
      await ann.shows(`[${TRAY}, $('attachments').hidden, ${ann.pending}]`, [[], true, 0]);
      await ann.shows(IMAGES, [[640, 480]]);
      expect([...ann.complaints, ...bob.complaints]).toEqual([]);
    });

  test("on a LAN address, which is not secure, pictures are shrunk and sent as well", async () => {
    using page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`, { name: LOCAL_NAME });
    expect(await page.run("isSecureContext")).toBe(false);
    await gives(page, "pick", photo(2000, 1000, { noise: 4 }));
    await page.press("Enter");
    await page.shows(`[${IMAGES}, ${page.pending}]`, [[[1600, 800]], 0]);
    expect(page.complaints).toEqual([]);
  });

  test("the button opens the browser's choice of files", async () => {
    using page = await openPage(server(), `/client?room=${newRoom()}`);
    await page.run(
      "(window.opened = 0, $('files').addEventListener('click', (event) => (opened++, event.preventDefault())), 0)",
    );
    await page.click("#attach");
    await page.shows("opened", 1);
  });

  test("copied text stays text, although office programs add a picture of it", async () => {
    using page = await openPage(server(), `/client?room=${newRoom()}`);
    const isDefault = await page.run<boolean>(`${photo(10, 10)}.then((file) => {
      const data = new DataTransfer();
      data.items.add(file);
      data.setData("text/plain", "1\\t2");
      return messageText.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true }));
    })`);
    expect(isDefault).toBe(true);
    await page.shows(TRAY, []);
  });

  test("while files are dragged over the page, it says that they can be dropped", async () => {
    using page = await openPage(server(), `/client?room=${newRoom()}`);
    const drag = (type: string, more = "") =>
      page.run(`(() => {
        const data = new DataTransfer();
        data.items.add(new File(["x"], "x"));
        return $("log").dispatchEvent(new DragEvent("${type}", { dataTransfer: data, bubbles: true, cancelable: true ${more} }));
      })()`);
    expect(await drag("dragover")).toBe(false);
    await page.shows("$('drop').checkVisibility() && $('drop').textContent", "Drop files here to add them");
    await drag("dragleave", ", relatedTarget: document.body");
    await page.shows("$('drop').checkVisibility()", true);
    await drag("dragleave");
    await page.shows("$('drop').checkVisibility()", false);
    await page.run(
      "document.body.dispatchEvent(new DragEvent('dragover', { dataTransfer: new DataTransfer(), bubbles: true }))",
    );
    await page.shows("$('drop').checkVisibility()", false);
  });

  for (const [width, height, noise] of [
    [3000, 2000, 20],
    [1000, 4000, 100],
    [1601, 10, 0],
  ] as const)
    test(`a picture of ${width} × ${height} is shrunk until it fits`, async () => {
      using two = await openTwo();
      const { ann, bob } = two;
      await gives(ann, "paste", photo(width, height, { noise, quality: 1 }));
      await ann.press("Enter");
      await bob.shows(`${IMAGES}.length`, 1);
      await bob.shows(`${IMAGES}[0] !== false`, true);
      const [[shownWidth, shownHeight]] = await bob.run<[[number, number]]>(IMAGES);
      expect(Math.max(shownWidth, shownHeight)).toBeLessThanOrEqual(1600);
      expect(Math.max(shownWidth, shownHeight)).toBeGreaterThanOrEqual(noise > 50 ? 300 : 900);
      expect(Math.abs(shownWidth - (shownHeight * width) / height)).toBeLessThan(
        0.01 * shownWidth + width / height,
      );
    });

  test("a small picture arrives as it is; a JPEG without what the camera wrote, but the right way up", async () => {
    using two = await openTwo();
    const { ann, bob, room } = two;
    await using peer = await server().joinJson("eve", { room });
    const transparent = Uint8Array.fromBase64(
      "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    );
    await gives(ann, "pick", file("dot.png", "image/png", transparent));
    await ann.press("Enter");
    expect(await peer.next()).toMatchObject({ data: transparent.toBase64() });

    // Exif (CIPA DC-008), 4.6: orientation 6 is turned by 90 degrees.
    const tiff = [0x4d, 0x4d, 0, 42, 0, 0, 0, 8, 0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0];
    const exif = [0x45, 0x78, 0x69, 0x66, 0, 0, ...tiff];
    const segment = [0xff, 0xe1, 0, exif.length + 2, ...exif];
    await gives(
      ann,
      "pick",
      `${photo(200, 100)}.then(async (file) => {
        const bytes = new Uint8Array(await file.arrayBuffer());
        return new File([bytes.slice(0, 2), new Uint8Array(${JSON.stringify(segment)}), bytes.slice(2)], "camera.jpg", { type: "image/jpeg" });
      })`,
    );
    await ann.press("Enter");
    await bob.shows(IMAGES, [
      [1, 1],
      [100, 200],
    ]);
    expect(atob(`${(await peer.next()).data}`)).not.toContain("Exif");
  });

  test("several files and a text are sent in their order, each as an ordinary message", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    await ann.run("messageText.focus()");
    await ann.type("look at these");
    await gives(
      ann,
      "drop",
      photo(2000, 1500, { quality: 1 }),
      file("a.zip", "application/zip", new Uint8Array(3000)),
    );
    await ann.press("Enter");
    // Written while the picture is still being shrunk.
    await ann.type("and this");
    await ann.press("Enter");
    await bob.shows(`${bob.texts}.length`, 4);
    await bob.shows(bob.texts, ["", "3 KB · Download", "look at these", "and this"]);
    await ann.shows(ann.pending, 0);
    await ann.shows(ann.texts, ["", "3 KB · Download", "look at these", "and this"]);
    await ann.shows("messageText.value", "");
  });

  test("a file can be taken out of the composer again", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    await gives(ann, "pick", photo(10, 10), file("a.txt", "text/plain", [65]));
    await ann.shows(`${TRAY}.length`, 2);
    await ann.shows("document.querySelector('#attachments button').ariaLabel", "Remove photo.jpeg");
    await ann.click("#attachments button");
    await ann.shows(`${TRAY}.map(([name]) => name)`, ["a.txt"]);
    await ann.shows("document.activeElement.id", "messageText");
    await ann.press("Enter");
    await bob.shows(bob.texts, ["1 B · Download"]);
  });

  test("a file that is too large, or cannot be read, gets a sentence, and nothing else is lost", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    const problem = "$('attachment-problem').checkVisibility() && $('attachment-problem').textContent";
    await ann.run("messageText.focus()");
    await ann.type("a draft");
    await gives(
      ann,
      "pick",
      file("a.txt", "text/plain", [65]),
      `new File([new Uint8Array(5 * 1024 * 1024)], "big.zip")`,
    );
    await ann.shows(problem, "big.zip is too large (5 MB). A message can be up to 64 KB.");
    await ann.shows(`[${TRAY}.map(([name]) => name), messageText.value]`, [["a.txt"], "a draft"]);
    // Not an image, whatever it says: it would go as a file, and is too large for one.
    await gives(
      ann,
      "pick",
      `new File([new Uint8Array(${MAX_BYTES + 1})], "broken.png", { type: "image/png" })`,
    );
    await ann.shows(problem, "broken.png is too large (65 KB). A message can be up to 64 KB.");
    await gives(
      ann,
      "pick",
      `Object.assign(new File(["x"], "folder"), { arrayBuffer: () => Promise.reject(new DOMException("", "NotFoundError")) })`,
    );
    await ann.shows(problem, "folder cannot be read.");
    await ann.shows(`[${TRAY}.map(([name]) => name), messageText.value]`, [["a.txt"], "a draft"]);
    await ann.press("Enter");
    await bob.shows(bob.texts, ["1 B · Download", "a draft"]);
    await ann.shows(problem, false);
  });

  test("the sentence about a file goes with the next message, or when another file is removed", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    const problem = "$('attachment-problem').checkVisibility()";
    const huge = `new File([new Uint8Array(5 * 1024 * 1024)], "big.zip")`;
    await gives(ann, "pick", huge);
    await ann.shows(problem, true);
    await ann.says("without it");
    await bob.shows(bob.texts, ["without it"]);
    await ann.shows(problem, false);
    await gives(ann, "pick", file("a.txt", "text/plain", [65]), huge);
    await ann.shows(problem, true);
    await ann.click("#attachments button");
    await ann.shows(problem, false);
  });

  test("a file of exactly the limit is sent", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    await gives(ann, "pick", `new File([new Uint8Array(${MAX_BYTES})], "a.bin")`);
    await ann.press("Enter");
    await bob.shows(bob.texts, ["64 KB · Download"]);
  });

  test("a picture is shown at once as pending; when it is broadcast, it is still the same", async () => {
    await using own = await startServer();
    using page = await joinPage(own);
    own.freeze();
    await gives(page, "pick", photo(300, 200));
    await page.press("Enter");
    await page.shows(`[${page.progress}, ${IMAGES}]`, ["Sending…", [[300, 200]]]);
    await page.run("(window.before = document.querySelector('.bubble img'), 0)");
    own.thaw();
    await page.shows(`[${page.conversation}, ${page.pending}]`, [["me"], 0]);
    await page.shows("document.querySelector('.bubble img') === before && before.naturalWidth", 300);
  });

  test("written offline, a picture is sent once, also after a reload", async () => {
    await using own = await startServer();
    using page = await joinPage(own);
    await page.losesConnection();
    await gives(page, "pick", photo(300, 200));
    await page.press("Enter");
    await page.shows(`${page.pending}`, 1);
    await page.reload();
    await page.shows(`[${page.state}, ${page.pending}]`, ["open", 0]);
    await page.shows(IMAGES, [[300, 200]]);
    await using bob = await own.joinJson("bob", { history: 10 });
    expect(await bob.next()).toMatchObject({ from: "ann", data: expect.any(String) });
  });

  test("of a picture that may not have been stored, Retry sends the same bytes", async () => {
    const first = await startServer();
    using page = await joinPage(first);
    first.process.kill("SIGSTOP");
    await gives(page, "pick", photo(300, 200));
    await page.press("Enter");
    await page.shows(page.progress, "Sending…");
    await first.stop();
    await using second = await startServer({ args: ["--port", `${first.port}`] });
    await page.isBackOnline();
    await page.shows(`${page.conversation}.slice(-1)`, ["me: Maybe not sent Retry Delete"]);
    await page.reload();
    await page.shows(`[${page.state}, ${page.conversation}, ${IMAGES}]`, [
      "open",
      ["me: Maybe not sent Retry Delete"],
      [[300, 200]],
    ]);
    await using bob = await second.joinJson("bob");
    const stored = await page.run<string>(
      "JSON.parse(sessionStorage['hubbub.outbox.lobby']).undecided[0].data",
    );
    await page.run("document.querySelector('.state button').click()");
    let data: unknown;
    while (data === undefined) ({ data } = await bob.next());
    expect(data).toBe(stored);
  });

  test("a click or the Enter key enlarges a picture; Escape, the button and the backdrop close it", async () => {
    using two = await openTwo();
    const { ann, bob } = two;
    await gives(ann, "pick", photo(1200, 900, { noise: 4 }));
    await ann.press("Enter");
    await bob.shows(IMAGES, [[1200, 900]]);
    const isOpen = "$('viewer').open";
    await bob.click(".image button");
    await bob.shows(`[${isOpen}, $('viewed').naturalWidth, $('viewed').alt]`, [true, 1200, "Image"]);
    await bob.shows("$('viewed').clientWidth > document.querySelector('.bubble img').clientWidth", true);
    await bob.shows(
      "[$('download').textContent, $('download').download, $('download').href === $('viewed').src]",
      ["Download", "hubbub.webp", true],
    );
    await bob.shows("document.activeElement.textContent", "Close");
    await bob.press("Escape");
    await bob.shows(isOpen, false);
    await bob.run("document.querySelector('.image button').focus()");
    await bob.press("Enter");
    await bob.shows(isOpen, true);
    await bob.click("#viewer button");
    await bob.shows(isOpen, false);
    await bob.shows("document.activeElement.title", "Enlarge");
    await bob.press("Enter");
    await bob.shows(isOpen, true);
    const click = { x: 5, y: 5, button: "left", clickCount: 1 };
    for (const type of ["mousePressed", "mouseReleased"])
      await bob.cdp("Input.dispatchMouseEvent", { type, ...click });
    await bob.shows(isOpen, false);
    // Whoever types means the composer.
    await bob.cdp("Input.dispatchKeyEvent", { type: "keyDown", key: "n", text: "n" });
    await bob.shows("[document.activeElement.id, messageText.value]", ["messageText", "n"]);
  });

  for (const [width, height] of [
    [390, 844],
    [1280, 800],
  ] as const)
    test(`at ${width} px, neither a large picture nor its dialog is wider or higher than the window`, async () => {
      using two = await openTwo({ width, height });
      const { ann, bob } = two;
      await gives(ann, "pick", photo(1600, 1000, { noise: 4 }), photo(300, 1500, { noise: 4 }));
      await ann.press("Enter");
      await bob.shows(`${IMAGES}.length`, 2);
      await bob.shows("scroller.scrollWidth <= scroller.clientWidth", true);
      await bob.shows(
        "[...document.querySelectorAll('.bubble img')].every(({ clientWidth, clientHeight, naturalWidth, naturalHeight }) => clientHeight <= 360 && Math.abs(clientWidth / clientHeight - naturalWidth / naturalHeight) < 0.02)",
        true,
      );
      for (const i of [0, 1]) {
        await bob.run(`document.querySelectorAll(".image button")[${i}].click()`);
        await bob.shows(
          "(({ left, right, top, bottom }) => $('viewer').open && left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight)($('viewer').getBoundingClientRect())",
          true,
        );
        await bob.shows("$('viewer').scrollHeight <= $('viewer').clientHeight", true);
        await bob.press("Escape");
        await bob.shows("$('viewer').open", false);
      }
    });

  test("pictures above do not move what is read when they load: their place is reserved", async () => {
    using page = await joinPage(server(), `/client?id=ann&room=${newRoom()}`);
    for (const type of ["image/png", "image/jpeg", "image/webp"]) {
      const data = await page.run<string>(
        `${photo(320, 200, { type })}.then(async (file) => new Uint8Array(await file.arrayBuffer()).toBase64())`,
      );
      await page.receives({ type: "message", id: `1-${data.length}`, time: 1, from: "bob", data });
      // In the same task: nothing has been decoded.
      const [isLoaded, reserved] = await page.run<[boolean, number]>(
        `(() => {
          sockets.at(-1).dispatchEvent(new MessageEvent("message", { data: ${JSON.stringify(JSON.stringify({ type: "message", id: `2-${data.length}`, time: 1, from: "bob", data }))} }));
          const image = [...document.querySelectorAll(".bubble img")].at(-1);
          return [image.complete, image.offsetHeight];
        })()`,
      );
      expect([type, isLoaded, reserved]).toEqual([type, false, 200]);
    }
    await page.shows(`${IMAGES}.every((size) => size && size[0] === 320)`, true);
  });
});
