/**
 * What a store contains, as lines of JSON (NDJSON): a header, the entries, and an end that proves that none is missing.
 * README.md has the format. A store is exported through an {@link ArchiveSource}, and imported through an
 * {@link ArchiveTarget}.
 */

import { compareIds, isMessageId } from "./message-id.ts";
import type { Removal, StoredMessage } from "./message.ts";

const FORMAT = "hubbub-export";
/** Increased when an older version would misunderstand what a newer one writes. */
const VERSION = 1;

export interface ArchiveHeader {
  /** The `prev` of the first message in a new room. */
  readonly origin: string;
  /** No client may resume from an id up to this one, because a later message is lost. */
  readonly damagedUpTo?: string | undefined;
}

export interface ArchivedSession {
  readonly client: string;
  readonly session: string;
  /** The highest stored, and the id of that message. */
  readonly seq: number;
  readonly id: string;
  /** When it was stored: Unix time in milliseconds. */
  readonly time: number;
}

/** The messages and removals of all rooms in the order of their ids, then the rest. */
export type ArchiveEntry =
  | { readonly type: "message"; readonly message: StoredMessage }
  | { readonly type: "removal"; readonly removal: Removal }
  /** A room whose newest message, that of this id, is no longer stored. */
  | { readonly type: "room"; readonly room: string; readonly lastId: string }
  | { readonly type: "session"; readonly session: ArchivedSession };

/** A store at one point in the order of its messages, whatever is stored meanwhile. */
export interface ArchiveSource {
  readonly header: ArchiveHeader;
  /** In batches. @throws StoreError */
  entries(): AsyncIterable<readonly ArchiveEntry[]>;
  /** What is lost, each as a clause, once the entries are read. */
  readonly losses: readonly string[];
  close(): void;
}

/** An empty store that is being filled. Unless it is finished, it counts as empty, or as unfinished, even after a crash. */
export interface ArchiveTarget {
  /** @throws StoreError */
  write(entries: readonly ArchiveEntry[]): Promise<void>;
  /** @throws StoreError */
  finish(): Promise<void>;
  /** Leaves the store empty, as far as possible. */
  abort(): Promise<void>;
}

/** What a store offers for `hubbub export` and `hubbub import`. */
export interface StoreArchive {
  /**
   * @param room only this room, and the sessions whose latest message is in it
   * @param onRead how many messages were read before the source is open, if that takes time
   * @throws StoreError
   */
  openSource(room: string | undefined, onRead: (messages: number) => void): Promise<ArchiveSource>;
  /** @throws StoreError if it is not empty */
  openTarget(header: ArchiveHeader): Promise<ArchiveTarget>;
}

const BATCH_ENTRIES = 500;
const BATCH_BYTES = 1024 * 1024;

/** Large enough to be written at once, and small enough for memory. */
export function* inBatches(entries: Iterable<ArchiveEntry>): Generator<readonly ArchiveEntry[]> {
  let batch: ArchiveEntry[] = [];
  let bytes = 0;
  for (const entry of entries) {
    if (entry.type === "message") bytes += entry.message.content?.length ?? 0;
    if (batch.push(entry) < BATCH_ENTRIES && bytes < BATCH_BYTES) continue;
    yield batch;
    batch = [];
    bytes = 0;
  }
  yield batch;
}

export interface ArchiveCounts {
  messages: number;
  removals: number;
  rooms: number;
  sessions: number;
}

export function countEntries(counts: ArchiveCounts, entries: readonly ArchiveEntry[]): void {
  for (const { type } of entries) counts[`${type}s`]++;
}

export function formatHeader({ origin, damagedUpTo }: ArchiveHeader): string {
  return line({ format: FORMAT, version: VERSION, origin, damagedUpTo });
}

export function formatEntry(entry: ArchiveEntry): string {
  switch (entry.type) {
    case "message": {
      const { id, prev, time, room, from, content } = entry.message;
      return line({ type: "message", id, prev, time, room, from, ...formatContent(content) });
    }
    case "removal": {
      const { id, prev, time, room, removes } = entry.removal;
      return line({ type: "removal", id, prev, time, room, ...removes });
    }
    case "room":
      return line({ type: "room", room: entry.room, last: entry.lastId });
    case "session":
      return line({ type: "session", ...entry.session });
  }
}

function formatContent(content: StoredMessage["content"]) {
  if (content === undefined) return { removed: true };
  return typeof content === "string" ? { text: content } : { data: content.toBase64() };
}

/** How many entries of each kind there are, if any. @param checksum of all lines before, see {@link addChecksum} */
export function formatEnd(counts: ArchiveCounts, checksum: number): string {
  const found = Object.entries(counts).filter(([, count]) => count > 0);
  return line({ type: "end", ...Object.fromEntries(found), checksum });
}

/** CRC-32 of the lines so far and the next ones. @param checksum of the lines so far; 0 for none */
export function addChecksum(lines: string, checksum: number): number {
  return Bun.hash.crc32(lines, checksum);
}

