/**
 * The delivery guarantee, under faults: clients send without pause while connections are cut at random, servers and their
 * database are killed and frozen, the store delays and rejects, and a moderator removes messages and bans a client.
 * Everything is counted, and every rule is checked at the end.
 *
 *     bun test/chaos/chaos.ts --seconds 600 --seed 1                    SQLite, server killed
 *     bun test/chaos/chaos.ts --seconds 600 --seed 1 --store redis      two nodes and Redis, or "postgres"
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { connect, type Client } from "../../src/client/client.ts";
import type { ChatMessage, Removal } from "../../src/protocol/events.ts";
import { compareIds } from "../../src/store/message-id.ts";
import { startCuttingProxy } from "../support/cutting-proxy.ts";
import { withDeadline } from "../support/deadline.ts";
import { bearer, SECRET, tokenOf } from "../support/keys.ts";
import type { JsonPeer } from "../support/peer.ts";
import { StreamEnded, subscribe } from "../support/event-stream.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { randomFrom } from "../support/random.ts";
import { DURABLE as DURABLE_POSTGRES, Postgres } from "../support/postgres.ts";
import { DURABLE as DURABLE_REDIS, Redis } from "../support/redis.ts";

/** Many times what an idle machine takes. */
const DEADLINE_MS = 240_000;
/** Longer than the deadline: a client that gave up on a silent server, and reconnected, would hide a stall. */
const STALL_PING_SECONDS = 600;
const MAX_MESSAGE_BYTES = 65_536;
/** The client whose messages are removed: they are `eve/1`, `eve/2` and so on. */
const EVE = "eve";
/** The client that is banned at the start. */
const BANNED = "mallory";
/** Instead of the name of a message. */
const REMOVED = "(removed)";
const REMOVAL = "(removal)";

export interface Scenario {
  readonly seed: number;
  readonly rooms: readonly string[];
  /** In each room; every fourth is a second tab of the one before it. */
  readonly clientsPerRoom: number;
  readonly messagesPerClient: number;
  /** No more faults after these, so that the clients get to the end on a slow machine, too. */
  readonly maxFaults?: number;
}

/** What the clients connect to, and what can go wrong with it besides cut connections. */
interface Environment extends AsyncDisposable {
  /** The running servers; a client may connect to any of them. */
  readonly servers: readonly TestServer[];
  /** It requires tokens, and a moderator is at work. */
  readonly isModerated?: boolean;
  /** By name: causes the fault, and repairs it. One at a time. */
  readonly faults: Readonly<Record<string, () => Promise<void>>>;
}

export interface Counts {
  acknowledged: number;
  /** Messages delivered, all clients together. */
  received: number;
  cuts: number;
  refused: number;
  recovered: number;
  notRecovered: number;
  /** How often each fault occurred. */
  [fault: string]: number;
}

/** What a client received on one connection. */
interface ConnectionSpan {
  /** The last message received before it. */
  readonly after: string | undefined;
  readonly recovered: boolean | undefined;
  readonly last: string;
  readonly ids: string[];
}

/** Records what it receives. */
class Receiver {
  readonly spans: ConnectionSpan[] = [];
  readonly received = new Map<string, string>();
  readonly receivedEnd = Promise.withResolvers<void>();
  /** The last message received. */
  after: string | undefined;

  constructor(
    /** Of a client that sends, its session. */
    readonly name: string,
    protected readonly random: () => number,
    private readonly counts: Counts,
  ) {}

  protected onWelcome({ recovered, last }: { readonly recovered?: boolean; readonly last: string }): void {
    this.spans.push({ after: this.after, recovered, last, ids: [] });
    this.after ??= last;
    if (recovered === true) this.counts.recovered++;
    if (recovered === false) this.counts.notRecovered++;
  }

  protected onMessage(message: Pick<ChatMessage, "id" | "text" | "data" | "removed">): void {
    const name = nameOf(message);
    this.#onEntry(message.id, name);
    this.counts.received++;
    if (name === "end") this.receivedEnd.resolve();
  }

  protected onRemoved(removal: Removal): void {
    this.#onEntry(removal.id, REMOVAL);
    for (const [id, name] of this.received)
      if (
        "message" in removal
          ? id === removal.message
          : name.startsWith(`${removal.from}/`) && compareIds(id, removal.upTo) <= 0
      )
        this.received.set(id, REMOVED);
  }

