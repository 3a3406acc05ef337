/** Export and import of a schema. */

import type { Clock } from "../../util/clock.ts";
import {
  type ArchiveEntry,
  type ArchiveHeader,
  type ArchiveSource,
  type ArchiveTarget,
  type StoreArchive,
} from "../archive.ts";
import { isMessage } from "../message.ts";
import { StoreError } from "../store.ts";
import type { PostgresConfig } from "./config.ts";
import { PostgresConnection } from "./connection.ts";
import { encodeEntry, parseEntries, toId, toNumber } from "./rows.ts";
import { checkVersion, migrate } from "./schema.ts";
import { describeError, verifyPostgres } from "./verify.ts";
import finishImport from "./finish-import.sql" with { type: "text" };

const PAGE_ROWS = 200;
/** Completing an import of millions of messages takes minutes. */
const REPLY_MS = 15 * 60_000;

export function postgresArchive(config: PostgresConfig, clock: Clock): StoreArchive {
  const withConnection = async <T>(open: (connection: PostgresConnection) => Promise<T>): Promise<T> => {
    const connection = new PostgresConnection(config, clock, REPLY_MS);
    try {
      return await withReason(config, async () => {
        await verifyPostgres(connection, config);
        // A whole table is not read by its index.
        await connection.query("SET enable_seqscan = on");
        return open(connection);
      });
    } catch (error) {
      connection.close();
      throw error;
    }
  };
  return {
    openSource: async (room) => withConnection((connection) => PostgresSource.open(connection, config, room)),
    openTarget: async (header) =>
      withConnection(async (connection) => {
        const target = new PostgresTarget(connection, config, header);
        await target.begin();
        return target;
      }),
  };
}

async function withReason<T>(config: PostgresConfig, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const sentence = error instanceof StoreError ? undefined : describeError(error, config);
    throw sentence === undefined ? error : new StoreError(sentence);
  }
}

/** Reads in one transaction, so that it sees the schema as it was when it began, while servers write to it. */
class PostgresSource implements ArchiveSource {
  readonly losses = [];

  private constructor(
    private readonly connection: PostgresConnection,
    private readonly config: PostgresConfig,
    private readonly room: string | undefined,
    readonly header: ArchiveHeader,
  ) {}

  static async open(connection: PostgresConnection, config: PostgresConfig, room: string | undefined) {
    await checkVersion(connection, config);
    await connection.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    const [meta] = await connection.query<{ origin: string; damaged_up_to: string | null }>(
      `SELECT origin, damaged_up_to FROM "${config.schema}".meta`,
    );
    if (!meta) throw new StoreError(`The schema ${config.schema} in Postgres at ${config.name} is empty.`);
    const header = {
      origin: toId(meta.origin),
      damagedUpTo: meta.damaged_up_to === null ? undefined : toId(meta.damaged_up_to),
    };
    return new PostgresSource(connection, config, room, header);
  }

  async *entries(): AsyncGenerator<readonly ArchiveEntry[]> {
    const { schema } = this.config;
    const ofRoom = (condition: string) => (this.room === undefined ? "" : `AND ${condition}`);
    type EntryRow = { readonly id: string; readonly entry: unknown };
    const entries = this.#pages<EntryRow>(
      `SELECT id, json AS entry FROM "${schema}".entries
       WHERE id > $1::numeric ${ofRoom("room = $2")} ORDER BY id LIMIT ${PAGE_ROWS}`,
      ["0"],
      ({ id }) => [id],
    );
    for await (const rows of entries)
      yield parseEntries(rows.map(({ entry }) => entry)).map((entry) =>
        isMessage(entry) ? { type: "message", message: entry } : { type: "removal", removal: entry },
      );
    const rooms = this.#pages<{ readonly room: string; readonly last_id: string }>(
      `SELECT room, last_id FROM "${schema}".rooms AS its WHERE room > $1 ${ofRoom("room = $2")}
       AND NOT EXISTS (SELECT FROM "${schema}".messages WHERE id = its.last_id) ORDER BY room LIMIT ${PAGE_ROWS}`,
      [""],
      ({ room }) => [room],
    );
    for await (const rows of rooms)
      yield rows.map(({ room, last_id }) => ({ type: "room", room, lastId: toId(last_id) }));
    type SessionRow = Readonly<Record<"client" | "session" | "seq" | "id" | "time", string>>;
    const sessions = this.#pages<SessionRow>(
      `SELECT client, session, seq, id, time FROM "${schema}".sessions AS its WHERE (client, session) > ($1, $2)
       ${ofRoom(`EXISTS (SELECT FROM "${schema}".messages WHERE id = its.id AND room = $3)`)}
       ORDER BY client, session LIMIT ${PAGE_ROWS}`,
      ["", ""],
      ({ client, session }) => [client, session],
    );
    for await (const rows of sessions)
      yield rows.map(({ client, session, seq, id, time }) => ({
        type: "session",
        session: { client, session, seq: Number(seq), id: toId(id), time: Number(time) },
      }));
  }

  /** @param query the next rows after some values, which the parameters begin with; the room may follow */
  async *#pages<Row extends object>(
    query: string,
    start: readonly string[],
    valuesOf: (row: Row) => readonly string[],
  ): AsyncGenerator<readonly Row[]> {
    for (let after = start; ;) {
      const values = this.room === undefined ? after : [...after, this.room];
      const rows = await withReason(this.config, () => this.connection.query<Row>(query, values));
      yield rows;
      const last = rows.at(-1);
      if (!last || rows.length < PAGE_ROWS) return;
      after = valuesOf(last);
    }
  }

  close(): void {
    this.connection.close();
  }
}

