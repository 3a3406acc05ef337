/** The Redis store: any number of nodes, one conversation. What is kept is what comes back through the log. */

import { note, report } from "./log.ts";
import { checkRedis, describeRedis, type RedisAddress } from "./redis-address.ts";
import { RedisLine } from "./redis-line.ts";
import { RedisNodes } from "./redis-nodes.ts";
import {
  idOfRow,
  isId,
  readEntries,
  readPresent,
  readRecord,
  readSession,
  rowsOf,
  type LogRecord,
  type Part,
} from "./redis-records.ts";
import { open, readAfter, readBefore, readSent } from "./redis-scripts.ts";
import { RedisWriter } from "./redis-writer.ts";
import {
  aPageOf,
  compareIds,
  History,
  MAX_PAGE_BYTES,
  StoreError,
  type Draft,
  type Entry,
  type Follower,
  type Others,
  type Page,
  type ReadonlyHistory,
  type Sender,
  type Store,
  type StoreOptions,
  type Where,
} from "./store.ts";

/** What is kept ready of a room; Redis may have more. */
const MAX_ROOM_BYTES = 4 * 1024 * 1024;
const MAX_READY_BYTES = 256 * 1024 * 1024;
const MAX_LATE_ROOM_BYTES = 64 * 1024;
/** The log is asked for more so often, and so much at once. */
const BLOCK_MS = 1000;
const MAX_RECORDS = 20;
const ANSWER_MS = 2000;
const RETRY_MS = 100;
const SETTLE_LOOK_MS = 5;

/** What the log tells of one room. */
type News =
  { readonly said: Entry } | { readonly client: string; readonly node: string; readonly connections: number };

interface Room {
  history: History;
  holders: number;
  /** How far the log was when this was read: what it had told by then is in it. Empty once it has gone beyond. */
  from: string;
  /** Until it is read: what the log tells meanwhile, and in which record. */
  meanwhile: { readonly record: string; readonly news: News }[] | undefined;
  /** By each other node: the connections of each client. */
  readonly elsewhere: Map<string, Map<string, number>>;
  isOpen: Promise<boolean>;
}

export class RedisStore implements Store {
  promise = "";
  isReady = true;
  readonly others: Others;
  readonly #line: RedisLine;
  /** Of its own, since it waits most of the time. */
  readonly #reading: RedisLine;
  readonly #nodes: RedisNodes;
  readonly #writer: RedisWriter;
  readonly #rooms = new Map<string, Room>();
  readonly #log: string;
  /** How far the log is read, and its last record that was ours: the next one has to follow it. */
  #position = "0-0";
  #last = "0-0";
  /** Of all that is kept ready. */
  #readyBytes = 0;
  #isEnded = false;

