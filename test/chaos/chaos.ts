/**
 * The promise, under faults: clients that talk without a pause while their connections are cut at random moments,
 * servers are killed and frozen, Redis too, and the store refuses and delays. Everything is counted, and every rule is
 * checked at the end. `bun test/chaos/chaos.ts --seconds 600 --seed 1` goes on for longer, on SQLite with kills; with
 * `--store redis` on two nodes and a Redis.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { connect, type Client } from "../../src/client/client.ts";
import { startCuttingProxy } from "../support/cutting-proxy.ts";
import { withDeadline } from "../support/deadline.ts";
import type { JsonPeer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { randomFrom } from "../support/random.ts";
import { DURABLE, Redis } from "../support/redis.ts";

const DEADLINE_MS = 60_000;
/** Where only connections are cut: sooner than a client that hears nothing comes anew, and with that over anything. */
const CUTS_DEADLINE_MS = 20_000;
const MAX_MESSAGE_BYTES = 65_536;
/** Then they are left alone: on a slow machine they would hardly come to say anything between one and the next. */
const MAX_MISHAPS = 15;

export interface Faults {
  readonly seed: number;
  readonly rooms: readonly string[];
  /** In each room; every fourth is a second tab of the one before it. */
  readonly clientsPerRoom: number;
  readonly messagesPerClient: number;
}

/** What the clients talk to, and what happens to it beside cut connections. */
export interface Environment extends AsyncDisposable {
  /** The servers, as they are now; a client comes to any of them. */
  readonly hubs: readonly TestServer[];
  /** By name: does it, and mends it again. One of them at a time. */
  readonly mishaps: Readonly<Record<string, () => Promise<void>>>;
}

/** What happened, in numbers. */
export interface Counts {
  acknowledged: number;
  /** Deliveries of messages to clients, all together. */
  heard: number;
  cuts: number;
  refused: number;
  recovered: number;
  notRecovered: number;
  /** How often each mishap happened. */
  [mishap: string]: number;
}

/** One stretch of a conversation: from a welcome to the end of its connection. */
interface ConnectionSpan {
  /** The last message heard before. */
  readonly after: string | undefined;
  readonly recovered: boolean | undefined;
  readonly last: string;
  readonly ids: string[];
}

/** Somebody who talks without a pause, and keeps book of what they hear. */
class ChaosClient {
  readonly spans: ConnectionSpan[] = [];
  readonly heard = new Map<string, string>();
  readonly done = Promise.withResolvers<void>();
  readonly heardEnd = Promise.withResolvers<void>();
  readonly #connection: Client;
  #after: string | undefined;
  #said = 0;
  #acknowledged = 0;