/** Writes in one transaction: until that is committed, the schema is empty. Meanwhile a lock keeps servers out. */
class PostgresTarget implements ArchiveTarget {
  constructor(
    private readonly connection: PostgresConnection,
    private readonly config: PostgresConfig,
    private readonly header: ArchiveHeader,
  ) {}

  /** @throws StoreError */
  async begin(): Promise<void> {
    const { connection, config } = this;
    const { name, schema } = config;
    await migrate(connection, config);
    connection.neverReconnect();
    await connection.query(`SET search_path = "${schema}"`);
    await connection.query("BEGIN");
    const [lock] = await connection.query<{ is_ours: boolean }>(
      "SELECT pg_try_advisory_xact_lock(hashtextextended('hubbub import of ' || current_schema(), 0)) AS is_ours",
    );
    if (!lock?.is_ours) throw new StoreError(`Another import into Postgres at ${name} is running.`);
    const [state] = await connection.query<{ is_used: boolean; is_empty: boolean }>(
      `SELECT EXISTS (SELECT FROM leases JOIN nodes USING (node) WHERE until > now_ms()) AS is_used,
         NOT EXISTS (SELECT FROM messages) AND NOT EXISTS (SELECT FROM rooms) AND NOT EXISTS (SELECT FROM sessions) AS is_empty`,
    );
    if (state?.is_used)
      throw new StoreError(
        `Postgres at ${name} is in use by a server. Stop it first, or choose another ?schema=.`,
      );
    if (!state?.is_empty)
      throw new StoreError(`Postgres at ${name} is not empty. Choose another database, or another ?schema=.`);
    // A server that was frozen joins again.
    for (const table of ["nodes", "batches", "leases", "presence"])
      await connection.query(`DELETE FROM ${table}`);
  }

  async write(entries: readonly ArchiveEntry[]): Promise<void> {
    const messages = entries.flatMap((entry) => {
      if (entry.type === "message") return encodeEntry(entry.message);
      return entry.type === "removal" ? encodeEntry(entry.removal) : [];
    });
    const rooms = entries.flatMap((entry) =>
      entry.type === "room" ? { room: entry.room, last_id: toNumber(entry.lastId) } : [],
    );
    const sessions = entries.flatMap((entry) =>
      entry.type === "session" ? { ...entry.session, id: toNumber(entry.session.id) } : [],
    );
    await this.#insert(
      `INSERT INTO messages (id, prev, time, room, sender, kind, text, data)
       SELECT id, prev, time, room, sender, kind::"char", CASE WHEN kind IN ('t', 'm') THEN content END,
         CASE WHEN kind IN ('n', 'b') THEN decode(content, 'base64') END
       FROM json_to_recordset($1::text::json)
         AS new (id numeric, prev numeric, time bigint, room text, sender text, kind text, content text)`,
      messages,
    );
    await this.#insert(
      `INSERT INTO rooms (room, last_id)
       SELECT * FROM json_to_recordset($1::text::json) AS new (room text, last_id numeric) ON CONFLICT DO NOTHING`,
      rooms,
    );
    await this.#insert(
      `INSERT INTO sessions (client, session, seq, id, time)
       SELECT * FROM json_to_recordset($1::text::json)
         AS new (client text, session text, seq bigint, id numeric, time bigint) ON CONFLICT DO NOTHING`,
      sessions,
    );
  }

  async #insert(statement: string, rows: readonly object[]): Promise<void> {
    if (rows.length === 0) return;
    await withReason(this.config, () => this.connection.query(statement, [JSON.stringify(rows)]));
  }

  async finish(): Promise<void> {
    const { origin, damagedUpTo } = this.header;
    await withReason(this.config, async () => {
      await this.connection.query("UPDATE meta SET origin = $1::numeric, damaged_up_to = $2::numeric", [
        toNumber(origin),
        damagedUpTo === undefined ? null : toNumber(damagedUpTo),
      ]);
      await this.connection.query(finishImport);
      await this.connection.query("COMMIT");
    });
    this.connection.close();
  }

  /** Waits for the end of the transaction, so that the next import finds no lock. */
  async abort(): Promise<void> {
    try {
      await this.connection.query("ROLLBACK");
    } catch {
      // Postgres rolls back when it notices that the connection is lost.
    }
    this.connection.close();
  }
}
