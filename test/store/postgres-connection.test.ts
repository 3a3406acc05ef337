/** One connection to Postgres, through a proxy that closes it at the worst moment. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { connect, createServer, type AddressInfo } from "node:net";
import { parsePostgresUrl } from "../../src/store/postgres/config.ts";
import { PostgresConnection } from "../../src/store/postgres/connection.ts";
import { EngineUnreachable } from "../../src/store/shared-log/engine.ts";
import { systemClock } from "../../src/util/clock.ts";
import { sharedPostgres, skipped } from "../support/postgres.ts";

setDefaultTimeout(240_000);

/** The message after each query: "ReadyForQuery" in "Message Formats" of Postgres' manual. */
const READY_FOR_QUERY = Buffer.from("Z\0\0\0\x05I", "latin1");

/** What a backend sends that an administrator terminates: "ErrorResponse", of its length without the first byte. */
const FIELDS = "SFATAL\0VFATAL\0C57P01\0Mterminated\0\0";
const TERMINATED = Buffer.from(`E\0\0\0${String.fromCharCode(4 + FIELDS.length)}${FIELDS}`, "latin1");

/** Terminates its first connection together with the reply to the first query, and forwards the others. */
async function startClosingProxy(upstreamPort: number) {
  let connections = 0;
  const server = createServer((client) => {
    const upstream = connect(upstreamPort, "127.0.0.1");
    let repliesUntilClose = ++connections === 1 ? 2 : Infinity; // the connection's own, and the query's
    client.on("data", (chunk: Buffer) => upstream.write(chunk));
    upstream.on("data", (chunk: Buffer) => {
      if (chunk.includes(READY_FOR_QUERY)) repliesUntilClose--;
      if (repliesUntilClose === 0) client.end(Buffer.concat([chunk, TERMINATED]));
      else client.write(chunk);
    });
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const)
      socket.on("error", () => {}).on("close", () => other.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    count: () => connections,
    [Symbol.dispose]: () => void server.close(),
  };
}

describe.skipIf(skipped !== "")(`a connection to Postgres${skipped}`, () => {
  test("that is closed as soon as it is set up is replaced", async () => {
    const url = new URL((await sharedPostgres()).url("hubbub"));
    using proxy = await startClosingProxy(Number(url.port));
    url.port = String(proxy.port);
    url.searchParams.set("sslmode", "disable");
    const config = parsePostgresUrl(url);
    if (!config) throw new Error("the URL is invalid");
    const connection = new PostgresConnection(config, systemClock);
    const one = () => connection.query<{ one: number }>("SELECT 1 AS one");
    const first = await one().catch((error: unknown) => error);
    expect(first).toBeInstanceOf(EngineUnreachable);
    expect([...(await one())]).toEqual([{ one: 1 }]);
    expect(proxy.count()).toBe(2);
    connection.close();
  });
});
