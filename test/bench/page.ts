/**
 * `bun run test/bench/page.ts`: what the page costs with 5,000 messages in its list, and how long a photo of 8 MB takes to
 * another tab. In time of the main thread's CPU, which another program's load affects little, and per frame.
 */

import { openPage, type Page } from "../support/browser.ts";
import { photo } from "../support/images.ts";
import { startServer } from "../support/server.ts";

const MESSAGES = 5_000;
const REPEATS = 10;
const FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))";

const server = await startServer();
using ann = await openPage(server, "/client?id=ann");
using bob = await openPage(server, "/client?id=bob");
for (const page of [ann, bob]) await page.shows(page.busy, "false");
await photoToAnotherTab();
await fill(ann);
await ann.run("messageText.focus()");
await measure("a key", (key) =>
  ann.cdp("Input.dispatchKeyEvent", { type: "keyDown", key: "x", text: "x", code: key }),
);
await measure("a composer that grows or shrinks", () =>
  ann.run("(messageText.value = messageText.value === '' ? 'one\\ntwo\\nthree' : '', 0)"),
);
await measure("a message that arrives", (id) =>
  ann.receives({ type: "message", id: `2-${id}`, time: 0, from: "bob", text: id }),
);
await ann.run("(scroller.scrollTop -= 5_000, 0)");
await measure("one that arrives while reading further up", (id) =>
  ann.receives({ type: "message", id: `3-${id}`, time: 0, from: "bob", text: id }),
);
await measure("scrolling by a page", () => ann.run("(scroller.scrollTop -= 700, 0)"));
await server[Symbol.asyncDispose]();
process.exit(); // or the browser stays

async function fill(page: Page): Promise<void> {
  await page.receives(
    ...Array.from({ length: MESSAGES }, (_, i) => ({
      type: "message",
      id: `1-${i}`,
      time: Date.now() - (MESSAGES - i) * 20_000,
      from: `client${Math.floor(i / 3) % 40}`,
      text: `message ${i} ${"word ".repeat(i % 40)}`,
    })),
  );
  await page.shows(`document.querySelectorAll(".message").length >= ${MESSAGES}`, true);
  await page.cdp("Performance.enable", { timeDomain: "threadTicks" });
}

async function measure(what: string, act: (key: string) => Promise<unknown>): Promise<void> {
  const before = await counters();
  for (let i = 0; i < REPEATS; i++) {
    await act(`${i}`);
    await ann.run(FRAME);
  }
  const after = await counters();
  const spent = ["TaskDuration", "ScriptDuration", "RecalcStyleDuration", "LayoutDuration"].map((name) => {
    const ms = (((after.get(name) ?? 0) - (before.get(name) ?? 0)) * 1000) / REPEATS;
    return `${name.replace("Duration", "").toLowerCase()} ${ms.toFixed(1)} ms`;
  });
  console.log(`${what}: ${spent.join(", ")}`);
}

async function counters(): Promise<Map<string, number>> {
  const { metrics } = await ann.cdp<{ metrics: { name: string; value: number }[] }>("Performance.getMetrics");
  return new Map(metrics.map(({ name, value }) => [name, value]));
}

async function photoToAnotherTab(): Promise<void> {
  const bytes = await ann.run<number>(`${photo(6_000, 4_000)}.then((file) => (window.file = file).size)`);
  for (const page of [ann, bob])
    await page.run(
      "(window.long = [], new PerformanceObserver((list) => long.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: 'longtask' }), 0)",
    );
  const start = performance.now();
  await ann.run(`(() => {
    const data = new DataTransfer();
    data.items.add(file);
    $("log").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    composer.requestSubmit();
  })()`);
  await bob.shows("document.querySelector('.bubble img')?.naturalWidth", 1_600);
  const seconds = ((performance.now() - start) / 1000).toFixed(2);
  const longest = Math.max(0, ...(await ann.run<number[]>("long")), ...(await bob.run<number[]>("long")));
  console.log(
    `a photo of ${(bytes / 1e6).toFixed(1)} MB: ${seconds} s, longest task over 50 ms: ${longest} ms`,
  );
}
