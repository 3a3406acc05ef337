/** `hubbub export` and `hubbub import`: a store's contents as lines of JSON, to a file or a pipe and back. */

import type { CliCommand } from "./parse-command.ts";
import {
  addChecksum,
  ArchiveError,
  ArchiveParser,
  countEntries,
  formatEnd,
  formatEntry,
  formatHeader,
  type ArchiveCounts,
  type ArchiveEntry,
  type ArchiveTarget,
} from "../store/archive.ts";
import { loadArchive } from "../store/open.ts";
import { StoreError } from "../store/store.ts";
import type { Clock } from "../util/clock.ts";
import { lazyFs, lazyTty } from "../util/lazy-node.ts";
import type { Random } from "../util/random.ts";

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
const PROGRESS_MS = 200;
/** While the reader of a pipe is busy. */
const WRITE_RETRY_MS = 5;
/** More than any message takes, even if each of its characters is escaped. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;
/** A batch ends at the first of these limits; bytes are those of the input. */
const BATCH_ENTRIES = 500;
const BATCH_BYTES = 512 * 1024;

const NOTHING_IMPORTED = "Nothing was imported.";

/** Why it failed: a sentence. */
class TransferError extends Error {}

/** @returns the exit code, after reporting why it is not 0 */
export async function runExport(
  { store, room, file }: Extract<CliCommand, { kind: "export" }>,
  clock: Clock,
  random: Random,
): Promise<number> {
  const counts = { messages: 0, removals: 0, rooms: 0, sessions: 0 };
  const progress = new Progress(clock);
  return report(progress, async () => {
    const archive = await loadArchive(store, 0, clock, random);
    const source = await archive.openSource(room, (messages) =>
      progress.show("Read", { messages, sessions: 0 }),
    );
    try {
      const output = new Output(file, clock);
      const header = formatHeader(source.header);
      let checksum = addChecksum(header, 0);
      await output.write(header);
      for await (const entries of source.entries()) {
        const lines = entries.map(formatEntry).join("");
        checksum = addChecksum(lines, checksum);
        await output.write(lines);
        countEntries(counts, entries);
        progress.show("Exported", counts);
      }
      await output.write(formatEnd(counts, checksum));
      output.finish();
      progress.finish("Exported", counts);
    } finally {
      source.close();
    }
    const { losses } = source;
    if (losses.length > 0)
      throw new TransferError(
        `The export is complete except that ${losses.join(" and ")}: no client will resume across that.`,
      );
  });
}

/** @returns the exit code, after reporting why it is not 0 */
export async function runImport(
  { store, history, file }: Extract<CliCommand, { kind: "import" }>,
  clock: Clock,
  random: Random,
): Promise<number> {
  if (file === undefined && lazyTty().isatty(STDIN)) {
    console.error("import: expected a file, or an export on standard input");
    return 2;
  }
  const parser = new ArchiveParser();
  const progress = new Progress(clock);
  return report(progress, async () => {
    const archive = await loadArchive(store, history, clock, random);
    const input = readLines(file);
    const header = await input.next();
    if (header.done) throw new TransferError(`${nameOf(file)} is empty. ${NOTHING_IMPORTED}`);
    const target = await archive.openTarget(locate(file, 1, () => parser.parseHeader(header.value)));
    try {
      await Promise.race([importEntries(input, file, parser, target, progress), interruption()]);
      await target.finish();
    } catch (error) {
      await target.abort().catch(() => {}); // the reason is the same
      throw error instanceof StoreError ? new TransferError(`${error.message} ${NOTHING_IMPORTED}`) : error;
    }
    progress.finish("Imported", parser.counts);
  });
}

async function importEntries(
  input: AsyncIterable<string>,
  file: string | undefined,
  parser: ArchiveParser,
  target: ArchiveTarget,
  progress: Progress,
): Promise<void> {
  let batch: ArchiveEntry[] = [];
  let batchBytes = 0;
  let lineNumber = 1;
  for await (const text of input) {
    lineNumber++;
    const entry = locate(file, lineNumber, () => parser.parseEntry(text));
    if (entry) batch.push(entry);
    batchBytes += text.length;
    if (batch.length < BATCH_ENTRIES && batchBytes < BATCH_BYTES) continue;
    await target.write(batch);
    progress.show("Imported", parser.counts);
    batch = [];
    batchBytes = 0;
  }
  if (!parser.hasEnded)
    throw new TransferError(
      `${nameOf(file)} is not complete: it ends after line ${lineNumber}. ${NOTHING_IMPORTED}`,
    );
  await target.write(batch);
}

/** Adds the place to an error. */
function locate<T>(file: string | undefined, lineNumber: number, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof ArchiveError)) throw error;
    throw new TransferError(
      `Line ${lineNumber} of ${nameOf(file, "standard input")} ${error.message}. ${NOTHING_IMPORTED}`,
    );
  }
}

function nameOf(file: string | undefined, standard = "Standard input"): string {
  return file ?? standard;
}

/** Rejects when the program is asked to end. */
function interruption(): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  const onSignal = () => reject(new TransferError(`The import was interrupted. ${NOTHING_IMPORTED}`));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, onSignal);
  return promise;
}

