/** What is acknowledged is heard exactly once by everyone, in one order: ten seeds of cut connections and a bad store. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { runFaults, type Counts } from "./faults.ts";
import { startHubbub } from "./hubbub.ts";

setDefaultTimeout(120_000);

for (let seed = 1; seed <= 10; seed++) {
  const history = seed % 2 ? 100_000 : 20;
  const late = seed > 3;
  const perClient = late ? 60 : 600;
  test(`seed ${seed}: ${late ? "a store that is late and refuses" : "the memory store"}, a history of ${history}`, async () => {
    const store = late
      ? { url: `late:?delay=8&refuse=0.05&seed=${seed}`, preload: "late-store.ts" }
      : { url: "memory:" };
    await using hub = await startHubbub({ store, args: ["--history", `${history}`] });
    const counts = await runFaults(hub, {
      seed,
      rooms: ["tea", "coffee"],
      clientsPerRoom: 8,
      messagesPerClient: perClient,
    });
    console.log(`seed ${seed}: ${show(counts)}`);
    expect(counts.acknowledged).toBe(2 * 8 * perClient);
    expect(counts.cuts).toBeGreaterThan(10);
    expect(counts.recovered + counts.notRecovered).toBeGreaterThan(10);
    if (late) expect(counts.refused).toBeGreaterThan(20);
    if (history > 1000) expect(counts.notRecovered).toBe(0);
    else expect(counts.notRecovered).toBeGreaterThan(0);
  });
}

function show(counts: Counts): string {
  return Object.entries(counts)
    .map(([what, count]) => `${count} ${what.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`)
    .join(", ");
}
