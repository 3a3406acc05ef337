/** Which store there is for which URL. */

import { MemoryStore } from "./memory.ts";
import type { Follow, Store } from "./store.ts";

type Make = (url: URL, maxEntries: number, follow: Follow) => Store;

/** By the URL's scheme. */
export const stores = new Map<string, Make>([
  ["memory:", (_url, maxEntries, follow) => new MemoryStore(maxEntries, follow)],
]);