  constructor(
    private readonly address: RedisAddress,
    private readonly options: StoreOptions,
    private readonly follower: Follower,
  ) {
    const { url, prefix } = address;
    this.#line = new RedisLine(url, prefix);
    this.#reading = new RedisLine(url, prefix);
    this.#log = `${prefix}log`;
    this.#nodes = new RedisNodes(this.#line, options.keepDays, {
      position: () => this.#last,
      found: (newest) => this.#find(newest),
      lost: (why) => this.#lose(why),
      changed: () => this.#writer.wake(),
    });
    this.#writer = new RedisWriter(
      this.#line,
      this.#nodes,
      options.history,
      () => this.isReady,
      (why) => this.#lose(why),
    );
    this.others = {
      in: (room) => presentIn(this.#rooms.get(room)),
      clientsIn: (room) => this.#clientsIn(room),
      tell: (room, client, connections) => this.#nodes.tell(room, client, connections),
      ticket: () => this.#ticket(),
      opened: (client, session, ticket) => this.#nodes.opened(client, session, ticket),
    };
  }

  async start(): Promise<void> {
    await checkRedis(this.#line, this.address);
    try {
      this.promise = await describeRedis(this.#line, this.address);
      this.#position = this.#last = await this.#nodes.start();
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new StoreError(`Redis at ${this.address.name} cannot be used: ${why}`);
    }
    void this.#follow();
  }

  async open(name: string): Promise<ReadonlyHistory | "unavailable"> {
    const room = this.#rooms.get(name) ?? this.#makeRoom(name);
    room.holders++;
    if (await room.isOpen) return room.history;
    this.close(name);
    return "unavailable";
  }

  close(name: string): void {
    const room = this.#rooms.get(name);
    if (!room || --room.holders > 0) return;
    this.#rooms.delete(name);
    this.#readyBytes -= room.history.bytes;
  }

  append(draft: Draft, sender: Sender): void {
    this.#writer.append(draft, sender);
  }

  async sent(client: string, session: string): Promise<number | null | "unavailable"> {
    await this.settle(); // what is on its way may be of that session
    return this.#try(async () => readSession(await this.#line.ask(readSent, `${client} ${session}`)));
  }

  async read(room: string, { after, before, limit }: Where): Promise<Page | "unavailable"> {
    return this.#try(async () => {
      if (after !== undefined && !isId(after)) return { entries: [], more: false, recovered: false };
      if (after !== undefined) {
        const reply = await this.#line.ask(readAfter, room, limit + 1, 2 * MAX_PAGE_BYTES, after);
        const [recovered, rows]: unknown[] = Array.isArray(reply) ? reply : [];
        return { ...aPageOf(readEntries(rows, room), limit), recovered: recovered === 1 };
      }
      const rows = await this.#line.ask(readBefore, room, limit + 1, 2 * MAX_PAGE_BYTES, before ?? "");
      const page = aPageOf(readEntries(rows, room), limit);
      return { ...page, entries: page.entries.reverse() };
    });
  }

  async settle(): Promise<void> {
    const { given } = this.#writer; // what is given later is waited for by nobody here, or a busy node never settles
    while (this.#writer.answered < given && this.isReady) await Bun.sleep(SETTLE_LOOK_MS);
  }

  async end(): Promise<void> {
    this.#isEnded = true;
    await this.#nodes.end();
    this.#line.end();
    this.#reading.end();
  }

  #makeRoom(name: string): Room {
    const room: Room = {
      history: new History("0-0", 0, 0),
      holders: 0,
      from: "",
      meanwhile: undefined,
      elsewhere: new Map(),
      isOpen: Promise.resolve(false),
    };
    this.#rooms.set(name, room);
    room.isOpen = this.#load(name, room);
    return room;
  }

  /** One look at a room: its latest entries, who is there, and how far the log was. */
  async #load(name: string, room: Room): Promise<boolean> {
    const meanwhile: Room["meanwhile"] = (room.meanwhile = []);
    const { history: count } = this.options;
    const maxBytes = this.#readyBytes < MAX_READY_BYTES ? MAX_ROOM_BYTES : MAX_LATE_ROOM_BYTES;
    const reply = await this.#try(() => this.#line.ask(open, name, count, 2 * maxBytes));
    if (room.meanwhile !== meanwhile) return room.isOpen; // it is being read anew
    if (this.#rooms.get(name) !== room) return false; // closed meanwhile: its bytes would count for ever
    const [top, head, rows, present]: unknown[] = Array.isArray(reply) ? reply : [];
    if (!isId(top) || !isId(head)) return false;
    const entries = aPageOf(readEntries(rows, name), count, maxBytes).entries.reverse();
    this.#readyBytes -= room.history.bytes;
    room.history = new History(entries[0]?.prev ?? head, count, maxBytes);
    for (const entry of entries) room.history.push(entry);
    this.#readyBytes += room.history.bytes;
    room.from = top;
    room.elsewhere.clear();
    for (const [client, node, connections] of readPresent(present))
      if (!this.#nodes.own.has(node)) setPresent(room, client, node, connections);
    room.meanwhile = undefined;
    for (const { record, news } of meanwhile) this.#tell(name, record, news);
    return true;
  }

  async #clientsIn(name: string): Promise<ReadonlySet<string> | "unavailable"> {
    const reply = await this.#try(() => this.#line.ask(open, name, 0, 0));
    if (reply === "unavailable") return reply;
    const present = readPresent(Array.isArray(reply) ? reply[3] : undefined);
    return new Set(present.flatMap(([client, node]) => (this.#nodes.own.has(node) ? [] : [client])));
  }

  /** Redis' clock, in microseconds. */
  #ticket(): Promise<number | "unavailable"> {
    return this.#try(async () => {
      const reply = await this.#line.send("TIME", []);
      const [seconds, microseconds]: unknown[] = Array.isArray(reply) ? reply : [];
      return Number(seconds) * 1e6 + Number(microseconds);
    });
  }

  async #try<T>(ask: () => Promise<T>): Promise<T | "unavailable"> {
    try {
      return await ask();
    } catch {
      this.#nodes.look();
      return "unavailable";
    }
  }

  /** Reads the log for as long as the process runs. */
  async #follow(): Promise<void> {
    while (!this.#isEnded) {
      const position = this.#position;
      const args = ["COUNT", `${MAX_RECORDS}`, "BLOCK", `${BLOCK_MS}`, "STREAMS", this.#log, position];
      try {
        const reply = await this.#reading.send("XREAD", args, BLOCK_MS + ANSWER_MS);
        if (position !== this.#position) continue; // it was read from where nothing is known any more
        for (const row of rowsOf(reply, this.#log)) this.#hear(row);
      } catch {
        await Bun.sleep(RETRY_MS);
      }
    }
  }

  #hear(row: unknown): void {
    const record = readRecord(row);
    this.#position = record?.id ?? idOfRow(row) ?? this.#position;
    if (!record) return note("not ours", { key: this.#log, id: this.#position });
    const isGap = record.prev !== this.#last;
    this.#last = record.id;
    if (isGap) {
      this.#nodes.skipped(record.id);
      this.#reset("the log has a gap");
    }
    const drafts = this.#writer.land(record);
    let next = 0;
    for (const part of record.parts)
      try {
        this.#apply(record, part, part.is === "answer" ? drafts[next++] : undefined);
      } catch (error) {
        report("What is kept could not be told", error); // and the rest still can
      }
  }

  #apply({ id, node }: LogRecord, part: Part, waiting: { draft: Draft; sender: Sender } | undefined): void {
    const isOwn = this.#nodes.own.has(node);
    switch (part.is) {
      case "answer":
        waiting?.sender.answered(waiting.draft, part.answer);
        if ("kept" in part.answer) this.#tell(part.answer.kept.room, id, { said: part.answer.kept });
        break;
      case "present":
        if (!isOwn) this.#tell(part.room, id, { ...part, node });
        break;
      case "opened":
        if (!isOwn) this.follower.replaced(part.client, part.session, part.ticket);
        break;
      case "dead":
        for (const [name, { elsewhere }] of this.#rooms)
          for (const client of elsewhere.get(part.node)?.keys().toArray() ?? [])
            this.#tell(name, id, { client, node: part.node, connections: 0 });
        break;
      default:
        part satisfies never;
    }
  }

  #tell(name: string, record: string, news: News): void {
    const room = this.#rooms.get(name);
    if (!room) return;
    if (room.meanwhile) return void room.meanwhile.push({ record, news });
    if (room.from && compareIds(record, room.from) <= 0) return;
    room.from = "";
    if ("said" in news) {
      this.#readyBytes -= room.history.bytes;
      room.history.push(news.said);
      this.#readyBytes += room.history.bytes;
      this.follower.said(news.said);
    } else {
      const { client, node, connections } = news;
      setPresent(room, client, node, connections);
      this.follower.present(name, client, node, connections);
    }
  }

  #lose(why: string): void {
    if (this.isReady) {
      this.isReady = false;
      note("store lost", { why });
    }
    this.#writer.refuseWaiting();
    this.#nodes.look();
  }

  /** @param newest the end of the log, if it is not the one that was followed */
  #find(newest: string | undefined): void {
    if (newest !== undefined) {
      this.#position = this.#last = newest;
      this.#reset("Redis has lost what it had");
    }
    if (this.isReady) return;
    this.isReady = true;
    note("store found");
    this.#writer.wake();
  }

  /** Nobody here can be told what is missing; who comes again is. */
  #reset(why: string): void {
    note("store skipped", { why });
    this.#nodes.sendAway(() => this.follower.lost());
    // Held by who is only just coming in.
    for (const [name, room] of this.#rooms) room.isOpen = this.#load(name, room);
  }
}

function setPresent({ elsewhere }: Room, client: string, node: string, connections: number): void {
  const there = elsewhere.get(node) ?? new Map<string, number>();
  if (connections > 0) elsewhere.set(node, there.set(client, connections));
  else if (there.delete(client) && there.size === 0) elsewhere.delete(node);
}

function* presentIn(room: Room | undefined): Generator<[client: string, node: string, connections: number]> {
  for (const [node, clients] of room?.elsewhere ?? [])
    for (const [client, connections] of clients) yield [client, node, connections];
}
