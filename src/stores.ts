/** Which store there is for which URL. */

import { MemoryStore } from "./memory.ts";
import { REDIS_SCHEMES, redisAddress } from "./redis-address.ts";
import { RedisStore } from "./redis.ts";
import { fileOf } from "./sqlite-file.ts";
import { SqliteStore } from "./sqlite.ts";
import type { Follower, Store, StoreOptions } from "./store.ts";

/** Undefined if the URL says something that this store does not know. */
type Prepare = (url: URL) => ((options: StoreOptions, follower: Follower) => Store) | undefined;

/** By the URL's scheme. */
export const stores = new Map<string, Prepare>([
  [
    "memory:",
    () =>
      ({ history }, { said }) =>
        new MemoryStore(history, said),
  ],
  [
    "sqlite:",
    (url) => {
      const file = fileOf(url);
      return file === undefined ? undefined : (options, { said }) => new SqliteStore(file, options, said);
    },
  ],
]);

for (const scheme of REDIS_SCHEMES)
  stores.set(scheme, (url) => {
    const address = redisAddress(url);
    return address && ((options, follower) => new RedisStore(address, options, follower));
  });
