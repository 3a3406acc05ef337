/** The URL of a Postgres database. */

export const POSTGRES_SCHEMES = ["postgres:", "postgresql:"];
const DEFAULT_PORT = "5432";
const DEFAULT_SCHEMA = "hubbub";
/** libpq's names; see "Protection Provided in Different Modes" in Postgres' manual. */
const SSL_MODES = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

export interface PostgresConfig {
  /** For Bun's client, password included. */
  readonly url: string;
  /** Where the tables are; needs no escaping. */
  readonly schema: string;
  /** Host and port, for messages. */
  readonly name: string;
}

/**
 * `postgres://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME&sslmode=MODE`. With `host=/FOLDER` as a parameter, the Unix
 * socket in that folder is used. Without `sslmode`, TLS is used if the server offers it.
 * @returns undefined for any other URL
 */
export function parsePostgresUrl({
  href,
  hostname,
  port,
  pathname,
  searchParams,
  hash,
}: URL): PostgresConfig | undefined {
  const { schema = DEFAULT_SCHEMA, sslmode = "prefer", host, ...others } = Object.fromEntries(searchParams);
  const isSchema = /^[a-z_][a-z0-9_]{0,47}$/.test(schema) && !schema.startsWith("pg_");
  const isValid = isSchema && SSL_MODES.includes(sslmode) && (host === undefined || host.startsWith("/"));
  if (!isValid || !hostname || hash || Object.keys(others).length > 0) return undefined;
  if (!/^(\/[^/]*)?$/.test(pathname)) return undefined;
  const url = new URL(href.replace(/\?.*/s, ""));
  url.searchParams.set("sslmode", host === undefined ? sslmode : "disable");
  if (host !== undefined) url.searchParams.set("host", host);
  return { url: url.href, schema, name: host ?? `${hostname}:${port || DEFAULT_PORT}` };
}