function line(value: object): string {
  return `${JSON.stringify(value)}\n`;
}

/** The input is not an export, or not a complete one. The message is the end of a sentence about it. */
export class ArchiveError extends Error {}

/** Reads an archive line by line, and checks everything that a store relies on. */
export class ArchiveParser {
  readonly counts: ArchiveCounts = { messages: 0, removals: 0, rooms: 0, sessions: 0 };
  hasEnded = false;
  #lastId = "0-0";
  #checksum = 0;

  /** @throws ArchiveError */
  parseHeader(text: string): ArchiveHeader {
    this.#checksum = addChecksum(`${text}\n`, 0);
    const { format, version, origin, damagedUpTo } = parseObject(text) ?? {};
    if (format !== FORMAT) throw new ArchiveError("is not an export of Hubbub");
    if (version !== VERSION)
      throw new ArchiveError(
        `has version ${version} of the format, not ${VERSION}: import it with the version of Hubbub that wrote it`,
      );
    if (!isMessageId(origin) || (damagedUpTo !== undefined && !isMessageId(damagedUpTo)))
      throw new ArchiveError("has a damaged first line");
    return { origin, damagedUpTo };
  }

  /** @returns undefined at the end @throws ArchiveError */
  parseEntry(text: string): ArchiveEntry | undefined {
    if (this.hasEnded) throw new ArchiveError("continues after its end");
    const value = parseObject(text);
    if (!value) throw new ArchiveError("is not JSON");
    if (value.type === "end") {
      this.#checkEnd(value);
      return undefined;
    }
    this.#checksum = addChecksum(`${text}\n`, this.#checksum);
    const entry = toEntry(value);
    if (!entry) throw new ArchiveError("is not a valid entry");
    if (entry.type === "message" || entry.type === "removal") {
      const { id, prev } = entry.type === "message" ? entry.message : entry.removal;
      if (compareIds(id, this.#lastId) <= 0 || compareIds(prev, id) >= 0)
        throw new ArchiveError(`has the ${entry.type} ${id} out of order`);
      this.#lastId = id;
    }
    countEntries(this.counts, [entry]);
    return entry;
  }

  #checkEnd(end: Fields): void {
    for (const [name, count] of Object.entries(this.counts)) {
      const expected = end[name] ?? 0;
      if (expected !== count) throw new ArchiveError(`has ${count} ${name} instead of ${expected}`);
    }
    // Optional, so that an export can be edited: the editor removes the checksum.
    if (end.checksum !== undefined && end.checksum !== this.#checksum)
      throw new ArchiveError("has a checksum that differs: a line before it is damaged");
    this.hasEnded = true;
  }
}

type Fields = Partial<Record<string, unknown>>;

function parseObject(text: string): Fields | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}

function toEntry({ type, ...fields }: Fields): ArchiveEntry | undefined {
  const { id, prev, time, room, from, last, client, session, seq } = fields;
  switch (type) {
    case "message": {
      const content = fields.removed === true ? undefined : toContent(fields);
      if (!isMessageId(id) || !isMessageId(prev) || !isTime(time)) return undefined;
      if (!isStoredName(room) || !isStoredName(from)) return undefined;
      if (content === undefined && fields.removed !== true) return undefined;
      return { type, message: { id, prev, time, room, from, content } };
    }
    case "removal": {
      if (!isMessageId(id) || !isMessageId(prev) || !isTime(time) || !isStoredName(room)) return undefined;
      const { message } = fields;
      if (message !== undefined && !isMessageId(message)) return undefined;
      if (message === undefined && !isStoredName(from)) return undefined;
      const removes = isMessageId(message) ? { message } : { from: String(from), upTo: prev };
      return { type, removal: { id, prev, time, room, removes } };
    }
    case "room":
      return isStoredName(room) && isMessageId(last) ? { type, room, lastId: last } : undefined;
    case "session": {
      if (!isStoredName(client) || !isStoredName(session) || !isWhole(seq)) return undefined;
      return isMessageId(id) && isTime(time)
        ? { type, session: { client, session, seq, id, time } }
        : undefined;
    }
    default:
      return undefined;
  }
}

function toContent({ text, data }: Fields): StoredMessage["content"] | undefined {
  if (typeof text === "string") return text.isWellFormed() ? text : undefined;
  try {
    return typeof data === "string" ? Uint8Array.fromBase64(data) : undefined;
  } catch {
    return undefined;
  }
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** The greatest value of a `Date`: what shows a later one fails (ECMA-262, "Time Values and Time Range"). */
const MAX_TIME_MS = 8.64e15;

function isTime(value: unknown): value is number {
  return isWhole(value) && value <= MAX_TIME_MS;
}

const NAME = /^[^\s\p{C}]{1,256}$/u;

/** The name of a client, room or session, as other versions may have stored it. */
export function isStoredName(value: unknown): value is string {
  return typeof value === "string" && NAME.test(value);
}
