/** Which store a `--store` URL selects. All but the default are loaded on demand. */

import type { Clock } from "../util/clock.ts";
import type { Random } from "../util/random.ts";
import type { StoreArchive } from "./archive.ts";
import { MemoryStore } from "./memory.ts";
import { POSTGRES_SCHEMES, parsePostgresUrl } from "./postgres/config.ts";
import { REDIS_SCHEMES, parseRedisUrl } from "./redis/config.ts";
import type { Engine } from "./shared-log/engine.ts";
import { sharedLogTiming, type SharedLogContext } from "./shared-log/timing.ts";
import { StoreError, type Backend, type StoreListener, type StoreOptions } from "./store.ts";

type CreateBackend = (
  options: StoreOptions,
  listener: StoreListener,
  clock: Clock,
  random: Random,
) => Backend;
type LoadStore = () => Promise<CreateBackend>;

/** By the URL's scheme. A factory returns undefined for a URL that it does not understand. */
export const storeFactories = new Map<string, (url: URL) => LoadStore | undefined>([
  ["memory:", () => async () => createMemoryStore],
  ["sqlite:", loadSqliteStore],
  ...REDIS_SCHEMES.map((scheme) => [scheme, loadRedisStore] as const),
  ...POSTGRES_SCHEMES.map((scheme) => [scheme, loadPostgresStore] as const),
]);

/** Whether `--store` accepts the URL. */
export function isStoreUrl(url: URL): boolean {
  return storeFactories.get(url.protocol)?.(url) !== undefined;
}

/** @throws Error if {@link isStoreUrl} rejects the URL */
export async function loadStore(url: URL): Promise<CreateBackend> {
  const load = storeFactories.get(url.protocol)?.(url);
  if (!load) throw new Error(`no such store: ${url.protocol}`);
  return load();
}

/**
 * For export and import.
 * @param history messages per room that a store retains, if it does not retain all
 * @throws StoreError for a store that does not outlive its server
 */
export async function loadArchive(
  url: URL,
  history: number,
  clock: Clock,
  random: Random,
): Promise<StoreArchive> {
  const file = url.protocol === "sqlite:" ? sqliteFile(url) : undefined;
  if (file !== undefined) {
    const { sqliteArchive } = await import("./sqlite/archive.ts");
    return sqliteArchive(file, clock, random);
  }
  const postgres = POSTGRES_SCHEMES.includes(url.protocol) ? parsePostgresUrl(url) : undefined;
  if (postgres) {
    const { postgresArchive } = await import("./postgres/archive.ts");
    return postgresArchive(postgres, clock);
  }
  const config = parseRedisUrl(url);
  if (config && REDIS_SCHEMES.includes(url.protocol)) {
    const { redisArchive } = await import("./redis/archive.ts");
    return redisArchive(config, history, clock, random);
  }
  throw new StoreError(`${url.protocol} cannot be exported or imported.`);
}

const createMemoryStore: CreateBackend = ({ history }, { onEntry }, clock, random) => ({
  store: new MemoryStore(history, onEntry, clock, random),
});

function loadSqliteStore(url: URL): LoadStore | undefined {
  const file = sqliteFile(url);
  if (file === undefined) return undefined;
  return async () => {
    const { SqliteStore } = await import("./sqlite/store.ts");
    return (options, { onEntry }, clock, random) => ({
      store: new SqliteStore(file, options, onEntry, clock, random),
    });
  };
}

/** `sqlite:FILE`, where FILE is percent-encoded. */
function sqliteFile({ pathname, search, hash }: URL): string | undefined {
  try {
    return search || hash ? undefined : decodeURIComponent(pathname) || undefined;
  } catch {
    return undefined;
  }
}

function loadRedisStore(url: URL): LoadStore | undefined {
  const config = parseRedisUrl(url);
  if (!config) return undefined;
  return async () => {
    const { RedisEngine } = await import("./redis/engine.ts");
    return sharedLog((options, context) => new RedisEngine(config, options, context));
  };
}

function loadPostgresStore(url: URL): LoadStore | undefined {
  const config = parsePostgresUrl(url);
  if (!config) return undefined;
  return async () => {
    const { PostgresEngine } = await import("./postgres/engine.ts");
    return sharedLog((options, context) => new PostgresEngine(config, options, context));
  };
}

async function sharedLog(
  createEngine: (options: StoreOptions, context: SharedLogContext) => Engine,
): Promise<CreateBackend> {
  const { SharedLogStore } = await import("./shared-log/store.ts");
  return (options, listener, clock, random) => {
    const context = { clock, random, timing: sharedLogTiming };
    const store = new SharedLogStore(createEngine(options, context), options, listener, context);
    return { store, cluster: store };
  };
}
