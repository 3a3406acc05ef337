/** The operator's log: one line per event on stdout, as text or JSON. It never contains message texts or tokens. */

import { systemClock, type Clock } from "../util/clock.ts";

export type LogFormat = "text" | "json" | "off";

/** Further lines of the same event within a second are only counted, so that a flood of them does not fill the disk. */
const MAX_LINES_PER_SECOND = 100;
/** With this much unwritten, the reader of stdout does not keep up: further lines are only counted. */
const MAX_BUFFERED_BYTES = 1024 * 1024;
const SECOND_MS = 1000;

type Fields = Readonly<Record<string, string | number | undefined>>;

let format: LogFormat = "off";
let clock: Clock = systemClock;
/** Lines of each event in the current second. */
const countsThisSecond = new Map<string, number>();
let secondMs = 0;
let suppressed = 0;
/** Bun's own writer: loading `process.stdout` takes 8 ms. */
let output: Bun.FileSink | undefined;
let bufferedBytes = 0;

export function configureLog(chosenFormat: LogFormat, chosenClock: Clock): void {
  format = chosenFormat;
  clock = chosenClock;
  // Opened now: later there may be no file descriptor left.
  if (format !== "off") output = Bun.stdout.writer();
}

/** @param event one to three words that name the kind of event; what varies goes into the fields */
export function logEvent(event: string, fields: Fields = {}): void {
  if (format === "off") return;
  const nowMs = clock.now();
  if (nowMs - secondMs >= SECOND_MS) {
    secondMs = nowMs;
    countsThisSecond.clear();
    if (isKeepingUp()) flushLog();
  }
  const count = (countsThisSecond.get(event) ?? 0) + 1;
  countsThisSecond.set(event, count);
  if (count > MAX_LINES_PER_SECOND || !isKeepingUp()) suppressed++;
  else write(event, fields);
}

function isKeepingUp(): boolean {
  return bufferedBytes < MAX_BUFFERED_BYTES;
}

function write(event: string, fields: Fields): void {
  const time = new Date(clock.now()).toISOString();
  const line =
    format === "json" ? JSON.stringify({ time, event, ...fields }) : formatText(time, event, fields);
  void send(`${escapeControls(line)}\n`);
}

/** A log that cannot be written neither stops nor delays the server. */
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

function formatText(time: string, event: string, fields: Fields): string {
  const parts = Object.entries(fields)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${/^[^\s"=]+$/.test(`${value}`) ? value : JSON.stringify(value)}`);
  return [`${time.slice(0, 19)}Z ${event}`, ...parts].join(" ");
}

/** Reports an unexpected error with its stack to stderr, whatever the log format. */
export function logError(message: string, error: unknown): void {
  const details = error instanceof Error ? (error.stack ?? error.message) : Bun.inspect(error);
  const time = new Date(clock.now()).toISOString();
  console.error(
    format === "json"
      ? JSON.stringify({ time, event: "error", message, error: details })
      : `${message}: ${details}`,
  );
}

/** Writes the count of suppressed lines, if any. */
export function flushLog(): void {
  if (suppressed > 0) write("suppressed", { lines: suppressed });
  suppressed = 0;
}

/** Escapes what could move a terminal's cursor, reverse the text's direction or start another line. */
export function escapeControls(text: string): string {
  return text.replace(
    /(?!\t)[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
