/** The URL of a Redis, checks whether it can be used, and what its configuration says about durability. */

import { EngineRejection } from "../shared-log/engine.ts";
import type { RedisConnection } from "./connection.ts";
import { StoreError } from "../store.ts";

export const REDIS_SCHEMES = ["redis:", "rediss:", "valkey:", "valkeys:"];
const DEFAULT_PORT = "6379";
const MIN_VERSION = 6;

export interface RedisConfig {
  /** For Bun's client, password included. */
  readonly url: string;
  /** Of all keys, with its colon. */
  readonly prefix: string;
  /** Host and port, for messages. */
  readonly name: string;
}

/** `redis://USER:PASSWORD@HOST:PORT/DATABASE?prefix=NAME`; only the host is required. @returns undefined for any other URL */
export function parseRedisUrl(url: URL): RedisConfig | undefined {
  const { href, hostname, port, pathname, searchParams, hash } = url;
  const { prefix = "hubbub", ...others } = Object.fromEntries(searchParams);
  const isValid = hostname && /^\/?\d{0,5}$/.test(pathname) && /^[\w.:-]{1,64}$/.test(prefix) && !hash;
  if (!isValid || Object.keys(others).length > 0) return undefined;
  return {
    url: href.replace(/\?.*/s, ""),
    prefix: `${prefix}:`,
    name: `${hostname}:${port || DEFAULT_PORT}`,
  };
}

/** @throws StoreError if it cannot be reached or used */
export async function verifyRedis(connection: RedisConnection, { name, url }: RedisConfig): Promise<void> {
  const fail = (what: string): never => {
    throw new StoreError(`Redis at ${name} ${what}`);
  };
  let info: Map<string, string>;
  try {
    info = await readInfo(connection);
  } catch (error) {
    if (error instanceof EngineRejection)
      return fail(`rejects the INFO command (${error.message}): allow it.`);
    return fail(
      (await canConnect(url))
        ? "rejected the connection: check the password, the database, and whether it needs rediss: (TLS)."
        : "cannot be reached: start it, or choose another with --store.",
    );
  }
  if (info.get("loading") === "1") fail("is still loading its data: try again in a moment.");
  const version = info.get("valkey_version") ?? info.get("redis_version") ?? "";
  const policy = info.get("maxmemory_policy");
  if (Number.parseInt(version) < MIN_VERSION)
    fail(`is version ${version}: version ${MIN_VERSION} or later is required.`);
  if (info.get("cluster_enabled") === "1")
    fail("is part of a Redis Cluster, which is not supported: choose a single primary.");
  if (info.get("role") !== "master") fail("is a replica: choose its primary with --store.");
  if (policy !== "noeviction")
    fail(`evicts keys when it is full (maxmemory-policy ${policy}): set noeviction.`);
}

const DURABILITY = new Map([
  ["always", "which syncs every message to disk before it is acknowledged (appendfsync always)"],
  ["everysec", "which may lose the last second of messages in a crash (appendfsync everysec)"],
  ["no", "which may lose the last half minute of messages if its machine crashes (appendfsync no)"],
]);

/** @returns the end of the sentence "messages are stored …" */
export async function describeDurability(connection: RedisConnection, name: string): Promise<string> {
  const describe = async () => {
    if ((await readInfo(connection)).get("aof_enabled") === "1") {
      const fsync = (await readSetting(connection, "appendfsync")) ?? "";
      return DURABILITY.get(fsync) ?? "which does not say how often it syncs its append-only file";
    }
    return (await readSetting(connection, "save")) === ""
      ? "which loses all messages when it stops (appendonly no, no snapshots)"
      : "which loses the messages since its last snapshot in a crash (appendonly no)";
  };
  return `in Redis at ${name}, ${await describe()}`;
}

async function readInfo(connection: RedisConnection): Promise<Map<string, string>> {
  const lines = String(await connection.send("INFO", [])).matchAll(/^(\w+):(.*)$/gm);
  return new Map(lines.map(([, name = "", value = ""]) => [name, value]));
}

/** @returns undefined if this user may not read it */
async function readSetting(connection: RedisConnection, name: string): Promise<string | undefined> {
  const reply = await connection.send("CONFIG", ["GET", name]).catch(() => undefined);
  const value: unknown = typeof reply === "object" && reply !== null ? Reflect.get(reply, name) : undefined;
  return typeof value === "string" ? value : undefined;
}

async function canConnect(url: string): Promise<boolean> {
  const { hostname, port } = new URL(url);
  const address = { hostname: hostname.replace(/^\[|\]$/g, ""), port: Number(port || DEFAULT_PORT) };
  return Bun.connect({ ...address, socket: { data() {} } }).then(
    (socket) => (socket.end(), true),
    () => false,
  );
}
