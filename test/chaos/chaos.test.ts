/** Every acknowledged message is delivered exactly once, in one order, while connections, stores and servers fail. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { singleServer, runChaos, runSqliteKills, runRedisChaos, show } from "./chaos.ts";
import { skipped } from "../support/redis.ts";

setDefaultTimeout(120_000);

/** `bun test/chaos/chaos.ts` runs longer ones. */
const QUICK = { messagesPerClient: 150, maxFaults: 10 };

for (let seed = 1; seed <= 10; seed++) {
  const history = seed % 2 ? 100_000 : 20;
  const late = seed > 3;
  const perClient = late ? 60 : 300;
  test(`seed ${seed}: ${late ? "a store that delays and rejects" : "the memory store"}, a history of ${history}`, async () => {
    const store = late
      ? {
          name: "a delayed store",
          url: `delayed:?delay=8&reject=0.05&seed=${seed}`,
          preload: "delayed-store.ts",
        }
      : { name: "memory", url: "memory:" };
    const counts = await runChaos(() => singleServer({ store, args: ["--history", `${history}`] }), {
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

for (const seed of [11, 12])
  test.concurrent(`seed ${seed}: SQLite, and a server that is killed again and again`, async () => {
    const counts = await runSqliteKills(seed, QUICK);
    console.log(`seed ${seed}: ${show(counts)}`);
    expect(counts).toMatchObject({ acknowledged: 2 * 8 * QUICK.messagesPerClient, notRecovered: 0 });
    expect(counts.kills).toBeGreaterThan(0);
  });

for (const seed of [13, 14])
  test.concurrent.skipIf(skipped !== "")(
    `seed ${seed}: Redis and two nodes, all killed, frozen and cut${skipped}`,
    async () => {
      const counts = await runRedisChaos(seed, QUICK);
      console.log(`seed ${seed}: ${show(counts)}`);
      expect(counts).toMatchObject({ acknowledged: 2 * 8 * QUICK.messagesPerClient, notRecovered: 0 });
    },
  );
