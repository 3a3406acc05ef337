/** What the operator reads: one line a fact. No texts of messages, no tokens. */

export type LogFormat = "text" | "json" | "off";

/** More of one fact in a second are only counted: a storm of them is not to become one on the disk. */
const MAX_LINES_A_SECOND = 100;
/** Whoever reads the log does not keep up: what comes meanwhile is only counted. */
const MAX_BUFFERED_BYTES = 1024 * 1024;
const SECOND_MS = 1000;

type Fields = Readonly<Record<string, string | number | undefined>>;

let format: LogFormat = "off";
/** Lines of each fact in the current second. */
const countsThisSecond = new Map<string, number>();
let secondMs = 0;
let suppressed = 0;
/** Bun's own way to stdout: `process.stdout` takes 8 ms to load. */
let output: Bun.FileSink | undefined;
let bufferedBytes = 0;

export function configureLog(asked: LogFormat): void {
  format = asked;
  // At once: later there may be no file descriptor left for it.
  if (format !== "off") output = Bun.stdout.writer();
}

/** A fact, in a word or two, and what belongs to it. */
export function logEvent(fact: string, fields: Fields = {}): void {
  if (format === "off") return;
  const nowMs = Date.now();
  if (nowMs - secondMs >= SECOND_MS) {
    secondMs = nowMs;
    countsThisSecond.clear();
    if (suppressed > 0 && isKeepingUp()) write(nowMs, "not listed", { lines: suppressed });
    if (isKeepingUp()) suppressed = 0;
  }
  const count = (countsThisSecond.get(fact) ?? 0) + 1;
  countsThisSecond.set(fact, count);
  if (count > MAX_LINES_A_SECOND || !isKeepingUp()) suppressed++;
  else write(nowMs, fact, fields);
}

function isKeepingUp(): boolean {
  return bufferedBytes < MAX_BUFFERED_BYTES;
}

function write(nowMs: number, fact: string, fields: Fields): void {
  const time = new Date(nowMs).toISOString();
  const line = format === "json" ? JSON.stringify({ time, fact, ...fields }) : inText(time, fact, fields);
  void send(`${escapeControls(line)}\n`);
}

/** A log that nobody reads any more is no reason to stop, or to wait. */
async function send(line: string): Promise<void> {
  bufferedBytes += line.length;
  try {
    output?.write(line);
    const flushed = output?.flush();
    if (flushed instanceof Promise) await flushed;
    bufferedBytes = 0;
  } catch {
    bufferedBytes = MAX_BUFFERED_BYTES;
  }
}

function inText(time: string, fact: string, fields: Fields): string {
  const parts = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${/^[^\s"=]+$/.test(`${value}`) ? value : JSON.stringify(value)}`);
  return [`${time.slice(0, 19)}Z ${fact}`, ...parts].join(" ");
}

/** A fault of ours, with all that is known of it; always told, and on stderr. */
export function logError(what: string, error: unknown): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : Bun.inspect(error);
  const time = new Date().toISOString();
  console.error(
    format === "json" ? JSON.stringify({ time, fact: "failed", what, error: text }) : `${what}: ${text}`,
  );
}

/** Tells how much was left out, at the end. */
export function flushLog(): void {
  if (suppressed > 0) write(Date.now(), "not listed", { lines: suppressed });
  suppressed = 0;
}

/** A line for a terminal: what could move the cursor, turn the text around or begin another line is shown, not done. */
export function escapeControls(text: string): string {
  return text.replace(
    /(?!\t)[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
