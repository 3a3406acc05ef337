/** The load generator of the benchmark fails when a delivery is missing or duplicated. */

import { describe, expect, test } from "bun:test";
import { Crowd } from "./load.ts";
import { table, type Results } from "./results.ts";
import { unpadded } from "../support/docs.ts";
import results from "./results.json";
import { Server, SIDES } from "./servers.ts";

const CLIENTS = 6;
const SENDERS = 2;
const AUDIENCE = { clients: CLIENTS, senders: SENDERS };
const PLAN = { seconds: 0.3 };
const RATE = { ...PLAN, rate: 200 };
/** For servers that will never deliver something. */
const SOON_MS = 400;
const noCpu = () => 0;

describe.each(SIDES)("%s", (side) => {
  test.concurrent.each(["text", "json"] as const)(
    "delivers each message to everyone, on the %s wire",
    async (wire) => {
      using server = await Server.start(side);
      using crowd = await Crowd.gather(server.port, wire, AUDIENCE);
      const offered = await crowd.run(RATE, server.cpuSeconds);
      // One more message ends the run.
      expect(offered).toMatchObject({ messages: 61, deliveries: 61 * CLIENTS });
      const { messages, deliveries } = await crowd.run(PLAN, server.cpuSeconds);
      expect(messages).toBeGreaterThan(SENDERS);
      expect(deliveries).toBe(messages * CLIENTS);
    },
  );

  test.concurrent("delivers each message to everyone, event streams included", async () => {
    const clients = 20;
    using server = await Server.start(side);
    using crowd = await Crowd.gather(server.port, "sse", { clients, senders: SENDERS });
    const { messages, deliveries } = await crowd.run(RATE, server.cpuSeconds);
    expect([messages, deliveries]).toEqual([61, 61 * clients]);
  });

  test.concurrent("answers each message on the echo", async () => {
    using server = await Server.start(side);
    using crowd = await Crowd.gather(server.port, "echo", { clients: CLIENTS, senders: CLIENTS });
    const { messages, deliveries } = await crowd.run(PLAN, server.cpuSeconds);
    expect(messages).toBeGreaterThan(CLIENTS);
    expect(deliveries).toBe(messages);
  });
});

/** A chat server that treats the tenth message wrongly, for the first client. */
function wrongServer(times: (text: string, tenth: string) => readonly string[]) {
  const sockets: Bun.ServerWebSocket<string>[] = [];
  const said: string[] = [];
  return Bun.serve<string>({
    hostname: "127.0.0.1",
    port: 0,
    fetch(request, server) {
      server.upgrade(request, { data: new URL(request.url).pathname.slice(4) });
    },
    websocket: {
      open: (socket) => void sockets.push(socket),
      message(from, message) {
        said.push(`${message}`);
        from.send(`You wrote: ${message}`);
        for (const [i, socket] of sockets.entries()) {
          const heard = i === 0 ? times(`${message}`, said[9] ?? "") : [`${message}`];
          for (const text of heard) socket.send(`Client #${from.data} says: ${text}`);
        }
      },
    },
  });
}

/** The last message of such a run. */
const isLast = (text: string) => text.startsWith("00000061");

test.concurrent.each([
  ["is dropped", (text, tenth) => (text === tenth ? [] : [text]), "deliveries missing: 1"],
  ["is repeated", (text, tenth) => (text === tenth ? [text, text] : [text]), "deliveries too many: 1"],
  [
    "is replaced by another",
    (text, tenth) => [tenth && !isLast(text) ? tenth : text],
    "connections that received other messages than were sent: 1",
  ],
  ["is the last and is dropped", (text) => (isLast(text) ? [] : [text]), "deliveries missing: 1"],
] satisfies [string, Parameters<typeof wrongServer>[0], string][])(
  "a delivery that %s is noticed",
  async (_, times, complaint) => {
    using server = wrongServer(times);
    using crowd = await Crowd.gather(server.port ?? 0, "text", AUDIENCE);
    await expect(crowd.run(RATE, noCpu, SOON_MS)).rejects.toThrow(complaint);
  },
);

test("clients that cannot connect in time are an error", async () => {
  using server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const gathering = Crowd.gather(server.port, "text", AUDIENCE, SOON_MS);
  await expect(gathering).rejects.toThrow("0 of 6 clients are connected");
});

test("the row of a scenario that failed gives the reason", () => {
  const [, , row] = table([{ scenario: "crowd", wire: "text", failure: "plain: deliveries missing: 1" }]);
  expect(row).toContain("| failed: plain: deliveries missing: 1 |");
});

test("the documented figures are those of the last run", () => {
  const readme = unpadded("test/bench/README.md");
  const said = table((results as Results).results).filter((line) => !line.startsWith("| -"));
  const missing = said.map((line) => line.replace(/ +/g, " ")).filter((line) => !readme.includes(line));
  expect(missing).toEqual([]);
  for (const fact of ["cpu", "bun", "date"] as const) expect(readme).toContain(results.machine[fact]);
});
