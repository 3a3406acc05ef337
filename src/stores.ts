/** Which store there is for which URL. */

import { MemoryStore } from "./memory.ts";
import { fileOf } from "./sqlite-file.ts";
import { SqliteStore } from "./sqlite.ts";
import type { Follow, Store, StoreOptions } from "./store.ts";

type Make = (url: URL, options: StoreOptions, follow: Follow) => Store;

/** By the URL's scheme. */
export const stores = new Map<string, Make>([
  ["memory:", (_url, { history }, follow) => new MemoryStore(history, follow)],
  ["sqlite:", (url, options, follow) => new SqliteStore(fileOf(url) ?? "", options, follow)],
]);
