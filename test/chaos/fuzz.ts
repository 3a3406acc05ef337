/**
 * A room in which garbage is sent without a pause, while two witnesses, one on each wire, talk to each other: they hear
 * each word once and in order, and the server never fails. `bun test/chaos/fuzz.ts --seconds 600 --seed 1` goes on for longer.
 */

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { CLOSE_CODES } from "../../src/protocol/codes.ts";
import { FuzzInput, SECRET, TARGETS, tokenOf, type Input } from "../support/fuzz-input.ts";
import { JsonPeer, type Peer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { randomFrom } from "../support/random.ts";
import { RawClient, describeFrame } from "../support/raw-websocket.ts";

/** So many senders stay, some in the middle of a frame, while others come. */
const LINGERING = 12;
const EVENTS = new Set(["welcome", "presence", "message", "ack", "error", "pong"]);
const ABUSE = CLOSE_CODES.abuse.join(" ");
const FAILED = CLOSE_CODES.failed.join(" ");

export interface Fuzz {
  readonly seed: number;
  readonly rounds?: number;
  readonly seconds?: number;
  readonly args?: readonly string[];
  /** Only who has a token comes in. */
  readonly withTokens?: boolean;
  /** The witnesses keep silent for so long between two words, if there is a limit to what they may say. */
  readonly pauseMs?: number;
}

export interface Counts {
  rounds: number;
  readonly targets: Record<Input["target"], number>;
  /** How the server answered requests: by status, or `none`. */
  readonly answers: Record<string, number>;
  /** Why connections were closed, by code. */
  readonly closes: Record<string, number>;
  abuses: number;
  /** By the witnesses. */
  said: number;
  rssMiB: number;
}

/** @throws an error that names the seed, and the input that was sent last or that was answered wrongly */
export async function runFuzz(fuzz: Fuzz): Promise<Counts> {
  const { seed, rounds = Infinity, seconds = Infinity, args = [], withTokens = false, pauseMs = 0 } = fuzz;
  const garbage = new FuzzInput(randomFrom(seed));
  const random = randomFrom(~seed);
  const counts: Counts = {
    rounds: 0,
    targets: { frames: 0, json: 0, path: 0, headers: 0 },
    answers: {},
    closes: {},
    abuses: 0,
    said: 0,
    rssMiB: 0,
  };
  const server = await startServer({ args, env: withTokens ? { HUBBUB_SECRET: SECRET } : {} });
  const senders: Sender[] = [];
  let last: Input | undefined;
  try {
    const witnesses = await Witnesses.of(server);
    const endMs = performance.now() + seconds * 1000;
    let spokeMs = -Infinity;
    for (; counts.rounds < rounds && performance.now() < endMs; counts.rounds++) {
      const input = (last = garbage.next());
      counts.targets[input.target]++;
      const sender = new Sender(server, input);
      await sender.sends(() => server.answer("/"));
      if (random() < 0.1) sender.vanishes();
      else senders.push(sender);
      if (performance.now() - spokeMs >= pauseMs) {
        spokeMs = performance.now();
        await witnesses.speak();
      }
      if (server.process.exitCode !== null || server.process.signalCode !== null)
        throw new Error(`the server exited: ${await server.errors}`);
      if (senders.length > LINGERING) await senders.shift()?.ends(counts);
    }
    for (const sender of senders.splice(0)) await sender.ends(counts);
    await witnesses.speak();
    counts.said = witnesses.said;
    counts.rssMiB = await rssMiB(server.process.pid);
  } catch (error) {
    throw new Error(`seed ${seed}, round ${counts.rounds}: ${error}\nsent last: ${show(last)}`, {
      cause: error,
    });
  } finally {
    for (const sender of senders) sender.vanishes();
    await server[Symbol.asyncDispose]();
  }
  const errors = await server.errors;
  if (errors) throw new Error(`seed ${seed}: the server complained: ${errors}`);
  return counts;
}

class Sender {
  readonly #client: RawClient;
  #head: Awaited<ReturnType<RawClient["head"]>>;

  constructor(
    server: TestServer,
    private readonly input: Input,
  ) {
    this.#client = new RawClient(server.port);
  }

  /** @param fence answered by the server when it has seen what was sent before */
  async sends(fence: () => Promise<unknown>): Promise<void> {
    this.#client.sends(this.input.request);
    if (this.input.target === "frames" || this.input.target === "json")
      this.#head = await this.#client.head();
    else await fence();
    for (const frame of this.input.frames) this.#client.sends(frame);
    await fence();
  }

  /** Ends its side, and looks at all that was ever answered. */
  async ends(counts: Counts): Promise<void> {
    this.#client.ends();
    try {
      this.#head ??= await this.#client.head();
      const status = this.#head?.status ?? "none";
      count(counts.answers, `${status}`);
      if (status === 101)
        for (const frame of await this.#client.rest()) this.#looksAt(describeFrame(frame), counts);
      else if (Number(status) >= 500 && status !== 505) throw new Error(`answered with ${status}`);
    } catch (error) {
      throw new Error(`${error}, after ${show(this.input)}`, { cause: error });
    } finally {
      this.vanishes();
    }
  }

  #looksAt(line: string, counts: Counts): void {
    const [kind, word = ""] = line.split(" ", 2);
    if (kind === "close") count(counts.closes, word || "none");
    if (line === `close ${ABUSE}`) counts.abuses++;
    if (line === `close ${FAILED}`) throw new Error("the server closed it as its own fault");
    if (!/^(text|binary|close|ping|pong)/.test(line)) throw new Error(`heard ${line}`);
    if (kind === "text" && this.#head?.headers.has("sec-websocket-protocol")) {
      const event: { type?: unknown } = JSON.parse(line.slice("text ".length));
      if (!EVENTS.has(String(event.type))) throw new Error(`heard ${line}`);
    }
  }

  vanishes(): void {
    this.#client.vanishes();
  }
}

/** Two who answer each other. Whatever else is said in the room, they hear one another's words once, in one order. */
class Witnesses {
  readonly #words: string[] = [];
  readonly #heard = { text: 0, json: 0 };
  #round = 0;

  private constructor(
    private readonly text: Peer,
    private readonly json: JsonPeer,
  ) {}

  static async of(server: TestServer): Promise<Witnesses> {
    const text = await server.join("witness-text", { token: tokenOf("witness-text") });
    const query = { session: "witness", token: tokenOf("witness-json") };
    return new Witnesses(text, await server.joinJson("witness-json", query));
  }

  get said(): number {
    return this.#words.length;
  }

  async speak(): Promise<void> {
    this.#round++;
    this.#words.push(`text ${this.#round}`);
    this.text.says(`text ${this.#round}`);
    await this.#hearAll();
    this.#words.push(`json ${this.#round}`);
    this.json.says(`json ${this.#round}`, { seq: this.#round });
    await this.#hearAll();
  }

  async #hearAll(): Promise<void> {
    const expectation = `a witness waits for “${this.#words.at(-1)}”`;
    while (this.#heard.json < this.#words.length) {
      const { type, from, text } = await this.json.next(expectation);
      if (type === "error") throw new Error(`a witness was refused: ${text}`);
      if (type === "message" && String(from).startsWith("witness-")) this.#hears("json", `${text}`);
    }
    while (this.#heard.text < this.#words.length) {
      const line = await this.text.next(expectation);
      const [, word] = /^Client #witness-\w+ says: (.*)$/s.exec(String(line)) ?? [];
      if (word !== undefined) this.#hears("text", word);
    }
  }

  #hears(wire: "text" | "json", word: string): void {
    const expected = this.#words[this.#heard[wire]++];
    if (word !== expected) throw new Error(`a witness heard “${word}” where “${expected}” was next`);
  }
}

function count(counts: Record<string, number>, what: string): void {
  counts[what] = (counts[what] ?? 0) + 1;
}

/** As Linux tells it; NaN elsewhere. */
async function rssMiB(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "");
  return Math.round(Number(/^VmRSS:\s*(\d+)/m.exec(status)?.[1]) / 1024);
}