  constructor(
    address: { server: string; id: string; room: string },
    readonly session: string,
    private readonly total: number,
    /** How many messages may be on their way at once: 1 waits for each ack. */
    private readonly window: number,
    private readonly random: () => number,
    counts: Counts,
  ) {
    // The store forgets nothing here, so that what it does not know may be given to it again.
    this.#connection = connect({ ...address, session, resendUnknown: true })
      .on("welcome", ({ recovered, last }) => {
        this.spans.push({ after: this.#after, recovered, last, ids: [] });
        this.#after ??= last;
        if (recovered === true) counts.recovered++;
        if (recovered === false) counts.notRecovered++;
      })
      .on("message", ({ id, text = "" }) => {
        if (this.heard.has(id)) this.#fail(`heard ${id} twice`);
        this.heard.set(id, nameOf(text));
        this.spans.at(-1)?.ids.push(id);
        this.#after = id;
        counts.heard++;
        if (text === "end") this.heardEnd.resolve();
      })
      .on("acknowledged", () => {
        counts.acknowledged++;
        if (++this.#acknowledged === total) this.done.resolve();
        this.#say();
      })
      // Not after the seconds that are right for people: this is to be over soon.
      .on("state", ({ status }) => {
        if (status === "reconnecting") setTimeout(() => this.#connection.retryNow(), random() * 50);
      })
      .on("rejected", ({ item, code }) => {
        if (code !== "message-too-big" || item.text.length <= MAX_MESSAGE_BYTES)
          this.#fail(`was refused: ${code}`);
        this.#say();
      })
      .on("unconfirmed", ({ seq }) => this.#fail(`does not know of ${seq}`));
    this.#say();
  }

  #say(): void {
    while (this.#said < this.total && this.#connection.outbox.length < this.window) {
      // What is refused for good is passed over, and nothing else with it.
      if (this.random() < 0.05) this.#connection.send("x".repeat(MAX_MESSAGE_BYTES + 1));
      const padding = this.random() < 0.02 ? "x".repeat(30_000 * this.random()) : "";
      this.#connection.send(`${this.session}/${++this.#said} ${padding}`);
    }
  }

  #fail(why: string): void {
    for (const { reject } of [this.done, this.heardEnd]) reject(new Error(`${this.session} ${why}`));
  }

  close(): void {
    this.#connection.close();
  }
}

/** `session/seq`, without the padding. */
function nameOf(text: string): string {
  return text.split(" ", 1)[0] ?? "";
}

/**
 * Runs them all to the end.
 * @throws an error that names the first rule that does not hold
 */
export async function runFaults(setUp: () => Promise<Environment>, faults: Faults): Promise<Counts> {
  const random = randomFrom(faults.seed);
  const counts: Counts = {
    acknowledged: 0,
    heard: 0,
    cuts: 0,
    refused: 0,
    recovered: 0,
    notRecovered: 0,
  };
  const describe = (what: string) => () => `seed ${faults.seed}: ${what}: ${JSON.stringify(counts)}`;
  await using stage = await setUp();
  const anyHub = () => stage.hubs[Math.floor(random() * stage.hubs.length)] ?? fail("there is no server");
  const mishaps = Object.entries(stage.mishaps);
  {
    await using proxy = await startCuttingProxy(() => anyHub().port, random);
    const rooms = await Promise.all(
      faults.rooms.map(async (room) => {
        const witness = await anyHub().joinJson("witness", { room });
        const textWitness = await anyHub().join("witness", { room });
        const talkers = Array.from({ length: faults.clientsPerRoom }, (_, i) => {
          const client = i % 4 === 3 ? i - 1 : i;
          const window = random() < 0.5 ? 1 : 20;
          const address = { server: proxy.origin, id: `c${client}`, room };
          return new ChaosClient(address, `${room}-${i}`, faults.messagesPerClient, window, random, counts);
        });
        return { room, witness, textWitness, talkers };
      }),
    );
    const all = rooms.flatMap(({ talkers }) => talkers);
    let isOver = false;
    const happening = (async () => {
      for (let i = 0; i < MAX_MISHAPS && mishaps.length > 0 && !isOver; i++) {
        await Bun.sleep(100 + random() * 300);
        const [name, happen] = mishaps[Math.floor(random() * mishaps.length)] ?? fail("nothing happens");
        if (isOver) return;
        counts[name] = (counts[name] ?? 0) + 1;
        await happen();
      }
    })();
    const done = Promise.all(all.map((talker) => talker.done.promise));
    try {
      await withDeadline(
        Promise.race([done, happening.then(() => done)]),
        describe("not all was acknowledged"),
        mishaps.length > 0 ? DEADLINE_MS : CUTS_DEADLINE_MS,
      );
    } finally {
      isOver = true;
      await happening;
    }
    proxy.cutting = false;
    counts.cuts = proxy.cuts;
    counts.refused = proxy.refusals;
    for (const { room, witness, textWitness, talkers } of rooms) {
      await sayEnd(anyHub(), room);
      const ends = Promise.all(talkers.map((talker) => talker.heardEnd.promise));
      await withDeadline(ends, describe(`not everyone in ${room} heard the end`), DEADLINE_MS);
      // Witnesses are cut off like everyone else when a server is.
      const order = mishaps.length > 0 ? await readAll(anyHub(), room) : await hearAll(witness);
      if (mishaps.length === 0) await checkTextWire(textWitness, [...order.values()]);
      checkSaidOnce(order, talkers, faults.messagesPerClient);
      for (const talker of talkers) checkHeard(talker, String(witness.welcome.last), order);
      await Promise.all([witness.leaves(), textWitness.leaves()]);
    }
    for (const talker of all) talker.close();
  }
  return counts;
}

function fail(why: string): never {
  throw new Error(why);
}

async function sayEnd(server: TestServer, room: string): Promise<void> {
  await using last = await server.joinJson("last", { room, session: room, history: 0 });
  for (;;) {
    last.says("end", { seq: 1 });
    for (let event = await last.next(); event.type !== "error"; event = await last.next())
      if (event.type === "ack") return;
    // The store may refuse this one too.
  }
}

/** Everything that was said, by id, as somebody heard it who was there from the beginning. */
async function hearAll(witness: JsonPeer): Promise<Map<string, string>> {
  const order = new Map<string, string>();
  for (;;) {
    const { id, text } = await witness.next();
    order.set(String(id), nameOf(String(text)));
    if (text === "end") return order;
  }
}

/** The same, as the store has it. */
async function readAll(server: TestServer, room: string): Promise<Map<string, string>> {
  const order = new Map<string, string>();
  for (let after = "1-0", more = true; more;) {
    const { body } = await server.answer(`/rooms/${room}/messages?limit=1000&after=${after}`);
    const page: { messages: { id: string; text: string }[]; more: boolean } = JSON.parse(body);
    for (const { id, text } of page.messages) order.set((after = id), nameOf(text));
    more = page.more;
  }
  return order;
}

async function checkTextWire(
  witness: Awaited<ReturnType<TestServer["join"]>>,
  order: readonly string[],
): Promise<void> {
  for (const name of order)
    for (let line = ""; !line;) {
      line = String(await witness.next());
      if (line.endsWith(" left the chat")) line = "";
      else if (nameOf(line.replace(/^Client #\S+ says: /, "")) !== name)
        throw new Error(`the text wire heard ${line.slice(0, 80)} where ${name} was next`);
    }
}

/** Acknowledged is said: each number of each session once, in its sender's order, and nothing else. */
function checkSaidOnce(
  order: ReadonlyMap<string, string>,
  talkers: readonly ChaosClient[],
  total: number,
): void {
  const next = new Map(talkers.map(({ session }) => [session, 1]));
  for (const [id, name] of [...order].slice(0, -1)) {
    const [session = "", seq] = name.split("/");
    if (Number(seq) !== next.get(session)) {
      const ids = [...order].filter(([, other]) => other === name).map(([other]) => other);
      throw new Error(`${name} was said as ${id}, where ${next.get(session)} was next; all its ids: ${ids}`);
    }
    next.set(session, Number(seq) + 1);
  }
  for (const [session, seq] of next)
    if (seq !== total + 1) throw new Error(`${session} acknowledged ${total}, of which ${seq - 1} were said`);
}

/** Each stretch is a piece of the one order without a hole; recovered says truly whether it joins the one before. */
function checkHeard({ session, spans, heard }: ChaosClient, start: string, order: Map<string, string>): void {
  const ids = [start, ...order.keys()];
  const index = new Map(ids.map((id, i) => [id, i]));
  const position = (id: string) => {
    const found = index.get(id);
    if (found === undefined) throw new Error(`${session} heard of ${id}, which nobody else did`);
    return found;
  };
  for (const { after, recovered, last, ids: heardIds } of spans) {
    const before = position(last);
    for (const [i, id] of heardIds.entries())
      if (position(id) !== before + 1 + i)
        throw new Error(`${session} heard ${id} out of order, or missed one`);
    if (after === undefined) continue;
    if (recovered === true && after !== last)
      throw new Error(`${session}: recovered after ${after}, but went on after ${last}`);
    if (recovered === false && position(after) >= before)
      throw new Error(`${session}: nothing is missing after ${after}`);
  }
  for (const [id, name] of heard)
    if (order.get(id) !== name) throw new Error(`${session} heard ${name} as ${id}`);
}

/** One server, to which nothing happens. */
export async function singleServer(setup: Parameters<typeof startServer>[0]): Promise<Environment> {
  const server = await startServer(setup);
  return { hubs: [server], mishaps: {}, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** With SQLite, and a server that is killed again and again. */
export function runSqliteKills(seed: number): Promise<Counts> {
  return runFaults(() => onSqlite(seed), {
    seed,
    rooms: ["tea", "coffee"],
    clientsPerRoom: 8,
    messagesPerClient: 300,
  });
}

async function onSqlite(seed: number): Promise<Environment> {
  const folder = await mkdtemp(join(tmpdir(), "hubbub-"));
  const start = () =>
    startServer({
      store: { name: "SQLite", url: "sqlite:chat.db" },
      cwd: folder,
      args: ["--history", seed % 2 ? "100" : "5"],
    });
  const hubs = [await start()];
  return {
    hubs,
    mishaps: {
      async kills() {
        await hubs[0]?.stop("SIGKILL");
        hubs[0] = await start();
      },
    },
    async [Symbol.asyncDispose]() {
      await hubs[0]?.[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
    },
  };
}

/** With Redis and two servers, to all of which everything happens. */
export function runRedisChaos(seed: number): Promise<Counts> {
  return runFaults(() => onRedis(randomFrom(-seed)), {
    seed,
    rooms: ["tea", "coffee"],
    clientsPerRoom: 8,
    messagesPerClient: 300,
  });
}

async function onRedis(random: () => number): Promise<Environment> {
  const redis = await Redis.start(DURABLE);
  const start = () =>
    startServer({ store: { name: "Redis", url: redis.url("faults") }, args: ["--history", "100000"] });
  const hubs = [await start(), await start()];
  const pick = () => Math.floor(random() * hubs.length);
  const frozenMs = () => (random() < 0.1 ? 3000 : 300) * random();
  return {
    hubs,
    mishaps: {
      async nodesKilled() {
        const i = pick();
        await hubs[i]?.[Symbol.asyncDispose]();
        hubs[i] = await start();
      },
      async nodesFrozen() {
        const { process } = hubs[pick()] ?? fail("there is no server");
        process.kill("SIGSTOP");
        await Bun.sleep(frozenMs());
        process.kill("SIGCONT");
      },
      async redisKilled() {
        await redis.stop();
        await Bun.sleep(random() * 300);
        await redis.start();
      },
      async redisFrozen() {
        redis.freeze();
        await Bun.sleep(frozenMs());
        redis.thaw();
      },
      async redisCut() {
        await redis.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      },
    },
    async [Symbol.asyncDispose]() {
      for (const server of hubs) await server[Symbol.asyncDispose]();
      await redis[Symbol.asyncDispose]();
    },
  };
}

export function show(counts: Partial<Counts>): string {
  return Object.entries(counts)
    .map(([what, count]) => `${count} ${what.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)}`)
    .join(", ");
}

if (import.meta.main) {
  const text = { type: "string" } as const;
  const { values } = parseArgs({ options: { seconds: text, seed: text, store: text } });
  const run = values.store === "redis" ? runRedisChaos : runSqliteKills;
  const endMs = performance.now() + Number(values.seconds ?? 60) * 1000;
  const sum: Record<string, number> = {};
  for (let seed = Number(values.seed ?? 1); performance.now() < endMs; seed++) {
    const counts = await run(seed);
    console.log(`seed ${seed}: ${show(counts)}`);
    for (const [what, count] of Object.entries({ runs: 1, ...counts })) sum[what] = (sum[what] ?? 0) + count;
  }
  console.log(`all: ${show(sum)}; none lost, none repeated, none out of order`);
}
