/** The tables and functions in the database: created by the first server, under a lock, and brought up to date by later ones. */

import { StoreError } from "../store.ts";
import type { PostgresConfig } from "./config.ts";
import type { PostgresConnection } from "./connection.ts";
import functions from "./functions.sql" with { type: "text" };
import createTables from "./tables.sql" with { type: "text" };

/**
 * Each brings a schema to the next version; then the functions are replaced. A schema's version is the number of migrations
 * applied to it. A function whose parameters or result change is dropped here, and no other: the schema may hold those of
 * other programs.
 */
const MIGRATIONS = [
  createTables,
  `DROP FUNCTION IF EXISTS lock_log(), remove_node(text, integer), ban(text, text, bigint, integer),
    append(text, bigint, integer, text, text[], text[], text[], bigint[], bigint[], text[], text[]),
    remove_message(text, numeric, text, integer), begin_erasure(text, text, integer)`,
];
/** What this program knows; a newer schema is refused. */
export const SCHEMA_VERSION = MIGRATIONS.length;

/** @param connection one that nothing else uses meanwhile @throws StoreError, EngineRejection, EngineUnreachable */
export async function migrate(connection: PostgresConnection, config: PostgresConfig): Promise<void> {
  const { schema } = config;
  if ((await readVersion(connection, config)) === SCHEMA_VERSION) return;
  await connection.query("BEGIN");
  try {
    // Servers that start at the same time wait for each other, and older ones that run do not write meanwhile (lock_log).
    await connection.query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", [
      `hubbub log of ${schema}`,
    ]);
    const version = await readVersion(connection, config);
    refuseNewer(version, config);
    // "IF NOT EXISTS" would require the privilege to create it, even if it exists.
    const existing = await connection.query("SELECT FROM pg_namespace WHERE nspname = $1", [schema]);
    if (existing.length === 0) await connection.query(`CREATE SCHEMA "${schema}"`);
    await connection.query(`SET LOCAL search_path = "${schema}"`);
    const migrations = MIGRATIONS.slice(version);
    if (migrations.length > 0) migrations.push(functions, `UPDATE version SET version = ${SCHEMA_VERSION}`);
    for (const sql of migrations) await connection.query(sql);
    await connection.query("COMMIT");
  } catch (error) {
    connection.reset();
    throw error;
  }
}

/** For a reader, which does not change it. @throws StoreError if it is of another version */
export async function checkVersion(connection: PostgresConnection, config: PostgresConfig): Promise<void> {
  const version = await readVersion(connection, config);
  refuseNewer(version, config);
  if (version === 0)
    throw new StoreError(
      `Postgres at ${config.name} has no schema ${config.schema} of Hubbub in this database.`,
    );
  if (version < SCHEMA_VERSION)
    throw new StoreError(
      `Postgres at ${config.name} has tables of an older version of Hubbub. Start this version on it once.`,
    );
}

function refuseNewer(version: number, { name }: PostgresConfig): void {
  if (version > SCHEMA_VERSION)
    throw new StoreError(
      `Postgres at ${name} cannot be used: its tables were written by a newer version of Hubbub. Start that version, or choose another ?schema=.`,
    );
}

/** 0 if there is nothing yet. */
async function readVersion(connection: PostgresConnection, { schema }: PostgresConfig): Promise<number> {
  const table = `"${schema}".version`;
  const [row] = await connection.query("SELECT FROM pg_class WHERE oid = to_regclass($1)", [table]);
  if (!row) return 0;
  const [found] = await connection.query<{ version: number }>(`SELECT version FROM ${table}`);
  return found?.version ?? 0;
}