  #onEntry(id: string, name: string): void {
    if (this.received.has(id)) this.fail(`received ${id} twice`);
    this.received.set(id, name);
    this.spans.at(-1)?.ids.push(id);
    this.after = id;
  }

  protected fail(why: string): void {
    this.receivedEnd.reject(new Error(`${this.name} ${why}`));
  }
}

/** An event stream, opened again whenever it ends. */
class ChaosSubscriber extends Receiver {
  #isOver = false;

  constructor(
    private readonly address: { server: string; room: string },
    private readonly format: "sse" | "ndjson",
    random: () => number,
    counts: Counts,
  ) {
    super(`${address.room}-${format}`, random, counts);
    this.receivedEnd.promise.catch(() => {}); // awaited at the end
    this.#run().catch((error: Error) => this.fail(error.message));
  }

  async #run(): Promise<void> {
    while (!this.#isOver)
      try {
        await this.#receive();
      } catch (error) {
        if (!(error instanceof StreamEnded)) throw error;
        // Sooner than `retry:` says, to keep the test short.
        await Bun.sleep(this.random() * 50);
      }
  }

  async #receive(): Promise<void> {
    const { server: origin, room } = this.address;
    // Both ways to resume.
    const query = this.after !== undefined && this.format === "ndjson" ? `?after=${this.after}` : "";
    const headers = {
      ...bearer("reader"),
      ...(this.after !== undefined && this.format === "sse" && { "Last-Event-ID": this.after }),
    };
    await using stream = await subscribe({ origin }, room, { query, headers, format: this.format });
    this.onWelcome(stream.welcome);
    while (!this.#isOver) {
      const event = await stream.next();
      if (isRemoval(event)) this.onRemoved(event);
      else if (isMessage(event)) this.onMessage(event);
      else this.fail(`received ${event.type}`);
    }
  }

  close(): void {
    this.#isOver = true;
  }
}

/** Sends without pause. */
class ChaosClient extends Receiver {
  readonly done = Promise.withResolvers<void>();
  readonly #connection: Client;
  #sent = 0;
  #acknowledged = 0;

  constructor(
    address: { server: string; id: string; room: string; token: string },
    session: string,
    private readonly total: number,
    /** Messages in flight at once; 1 waits for each ack. */
    private readonly window: number,
    random: () => number,
    counts: Counts,
  ) {
    super(session, random, counts);
    // The store loses nothing here, so a message that it does not know was never stored.
    this.#connection = connect({ ...address, session, resendUnknown: true })
      .on("welcome", (welcome) => this.onWelcome(welcome))
      .on("message", (message) => this.onMessage(message))
      .on("removed", (removal) => this.onRemoved(removal))
      .on("acknowledged", () => {
        counts.acknowledged++;
        if (++this.#acknowledged === total) this.done.resolve();
        this.#send();
      })
      // Sooner than the back-off, to keep the test short.
      .on("state", ({ status }) => {
        if (status === "reconnecting") setTimeout(() => this.#connection.retryNow(), random() * 50);
      })
      .on("rejected", ({ item, code }) => {
        if (code !== "message-too-big" || textOf(item).length <= MAX_MESSAGE_BYTES)
          this.fail(`was rejected: ${code}`);
        this.#send();
      })
      .on("unconfirmed", ({ seq }) => this.fail(`is unsure of ${seq}`));
    this.#send();
  }

  #send(): void {
    while (this.#sent < this.total && this.#connection.outbox.length < this.window) {
      // A message that is rejected for good must be skipped, and nothing else with it.
      if (this.random() < 0.05) this.#sendEither("x".repeat(MAX_MESSAGE_BYTES + 1));
      const padding = this.random() < 0.02 ? "x".repeat(30_000 * this.random()) : "";
      this.#sendEither(`${this.name}/${++this.#sent} ${padding}`);
    }
  }

  /** As text or as bytes. */
  #sendEither(text: string): void {
    this.#connection.send(this.random() < 0.8 ? text : new TextEncoder().encode(text));
  }

  protected override fail(why: string): void {
    super.fail(why);
    this.done.reject(new Error(`${this.name} ${why}`));
  }

  close(): void {
    this.#connection.close();
  }
}

/** Of a message with text, or with its bytes. */
function textOf({ text, data = "" }: { readonly text?: unknown; readonly data?: unknown }): string {
  return typeof text === "string" ? text : new TextDecoder().decode(Uint8Array.fromBase64(String(data)));
}

