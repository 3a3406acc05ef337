/**
 * The promise, under faults: clients that talk without a pause while their connections are cut at random moments
 * and the store refuses and delays at random. Everything is counted, and every rule is checked at the end.
 */

import { connect, type Connection } from "../src/client.ts";
import { startCutter } from "./cutter.ts";
import { within, type Hubbub } from "./hubbub.ts";
import { randomFrom } from "./random.ts";

const DEADLINE_MS = 60_000;
const MAX_MESSAGE_BYTES = 65_536;

export interface Faults {
  readonly seed: number;
  readonly rooms: readonly string[];
  /** In each room; every fourth is a second tab of the one before it. */
  readonly clientsPerRoom: number;
  readonly messagesPerClient: number;
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
}

/** One stretch of a conversation: from a welcome to the end of its connection. */
interface Stretch {
  /** The last message heard before. */
  readonly after: string | undefined;
  readonly recovered: boolean | undefined;
  readonly last: string;
  readonly ids: string[];
}

/** Somebody who talks without a pause, and keeps book of what they hear. */
class Talker {
  readonly stretches: Stretch[] = [];
  readonly heard = new Map<string, string>();
  readonly done = Promise.withResolvers<void>();
  readonly heardEnd = Promise.withResolvers<void>();
  readonly #connection: Connection;
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
    this.#connection = connect({ ...address, session, repeat: true })
      .on("welcome", ({ recovered, last }) => {
        this.stretches.push({ after: this.#after, recovered, last, ids: [] });
        this.#after ??= last;
        if (recovered === true) counts.recovered++;
        if (recovered === false) counts.notRecovered++;
      })
      .on("message", ({ id, text = "" }) => {
        if (this.heard.has(id)) this.#fail(`heard ${id} twice`);
        this.heard.set(id, nameOf(text));
        this.stretches.at(-1)?.ids.push(id);
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
      .on("state", ({ is }) => {
        if (is === "waiting") setTimeout(() => this.#connection.retryNow(), random() * 50);
      })
      .on("refused", ({ item, code }) => {
        if (code !== "message-too-big" || item.text.length <= MAX_MESSAGE_BYTES)
          this.#fail(`was refused: ${code}`);
        this.#say();
      })
      .on("unsure", ({ seq }) => this.#fail(`does not know of ${seq}`));
    this.#say();
  }

  #say(): void {
    while (this.#said < this.total && this.#connection.outbox.length < this.window) {
      // What is refused for good is passed over, and nothing else with it.
      if (this.random() < 0.1) this.#connection.send("x".repeat(MAX_MESSAGE_BYTES + 1));
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

/** Runs them all to the end. @throws an error that names the first rule that does not hold */
export async function runFaults(hub: Hubbub, faults: Faults): Promise<Counts> {
  const random = randomFrom(faults.seed);
  const counts: Counts = {
    acknowledged: 0,
    heard: 0,
    cuts: 0,
    refused: 0,
    recovered: 0,
    notRecovered: 0,
  };
  await using cutter = await startCutter(() => hub.port, random);
  const rooms = await Promise.all(
    faults.rooms.map(async (room) => {
      const witness = await hub.joinJson("witness", { room });
      const textWitness = await hub.join("witness", { room });
      const talkers = Array.from({ length: faults.clientsPerRoom }, (_, i) => {
        const client = i % 4 === 3 ? i - 1 : i;
        const window = random() < 0.5 ? 1 : 20;
        const address = { server: cutter.origin, id: `c${client}`, room };
        return new Talker(address, `${room}-${i}`, faults.messagesPerClient, window, random, counts);
      });
      return { room, witness, textWitness, talkers };
    }),
  );
  const all = rooms.flatMap(({ talkers }) => talkers);
  const waiting = () => `seed ${faults.seed}: not all was acknowledged: ${JSON.stringify(counts)}`;
  await within(Promise.all(all.map((talker) => talker.done.promise)), waiting, DEADLINE_MS);

  cutter.cutting = false;
  counts.cuts = cutter.cuts;
  counts.refused = cutter.refusals;
  for (const { room, witness, textWitness, talkers } of rooms) {
    // The store may refuse this one too.
    await using last = await hub.joinJson("last", { room, session: room, history: 0 });
    for (let acked = false; !acked;) {
      last.says("end", { seq: 1 });
      for (let event = await last.next(); !acked && event.type !== "error"; event = await last.next())
        acked = event.type === "ack";
    }
    const missing = () =>
      `seed ${faults.seed}: not everyone in ${room} heard the end: ${JSON.stringify(counts)}`;
    await within(Promise.all(talkers.map((talker) => talker.heardEnd.promise)), missing, DEADLINE_MS);

    const order = new Map<string, string>();
    const start = String(witness.welcome.last);
    for (let event = await witness.next(); ; event = await witness.next()) {
      order.set(String(event.id), nameOf(String(event.text)));
      if (event.text === "end") break;
    }
    await checkTextWire(textWitness, [...order.values()]);
    checkSaidOnce([...order.values()], talkers, faults.messagesPerClient);
    for (const talker of talkers) checkHeard(talker, start, order);
    await witness.leaves();
    await textWitness.leaves();
  }
  for (const talker of all) talker.close();
  return counts;
}

async function checkTextWire(
  witness: Awaited<ReturnType<Hubbub["join"]>>,
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
function checkSaidOnce(order: readonly string[], talkers: readonly Talker[], total: number): void {
  const next = new Map(talkers.map(({ session }) => [session, 1]));
  for (const name of order.slice(0, -1)) {
    const [session = "", seq] = name.split("/");
    if (Number(seq) !== next.get(session))
      throw new Error(`${name} was said where ${next.get(session)} was next`);
    next.set(session, Number(seq) + 1);
  }
  for (const [session, seq] of next)
    if (seq !== total + 1) throw new Error(`${session} acknowledged ${total}, of which ${seq - 1} were said`);
}

/** Each stretch is a piece of the one order without a hole; recovered says truly whether it joins the one before. */
function checkHeard({ session, stretches, heard }: Talker, start: string, order: Map<string, string>): void {
  const ids = [start, ...order.keys()];
  const index = new Map(ids.map((id, i) => [id, i]));
  const position = (id: string) => {
    const found = index.get(id);
    if (found === undefined) throw new Error(`${session} heard of ${id}, which nobody else did`);
    return found;
  };
  for (const { after, recovered, last, ids: heardIds } of stretches) {
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
