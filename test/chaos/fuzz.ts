/**
 * Malformed input is sent to a server without pause, while two witnesses in one room, one on each wire, must receive each
 * other's messages once and in order. `bun test/chaos/fuzz.ts --seconds 600 --seed 1` runs longer.
 */

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { CLOSE_CODES } from "../../src/protocol/codes.ts";
import { FuzzInput, SECRET, TARGETS, tokenOf, type Input } from "../support/fuzz-input.ts";
import { JsonPeer, type Peer } from "../support/peer.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { randomFrom } from "../support/random.ts";
import { RawClient, describeFrame } from "../support/raw-websocket.ts";

/** Connections that stay open, some within a frame, while new ones are opened. */
const LINGERING = 12;
const EVENTS = new Set(["welcome", "presence", "message", "ack", "error", "pong"]);
const ABUSE = CLOSE_CODES.abuse.join(" ");
const FAILED = CLOSE_CODES.failed.join(" ");

interface Fuzz {
  readonly seed: number;
  readonly rounds?: number;
  readonly seconds?: number;
  readonly args?: readonly string[];
  /** The server requires tokens. */
  readonly withTokens?: boolean;
  /** Pause between two messages of the witnesses, to stay within a rate limit. */
  readonly pauseMs?: number;
}

export interface Counts {
  rounds: number;
  readonly targets: Record<Input["target"], number>;
  /** Responses by status, or `none`. */
  readonly answers: Record<string, number>;
  /** Closed connections by close code. */
  readonly closes: Record<string, number>;
  abuses: number;
  /** Messages of the witnesses. */
  sent: number;
  rssMiB: number;
}

/** @throws an error that names the seed and the last or the wrongly answered input */
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
    sent: 0,
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
        await witnesses.talk();
      }
      if (server.process.exitCode !== null || server.process.signalCode !== null)
        throw new Error(`the server exited: ${await server.errors}`);
      if (senders.length > LINGERING) await senders.shift()?.ends(counts);
    }
    for (const sender of senders.splice(0)) await sender.ends(counts);
    await witnesses.talk();
    counts.sent = witnesses.count;
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

  /** @param fence resolves once the server has read everything sent before */
  async sends(fence: () => Promise<unknown>): Promise<void> {
    this.#client.sends(this.input.request);
    if (this.input.target === "frames" || this.input.target === "json")
      this.#head = await this.#client.head();
    else await fence();
    for (const frame of this.input.frames) this.#client.sends(frame);
    await fence();
  }

  /** Closes its side, and checks everything received. */
  async ends(counts: Counts): Promise<void> {
    this.#client.ends();
    try {
      this.#head ??= await this.#client.head();
      const status = this.#head?.status ?? "none";
      count(counts.answers, `${status}`);
      if (status === 101)
        for (const frame of await this.#client.rest()) this.#check(describeFrame(frame), counts);
      else if (Number(status) >= 500 && status !== 505) throw new Error(`answered with ${status}`);
    } catch (error) {
      throw new Error(`${error}, after ${show(this.input)}`, { cause: error });
    } finally {
      this.vanishes();
    }
  }

  #check(line: string, counts: Counts): void {
    const [kind, word = ""] = line.split(" ", 2);
    if (kind === "close") count(counts.closes, word || "none");
    if (line === `close ${ABUSE}`) counts.abuses++;
    if (line === `close ${FAILED}`) throw new Error("the server closed it because of an error of its own");
    if (!/^(text|binary|close|ping|pong)/.test(line)) throw new Error(`received ${line}`);
    if (kind === "text" && this.#head?.headers.has("sec-websocket-protocol")) {
      const event: { type?: unknown } = JSON.parse(line.slice("text ".length));
      if (!EVENTS.has(String(event.type))) throw new Error(`received ${line}`);
    }
  }

  vanishes(): void {
    this.#client.vanishes();
  }
}

/** Two clients that answer each other, and must receive each other's messages once and in one order. */
class Witnesses {
  readonly #sent: string[] = [];
  readonly #received = { text: 0, json: 0 };
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

  get count(): number {
    return this.#sent.length;
  }

  async talk(): Promise<void> {
    this.#round++;
    this.#sent.push(`text ${this.#round}`);
    this.text.says(`text ${this.#round}`);
    await this.#receiveAll();
    this.#sent.push(`json ${this.#round}`);
    this.json.says(`json ${this.#round}`, { seq: this.#round });
    await this.#receiveAll();
  }

  async #receiveAll(): Promise<void> {
    const expectation = () => `a witness waits for “${this.#sent.at(-1)}”`;
    while (this.#received.json < this.#sent.length) {
      const { type, from, text } = await this.json.next(expectation);
      if (type === "error") throw new Error(`a message of a witness was rejected: ${text}`);
      if (type === "message" && String(from).startsWith("witness-")) this.#receives("json", `${text}`);
    }
    while (this.#received.text < this.#sent.length) {
      const line = await this.text.next(expectation);
      const [, word] = /^Client #witness-\w+ says: (.*)$/s.exec(String(line)) ?? [];
      if (word !== undefined) this.#receives("text", word);
    }
  }

  #receives(wire: "text" | "json", text: string): void {
    const expected = this.#sent[this.#received[wire]++];
    if (text !== expected) throw new Error(`a witness received “${text}” instead of “${expected}”`);
  }
}

function count(counts: Record<string, number>, what: string): void {
  counts[what] = (counts[what] ?? 0) + 1;
}

/** Resident memory on Linux, NaN elsewhere. */
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
