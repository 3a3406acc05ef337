/** Reads request bodies. Each holds a file descriptor while it arrives, so slow ones are rejected when these run low. */

import { HttpProblem, protocolProblem } from "./problem.ts";
import type { HttpServer } from "./router.ts";
import type { Clock } from "../util/clock.ts";

/** Bun's default of 12 s would cut off a slow body, even while it is arriving. */
const TIMEOUT_SECONDS = 120;
/** A body of one message arrives well within this. */
const SLOW_MS = 1000;

export class BodyReader {
  /** When each body began to arrive, and what rejects it; the oldest first. */
  readonly #pending = new Set<{ startMs: number; reject: (problem: HttpProblem) => void }>();

  constructor(
    private readonly maxBytes: number,
    private readonly clock: Clock,
  ) {}

  /** The body as text. @throws HttpProblem 400, 413, or 503 if it is slow while descriptors run low */
  async read(request: Request, server: HttpServer): Promise<string> {
    const declared = request.headers.get("content-length");
    if (Number(declared) > this.maxBytes) throw protocolProblem("message-too-big");
    server.timeout(request, TIMEOUT_SECONDS);
    const { promise, reject } = Promise.withResolvers<never>();
    const pending = { startMs: this.clock.elapsed(), reject };
    this.#pending.add(pending);
    try {
      // A stream of chunks takes twice the time.
      const reading = declared === null ? readUpTo(request, this.maxBytes) : request.bytes();
      const bytes = await Promise.race([reading.catch(() => undefined), promise]);
      if (!bytes) throw new HttpProblem("cut-off", "The request ended before its body was complete.");
      if (bytes.length > this.maxBytes) throw protocolProblem("message-too-big");
      return decode(bytes);
    } finally {
      this.#pending.delete(pending);
    }
  }

  rejectSlow(): void {
    const latestMs = this.clock.elapsed() - SLOW_MS;
    for (const { startMs, reject } of this.#pending) {
      if (startMs > latestMs) return;
      reject(new HttpProblem("full", "The server is full. Try again in a moment."));
    }
  }
}

/** Reads a body of unknown length until it ends or is longer than `maxBytes`. */
async function readUpTo({ body }: Request, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > maxBytes) break;
  }
  return Buffer.concat(chunks);
}

/** Replacing what is not UTF-8 would alter the message, and takes many milliseconds. @throws HttpProblem 400 */
function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new HttpProblem("not-utf8", "The body must be UTF-8.");
  }
}
