/** Which Redis: its address, whether it is one that can be used, and what it promises. */

import { RedisReplyError, type RedisConnection } from "./connection.ts";
import { StoreError } from "../store.ts";

export const REDIS_SCHEMES = ["redis:", "rediss:", "valkey:", "valkeys:"];
const DEFAULT_PORT = "6379";
const MIN_VERSION = 6;

export interface RedisConfig {
  /** As Bun's client takes it, with the password in it. */
  readonly url: string;
  /** Of all keys. */
  readonly prefix: string;
  /** For people: no password in it. */
  readonly name: string;
}

/** `redis://USER:PASSWORD@HOST:PORT/DATABASE?prefix=NAME`, most of which may be left out; undefined for anything else. */
export function parseRedisUrl({
  href,
  hostname,
  port,
  pathname,
  searchParams,
  hash,
}: URL): RedisConfig | undefined {
  const { prefix = "hubbub", ...others } = Object.fromEntries(searchParams);
  const isRight = hostname && /^\/?\d{0,5}$/.test(pathname) && /^[\w.:-]{1,64}$/.test(prefix) && !hash;
  if (!isRight || Object.keys(others).length > 0) return undefined;
  return {
    url: href.replace(/\?.*/s, ""),
    prefix: `${prefix}:`,
    name: `${hostname}:${port || DEFAULT_PORT}`,
  };
}

/** @throws StoreError when it cannot be reached or used */
export async function verifyRedis(line: RedisConnection, { name }: RedisConfig): Promise<void> {
  const fail = (what: string): never => {
    throw new StoreError(`Redis at ${name} ${what}`);
  };
  let info: Map<string, string>;
  try {
    info = await factsOf(line);
  } catch (error) {
    if (error instanceof RedisReplyError)
      return fail(`does not say what it is (${error.message}): allow INFO.`);
    const [hostname, port] = splitName(name);
    const isThere = await canConnect(hostname, port);
    return fail(
      isThere
        ? "does not let us in: is the password right, the database there, and rediss: for TLS?"
        : "does not answer: start it, or choose another with --store.",
    );
  }
  if (info.get("loading") === "1") fail("is still loading what it keeps: try again in a moment.");
  const version = info.get("valkey_version") ?? info.get("redis_version") ?? "";
  const policy = info.get("maxmemory_policy");
  if (Number.parseInt(version) < MIN_VERSION)
    fail(`is version ${version}: it has to be ${MIN_VERSION} or newer.`);
  if (info.get("cluster_enabled") === "1") fail("is part of a cluster: it has to be one primary.");
  if (info.get("role") !== "master") fail("is a replica: choose its primary with --store.");
  if (policy !== "noeviction")
    fail(`throws away what it was given when it is full (maxmemory-policy ${policy}): set noeviction.`);
}

/** How lasting what it has acknowledged is, as the operator has set it up. */
export async function describeDurability(line: RedisConnection, { name }: RedisConfig): Promise<string> {
  const info = await factsOf(line);
  const fsync = info.get("aof_enabled") === "1" ? await setting(line, "appendfsync") : undefined;
  const snapshots = await setting(line, "save");
  const promise = {
    always: "on its disk before they are acknowledged (appendfsync always)",
    everysec: "of whose last second a crash may lose what was acknowledged (appendfsync everysec)",
    no: "of whose last half minute a crash of its machine may lose what was acknowledged (appendfsync no)",
    unknown: "which appends to a file and does not say how often it is written to the disk",
  };
  const isAppended = info.get("aof_enabled") === "1";
  const how = isAppended
    ? (Object.entries(promise).find(([setting]) => setting === fsync)?.[1] ?? promise.unknown)
    : snapshots === ""
      ? "which loses all when it ends (appendonly no, no snapshots)"
      : "which loses what came after its last snapshot when it crashes (appendonly no)";
  return `in Redis at ${name}, ${how}`;
}

async function factsOf(line: RedisConnection): Promise<Map<string, string>> {
  const info = String(await line.send("INFO", []));
  return new Map(
    info.split(/\r?\n/).flatMap((fact) => {
      const [, name, value] = /^(\w+):(.*)$/.exec(fact) ?? [];
      return name === undefined ? [] : [[name, value ?? ""] as const];
    }),
  );
}

/** Undefined where it may not be asked. */
async function setting(line: RedisConnection, name: string): Promise<string | undefined> {
  const reply = await line.send("CONFIG", ["GET", name]).catch(() => undefined);
  const value: unknown = typeof reply === "object" && reply !== null ? Reflect.get(reply, name) : undefined;
  return typeof value === "string" ? value : undefined;
}

function splitName(name: string): [hostname: string, port: number] {
  const end = name.lastIndexOf(":");
  return [name.slice(0, end).replace(/^\[|\]$/g, ""), Number(name.slice(end + 1))];
}

async function canConnect(hostname: string, port: number): Promise<boolean> {
  try {
    const socket = await Bun.connect({ hostname, port, socket: { data() {} } });
    socket.end();
    return true;
  } catch {
    return false;
  }
}
