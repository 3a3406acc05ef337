/** Whether a Postgres database can be used, what its settings say about durability, and sentences for its errors. */

import { EngineUnreachable } from "../shared-log/engine.ts";
import { StoreError } from "../store.ts";
import type { PostgresConfig } from "./config.ts";
import { codeOf, type PostgresConnection } from "./connection.ts";

const MIN_VERSION = 13;

interface Settings {
  readonly version: number;
  readonly version_name: string;
  readonly is_replica: boolean;
  readonly read_only: string;
  readonly encoding: string;
  readonly synchronous_commit: string;
  readonly fsync: string;
}

const READ_SETTINGS = `SELECT current_setting('server_version_num')::integer / 10000 AS version,
  split_part(current_setting('server_version'), ' ', 1) AS version_name, pg_is_in_recovery() AS is_replica,
  current_setting('transaction_read_only') AS read_only, current_setting('server_encoding') AS encoding,
  current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync`;

/** @returns the end of the sentence "messages are stored …" @throws StoreError if it cannot be reached or used */
export async function verifyPostgres(
  connection: PostgresConnection,
  { name }: PostgresConfig,
): Promise<string> {
  const fail = (what: string): never => {
    throw new StoreError(`Postgres at ${name} ${what}`);
  };
  const [settings] = await connection.query<Settings>(READ_SETTINGS);
  if (!settings) return fail("does not answer as Postgres does.");
  const { version, version_name, is_replica, read_only, encoding, synchronous_commit, fsync } = settings;
  if (version < MIN_VERSION) fail(`is version ${version_name}: version ${MIN_VERSION} or later is required.`);
  if (is_replica) fail("is a replica: choose its primary with --store.");
  if (read_only === "on") fail("is read-only (default_transaction_read_only): choose another with --store.");
  if (encoding !== "UTF8")
    fail(`has a database with the encoding ${encoding}: create one with the encoding UTF8.`);
  const durability =
    fsync === "off"
      ? "which may lose everything if its machine crashes (fsync off)"
      : DURABILITY.get(synchronous_commit);
  return `in Postgres at ${name}, ${durability ?? `with synchronous_commit ${synchronous_commit}`}`;
}

const DURABILITY = new Map([
  ["on", "which syncs every message to disk before it is acknowledged (synchronous_commit on)"],
  ["local", "which syncs every message to its disk before it is acknowledged (synchronous_commit local)"],
  [
    "remote_apply",
    "which syncs every message to disk before it is acknowledged (synchronous_commit remote_apply)",
  ],
  [
    "remote_write",
    "which syncs every message to its disk before it is acknowledged (synchronous_commit remote_write)",
  ],
  ["off", "which may lose the last second of messages in a crash (synchronous_commit off)"],
]);

/** @returns a sentence; undefined if the error is a bug */
export function describeError(error: unknown, { name, schema }: PostgresConfig): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = codeOf(error);
  const reason = error.message;
  const what = (() => {
    switch (code) {
      case "28000":
      case "28P01":
        return "rejected the user or the password: check both in --store, and pg_hba.conf.";
      case "3D000":
        return `has no such database: create it, or choose another with --store.`;
      case "42501":
        return `denies a privilege (${reason}): the user needs CREATE on the database, or has to own the schema ${schema} and what is in it.`;
      case "53300":
        return "has no connection left (max_connections): raise that, or stop what uses them.";
      case "57P03":
        return "is starting or shutting down: try again in a moment.";
      case "ERR_POSTGRES_CONNECTION_REFUSED":
      case "ERR_POSTGRES_CONNECTION_TIMEOUT":
        return "cannot be reached: start it, or choose another with --store.";
      case "ERR_POSTGRES_CONNECTION_FAILED":
      case "ERR_POSTGRES_UNEXPECTED_MESSAGE":
        return "closed the connection: check host and port in --store, and that Postgres listens there.";
      case "ERR_POSTGRES_TLS_NOT_AVAILABLE":
        return "offers no TLS: turn it on, or choose another sslmode in --store.";
      default:
        if (code === undefined && !(error instanceof EngineUnreachable)) return undefined; // a bug
        return `cannot be used: ${reason.replace(/\.?$/, ".")}`;
    }
  })();
  return what === undefined ? undefined : `Postgres at ${name} ${what}`;
}
