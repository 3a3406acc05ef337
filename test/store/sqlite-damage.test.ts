/** Damage to the SQLite store's files while the server is down: nothing is lost silently, and no garbage is served. */

import { Database } from "bun:sqlite";
import { afterEach, beforeEach, expect, test } from "bun:test";
import { existsSync } from "node:fs";
import { mkdtemp, rm, stat, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestServer, startServer } from "../support/server.ts";
import { randomFrom } from "../support/random.ts";

const COUNT = 60;

let folder = "";
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "hubbub-"));
});
afterEach(() => rm(folder, { recursive: true }));

const file = (name: string) => join(folder, name);
const start = () => startServer({ store: { name: "SQLite", url: "sqlite:chat.db" }, cwd: folder });
const textOf = (i: number) => `${i} `.padEnd(300, "x");

/** Stores messages, each acknowledged, and kills the server. @returns their ids, after the id before them */
async function fill(count = COUNT): Promise<string[]> {
  await using server = await start();
  const ann = await server.joinJson("ann", { session: "s" });
  const ids = [ann.after];
  for (let i = 1; i <= count; i++) {
    ann.says(textOf(i), { seq: i });
    while ((await ann.next()).type !== "message");
    ids.push(ann.after);
  }
  await server.stop("SIGKILL");
  return ids;
}

async function flip(name: string, position: number): Promise<void> {
  const bytes = await Bun.file(file(name)).bytes();
  bytes[position] = (bytes[position] ?? 0) ^ 0x10;
  await Bun.write(file(name), bytes);
}

/** All stored messages, read over HTTP. */
async function read(server: TestServer): Promise<{ id: string; text: string }[]> {
  const response = await server.get("/rooms/lobby/messages?limit=1000");
  return response.ok ? JSON.parse(await response.text()).messages : [];
}

const intact = (ids: string[]) => ids.slice(1).map((id, i) => ({ id, text: textOf(i + 1) }));

/**
 * Either the server does not start, and prints why; or everything it serves was stored, and a client that resumes learns
 * if anything it has not received is missing.
 */
async function startAfterDamage(ids: string[]): Promise<"rejected" | "complete" | "reported"> {
  const started = await start().catch((error: Error) => error.message);
  if (typeof started === "string") {
    expect(started).toMatch(
      /chat\.db (is damaged|cannot be used|is not a database|is a database of another program|was written by a newer)/,
    );
    return "rejected";
  }
  await using server = started;
  const stored = (await read(server)).map(({ id, text }) => ({ id, text }));
  const all = intact(ids);
  for (const message of stored) expect(all).toContainEqual(message);
  for (const [i, after] of ids.entries()) {
    const peer = await server.joinJson("bob", { after }).catch(() => undefined);
    if (!peer) continue; // 503: reported
    if (peer.welcome.recovered) {
      const missed = all.slice(i);
      for (const { id, text } of missed) {
        const event = await peer.next();
        expect({ id: event.id, text: event.text }).toEqual({ id, text });
      }
    } else expect(stored.length).toBeLessThan(all.length);
    peer.peer.vanishes();
  }
  return stored.length === all.length ? "complete" : "reported";
}

test("a flipped byte anywhere in the write-ahead log", async () => {
  const random = randomFrom(1);
  for (let round = 0; round < 6; round++) {
    const ids = await fill(20);
    const { size } = await stat(file("chat.db-wal"));
    await flip("chat.db-wal", Math.floor(random() * size));
    expect(await startAfterDamage(ids)).not.toBe("rejected");
    for (const name of ["chat.db", "chat.db-wal", "chat.db-newest"]) await rm(file(name), { force: true });
  }
});

test("a write-ahead log that is damaged in its first half, cut in half, emptied or removed", async () => {
  const damages = [
    async (size: number) => flip("chat.db-wal", Math.floor(size / 4)),
    async (size: number) => truncate(file("chat.db-wal"), Math.floor(size / 2)),
    async () => truncate(file("chat.db-wal"), 0),
    async () => rm(file("chat.db-wal")),
  ];
  for (const damage of damages) {
    const ids = await fill(20);
    await damage((await stat(file("chat.db-wal"))).size);
    expect(await startAfterDamage(ids)).toBe("reported");
    await using server = await start();
    const ann = await server.joinJson("ann", { session: "s" });
    ann.says("new", { seq: 1000 });
    for (;;) {
      const { type, id } = await ann.next();
      if (type !== "ack") continue;
      expect(Number(String(id).split("-")[0])).toBeGreaterThanOrEqual(Number(ids.at(-1)?.split("-")[0]));
      break;
    }
    for (const name of ["chat.db", "chat.db-wal", "chat.db-newest"]) await rm(file(name), { force: true });
  }
});