/** `session/seq`, without the padding; {@link REMOVED} of a removed message. */
function nameOf(message: Pick<ChatMessage, "text" | "data" | "removed">): string {
  return message.removed ? REMOVED : (textOf(message).split(" ", 1)[0] ?? "");
}

function isMessage(event: object): event is ChatMessage {
  return "type" in event && event.type === "message" && "id" in event;
}

function isRemoval(event: object): event is Removal {
  return "type" in event && event.type === "removed" && "id" in event;
}

/** Posts messages of its own as one client, and removes them as a moderator, at random. */
class Moderator {
  readonly #headers = bearer("mod", { can: ["read", "write", "moderate"] });
  /** By room: the messages that are stored for certain, and those that are removed for certain. */
  readonly #stored = new Map<string, Set<string>>();
  readonly #removed = new Map<string, Set<string>>();
  #sent = 0;

  constructor(
    private readonly anyServer: () => TestServer,
    private readonly random: () => number,
    private readonly counts: Counts,
  ) {}

  async ban(): Promise<void> {
    await this.#insist(() => this.#request("POST", `/clients/${BANNED}/disconnect`, { forSeconds: 3600 }));
  }

  async act(room: string): Promise<void> {
    const stored = [...(this.#stored.get(room) ?? [])];
    const choice = this.random();
    const one = stored[Math.floor(this.random() * stored.length)];
    if (one === undefined || choice < 0.7) {
      const { id } = (await this.#post(room)) ?? {};
      if (typeof id === "string") addTo(this.#stored, room, [id]);
    } else {
      const path = choice < 0.9 ? `messages/${one}` : `messages?from=${EVE}`;
      if (!(await this.#request("DELETE", `/rooms/${room}/${path}`))) return;
      addTo(this.#removed, room, choice < 0.9 ? [one] : stored);
      this.counts["removals"] = (this.counts["removals"] ?? 0) + 1;
    }
  }

  /** What earlier requests, whose answers were lost, may still do is done after this. */
  async finish(rooms: readonly string[]): Promise<void> {
    for (const room of rooms)
      await this.#insist(() => this.#request("DELETE", `/rooms/${room}/messages?from=${EVE}`));
  }

  /** What was removed is gone, and the ban holds, whatever has happened since. */
  async check(room: string, order: ReadonlyMap<string, string>): Promise<void> {
    for (const id of this.#removed.get(room) ?? [])
      if (order.get(id) !== REMOVED) throw new Error(`${id} was removed, and is ${order.get(id)}`);
    for (const [id, name] of order) if (name.startsWith(`${EVE}/`)) throw new Error(`${id} is not removed`);
    const { status } = await this.anyServer().get(`/rooms/${room}/messages`, { headers: bearer(BANNED) });
    if (status !== 403) throw new Error(`the banned client is answered with ${status}`);
  }

  #post(room: string) {
    const body = { from: EVE, text: `${EVE}/${++this.#sent}` };
    return this.#request("POST", `/rooms/${room}/messages`, body, bearer(EVE));
  }

  /** @returns undefined if a fault prevents it, or prevents its answer */
  async #request(
    method: string,
    path: string,
    body?: object,
    headers = this.#headers,
  ): Promise<Partial<Record<string, unknown>> | undefined> {
    try {
      const init = body === undefined ? {} : { body: JSON.stringify(body) };
      const response = await this.anyServer().get(path, { method, headers, ...init });
      const answer: Record<string, unknown> = JSON.parse(await response.text());
      if (response.ok) return answer;
      if (response.status !== 503)
        throw new Error(`${method} ${path}: ${response.status}`, { cause: answer });
    } catch (error) {
      if (error instanceof Error && error.cause !== undefined) throw error;
    }
    return undefined;
  }

  async #insist(request: () => Promise<unknown>): Promise<void> {
    const repeat = async () => {
      while (!(await request())) await Bun.sleep(50);
    };
    await withDeadline(repeat(), () => "a request of the moderator is not answered", DEADLINE_MS);
  }
}

function addTo(sets: Map<string, Set<string>>, room: string, ids: readonly string[]): void {
  const set = sets.get(room) ?? new Set();
  for (const id of ids) set.add(id);
  sets.set(room, set);
}

/** @throws an error that names the first rule that does not hold */
export async function runChaos(setUp: () => Promise<Environment>, scenario: Scenario): Promise<Counts> {
  const { maxFaults = 30 } = scenario;
  const random = randomFrom(scenario.seed);
  const counts: Counts = {
    acknowledged: 0,
    received: 0,
    cuts: 0,
    refused: 0,
    recovered: 0,
    notRecovered: 0,
  };
  const describe = (what: string) => () => `seed ${scenario.seed}: ${what}: ${JSON.stringify(counts)}`;
  await using environment = await setUp();
  const anyServer = () =>
    environment.servers[Math.floor(random() * environment.servers.length)] ?? fail("there is no server");
  const faults = Object.entries(environment.faults);
  const moderator = environment.isModerated ? new Moderator(anyServer, random, counts) : undefined;
  await moderator?.ban();
  {
    await using proxy = await startCuttingProxy(() => anyServer().port, random);
    const rooms = await Promise.all(
      scenario.rooms.map(async (room) => {
        const witness = await anyServer().joinJson("witness", { room });
        const textWitness = await anyServer().join("witness", { room });
        const clients = Array.from({ length: scenario.clientsPerRoom }, (_, i) => {
          const client = i % 4 === 3 ? i - 1 : i;
          const window = random() < 0.5 ? 1 : 20;
          const id = `c${client}`;
          const address = { server: proxy.origin, id, room, token: tokenOf(id) };
          return new ChaosClient(address, `${room}-${i}`, scenario.messagesPerClient, window, random, counts);
        });
        const subscribers = (["sse", "ndjson"] as const).map(
          (format) => new ChaosSubscriber({ server: proxy.origin, room }, format, random, counts),
        );
        return { room, witness, textWitness, clients, subscribers };
      }),
    );
    const all = rooms.flatMap(({ clients }) => clients);
    let isOver = false;
    const causing = (async () => {
      for (let i = 0; i < maxFaults && faults.length > 0 && !isOver; i++) {
        await Bun.sleep(100 + random() * 300);
        // Each kind once, so that a short run has them all.
        const [name, cause] =
          faults[i] ?? faults[Math.floor(random() * faults.length)] ?? fail("there is no fault");
        if (isOver) return;
        counts[name] = (counts[name] ?? 0) + 1;
        await cause();
      }
    })();
    const moderating = (async () => {
      while (moderator && !isOver) {
        await moderator.act(scenario.rooms[Math.floor(random() * scenario.rooms.length)] ?? "");
        await Bun.sleep(random() * 40);
      }
    })();
    moderating.catch(() => {}); // awaited at the end
    const done = Promise.all(all.map((client) => client.done.promise));
    try {
      await withDeadline(
        Promise.race([done, causing.then(() => done)]),
        describe("not everything was acknowledged"),
        DEADLINE_MS,
      );
    } finally {
      isOver = true;
      await causing;
      await moderating;
    }
    await moderator?.finish(scenario.rooms);
    proxy.cutting = false;
    counts.cuts = proxy.cuts;
    counts.refused = proxy.refusals;
    for (const { room, witness, textWitness, clients, subscribers } of rooms) {
      const receivers = [...clients, ...subscribers];
      await sendEnd(anyServer(), room);
      const ends = Promise.all(receivers.map((each) => each.receivedEnd.promise));
      await withDeadline(ends, describe(`not every client in ${room} received the end`), DEADLINE_MS);
      // A server that is killed cuts the witnesses off, too.
      const order = faults.length > 0 ? await readAll(anyServer(), room) : await receiveAll(witness);
      if (faults.length === 0) await checkTextWire(textWitness, [...order.values()]);
      await moderator?.check(room, order);
      checkStoredOnce(order, clients, scenario.messagesPerClient);
      for (const each of receivers) checkReceived(each, String(witness.welcome.last), order);
      for (const each of receivers) each.close();
      await Promise.all([witness.leaves(), textWitness.leaves()]);
    }
  }
  return counts;
}

function fail(why: string): never {
  throw new Error(why);
}

async function sendEnd(server: TestServer, room: string): Promise<void> {
  await using last = await server.joinJson("last", { room, session: room, history: 0 });
  for (;;) {
    last.says("end", { seq: 1 });
    for (let event = await last.next(); event.type !== "error"; event = await last.next())
      if (event.type === "ack") return;
    // The store may reject this one, too.
  }
}

/** Every message by id, as a client received it that was connected from the beginning. */
async function receiveAll(witness: JsonPeer): Promise<Map<string, string>> {
  const order = new Map<string, string>();
  for (;;) {
    const { id, text: sentText, data } = await witness.next();
    const text = textOf({ text: sentText, data });
    order.set(String(id), text.split(" ", 1)[0] ?? "");
    if (text === "end") return order;
  }
}

/** Every message and removal by id, as the store has it. */
async function readAll(server: TestServer, room: string): Promise<Map<string, string>> {
  const order = new Map<string, string>();
  for (let after = "1-0", more = true; more;) {
    const path = `/rooms/${room}/messages?limit=1000&after=${after}`;
    const { body } = await server.answer(path, { headers: bearer("reader") });
    const page: { messages: ChatMessage[]; removals?: Removal[]; more: boolean } = JSON.parse(body);
    for (const message of page.messages) order.set((after = message.id), nameOf(message));
    for (const { id } of page.removals ?? []) order.set(id, REMOVAL);
    more = page.more;
  }
  return new Map([...order].sort(([one], [other]) => compareIds(one, other)));
}

async function checkTextWire(
  witness: Awaited<ReturnType<TestServer["join"]>>,
  order: readonly string[],
): Promise<void> {
  for (const name of order)
    for (let line = ""; !line;) {
      const frame = await witness.next();
      line = typeof frame === "string" ? frame : new TextDecoder().decode(frame);
      if (line.endsWith(" left the chat")) line = "";
      else if (nameOf({ text: line.replace(/^Client #\S+ says: /, "") }) !== name)
        throw new Error(`the text wire received ${line.slice(0, 80)} instead of ${name}`);
    }
}

/** Stored is what was acknowledged: each seq of each session once, in its sender's order, and nothing else. */
function checkStoredOnce(
  order: ReadonlyMap<string, string>,
  clients: readonly ChaosClient[],
  total: number,
): void {
  const next = new Map(clients.map(({ name }) => [name, 1]));
  for (const [id, name] of order) {
    if (name === "end" || name === REMOVED || name === REMOVAL) continue;
    const [session = "", seq] = name.split("/");
    if (Number(seq) !== next.get(session)) {
      const ids = [...order].filter(([, other]) => other === name).map(([other]) => other);
      throw new Error(`${name} is stored as ${id}, where ${next.get(session)} was next; all its ids: ${ids}`);
    }
    next.set(session, Number(seq) + 1);
  }
  for (const [session, seq] of next)
    if (seq !== total + 1) throw new Error(`${session}: ${total} acknowledged, ${seq - 1} stored`);
}

/** Each span is a part of the one order, without a gap; `recovered` is true exactly if it continues the span before. */
function checkReceived(
  { name: session, spans, received }: Receiver,
  start: string,
  order: Map<string, string>,
): void {
  const ids = [start, ...order.keys()];
  const index = new Map(ids.map((id, i) => [id, i]));
  const position = (id: string) => {
    const found = index.get(id);
    if (found === undefined) throw new Error(`${session} received ${id}, which is not stored`);
    return found;
  };
  for (const { after, recovered, last, ids: spanIds } of spans) {
    const before = position(last);
    for (const [i, id] of spanIds.entries())
      if (position(id) !== before + 1 + i)
        throw new Error(`${session} received ${id} out of order, or missed one`);
    if (after === undefined) continue;
    if (recovered === true && after !== last)
      throw new Error(`${session}: recovered after ${after}, but continued after ${last}`);
    if (recovered === false && position(after) >= before)
      throw new Error(`${session}: nothing is missing after ${after}`);
  }
  for (const [id, name] of received)
    if (order.get(id) !== name) throw new Error(`${session} received ${name} as ${id}`);
}

/** One server without faults of its own. */
export async function singleServer(setup: Parameters<typeof startServer>[0]): Promise<Environment> {
  const args = [...(setup?.args ?? []), "--ping-seconds", `${STALL_PING_SECONDS}`];
  const server = await startServer({ ...setup, args });
  return { servers: [server], faults: {}, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** SQLite, and a server that is killed again and again. */
export function runSqliteKills(seed: number, size: Partial<Scenario> = {}): Promise<Counts> {
  return runChaos(() => onSqlite(seed), {
    seed,
    rooms: ["tea", "coffee"],
    clientsPerRoom: 8,
    messagesPerClient: 600,
    ...size,
  });
}

async function onSqlite(seed: number): Promise<Environment> {
  const folder = await mkdtemp(join(tmpdir(), "hubbub-"));
  const start = () =>
    startServer({
      store: { name: "SQLite", url: "sqlite:chat.db" },
      cwd: folder,
      args: ["--history", seed % 2 ? "100" : "5"],
      secret: SECRET,
    });
  const servers = [await start()];
  return {
    servers,
    isModerated: true,
    faults: {
      async kills() {
        await servers[0]?.stop("SIGKILL");
        servers[0] = await start();
      },
    },
    async [Symbol.asyncDispose]() {
      await servers[0]?.[Symbol.asyncDispose]();
      await rm(folder, { recursive: true });
    },
  };
}

/** Two servers and their database, all of which are killed and frozen. */
export function runClusterChaos(
  database: keyof typeof DATABASES,
  seed: number,
  size: Partial<Scenario> = {},
): Promise<Counts> {
  return runChaos(() => onCluster(DATABASES[database], randomFrom(-seed)), {
    seed,
    rooms: ["tea", "coffee"],
    clientsPerRoom: 8,
    messagesPerClient: 600,
    ...size,
  });
}

/** A database that acknowledges nothing before it is on disk. */
interface Database extends AsyncDisposable {
  readonly url: string;
  /** SIGKILL for all of its processes. */
  kill(): Promise<void>;
  restart(): Promise<void>;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Ends all connections to it. */
  cut(): Promise<unknown>;
}

const DATABASES = {
  async redis(): Promise<Database> {
    const redis = await Redis.start(DURABLE_REDIS);
    return {
      url: redis.url("faults"),
      kill: () => redis.stop(),
      restart: () => redis.start(),
      freeze: async () => redis.freeze(),
      thaw: async () => redis.thaw(),
      cut: () => redis.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"),
      [Symbol.asyncDispose]: () => redis[Symbol.asyncDispose](),
    };
  },
  async postgres(): Promise<Database> {
    const postgres = await Postgres.start({ settings: DURABLE_POSTGRES });
    return {
      url: postgres.url("faults"),
      kill: () => postgres.kill(),
      restart: () => postgres.start(),
      freeze: () => postgres.freeze(),
      thaw: () => postgres.thaw(),
      cut: () => postgres.terminateBackends(),
      [Symbol.asyncDispose]: () => postgres[Symbol.asyncDispose](),
    };
  },
};

async function onCluster(startDatabase: () => Promise<Database>, random: () => number): Promise<Environment> {
  const database = await startDatabase();
  const start = () =>
    startServer({
      store: { name: "a shared log", url: database.url },
      args: ["--history", "100000"],
      secret: SECRET,
    });
  const servers = [await start(), await start()];
  const pick = () => Math.floor(random() * servers.length);
  const frozenMs = () => (random() < 0.1 ? 3000 : 300) * random();
  return {
    servers,
    isModerated: true,
    faults: {
      async nodesKilled() {
        const i = pick();
        await servers[i]?.[Symbol.asyncDispose]();
        servers[i] = await start();
      },
      async nodesFrozen() {
        const { process } = servers[pick()] ?? fail("there is no server");
        process.kill("SIGSTOP");
        await Bun.sleep(frozenMs());
        process.kill("SIGCONT");
      },
      async databaseKilled() {
        await database.kill();
        await Bun.sleep(random() * 300);
        await database.restart();
      },
      async databaseFrozen() {
        await database.freeze();
        await Bun.sleep(frozenMs());
        await database.thaw();
      },
      async databaseCut() {
        await database.cut();
      },
    },
    async [Symbol.asyncDispose]() {
      for (const server of servers) await server[Symbol.asyncDispose]();
      await database[Symbol.asyncDispose]();
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
  const { store = "sqlite" } = values;
  const run = (seed: number) =>
    store === "redis" || store === "postgres" ? runClusterChaos(store, seed) : runSqliteKills(seed);
  const endMs = performance.now() + Number(values.seconds ?? 60) * 1000;
  const sum: Record<string, number> = {};
  for (let seed = Number(values.seed ?? 1); performance.now() < endMs; seed++) {
    const counts = await run(seed);
    console.log(`seed ${seed}: ${show(counts)}`);
    for (const [what, count] of Object.entries({ runs: 1, ...counts })) sum[what] = (sum[what] ?? 0) + count;
  }
  console.log(`all: ${show(sum)}; none lost, none duplicated, none out of order, none removed in vain`);
}
