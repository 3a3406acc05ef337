/** Every acknowledged message is delivered exactly once, in one order, while connections, stores and servers fail. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { singleServer, runChaos, runClusterChaos, runSqliteKills, show } from "./chaos.ts";
import { skipped as withoutPostgres } from "../support/postgres.ts";
import { skipped as withoutRedis } from "../support/redis.ts";

setDefaultTimeout(600_000);

/** `bun test/chaos/chaos.ts` runs longer ones, and test/simulator many more. */
const QUICK = { messagesPerClient: 50, maxFaults: 4 };
const CLIENTS = 2 * 8;

const SETUPS = [
  { seed: 1, store: { name: "memory", url: "memory:" }, history: 20, messagesPerClient: 75, rejects: false },
  {
    seed: 2,
    store: {
      name: "a delayed store",
      url: "delayed:?delay=8&reject=0.05&seed=2",
      preload: "delayed-store.ts",
    },
    history: 100_000,
    messagesPerClient: 60,
    rejects: true,
  },
] as const;

for (const { seed, store, history, messagesPerClient, rejects } of SETUPS)
  test(`seed ${seed}: ${store.name}, a history of ${history}`, async () => {
    const counts = await runChaos(() => singleServer({ store, args: ["--history", `${history}`] }), {
      seed,
      rooms: ["tea", "coffee"],
      clientsPerRoom: 8,
      messagesPerClient,
    });
    console.log(`seed ${seed}: ${show(counts)}`);
    expect(counts.acknowledged).toBe(CLIENTS * messagesPerClient);
    expect(counts.cuts).toBeGreaterThan(0);
    expect(counts.recovered + counts.notRecovered).toBeGreaterThan(0);
    if (rejects) expect(counts.refused).toBeGreaterThan(20);
    if (history > 1000) expect(counts.notRecovered).toBe(0);
    else expect(counts.notRecovered).toBeGreaterThan(0);
  });

test.concurrent("seed 3: SQLite, and a server that is killed again and again", async () => {
  const counts = await runSqliteKills(3, QUICK);
  console.log(`seed 3: ${show(counts)}`);
  expect(counts).toMatchObject({ acknowledged: CLIENTS * QUICK.messagesPerClient, notRecovered: 0 });
  expect(counts.kills).toBeGreaterThan(0);
});

for (const [seed, name, store, skipped] of [
  [4, "Redis", "redis", withoutRedis],
  [5, "Postgres", "postgres", withoutPostgres],
] as const)
  test.concurrent.skipIf(skipped !== "")(
    `seed ${seed}: ${name} and two nodes, all killed, frozen and cut${skipped}`,
    async () => {
      const counts = await runClusterChaos(store, seed, QUICK);
      console.log(`seed ${seed}: ${show(counts)}`);
      expect(counts).toMatchObject({ acknowledged: CLIENTS * QUICK.messagesPerClient, notRecovered: 0 });
    },
  );
