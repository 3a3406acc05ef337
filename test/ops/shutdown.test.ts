/** Graceful shutdown: accepted messages are stored and answered, clients are asked to reconnect, no leaves are announced. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { connect, type Client } from "../../src/client/client.ts";
import { eventually, withDeadline } from "../support/deadline.ts";
import { Peer } from "../support/peer.ts";
import { startServer, STORES } from "../support/server.ts";
import { RawClient } from "../support/raw-websocket.ts";

setDefaultTimeout(240_000);

const RESTARTING = {
  code: 1012,
  reason: "The server is stopping, perhaps to restart. Reconnect in a moment.",
};

for (const signal of ["SIGTERM", "SIGINT", "SIGQUIT"] as const)
  test(`${signal}: clients are asked to reconnect, no leaves are announced, exit code 0`, async () => {
    const server = await startServer();
    const peers = [await server.join("ann"), await server.join("bob"), (await server.joinJson("eve")).peer];
    const echo = await server.open("/websocket");
    server.process.kill(signal);
    for (const peer of [...peers, echo]) expect(await peer.closes()).toEqual(RESTARTING);
    for (const peer of peers)
      expect(
        peer.unread().filter((line) => /left/.test(String(line)) && !/"left":\[\]/.test(String(line))),
      ).toEqual([]);
    expect(await server.process.exited).toBe(0);
    expect(await server.errors).toBe("");
  });

test("SIGHUP without a terminal is ignored, and logged", async () => {
  const server = await startServer({ args: ["--log", "text"] });
  await using ann = await server.join("ann");
  server.process.kill("SIGHUP");
  await server.logs(/ ignored signal=SIGHUP$/m);
  ann.says("hi");
  await ann.hears("You wrote: hi", "Client #ann says: hi");
  server.process.kill("SIGTERM");
  expect(await ann.closes()).toEqual(RESTARTING);
  expect(await server.process.exited).toBe(0);
});

test("closing its terminal stops the server", async () => {
  let printed = "";
  const source = `${import.meta.dir}/../../src/server.ts`;
  await using server = Bun.spawn([process.execPath, source, "--port", "0"], {
    terminal: { data: (_, bytes) => void (printed += new TextDecoder().decode(bytes)) },
  });
  await eventually(async () => printed.includes("Press Ctrl+C to stop."), "the greeting");
  const [, port] = /localhost:(\d+)/.exec(printed) ?? [];
  await using ann = new Peer(`ws://127.0.0.1:${port}/ws/ann`);
  await ann.opened;
  server.kill("SIGHUP");
  expect(await ann.closes()).toEqual(RESTARTING);
  expect(await server.exited).toBe(0);
});

for (const [broken, exitCode] of [
  ["drain", 1],
  ["close", 1],
  ["endless drain", 0],
] as const)
  test(`shutdown completes although a step fails or hangs: ${broken}`, async () => {
    const args = ["--drain-seconds", "1"];
    const server = await startServer({ args, preload: "break-shutdown.ts", env: { BREAK: broken } });
    const ann = await server.join("ann");
    server.process.kill("SIGTERM");
    expect(await ann.closes()).toEqual(RESTARTING);
    expect(await withDeadline(server.process.exited, () => "still running")).toBe(exitCode);
    const errors = await server.errors;
    if (exitCode === 0) expect(errors).toBe("");
    else expect(errors).toContain(`failed: Error: injected into ${broken}\n`);
  });

for (const store of STORES.filter(({ nodes }) => nodes === undefined))
  test(`with --drain-seconds 0 clients are still asked to reconnect, with the store ${store.name}`, async () => {
    const server = await startServer({ store, args: ["--drain-seconds", "0"] });
    const peers = await Promise.all(Array.from({ length: 20 }, (_, i) => server.join(`c${i}`)));
    server.process.kill("SIGTERM");
    for (const peer of peers) expect(await peer.closes()).toEqual(RESTARTING);
    expect(await server.process.exited).toBe(0);
    expect(await server.errors).toBe("");
    await server[Symbol.asyncDispose]();
  });

test("no leaves are announced during shutdown, not even right after a client left", async () => {
  const server = await startServer({ args: ["--drain-seconds", "2"] });
  const crowd = await Promise.all(Array.from({ length: 300 }, (_, i) => server.join(`c${i}`)));
  const eve = await server.joinJson("eve");
  eve.sends({ type: "ping" });
  while ((await eve.next()).type !== "pong");
  const [first] = crowd.splice(0, 1);
  await first?.leaves();
  server.process.kill("SIGTERM");
  for (const peer of crowd) await peer.closes();
  await server.process.exited;
  const announced = crowd
    .flatMap((peer) => peer.unread())
    .filter((line) => line !== "Client #c0 left the chat");
  expect(announced).toEqual([]);
  const left = eve.peer.unread().flatMap((event): string[] => JSON.parse(String(event)).left ?? []);
  expect(left.filter((client) => client !== "c0")).toEqual([]);
});

for (const store of STORES)
  test(`messages accepted before the signal are acknowledged, with the store ${store.name}`, async () => {
    await using server = await startServer({ store });
    await using ann = await server.joinJson("ann", { session: "s" });
    for (let seq = 1; seq <= 200; seq++) ann.says(`${seq}`, { seq });
    ann.sends({ type: "ping" });
    let acks = 0;
    const count = ({ type }: { readonly type: unknown }) => (acks += Number(type === "ack"));
    for (let event = await ann.next(); event.type !== "pong"; event = await ann.next()) count(event);
    server.process.kill("SIGTERM"); // the server has read all of them, and may not have stored them yet
    expect(await ann.peer.closes()).toEqual(RESTARTING);
    for (const event of ann.peer.unread()) count(JSON.parse(String(event)));
    expect(acks).toBe(200);
    expect(await server.process.exited).toBe(0);
  });

test("during shutdown new connections are refused; a second signal exits at once", async () => {
  await using server = await startServer({ args: ["--drain-seconds", "3600"] });
  expect(await server.answer("/readyz")).toEqual({ status: 200, body: "Ready.\n" });
  const crowd = await Promise.all(Array.from({ length: 50 }, (_, i) => server.join(`c${i}`)));
  server.process.kill("SIGTERM");
  await crowd[0]?.closes();
  for (const path of ["/readyz", "/client", "/ws/ann"]) await expect(server.get(path)).rejects.toThrow();
  // Open connections work as before.
  const last = crowd.at(-1);
  last?.says("still here");
  await last?.hearsUpTo("Client #c49 says: still here");
  server.process.kill("SIGTERM");
  expect(await withDeadline(server.process.exited, () => "still running")).toBe(1);
});

test("clients that do not read, or never end a request, delay shutdown by --drain-seconds at most", async () => {
  await using server = await startServer({ args: ["--drain-seconds", "1", "--history", "400"] });
  await using ann = await server.joinJson("ann");
  for (let i = 0; i < 400; i++) await ann.saysAndHears(`${i} `.padEnd(60_000, "x"));
  // More than the network takes, so the close frame is queued behind it.
  await using slow = await server.joinJson("slow", { history: 400 });
  slow.peer.pauses();
  await using endless = new RawClient(server.port);
  endless.sends(
    Buffer.from("POST /rooms/tea/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"),
  );
  await server.answer("/healthz");
  server.process.kill("SIGTERM");
  expect(await ann.peer.closes()).toEqual(RESTARTING);
  expect(await withDeadline(server.process.exited, () => "still running", 20_000)).toBe(0);
});

test("a thousand clients reconnect to the next server, and every message they send meanwhile is stored", async () => {
  const CLIENTS = 1000;
  const first = await startServer({ args: ["--drain-seconds", "1"] });
  const acknowledged = new Set<string>();
  let sent = 0;
  const clients: Client[] = [];
  let open = 0;
  const allOpen = Promise.withResolvers<void>();
  for (let i = 0; i < CLIENTS; i++) {
    const client = connect({
      server: first.origin,
      id: `c${i}`,
      room: `r${i % 10}`,
      resendUnknown: true,
      history: 0,
    })
      .on("acknowledged", ({ item }) => acknowledged.add(item.text ?? ""))
      .on("state", ({ status }) => {
        if (status === "open" && ++open === CLIENTS) allOpen.resolve();
      });
    clients.push(client);
  }
  await withDeadline(allOpen.promise, () => `${open} of ${CLIENTS} are in`, 120_000);
  const say = () => {
    for (const client of clients) client.send(`${sent++}`);
  };
  say();
  first.process.kill("SIGTERM");
  say();
  expect(await withDeadline(first.process.exited, () => "still running")).toBe(0);
  say(); // no server: kept in the outbox
  await using second = await startServer({ args: ["--port", `${first.port}`] });
  const everything = Promise.withResolvers<void>();
  const look = setInterval(() => {
    if (clients.every(({ outbox }) => outbox.length === 0)) everything.resolve();
  }, 20);
  await withDeadline(
    everything.promise,
    () => `${clients.filter(({ outbox }) => outbox.length > 0).length} clients still wait`,
  );
  clearInterval(look);
  expect(acknowledged.size).toBe(3 * CLIENTS);
  const { count } = JSON.parse((await second.answer("/rooms/r3/members")).body);
  expect(count).toBe(CLIENTS / 10);
  for (const client of clients) client.close();
}, 600_000);