async function report(progress: Progress, work: () => Promise<void>): Promise<number> {
  try {
    await work();
    return 0;
  } catch (error) {
    progress.clear();
    if (!(error instanceof StoreError || error instanceof TransferError)) throw error;
    console.error(error.message);
    return 1;
  }
}

type Counts = Pick<ArchiveCounts, "messages" | "sessions">;

/** How far it is, on a terminal. */
class Progress {
  readonly #isShown = lazyTty().isatty(STDERR);
  readonly #startMs: number;
  #shownMs = 0;

  constructor(private readonly clock: Clock) {
    this.#startMs = clock.elapsed();
  }

  show(verb: string, counts: Counts): void {
    const nowMs = this.clock.elapsed();
    if (!this.#isShown || nowMs - this.#shownMs < PROGRESS_MS) return;
    this.#shownMs = nowMs;
    process.stderr.write(`\r${describe(verb, counts)}…\x1b[K`);
  }

  clear(): void {
    if (this.#isShown) process.stderr.write("\r\x1b[K");
  }

  finish(verb: string, counts: Counts): void {
    this.clear();
    const seconds = ((this.clock.elapsed() - this.#startMs) / 1000).toFixed(1);
    if (this.#isShown) process.stderr.write(`${describe(verb, counts)} in ${seconds} s.\n`);
  }
}

function describe(verb: string, { messages, sessions }: Counts): string {
  const count = (value: number, noun: string) =>
    `${value.toLocaleString("en")} ${noun}${value === 1 ? "" : "s"}`;
  return `${verb} ${count(messages, "message")}${sessions > 0 ? ` and ${count(sessions, "session")}` : ""}`;
}

/** A file that is replaced once the export is complete; or standard output, or a device or named pipe. */
class Output {
  readonly #fd: number;
  /** Where the file is written until then. */
  readonly #partial: string | undefined;

  /** @throws TransferError */
  constructor(
    private readonly file: string | undefined,
    private readonly clock: Clock,
  ) {
    const { openSync, statSync } = lazyFs();
    const existing =
      file === undefined ? undefined : this.#attempt(() => statSync(file, { throwIfNoEntry: false }));
    this.#partial = file === undefined || existing?.isFile() === false ? undefined : `${file}.partial`;
    const path = this.#partial ?? file;
    // Messages are for their readers: nobody else may read the file.
    this.#fd = path === undefined ? STDOUT : this.#attempt(() => openSync(path, "w", 0o600));
  }

  async write(text: string): Promise<void> {
    const bytes = Buffer.from(text);
    for (let written = 0; written < bytes.length;) {
      const count = this.#attempt(() => writeSome(this.#fd, bytes, written));
      if (count === 0) await this.clock.sleep(WRITE_RETRY_MS);
      written += count;
    }
  }

  finish(): void {
    const [partial, file] = [this.#partial, this.file];
    if (partial === undefined || file === undefined) return;
    const { closeSync, fsyncSync, renameSync } = lazyFs();
    this.#attempt(() => {
      fsyncSync(this.#fd);
      closeSync(this.#fd);
      renameSync(partial, file);
    });
  }

  #attempt<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      if (this.#partial !== undefined) lazyFs().rmSync(this.#partial, { force: true });
      throw new TransferError(`The export is not complete: ${describeOutput(error, this.file)}.`);
    }
  }
}

/** @returns how many bytes were written; 0 if the pipe is full */
function writeSome(fd: number, bytes: Buffer, offset: number): number {
  try {
    return lazyFs().writeSync(fd, bytes, offset);
  } catch (error) {
    if (codeOf(error) === "EAGAIN") return 0;
    throw error;
  }
}

function describeOutput(error: unknown, file = "the output"): string {
  switch (codeOf(error)) {
    case "EPIPE":
      return "the program that reads it has stopped";
    case "ENOSPC":
    case "EDQUOT":
      return `no space is left for ${file}`;
    default:
      return `${file} cannot be written (${error instanceof Error ? error.message : error})`;
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

/** Without their line breaks. What follows the last line break is a line unless it is empty. */
async function* readLines(file: string | undefined): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let rest: Uint8Array[] = [];
  let restBytes = 0;
  const decode = () => {
    try {
      return decoder.decode(rest.length === 1 ? rest[0] : Buffer.concat(rest));
    } catch {
      throw new TransferError(`${nameOf(file)} is not UTF-8. ${NOTHING_IMPORTED}`);
    } finally {
      rest = [];
      restBytes = 0;
    }
  };
  for await (const chunk of readChunks(file)) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      rest.push(chunk.subarray(start, end));
      yield decode();
      start = end + 1;
    }
    if (start < chunk.length) rest.push(chunk.subarray(start));
    restBytes += chunk.length - start;
    if (restBytes > MAX_LINE_BYTES)
      throw new TransferError(`${nameOf(file)} has a line that is too long. ${NOTHING_IMPORTED}`);
  }
  if (restBytes > 0) yield decode();
}

async function* readChunks(file: string | undefined): AsyncGenerator<Uint8Array> {
  try {
    yield* file === undefined ? Bun.stdin.stream() : lazyFs().createReadStream(file);
  } catch (error) {
    const reason = error instanceof Error ? error.message : error;
    throw new TransferError(`${nameOf(file)} cannot be read (${reason}). ${NOTHING_IMPORTED}`);
  }
}
