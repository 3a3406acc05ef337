/** A slow consumer is closed so that it resumes; no message is skipped, and others are not affected. */

import { expect, test } from "bun:test";
import { startServer } from "../support/server.ts";

test("a slow reader is closed with 1013, and resumes without a gap", async () => {
  await using server = await startServer({ args: ["--history", "1000"] });
  await using ann = await server.joinJson("ann", { session: "s" });
  await using bob = await server.joinJson("bob");
  await using slow = await server.joinJson("slow");
  await using text = await server.join("text");
  slow.peer.pauses();
  text.pauses();
  const texts = Array.from({ length: 300 }, (_, i) => `${i} `.padEnd(32_768, "x"));
  for (const [i, text] of texts.entries()) await ann.saysAndHears(text, { seq: i + 1 });
  for (const text of texts) await bob.hears({ type: "message", from: "ann", text });
  await Bun.sleep(5000); // a slow reader reads its close frame late

  slow.peer.resumes();
  text.resumes();
  const closed = { code: 1013, reason: "Reading too slowly. Reconnect and resume." };
  expect(await slow.peer.closes()).toEqual(closed);
  expect(await text.closes()).toEqual(closed);

  let received = 0;
  for (const event of slow.peer.unread()) {
    const { type, text, id } = JSON.parse(String(event));
    if (type !== "message") continue;
    expect(text).toBe(texts[received++] ?? "");
    slow.after = id;
  }
  expect(received).toBeGreaterThan(0);
  expect(received).toBeLessThan(texts.length);
  await using back = await server.joinJson("slow", { after: slow.after });
  expect(back.welcome.recovered).toBe(true);
  for (const text of texts.slice(received)) await back.hears({ type: "message", from: "ann", text });
  await back.hearsNothing();
});

test("a replay that the history outruns is closed with 1013, and the next welcome says that messages are missing", async () => {
  await using server = await startServer({ args: ["--history", "200"] });
  await using ann = await server.joinJson("ann", { session: "s" });
  await using eve = await server.join("eve");
  while (!String((await ann.nextPresence()).joined).includes("eve"));
  let seq = 0;
  const say = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const text = `${++seq} `.padEnd(65_536, "x");
      await ann.saysAndHears(text, { seq });
    }
  };
  await say(200);
  const start = String(ann.welcome.last);
  await using slow = await server.joinJson("slow", { after: start });
  expect(slow.welcome.recovered).toBe(true);
  slow.peer.pauses();
  await eve.leaves();
  while (!String((await ann.nextPresence()).left).includes("eve"));
  await say(200);
  slow.peer.resumes();
  let received = 0;
  let left: unknown[] = [];
  for (const done = slow.peer.closes(); ;) {
    const event = await Promise.race([slow.peer.next().catch(() => undefined), done.then(() => undefined)]);
    if (event === undefined) break;
    const { type, text, id, left: gone } = JSON.parse(String(event));
    if (type === "presence") left = left.concat(gone);
    if (type !== "message") continue;
    expect(text).toBe(`${++received} `.padEnd(65_536, "x"));
    slow.after = id;
  }
  expect((await slow.peer.closes()).code).toBe(1013);
  expect(left).toEqual(["eve"]);
  await using back = await server.joinJson("slow", { after: slow.after });
  expect(back.welcome.recovered).toBe(false);
});

test("at thousands of messages a second the others receive all in order, and the server buffers little for the slow one", async () => {
  await using server = await startServer();
  await using ann = await server.join("ann");
  await using bob = await server.joinJson("bob");
  await using slow = await server.join("slow");
  slow.pauses();
  const before = await residentMiB(server.process.pid);
  const count = 20_000;
  const text = "x".repeat(1024);
  let isClosed = false;
  for (let i = 0; i < count; i++) {
    ann.says(`${i} ${text}`);
    if (i % 200 !== 199) continue;
    await ann.hearsUpTo(`Client #ann says: ${i} ${text}`);
    if (isClosed) continue;
    isClosed = (await server.metrics()).get('hubbub_disconnects_total{code="1013"}') === 1;
    if (isClosed) slow.resumes(); // it has 12 s to read its close frame, see serve.ts
  }
  for (let i = 0; i < count; i++) await bob.hears({ type: "message", from: "ann", text: `${i} ${text}` });
  // More than 10 MB were broadcast since it stopped reading; it was closed long before.
  expect((await residentMiB(server.process.pid)) - before).toBeLessThan(64);
  expect((await slow.closes()).code).toBe(1013);
});

/** Resident memory of a process, in MiB. */
async function residentMiB(pid: number): Promise<number> {
  const status = await Bun.file(`/proc/${pid}/status`).text();
  return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]) / 1024;
}