test("missing messages are reported at the start", async () => {
  await fill();
  await rm(file("chat.db-wal"));
  await using server = await start();
  expect(server.greeting).toMatch(
    / \(messages are missing: \d+-\d+ had been stored, and the newest in the file is \d+-\d+\)/,
  );
});

test("nothing is reported for a complete file after kill -9", async () => {
  const ids = await fill();
  expect(await startAfterDamage(ids)).toBe("complete");
  await using server = await start();
  expect(server.greeting).not.toContain("missing");
  expect(await read(server)).toHaveLength(COUNT);
});

/** Starts and shuts down a server, which moves everything to the main file. */
async function settle(): Promise<void> {
  const server = await start();
  await server.get("/readyz"); // its signal handlers are installed
  server.process.kill("SIGTERM");
  await server.process.exited;
  expect(existsSync(file("chat.db-wal"))).toBe(false);
}

test("a message whose content, sender, time or predecessor was changed is not served, and no client resumes across it", async () => {
  for (const change of [
    "content = replace(content, 'x', 'y')",
    "sender = 'eve'",
    "time = time + 1",
    "prev = prev - 1",
  ]) {
    const ids = await fill(20);
    await settle();
    {
      using db = new Database(file("chat.db"));
      db.run(
        `UPDATE messages SET ${change} WHERE id = (SELECT id FROM messages ORDER BY id LIMIT 1 OFFSET 9)`,
      );
    }
    expect(await startAfterDamage(ids)).toBe("reported");
    await using server = await start();
    expect((await read(server)).map(({ id }) => id)).toEqual(ids.filter((_, i) => i > 0 && i !== 10));
    // The text wire replays the rest.
    await using eve = await server.join("eve", { history: 1000 });
    for (let i = 1; i <= 20; i++) if (i !== 10) await eve.hears(`Client #ann says: ${textOf(i)}`);
    await eve.hearsNothing();
    await using bob = await server.joinJson("bob", { after: ids[11] ?? "" });
    expect(bob.welcome.recovered).toBe(true);
    await server.stop();
    for (const name of ["chat.db", "chat.db-wal", "chat.db-newest"]) await rm(file(name), { force: true });
  }
});

test("a message missing in the middle", async () => {
  const ids = await fill();
  await settle();
  {
    using db = new Database(file("chat.db"));
    db.run("DELETE FROM messages WHERE id = (SELECT id FROM messages ORDER BY id LIMIT 1 OFFSET 9)");
  }
  expect(await startAfterDamage(ids)).toBe("reported");
});

test("a session whose seq was changed acknowledges nothing that is not stored", async () => {
  await fill(3);
  await settle();
  {
    using db = new Database(file("chat.db"));
    db.run("UPDATE sessions SET seq = 1000");
  }
  await using server = await start();
  await using ann = await server.joinJson("ann", { session: "s", history: 0 });
  expect(ann.welcome.sent).toBe(null);
  ann.says("new", { seq: 4 });
  await ann.hears({ type: "ack", seq: 4 }, { type: "message", from: "ann", text: "new" });
});

test("a main file with flipped bytes, or truncated", async () => {
  const random = randomFrom(7);
  const ids = await fill(20);
  await settle();
  const bytes = await Bun.file(file("chat.db")).bytes();
  const results = [];
  for (let round = 0; round < 25; round++) {
    await rm(file("chat.db-wal"), { force: true });
    await Bun.write(file("chat.db"), bytes);
    await flip("chat.db", Math.floor(random() * bytes.length));
    results.push(await startAfterDamage(ids));
  }
  for (const size of [bytes.length - 4096, Math.floor(bytes.length / 2), 4096, 100, 0]) {
    await rm(file("chat.db-wal"), { force: true });
    await Bun.write(file("chat.db"), bytes);
    await truncate(file("chat.db"), size);
    results.push(await startAfterDamage(ids));
  }
  expect(new Set(results.slice(-5))).not.toContain("complete");
});
