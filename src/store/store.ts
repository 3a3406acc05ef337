/** The store: takes messages, gives each its id, and hands all of them back in one order. */

/** A message on its way in. */
export interface PendingMessage {
  readonly room: string;
  readonly from: string;
  readonly content: Content;
  /** The sender's stream of numbered messages, and this one's number in it; without both, nothing is known of repeats. */
  readonly session: string | undefined;
  readonly seq: number | undefined;
  /** The number before this one, while that is not answered yet: only if it was kept may this one be. */
  readonly requiresSeq: number | undefined;
}

/** Text, well-formed; or the bytes of a binary message. */
export type Content = string | Uint8Array<ArrayBuffer>;

/** A message that is kept. */
export interface StoredMessage {
  /** `<milliseconds>-<sequence>`: order and resume point in one; strictly increasing, also when the clock goes back. */
  readonly id: string;
  /** The id before it in its room, so that a gap shows. */
  readonly prev: string;
  /** The store's clock when it was stored, independent of the id: Unix time in milliseconds. */
  readonly time: number;
  readonly room: string;
  readonly from: string;
  readonly content: Content;
}

/** `"unconfirmed"`: it may have been kept, or may still be; who sends it again under its number learns what became of it. */
export type RejectReason = "out-of-order" | "unavailable" | "unconfirmed";

/** What became of a draft; of a repeat the id is known only if nothing of its session came after it. */
export type AppendResult =
  | { readonly stored: StoredMessage }
  | { readonly duplicateSeq: number; readonly id?: string }
  | { readonly rejected: RejectReason };

export interface AppendCallback {
  onResult(pending: PendingMessage, result: AppendResult): void;
}

/** Everything that is kept, in the one order; each entry once, just after its sender was answered. */
export type MessageListener = (message: StoredMessage) => void;

/** What a store tells of, all of it in its one order. */
export interface StoreListener {
  readonly onMessage: MessageListener;
  /** So many connections a client has in a room now, by another node. */
  onRemotePresence(room: string, client: string, node: string, connections: number): void;
  /** A session was opened by another node, with that ticket. */
  onSessionClaimed(client: string, session: string, ticket: number): void;
  /** It cannot tell all that was said: whoever is connected has to come again, and go on from what they have heard. */
  onStateLost(): void;
}

/**
 * Results may be reported at once or later, but messages are decided in the order in which they were appended. A read
 * that is not possible at the moment rejects with {@link StoreUnavailable}; {@link append} never throws.
 */
export interface MessageStore {
  /** Where messages are kept, and what that promises: the end of a sentence for the operator, once it has started. */
  readonly durability: string;
  /** Before it is given anything. @throws StoreError when it cannot be used */
  open?(): Promise<void>;
  /** The room's latest entries, kept up to date and safe from being forgotten until as many calls of {@link releaseRoom}. */
  acquireRoom(room: string): Promise<ReadonlyHistory>;
  releaseRoom(room: string): void;
  append(pending: PendingMessage, sender: AppendCallback): void;
  /** The highest number kept of that session, or null if nothing is known of it. */
  lastSeq(client: string, session: string): Promise<number | null>;
  /** A piece of a room's conversation, whether the room is open or not. */
  readHistory(room: string, where: PageQuery): Promise<HistoryPage>;
  /** The id just before a room's latest `count` messages. Only where there may be more of them than in an open room's history. */
  idBeforeLatest?(room: string, count: number): Promise<string>;
  /** Whether it keeps what it is given just now. */
  readonly isReady: boolean;
  /** When all that it was given is answered. */
  drain(): Promise<void>;
  /** Lets go of what it holds; nothing is given to it any more. */
  close(): void | Promise<void>;
}

/** What a `--store` URL opens. */
export interface Backend {
  readonly store: MessageStore;
  /** Only where several nodes can share the store. */
  readonly cluster?: Cluster;
}

/** The other nodes that share the store. */
export interface Cluster {
  /** Who is in an open room by way of them, up to what the follower was told last. */
  remoteConnections(room: string): Iterable<readonly [client: string, node: string, connections: number]>;
  /** Everyone who is in a room by way of them, whether it is open here or not. */
  listClients(room: string): Promise<ReadonlySet<string>>;
  /** Tells them how many connections a client has in a room here. */
  publishPresence(room: string, client: string, connections: number): void;
  /** A number that grows, whichever node asks. */
  nextFencingToken(): Promise<number>;
  /** Tells them that a session was opened here, by a client that has shown since the ticket that it is there. */
  announceSession(client: string, session: string, ticket: number): void;
}

export interface StoreOptions {
  /** The latest messages of each room that are kept ready for who comes. */
  readonly history: number;
  /** What is older may be forgotten; 0 for never. */
  readonly keepDays: number;
}

/** A store that cannot be used, in a sentence for the operator. */
export class StoreError extends Error {}

