/** Which store there is for which URL. All but the default are loaded only where they are asked for. */

import { MemoryStore } from "./memory.ts";
import { REDIS_SCHEMES, redisAddress } from "./redis/config.ts";
import type { Follower, Store, StoreOptions } from "./store.ts";

type Make = (options: StoreOptions, follower: Follower) => Store;

/** Undefined if the URL says something that this store does not know. */
type Prepare = (url: URL) => (() => Promise<Make>) | undefined;

/** By the URL's scheme. */
export const stores = new Map<string, Prepare>([
  [
    "memory:",
    () =>
      async () =>
      ({ history }, { said }) =>
        new MemoryStore(history, said),
  ],
  [
    "sqlite:",
    (url) => {
      const file = fileOf(url);
      if (file === undefined) return undefined;
      return async () => {
        const { SqliteStore } = await import("./sqlite/store.ts");
        return (options, { said }) => new SqliteStore(file, options, said);
      };
    },
  ],
]);

for (const scheme of REDIS_SCHEMES)
  stores.set(scheme, (url) => {
    const address = redisAddress(url);
    return (
      address &&
      (async () => {
        const { RedisStore } = await import("./redis/store.ts");
        return (options, follower) => new RedisStore(address, options, follower);
      })
    );
  });

/** The file that `sqlite:FILE` names, if it names one. */
function fileOf({ pathname, search, hash }: URL): string | undefined {
  try {
    return search || hash ? undefined : decodeURIComponent(pathname) || undefined;
  } catch {
    return undefined;
  }
}
