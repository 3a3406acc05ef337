/** The entry point of the server in tests: a module may run before it, to inject a fault, a store or a clock. */

/** They share the server's modules. */
const PRELOADS = new Map<string | undefined, () => Promise<unknown>>([
  ["break-redis.ts", () => import("./break-redis.ts")],
  ["break-shutdown.ts", () => import("./break-shutdown.ts")],
  ["clock.ts", () => import("./clock.ts")],
  ["delayed-store.ts", () => import("./delayed-store.ts")],
  ["fast-shared-log.ts", () => import("./fast-shared-log.ts")],
  ["fault-injection.ts", () => import("./fault-injection.ts")],
  ["losing-store.ts", () => import("./losing-store.ts")],
]);

const { TEST_PRELOAD } = process.env;
if (TEST_PRELOAD !== undefined) {
  const preload = PRELOADS.get(TEST_PRELOAD);
  if (!preload) throw new Error(`${TEST_PRELOAD} is not in PRELOADS`);
  await preload();
}
await import("../../src/server.ts");
