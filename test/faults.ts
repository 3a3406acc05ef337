/**
 * The promise, under faults: clients that talk without a pause while their connections are cut at random moments
 * and the store refuses and delays at random. Everything is counted, and every rule is checked at the end.
 */

import { SUBPROTOCOL } from "../src/protocol.ts";
import { within, type Event, type Hubbub } from "./hubbub.ts";
import { randomFrom } from "./random.ts";

const DEADLINE_MS = 60_000;

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
  /** Refusals by the store or for being out of order; each was sent again. */
  refused: number;
  /** Numbers sent more than once. */
  sentAgain: number;
  recovered: number;
  notRecovered: number;
}

/** One stretch of a conversation: from a welcome to the end of its connection. */
interface Stretch {
  readonly after: string | undefined;
  readonly recovered: unknown;
  readonly last: string;
  readonly ids: string[];
}

type Random = () => number;

/** A client that never gives up: it keeps what is not acknowledged, and goes on where it was. */
class Talker {
  readonly stretches: Stretch[] = [];
  readonly heard = new Map<string, string>();
  readonly #pending = new Map<number, string>();
  readonly done = Promise.withResolvers<void>();
  readonly heardEnd = Promise.withResolvers<void>();
  #socket: WebSocket | undefined;
  #after: string | undefined;
  #next = 1;
  #resend: Timer | undefined;
  /** Whether the connections are still being cut. */
  cutting = true;

  constructor(
    private readonly url: string,
    readonly session: string,
    private readonly total: number,
    /** How many messages may be on their way at once: 1 waits for each ack. */
    private readonly window: number,
    private readonly random: Random,
    private readonly counts: Counts,
  ) {
    this.#connect();
  }

  #connect(): void {
    const query = new URLSearchParams({ session: this.session });
    if (this.#after !== undefined) query.set("after", this.#after);
    const after = this.#after;
    const socket = new WebSocket(`${this.url}&${query}`, {
      headers: { "Sec-WebSocket-Protocol": SUBPROTOCOL },
    });
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      if (socket === this.#socket) this.#hear(JSON.parse(String(data)), after);
    };
    socket.onclose = () => {
      if (socket === this.#socket) setTimeout(() => this.#connect(), this.random() * 20);
    };
    if (this.cutting && this.random() < 0.8) setTimeout(() => this.cut(socket), this.random() ** 2 * 300);
  }

  cut(socket = this.#socket): void {
    if (!this.cutting || socket !== this.#socket || socket?.readyState === WebSocket.CLOSED) return;
    this.counts.cuts++;
    socket?.terminate();
  }

  #hear(event: Event, after: string | undefined): void {
    switch (event.type) {
      case "welcome":
        this.stretches.push({ after, recovered: event.recovered, last: String(event.last), ids: [] });
        if (event.recovered === true) this.counts.recovered++;
        if (event.recovered === false) this.counts.notRecovered++;
        this.#after ??= String(event.last);
        for (const seq of this.#pending.keys()) if (seq <= Number(event.sent ?? 0)) this.#acknowledge(seq);
        this.#sendAgain();
        this.#sendMore();
        // Twice in a row, and in the middle of a replay.
        if (this.random() < 0.1) this.cut();
        break;
      case "message": {
        const id = String(event.id);
        if (this.heard.has(id)) throw new Error(`${this.session} heard ${id} twice`);
        this.heard.set(id, nameOf(String(event.text)));
        this.stretches.at(-1)?.ids.push(id);
        this.#after = id;
        this.counts.heard++;
        if (event.text === "end") this.heardEnd.resolve();
        else if (this.random() < 0.001) this.cut();
        break;
      }
      case "ack":
        this.#acknowledge(Number(event.seq));
        this.#sendMore();
        break;
      case "error": {
        this.counts.refused++;
        if (event.code !== "unavailable" && event.code !== "out-of-order")
          throw new Error(`unexpected: ${JSON.stringify(event)}`);
        this.#resend ??= setTimeout(() => this.#sendAgain(), this.random() * 5);
        break;
      }
    }
  }

  #acknowledge(seq: number): void {
    if (!this.#pending.delete(seq)) return;
    this.counts.acknowledged++;
    if (this.#next > this.total && this.#pending.size === 0) this.done.resolve();
  }

  /** Everything that is not acknowledged, in order. */
  #sendAgain(): void {
    clearTimeout(this.#resend);
    this.#resend = undefined;
    for (const [seq, text] of this.#pending) {
      this.counts.sentAgain++;
      this.#send(seq, text);
    }
  }

  #sendMore(): void {
    while (this.#next <= this.total && this.#pending.size < this.window) {
      const seq = this.#next++;
      const padding = this.random() < 0.02 ? "x".repeat(30_000 * this.random()) : "";
      const text = `${this.session}/${seq} ${padding}`;
      this.#pending.set(seq, text);
      this.#send(seq, text);
      // Between sending and the ack, or in the middle of the frame.
      if (this.random() < 0.01) this.cut();
    }
  }

  #send(seq: number, text: string): void {
    if (this.#socket?.readyState === WebSocket.OPEN)
      this.#socket.send(JSON.stringify({ type: "message", text, seq }));
  }

  close(): void {
    const socket = this.#socket;
    this.#socket = undefined;
    socket?.terminate();
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
    sentAgain: 0,
    recovered: 0,
    notRecovered: 0,
  };
  const rooms = await Promise.all(
    faults.rooms.map(async (room) => {
      const witness = await hub.joinJson("witness", { room });
      const textWitness = await hub.join("witness", { room });
      const talkers = Array.from({ length: faults.clientsPerRoom }, (_, i) => {
        const client = i % 4 === 3 ? i - 1 : i;
        const url = `ws://127.0.0.1:${hub.port}/ws/c${client}?room=${room}`;
        const window = random() < 0.5 ? 1 : 20;
        return new Talker(url, `${room}-${i}`, faults.messagesPerClient, window, random, counts);
      });
      return { room, witness, textWitness, talkers };
    }),
  );
  const all = rooms.flatMap(({ talkers }) => talkers);
  const waiting = () => `seed ${faults.seed}: not all was acknowledged: ${JSON.stringify(counts)}`;
  await within(Promise.all(all.map((talker) => talker.done.promise)), waiting, DEADLINE_MS);

  for (const talker of all) talker.cutting = false;
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
