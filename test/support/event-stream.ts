/** A subscriber of `GET /rooms/:room/events`, over `fetch`. */

import { deepEquals } from "bun";
import type { StreamWelcome } from "../../src/protocol/stream-encoders.ts";
import { withDeadline } from "./deadline.ts";
import { isRecent, type Event } from "./peer.ts";

function isWelcome(event: object): event is StreamWelcome {
  return "room" in event && "last" in event && typeof event.last === "string";
}

const NDJSON = "application/x-ndjson";

interface Wanted {
  readonly query?: string;
  readonly format?: "sse" | "ndjson";
  readonly headers?: Record<string, string>;
}

/** The stream ended, or could not be opened. */
export class StreamEnded extends Error {}

/** Opens a stream; resolves after the welcome. @throws StreamEnded */
export async function subscribe(
  server: { readonly origin: string },
  room: string,
  { query = "", format = "sse", headers = {} }: Wanted = {},
): Promise<StreamPeer> {
  const aborter = new AbortController();
  const opening = fetch(`${server.origin}/rooms/${room}/events${query}`, {
    headers: { Accept: format === "sse" ? "text/event-stream" : NDJSON, ...headers },
    signal: aborter.signal,
  });
  const response = await opening.catch(({ message }: Error) => {
    throw new StreamEnded(message);
  });
  const { status, body } = response;
  if (status !== 200 || !body) {
    const problem = await response.text().catch(({ message }: Error) => message); // it may be cut off
    throw new StreamEnded(`the stream is ${status}: ${problem}`);
  }
  const peer = new StreamPeer(body, format, aborter);
  await peer.start();
  return peer;
}

class StreamPeer implements AsyncDisposable {
  /** The first event. */
  welcome: StreamWelcome = { room: "", last: "" };
  /** The last id received, to resume after it. */
  after = "";
  /** The last `retry:`, in milliseconds. */
  retryMs: number | undefined;
  readonly #reader: {
    read(): Promise<{ done: boolean; value?: Uint8Array | undefined }>;
    cancel(): Promise<void>;
  };
  readonly #decoder = new TextDecoder();
  #text = "";

  constructor(
    body: ReadableStream<Uint8Array>,
    private readonly format: "sse" | "ndjson",
    private readonly aborter: AbortController,
  ) {
    this.#reader = body.getReader();
  }

  async start(): Promise<void> {
    const { type, ...welcome } = await this.#nextEvent("expected a welcome");
    if (type !== "welcome" || !isWelcome(welcome)) throw new Error(`expected a welcome, received ${type}`);
    this.welcome = welcome;
    this.after = welcome.last;
  }

  /** The next event other than a heartbeat. */
  async next(expectation = "expected an event"): Promise<Event> {
    for (;;) {
      const event = await this.#nextEvent(expectation);
      if (event.type !== "ping") return event;
    }
  }

  /** Expects a heartbeat as the next event. */
  async hearsHeartbeat(): Promise<void> {
    const event = await this.#nextEvent("expected a heartbeat");
    if (event.type !== "ping") throw new Error(`expected a heartbeat, received ${JSON.stringify(event)}`);
  }

  /** Expects exactly these messages next. Their ids and times are not compared. */
  async hears(
    ...expected: readonly { readonly from: string; readonly text?: string; readonly data?: string }[]
  ) {
    for (const message of expected) {
      const { id, time, ...received } = await this.next(`expected ${JSON.stringify(message)}`);
      if (!deepEquals(received, { type: "message", ...message }) || id !== this.after || !isRecent(time))
        throw new Error(`expected ${JSON.stringify(message)}, received ${JSON.stringify(received)}`);
    }
  }

  /** Waits for the end of the stream. @returns the events before it, and whether the response was complete */
  async ends(): Promise<{ readonly unread: readonly Event[]; readonly isComplete: boolean }> {
    const unread: Event[] = [];
    for (;;) {
      let event: Event | undefined;
      try {
        event = await this.#read("expected the end");
      } catch (error) {
        if (!(error instanceof StreamEnded)) throw error;
        return { unread, isComplete: false };
      }
      if (!event) return { unread, isComplete: true };
      if (event.type !== "ping") unread.push(event);
    }
  }

  async #nextEvent(expectation: string): Promise<Event> {
    const event = await this.#read(expectation);
    if (!event) throw new StreamEnded(`${expectation}, but the stream ended`);
    return event;
  }

  async #read(expectation: string): Promise<Event | undefined> {
    const end = this.format === "sse" ? "\n\n" : "\n";
    while (!this.#text.includes(end)) {
      const { done, value } = await withDeadline(
        this.#reader.read().catch(({ message }: Error) => {
          throw new StreamEnded(message);
        }),
        () => `${expectation}, but nothing came`,
      );
      if (done) return undefined;
      this.#text += this.#decoder.decode(value, { stream: true });
    }
    const size = this.#text.indexOf(end) + end.length;
    const event = this.#parse(this.#text.slice(0, size - end.length));
    this.#text = this.#text.slice(size);
    return event;
  }

  #parse(text: string): Event {
    const event: Event = this.format === "sse" ? this.#parseBlock(text) : JSON.parse(text);
    if (event.type === "message" || event.type === "removed") this.after = String(event.id);
    return event;
  }

  /** By the HTML standard, section 9.2.6, as far as this server uses it. */
  #parseBlock(block: string): Event {
    if (block === ": ping") return { type: "ping" };
    const fields = new Map(
      block
        .split("\n")
        .map((line): [string, string] => [line.split(":")[0] ?? "", line.replace(/^[^:]*: ?/, "")]),
    );
    if (fields.has("retry")) this.retryMs = Number(fields.get("retry"));
    // A rejection that will pass.
    if (!fields.has("data")) throw new StreamEnded(block);
    const event: Event = JSON.parse(fields.get("data") ?? "");
    const name = event.type === "message" ? undefined : event.type;
    const expected = [name, event.type === "welcome" ? event.last : event.id];
    if (!deepEquals([fields.get("event"), fields.get("id")], expected))
      throw new Error(`name and id differ from the data: ${block}`);
    return event;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.aborter.abort();
    await this.#reader.cancel().catch(() => {});
  }
}
