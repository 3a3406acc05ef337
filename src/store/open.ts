/** Which store there is for which URL. All but the default are loaded only where they are asked for. */

import { MemoryStore } from "./memory.ts";
import { REDIS_SCHEMES, parseRedisUrl } from "./redis/config.ts";
import type { Backend, StoreListener, StoreOptions } from "./store.ts";

type Make = (options: StoreOptions, listener: StoreListener) => Backend;

/** Undefined if the URL says something that this store does not know. */
type Prepare = (url: URL) => (() => Promise<Make>) | undefined;

/** By the URL's scheme. */
export const storeFactories = new Map<string, Prepare>([
  [
    "memory:",
    () =>
      async () =>
      ({ history }, { onMessage }) => ({ store: new MemoryStore(history, onMessage) }),
  ],
  [
    "sqlite:",
    (url) => {
      const file = fileOf(url);
      if (file === undefined) return undefined;
      return async () => {
        const { SqliteStore } = await import("./sqlite/store.ts");
        return (options, { onMessage }) => ({ store: new SqliteStore(file, options, onMessage) });
      };
    },
  ],
]);

for (const scheme of REDIS_SCHEMES)
  storeFactories.set(scheme, (url) => {
    const address = parseRedisUrl(url);
    return (
      address &&
      (async () => {
        const { RedisStore } = await import("./redis/store.ts");
        return (options, listener) => {
          const store = new RedisStore(address, options, listener);
          return { store, cluster: store.cluster };
        };
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