function show(input: Input | undefined): string {
  if (!input) return "nothing";
  const shown = [input.request, ...input.frames].map((bytes) => JSON.stringify(bytes.toString("latin1")));
  const all = shown.join(" ");
  return `${input.target}: ${all.length > 4_000 ? `${all.slice(0, 4_000)}… (${all.length})` : all}`;
}

export function describeCounts({ targets, ...counts }: Counts): string {
  return JSON.stringify({ ...targets, ...counts })
    .replaceAll('"', "")
    .replaceAll(",", ", ");
}

if (import.meta.main) {
  const number = { type: "string" } as const;
  const { values } = parseArgs({
    options: { seconds: number, seed: number, rate: number, tokens: { type: "boolean" } },
  });
  const { seconds = "60", seed = `${Date.now()}`, rate, tokens = false } = values;
  console.log(`seed ${seed}, ${seconds} s, ${TARGETS.join(", ")}`);
  const args = ["--message-rate", `${rate}`, "--message-burst", `${2 * Number(rate)}`];
  const limited = rate === undefined ? {} : { args, pauseMs: 1200 / Number(rate) };
  console.log(
    describeCounts(
      await runFuzz({ seed: Number(seed), seconds: Number(seconds), withTokens: tokens, ...limited }),
    ),
  );
}