/** The store cannot be read at the moment. The store logs why; a retry may succeed. */
export class StoreUnavailable extends Error {
  constructor() {
    super("the store is unavailable");
  }
}

/** Which piece: what follows an id, what is before one, or else the end. */
export interface PageQuery {
  readonly after?: string;
  readonly before?: string;
  readonly limit: number;
}

export interface HistoryPage {
  /** In the room's order. */
  readonly messages: readonly StoredMessage[];
  /** There is more, after the last one or before the first, whichever way was asked for. */
  readonly more: boolean;
  /** Only with `after`: nothing is missing between it and the first of these. */
  readonly recovered?: boolean;
  /** Only with `after`: something that followed it was lost to damage, and only therefore it is not recovered. */
  readonly isDamaged?: boolean;
}

/** Whatever is asked for at once, a page holds no more than this, or a single entry. */
export const MAX_PAGE_BYTES = 1024 * 1024;

export type ReadonlyHistory = Omit<History, "push" | "forgetOldest">;

/** The latest entries of one room. Positions count its entries from the first ever, so that they outlast trimming. */
export class History {
  readonly #entries: StoredMessage[] = [];
  #start = 0;
  #bytes = 0;
  /** The id before the oldest entry kept. */
  #before: string;

  /** @param before an id that no entry has: where a room begins that has none yet */
  constructor(
    before: string,
    private readonly maxEntries: number,
    private readonly maxBytes: number,
  ) {
    this.#before = before;
  }

  /** The newest id. */
  get lastId(): string {
    return this.#entries.at(-1)?.id ?? this.#before;
  }

  /** The position of the oldest entry kept. */
  get firstOffset(): number {
    return this.#start;
  }

  /** The position that the next entry will have. */
  get nextOffset(): number {
    return this.#start + this.#entries.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get(position: number): StoredMessage | undefined {
    return this.#entries[position - this.#start];
  }

  /** The id just before a position that is kept, or the end. */
  idBeforeOffset(position: number): string {
    return this.get(position - 1)?.id ?? this.#before;
  }

  /**
   * Where a client goes on that has heard everything up to `id`: the rule of *recovered*. Undefined unless `id` is
   * an entry still kept or the one before the oldest, since only then is nothing missing in between.
   */
  offsetAfter(id: string): number | undefined {
    if (id === this.#before) return this.#start;
    const index = this.#entries.findLastIndex((message) => message.id === id);
    return index < 0 ? undefined : this.#start + index + 1;
  }

  page({ after, before, limit }: PageQuery): HistoryPage {
    const count = this.#entries.length;
    const indexOf = (isThere: (id: string) => boolean) => {
      const index = this.#entries.findIndex(({ id }) => isThere(id));
      return index < 0 ? count : index;
    };
    if (after !== undefined) {
      const known = this.offsetAfter(after);
      const from = known === undefined ? indexOf((id) => compareIds(id, after) > 0) : known - this.#start;
      return { ...takePage(this.#entries.slice(from), limit), recovered: known !== undefined };
    }
    const to = before === undefined ? count : indexOf((id) => compareIds(id, before) >= 0);
    const page = takePage(this.#entries.slice(0, to).reverse(), limit);
    return { ...page, messages: page.messages.reverse() };
  }

  push(message: StoredMessage): void {
    this.#entries.push(message);
    this.#bytes += sizeOf(message);
    while (this.#entries.length > this.maxEntries || this.#bytes > this.maxBytes) this.evictOldest();
  }

  evictOldest(): void {
    const oldest = this.#entries.shift();
    if (!oldest) return;
    this.#before = oldest.id;
    this.#start++;
    this.#bytes -= sizeOf(oldest);
  }
}

/** The first of them, as many as one page holds, and whether there are others. */
export function takePage(
  messages: Iterable<StoredMessage>,
  limit: number,
  maxBytes = MAX_PAGE_BYTES,
): { messages: StoredMessage[]; more: boolean } {
  const page: StoredMessage[] = [];
  let bytes = 0;
  for (const message of messages) {
    bytes += sizeOf(message);
    if (page.length === limit || (bytes > maxBytes && page.length > 0)) return { messages: page, more: true };
    page.push(message);
  }
  return { messages: page, more: false };
}

/** The order of ids: negative, 0 or positive as the first is earlier, the same or later. */
export function compareIds(one: string, other: string): number {
  const [ms = 0, sequence = 0] = one.split("-").map(Number);
  const [otherMs = 0, otherSequence = 0] = other.split("-").map(Number);
  return ms - otherMs || sequence - otherSequence;
}

/** Memory, in bytes: a string takes one or two for each character; the rest is an estimate of what surrounds it. */
function sizeOf({ content }: StoredMessage): number {
  return 200 + (typeof content === "string" ? 2 * content.length : content.byteLength);
}
