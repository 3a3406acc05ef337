/** The Redis store: any number of nodes, one conversation. What is kept is what comes back through the log. */

import { note, report } from "../../ops/log.ts";
import { checkRedis, describeRedis, type RedisAddress } from "./config.ts";
import { RedisChanges } from "./changes.ts";
import { Faults, RedisLine } from "./connection.ts";
import { RedisLog } from "./log-reader.ts";
import { RedisNodes } from "./cluster.ts";
import { isId, readEntries, readPresent, readSession, type LogRecord, type Part } from "./records.ts";
import { RedisRooms } from "./rooms.ts";
import { clock, open, readAfter, readBefore, readIdBefore, readSent } from "./scripts.ts";
import { RedisWriter } from "./writer.ts";
import {
  aPageOf,
  MAX_PAGE_BYTES,
  StoreError,
  type Draft,
  type Follower,
  type Others,
  type Page,
  type ReadonlyHistory,
  type Sender,
  type Store,
  type StoreOptions,
  type Where,
} from "../store.ts";

const SETTLE_LOOK_MS = 5;
/** How far a replay goes back at most, where more is asked for than the room's history has in memory. */
const MAX_REPLAY_BYTES = 8 * 1024 * 1024;

export class RedisStore implements Store {
  promise = "";
  readonly others: Others;
  /** Redis takes what it is given. */
  #isTaking = true;
  /** What it was given can be heard of. */
  #isHearing = true;
  readonly #faults = new Faults();
  readonly #line: RedisLine;
  readonly #changes: RedisChanges;
  readonly #nodes: RedisNodes;
  readonly #writer: RedisWriter;
  readonly #rooms: RedisRooms;
  readonly #log: RedisLog;

  constructor(
    private readonly address: RedisAddress,
    options: StoreOptions,
    private readonly follower: Follower,
  ) {
    const { url, prefix } = address;
    this.#line = new RedisLine(url, prefix);
    this.#log = new RedisLog(url, prefix, {
      heard: (record) => this.#hear(record),
      skipped: (record) => {
        this.#nodes.skipped(record);
        this.#reset("the log has a gap");
      },
      deaf: (why) => {
        if (this.isReady) note("store lost", { why });
        this.#isHearing = false;
        this.#writer.refuseWaiting();
      },
      reading: () => this.#recover(() => (this.#isHearing = true)),
    });
    const changes = new RedisChanges(() => this.#writer.wake());
    this.#changes = changes;
    this.#nodes = new RedisNodes(this.#line, changes, options.keepDays, {
      position: () => this.#log.last,
      found: (newest) => this.#find(newest),
      lost: (why) => this.#lose(why),
      aged: (limitMs, nowMs) => this.#rooms.forgetOld(limitMs, nowMs),
    });
    this.#writer = new RedisWriter(
      this.#line,
      this.#nodes,
      changes,
      options.history,
      () => this.isReady,
      (why) => this.#lose(why),
    );
    this.#rooms = new RedisRooms(
      (name, maxBytes) => this.#try(() => this.#line.ask(open, name, options.history, maxBytes)),
      this.#nodes.own,
      options.history,
      follower,
    );
    this.others = {
      in: (room) => this.#rooms.presentIn(room),
      clientsIn: (room) => this.#clientsIn(room),
      tell: (room, client, connections) => changes.tell(room, client, connections),
      ticket: () => this.#ticket(),
      opened: (client, session, ticket) => changes.opened(client, session, ticket),
    };
  }

  async start(): Promise<void> {
    await checkRedis(this.#line, this.address);
    try {
      this.promise = await describeRedis(this.#line, this.address);
      this.#log.goTo(await this.#nodes.start());
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new StoreError(`Redis at ${this.address.name} cannot be used: ${why}`);
    }
    void this.#log.follow();
  }

  get isReady(): boolean {
    return this.#isTaking && this.#isHearing;
  }

  open(room: string): Promise<ReadonlyHistory | "unavailable"> {
    return this.#rooms.open(room);
  }

  close(room: string): void {
    this.#rooms.close(room);
  }

  append(draft: Draft, sender: Sender): void {
    this.#writer.append(draft, sender);
  }

  async sent(client: string, session: string): Promise<number | null | "unavailable"> {
    await this.#allAnswered(); // what is on its way may be of that session
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

  async idBeforeLatest(room: string, count: number): Promise<string | "unavailable"> {
    return this.#try(async () => String(await this.#line.ask(readIdBefore, room, count, MAX_REPLAY_BYTES)));
  }

  async settle(): Promise<void> {
    await this.#allAnswered();
    // Whoever waits for the rest is to hear that nobody knows, before they are sent away.
    if (!this.isReady) this.#writer.giveUp();
  }

  async #allAnswered(): Promise<void> {
    const { given } = this.#writer; // what is given later is waited for by nobody here, or a busy node never settles
    while (this.#writer.answered < given && this.isReady) await Bun.sleep(SETTLE_LOOK_MS);
  }

  async end(): Promise<void> {
    await this.#nodes.end();
    this.#line.end();
    this.#log.end();
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
      const reply = await this.#line.ask(clock);
      const [seconds, microseconds]: unknown[] = Array.isArray(reply) ? reply : [];
      return Number(seconds) * 1e6 + Number(microseconds);
    });
  }

  async #try<T>(ask: () => Promise<T>): Promise<T | "unavailable"> {
    try {
      return await ask();
    } catch (error) {
      this.#faults.check("Redis could not be asked", error);
      this.#nodes.look();
      return "unavailable";
    }
  }

  #hear(record: LogRecord): void {
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
        if ("kept" in part.answer) this.#rooms.tell(part.answer.kept.room, id, { said: part.answer.kept });
        break;
      case "present":
        if (!isOwn) this.#rooms.tell(part.room, id, { ...part, node });
        break;
      case "opened":
        if (!isOwn) this.follower.replaced(part.client, part.session, part.ticket);
        break;
      case "dead":
        this.#rooms.tellDead(part.node, id);
        break;
      default:
        part satisfies never;
    }
  }

  #lose(why: string): void {
    if (this.isReady) {
      note("store lost", { why });
      // They may lead to a primary that is none any more.
      this.#line.drop();
      this.#log.drop();
    }
    this.#isTaking = false;
    this.#writer.refuseWaiting();
    this.#nodes.look();
  }

  #recover(recover: () => void): void {
    const wasReady = this.isReady;
    recover();
    if (wasReady || !this.isReady) return;
    note("store found");
    this.#writer.wake();
  }

  /** @param newest the end of the log, if it is not the one that was followed */
  #find(newest: string | undefined): void {
    if (newest !== undefined) {
      this.#log.goTo(newest);
      this.#reset("Redis has lost what it had");
    }
    this.#recover(() => (this.#isTaking = true));
  }

  /** Nobody here can be told what is missing; who comes again is. */
  #reset(why: string): void {
    note("store skipped", { why });
    this.#changes.sendAway(() => this.follower.lost());
    this.#rooms.readAnew();
  }
}
