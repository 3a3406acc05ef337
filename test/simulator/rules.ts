/** The promises, checked from the clients' point of view. */

import type { Connection } from "../../src/chat/connection.ts";
import { SLOW_CONSUMER_BYTES } from "../../src/chat/slow-consumer.ts";
import type { Content } from "../../src/protocol/codec.ts";
import type { StreamWelcome } from "../../src/protocol/stream-encoders.ts";
import type {
  ChatMessage,
  PresenceChange,
  Removal,
  RemovedMessages,
  Welcome,
} from "../../src/protocol/events.ts";
import {
  isMessage,
  type Removal as StoredRemoval,
  type RemovalTarget,
  type StoredEntry,
} from "../../src/store/message.ts";
import type { Host, Link, ServerEnd, SocketHost, WireObserver } from "./network.ts";
import type { World } from "./world.ts";

const PING = '{"type":"ping"}';
const PONG = '{"type":"pong"}';
const WELCOME = '{"type":"welcome"';
/** A welcome names no more than these. */
const MAX_LISTED_MEMBERS = 100;
/** What answers a message, on either wire. */
const REPLY = /^(\{"type":"(ack|error)"|You wrote: |Not sent \()/;
/** The close code of a server that shuts down. */
const RESTARTING = 1012;
/** The close code of a client that a moderator has disconnected. */
const BANNED = 4003;
/** A connection that the server does not want is closed within this time after it has opened. */
const CLOSE_MS = 5;
/** Nothing uses a connection longer than this after it is closed. */
const LINGER_MS = 30_000;
/** A leave is announced on the text wire no sooner than this after it, and at most this much later than that. */
const LEAVE_DEBOUNCE_MS = 100;
const LEAVE_BOUND_MS = 400;
/** Between the first connection that a message is sent to and the last healthy one, besides `--flush-ms`. */
const DELIVERY_BOUND_MS = 100;

/** Within this time, every server of a cluster without faults has read what was written. */
const MAX_LAG_MS = 3000;
/** Within this time after the last fault, a cluster has recovered from it. */
const MAX_RECOVERY_MS = 60_000;
/** In place of a server where all are meant. */
const CLUSTER = "cluster";

/** Of a connection, or of an event stream. */
type AnyWelcome = StreamWelcome & Partial<Welcome>;

interface RuleSettings {
  /** `--history`: how many messages a room keeps ready. */
  readonly history: number;
  readonly flushMs: number;
  /** What was stored outlives the server's process. */
  readonly isPersistent: boolean;
  /** The store retains no more than `history` messages of a room. */
  readonly isTrimmed: boolean;
  /** Several servers share the store, and are not equally far in its log. */
  readonly isCluster: boolean;
  /** Frames count as larger than they are, so that links without a fault may be slow consumers. */
  readonly isNarrow: boolean;
  /** Replays may be too slow for the history, so that links without a fault are closed with 1013. */
  readonly isStoreSlow: boolean;
}

/** A message or a removal as the clients have seen it: delivered to one of them, or acknowledged with its id. */
interface Entry {
  readonly id: string;
  /** Undefined for a removal, and for a message that no client has received with its content. */
  text: string | undefined;
  /** The sender of a message. */
  from: string | undefined;
  readonly removes: RemovedMessages | undefined;
  readonly seenAt: number;
  /** When a removal of it was acknowledged. */
  goneAt: number;
  /** The database has lost it: when it lost data for the how manyth time. Infinity if it has not. */
  lostIn: number;
  /** By a removal that clients have seen; known at the end. */
  isRemoved: boolean;
  /** By a removal that the database has lost; known at the end. */
  wasRemoved: boolean;
  /** When it, or its acknowledgement, was first written to a connection. */
  sentAt: number;
  /** What its sender knows of it, once its text is known. */
  sent: SentText | undefined;
  /** Its place; known at the end. */
  index: number;
}

/** What the clients have seen of a room while one store existed. */
class Log {
  readonly entries = new Map<string, Entry>();
  readonly byText = new Map<string, Entry>();
  newestId = "0-0";
  sorted: Entry[] = [];
  /** A removal of some entry was acknowledged. */
  hasGone = false;

  /** @param lost the ids of the entries that the database has lost, see {@link Entry.lostIn} */
  constructor(
    private readonly world: World,
    readonly room: string,
    readonly generation: number,
    private readonly sentTexts: ReadonlyMap<string, SentText>,
    private readonly lost: ReadonlyMap<string, number>,
  ) {}

  /** Forgets what is lost: it may be stored again. */
  lose(): void {
    this.newestId = "0-0";
    for (const entry of this.entries.values()) {
      entry.lostIn = this.lost.get(entry.id) ?? Infinity;
      // The removal may be lost.
      entry.goneAt = Infinity;
      if (!isLost(entry) && isLater(entry.id, this.newestId)) this.newestId = entry.id;
    }
    for (const [text, entry] of this.byText) if (isLost(entry)) this.byText.delete(text);
  }

  see(id: string, sentAt: number, { text, from, removes }: SeenEntry): Entry {
    const { world, room } = this;
    let entry = this.entries.get(id);
    if (entry === undefined) {
      entry = {
        id,
        text: undefined,
        from,
        removes,
        seenAt: world.time,
        goneAt: Infinity,
        lostIn: this.lost.get(id) ?? Infinity,
        isRemoved: false,
        wasRemoved: false,
        sentAt,
        sent: undefined,
        index: -1,
      };
      this.entries.set(id, entry);
      if (isLater(id, this.newestId) && !isLost(entry)) this.newestId = id;
    } else if (entry.from !== from || !isSame(entry.removes, removes))
      world.fail(
        `${id} in ${room} is of ${entry.from}, ${describe(entry.removes)}, to some and of ${from}, ${describe(removes)}, to others`,
      );
    if (text !== undefined && text !== entry.text) this.#setText(entry, text);
    if (sentAt < entry.sentAt) entry.sentAt = sentAt;
    return entry;
  }

  /** Called once for each message, as all others must receive the same. */
  #setText(entry: Entry, text: string): void {
    const { world, room } = this;
    const { id, from } = entry;
    if (entry.text !== undefined)
      return world.fail(`${id} in ${room} is "${entry.text}" to some and "${text}" to others`);
    const other = isLost(entry) ? undefined : this.byText.get(text);
    if (other) world.fail(`"${text}" is stored twice in ${room}: as ${other.id} and ${id}`);
    entry.text = text;
    if (!isLost(entry)) this.byText.set(text, entry);
    const sent = this.sentTexts.get(text);
    if (!sent) return world.fail(`nobody has sent "${text}" (${id}) to ${room}`);
    if (sent.room !== room) world.fail(`"${text}" for ${sent.room} arrives in ${room}`);
    if (sent.client !== from) world.fail(`"${text}" in ${room} arrives as one of ${from}`);
    entry.sent = sent;
  }

  /**
   * @param isComplete all that the store has is known
   * @param lostRemovals what the database has lost
   */
  sort(isComplete: boolean, lostRemovals: readonly StoredRemoval[]): void {
    const { world, room } = this;
    this.sorted = [...this.entries.values()].sort((a, b) => (isLater(a.id, b.id) ? 1 : -1));
    for (const { removes } of lostRemovals.filter((removal) => removal.room === room))
      for (const entry of this.sorted) entry.wasRemoved ||= isRemovedBy(removes, entry);
    for (const { id, removes, lostIn } of this.sorted)
      if (
        removes &&
        lostIn === Infinity &&
        !this.#markRemoved(removes) &&
        ("message" in removes || isComplete)
      )
        world.fail(`${id} in ${room} is ${describe(removes)}, which has nothing left to remove`);
    let index = 0;
    for (const entry of this.sorted) {
      entry.index = index++;
      if (entry.sent) entry.sent.isSeen = true;
    }
  }

  /** @returns false if everything was removed before */
  #markRemoved(removes: RemovedMessages): boolean {
    const one = "message" in removes ? this.entries.get(removes.message) : undefined;
    const covered = one ? [one] : this.sorted.filter((entry) => isRemovedBy(removes, entry));
    const hasEffect = covered.some(({ isRemoved }) => !isRemoved) || ("message" in removes && !one);
    for (const entry of covered) entry.isRemoved = true;
    return hasEffect;
  }

  /** The index of the first message after that id. */
  indexAfter(id: string): number {
    const entry = this.entries.get(id);
    if (entry) return entry.index + 1;
    const index = this.sorted.findIndex((each) => isLater(each.id, id));
    return index < 0 ? this.sorted.length : index;
  }
}

/** What a client receives of an entry: a message without a text is removed. */
interface SeenEntry {
  readonly text?: string | undefined;
  readonly from?: string | undefined;
  readonly removes?: RemovedMessages | undefined;
}

function isRemovedBy(
  removes: RemovedMessages,
  { id, from }: { readonly id: string; readonly from: string | undefined },
): boolean {
  if ("message" in removes) return id === removes.message;
  return from === removes.from && !isLater(id, removes.upTo);
}

function isSame(one: RemovedMessages | undefined, other: RemovedMessages | undefined): boolean {
  return one === other || describe(one) === describe(other);
}

function describe(removes: RemovedMessages | undefined): string {
  if (!removes) return "a message";
  return "message" in removes
    ? `a removal of ${removes.message}`
    : `a removal of ${removes.from} up to ${removes.upTo}`;
}

function isLost({ lostIn }: Entry): boolean {
  return lostIn !== Infinity;
}

function isSkippable(entry: Entry | undefined): boolean {
  if (entry === undefined) return false;
  // An acknowledged removal that no client has seen is lost with a store in memory.
  const isGone = entry.isRemoved || entry.wasRemoved || entry.goneAt !== Infinity;
  return entry.removes !== undefined || isGone || isLost(entry);
}

/** Of today's ids: two of the same length are in the order of their characters. */
const MS_DIGITS = 13;

function isLater(one: string, other: string): boolean {
  const { length } = one;
  if (length === other.length && one[MS_DIGITS] === "-" && other[MS_DIGITS] === "-") return one > other;
  const dash = one.indexOf("-");
  const otherDash = other.indexOf("-");
  const difference = Number(one.slice(0, dash)) - Number(other.slice(0, otherDash));
  return (
    difference > 0 || (difference === 0 && Number(one.slice(dash + 1)) > Number(other.slice(otherDash + 1)))
  );
}

const SEQ = '"seq":';

/** The number of a message, in a frame with it or in its reply; undefined on the text wire. */
function seqIn(frame: string): number | undefined {
  const index = frame.indexOf(SEQ);
  return index < 0 ? undefined : parseInt(frame.slice(index + SEQ.length));
}

/** What one client has received without a gap, as far as the server says. */
interface Segment {
  readonly client: string;
  readonly log: Log;
  readonly startId: string;
  readonly startedAt: number;
  readonly entries: Entry[];
  /** Those that the client shows without their content; all others have the entry's text. */
  readonly blank: Set<Entry>;
}

/** A welcome, to be judged when everything is known. */
interface WelcomeRecord {
  readonly client: string;
  readonly room: string;
  readonly generation: number;
  readonly after: string | undefined;
  readonly last: string;
  readonly recovered: boolean | undefined;
  readonly requestedAt: number;
  readonly welcomedAt: number;
}

interface SentText {
  readonly client: string;
  readonly room: string;
  readonly sentAt: number;
  /** The stream in whose order it belongs: a session, or a connection on the text wire. */
  readonly stream: string;
  readonly number: number;
  acknowledged?: { readonly generation: number; readonly id: string | undefined };
  isUnconfirmed?: boolean;
  /** A client on the JSON wire has received it, or its id; known at the end. */
  isSeen?: boolean;
}

/** What is known of a connection on the JSON wire. */
interface LinkState {
  readonly log: Log;
  readonly members: Set<string>;
  /** There have been more members than events name. */
  isPartial: boolean;
  lastId: string;
  liveAt: number;
}

/** The messages of a connection that the server has read and not answered. */
interface Unanswered {
  /** On the text wire, where messages have no numbers of their own: how many were read, and answered. */
  read: number;
  answered: number;
  readonly numbers: Set<number>;
  /** Those that a shutdown has to answer. */
  owed: readonly number[];
}

/** A connection that a shutdown has closed, to be judged when everything is known. */
interface ShutDownLink {
  readonly name: string;
  readonly log: Log;
  readonly lastId: string;
  readonly closedAt: number;
}

/** A time in which a client had no connection to a room. */
interface Absence {
  readonly leftAt: number;
  backAt: number;
  readonly announcedTo: Set<Link>;
}

/** Until when a client is banned, by the server's clock: for certain, and at most if a request has no answer yet. */
interface BanTimes {
  readonly generation: number;
  surelyUntilMs: number;
  possiblyUntilMs: number;
  /** Where a request is under way: it disconnects the client even if it bans it no longer. */
  pendingAt: SocketHost | undefined;
  acknowledgedAt: number;
  /** By then, all servers of a cluster have read of the last request. */
  knownAt: number;
}

interface Attendance {
  connections: number;
  /** When one of them was closed last. */
  closedAt: number;
  readonly absences: Absence[];
}

/** A connection on the text wire. */
export interface TextLink {
  readonly link: Link;
  /** Stays the same while the server's process does. */
  readonly host: Host;
  readonly log: Log;
  readonly openedAt: number;
  closedAt: number;
  /** The broadcasts that it has received, and when the server sent the last one. */
  readonly texts: string[];
  lastSentAt: number;
}

/** An entry of a store; its text is undefined if it is removed, or a removal. */
export interface StoredState extends SeenEntry {
  readonly id: string;
}

export class Rules implements WireObserver {
  readonly sentTexts = new Map<string, SentText>();
  /** Until when the process of a server has stood still. */
  stillUntil = -Infinity;
  /** Until when the store has accepted no writes. */
  fullUntil = -Infinity;
  /** The store may have pruned messages because of their age. */
  hasPruned = false;
  /** The connection whose frame is being delivered. */
  #current: Link | undefined;
  readonly #logs = new Map<string, Map<number, Log>>();
  readonly #links = new Map<Link, LinkState>();
  /** At each ping that is not answered: the newest id that any client had seen. */
  readonly #pings = new Map<Link, string[]>();
  readonly #segments: Segment[] = [];
  readonly #segmentOf = new Map<string, Segment>();
  /** By room: what the store has at the end. */
  readonly #stored = new Map<string, readonly StoredState[]>();
  /** By room: when the messages were sent that no client on the JSON wire has seen. */
  readonly #unseen = new Map<string, number[]>();
  readonly #welcomes: WelcomeRecord[] = [];
  readonly #unanswered = new Map<Link, Unanswered>();
  /** Of connections whose replay is over, where buffers are small: the bytes that waited for the reader at its end. */
  readonly #waitingAfterReplay = new Map<Link, number>();
  readonly #shutdowns = new Map<Host, number>();
  readonly #shutDownLinks: ShutDownLink[] = [];
  readonly #attendance = new Map<SocketHost | typeof CLUSTER, Map<string, Attendance>>();
  readonly #textLinks: TextLink[] = [];
  /** By room and client: when a removal of all its messages was last requested. */
  readonly #removedClients = new Map<string, number>();
  /** The messages whose own removal was requested. */
  readonly #removedTexts = new Set<string>();
  readonly #bans = new Map<string, BanTimes>();
  /** The ids and texts that the database has lost. */
  readonly #lost = new Map<string, number>();
  #losses = 0;
  readonly #lostTexts = new Set<string>();
  readonly #lostRemovals: StoredRemoval[] = [];
  #hasLostAll = false;
  /** Since when there has been no fault that keeps a server from following the log. */
  #calmSince = 0;
  /** Until when the database or a server has stood still. */
  #frozenUntil = 0;
  /** By server and room: the newest id that a client of that server has received. */
  readonly #newestAt = new Map<Host, Map<string, string>>();

  constructor(
    private readonly world: World,
    private readonly settings: RuleSettings,
  ) {
    this.hasPruned = settings.isTrimmed;
  }

  logOf(room: string, generation: number): Log {
    let generations = this.#logs.get(room);
    if (!generations) this.#logs.set(room, (generations = new Map()));
    let log = generations.get(generation);
    if (!log)
      generations.set(generation, (log = new Log(this.world, room, generation, this.sentTexts, this.#lost)));
    return log;
  }

  // Frames

  onFrameSent(link: Link, frame: Content): void {
    if (frame !== PING) return;
    const state = this.#links.get(link);
    const pings = this.#pings.get(link) ?? [];
    this.#pings.set(link, pings);
    pings.push(state ? this.#newestFor(link, state) : "0-0"); // a client may ping before its welcome arrives
  }

  /** Servers of a cluster are not equally far. */
  #newestFor({ host }: Link, { log }: LinkState): string {
    if (!this.settings.isCluster || !host) return log.newestId;
    return this.#newestAt.get(host)?.get(log.room) ?? "0-0";
  }

  onFrameRead(link: Link, frame: Content): void {
    if (typeof frame !== "string" || frame === PING) return;
    const unanswered = this.#unanswered.get(link) ?? { read: 0, answered: 0, numbers: new Set(), owed: [] };
    this.#unanswered.set(link, unanswered);
    unanswered.numbers.add(seqIn(frame) ?? ++unanswered.read);
  }

  #onReply(link: Link, frame: Content): void {
    const unanswered = this.#unanswered.get(link);
    if (!unanswered || unanswered.numbers.size === 0) return;
    if (typeof frame !== "string" || !REPLY.test(frame)) return;
    unanswered.numbers.delete(seqIn(frame) ?? ++unanswered.answered);
  }

  onShutdown(host: Host): void {
    this.#shutdowns.set(host, this.world.time);
    for (const [link, unanswered] of this.#unanswered)
      if (link.host === host) unanswered.owed = [...unanswered.numbers];
  }

  /** A shutdown answers what was accepted, and delivers what was broadcast, before it closes a connection. */
  onClosed(link: Link, code: number): void {
    const shutdownAt = link.host && this.#shutdowns.get(link.host);
    if (code !== RESTARTING || link.touchedAt !== shutdownAt) return;
    if (this.settings.isNarrow || this.settings.isStoreSlow) return;
    if (this.stillUntil >= shutdownAt) return; // the drain time is over
    const name = link.clientOwner.name;
    const unanswered = this.#unanswered.get(link);
    const owed = unanswered?.owed.find((number) => unanswered.numbers.has(number));
    if (owed !== undefined) this.world.fail(`${name} is disconnected before message ${owed} is answered`);
    const state = this.#links.get(link);
    if (!state || state.liveAt === Infinity) return;
    const { log, lastId } = state;
    this.#shutDownLinks.push({ name, log, lastId, closedAt: link.sentAt });
  }

  /**
   * A newer connection of a session closes the older ones once its client has answered a ping on it. Another one may
   * remain for a while: a request that the client gave up and that was delivered or answered late. It delivers to nobody.
   */
  onPongRead({ link, data, host, isOpen }: ServerEnd): void {
    const own = data.connection;
    if (!own?.session || !isOpen) return;
    for (const {
      link: other,
      data: { connection },
    } of host.ends)
      if (
        other.wasOpen &&
        other.number < link.number &&
        connection?.client === own.client &&
        connection.session === own.session
      )
        this.world.fail(`${own.client} uses a connection, and an older one of its session is still open`);
  }

  onServerClosed({ data, host }: ServerEnd, code: number): void {
    if (code === BANNED) this.onBanned(data.connection?.client ?? "nobody", host);
  }

  /** Bun drops frames beyond its limit; slow consumers are closed, and replays wait, long before. */
  onOverflow(link: Link): void {
    this.world.fail(`more waits for ${link.clientOwner.name} than Bun's socket takes`);
  }

  onFrameReceived(link: Link, frame: Content): void {
    this.#current = link;
    this.#onReply(link, frame);
    if (frame === PONG) this.#onPong(link);
    // Before the client sees it, since it answers with a ping.
    else if (typeof frame === "string" && frame.startsWith(WELCOME)) this.#onWelcomeFrame(link, frame);
  }

  #onWelcomeFrame(link: Link, frame: string): void {
    const generation = link.host?.generation;
    if (generation === undefined) return this.world.fail("a welcome without a server");
    const { room, last, members = [], count = Infinity }: AnyWelcome = JSON.parse(frame);
    this.#links.set(link, {
      log: this.logOf(room, generation),
      members: new Set(members),
      isPartial: count > members.length,
      lastId: last,
      liveAt: Infinity,
    });
  }

  onUntouchedClosed(link: Link, code: number, reason: string): void {
    if (code === BANNED) return; // {@link onServerClosed} has judged it
    if (code === RESTARTING && this.#hasTrouble) return; // clients resume after a gap in the log
    const { isNarrow, isPersistent } = this.settings;
    const isHistoryLost = isPersistent && !this.hasPruned && reason.startsWith("The history");
    // A replay waits for its reader, however slow: most of what is too much was broadcast after it.
    const ofReplay = this.#waitingAfterReplay.get(link) ?? Infinity;
    const isReplayUnpaced = reason.startsWith("Reading") && ofReplay > SLOW_CONSUMER_BYTES / 2;
    if (isNarrow && !isHistoryLost && !isReplayUnpaced && (code === 1013 || code === 1006)) return;
    if ((this.settings.isStoreSlow || this.hasPruned) && !isReplayUnpaced && code === 1013) return;
    this.world.fail(`a healthy connection of ${link.clientOwner.name} was closed: ${code} ${reason}`);
  }

  /** A welcome names everyone who is in the room at that moment, by what the network knows. */
  onServerSent(end: ServerEnd, frame: Content): void {
    if (this.#bans.size > 0) this.#checkNotBanned(end);
    if (this.settings.isNarrow) this.#watchReplay(end);
    if (typeof frame !== "string" || !frame.startsWith(WELCOME)) return;
    if (!end.data.connection) return; // an event stream
    const room = end.data.connection.room.name;
    const present = new Set<string>();
    for (const {
      data: { connection },
    } of end.host.ends)
      // One that opened in a room whose state is lost is about to be closed.
      if (connection?.room.name === room && !connection.room.isDetached) present.add(connection.client);
    const welcome: Welcome = JSON.parse(frame);
    const { members, count } = welcome;
    this.#checkConnections(end.host, room, welcome);
    if (this.settings.isCluster) {
      const missing = [...present].find((client) => !members.includes(client));
      if (missing !== undefined) this.world.fail(`a welcome has ${members}, and ${missing} is in ${room}`);
      return;
    }
    const isWrong =
      count !== present.size ||
      members.length !== Math.min(count, MAX_LISTED_MEMBERS) ||
      members.some((member) => !present.has(member));
    if (isWrong) this.world.fail(`a welcome has ${members} as ${count}, and ${[...present]} are in ${room}`);
  }

  /** No more than the client has, except that another server may learn late that one has closed. */
  #checkConnections(host: SocketHost, room: string, { client, connections }: Welcome): void {
    const { isCluster } = this.settings;
    const attendance = this.#attendance.get(isCluster ? CLUSTER : host)?.get(`${room} ${client}`);
    if (!attendance || connections <= attendance.connections) return;
    const changedAt = Math.max(attendance.closedAt, this.fullUntil);
    if (isCluster && (this.#hasTrouble || this.world.time < changedAt + MAX_LAG_MS)) return;
    this.world.fail(
      `a welcome has ${connections} connections of ${client}, which has ${attendance.connections}`,
    );
  }

  /** Called before each frame. */
  #watchReplay(end: ServerEnd): void {
    const { link, data } = end;
    if (data.connection?.isReplaying) this.#waitingAfterReplay.delete(link);
    else if (!this.#waitingAfterReplay.has(link)) this.#waitingAfterReplay.set(link, end.getBufferedAmount());
  }

  /** A pong proves that everything stored before its ping was delivered. */
  #onPong(link: Link): void {
    const state = this.#links.get(link);
    const newestAtPing = this.#pings.get(link)?.shift();
    if (!state || newestAtPing === undefined) return this.world.fail("a pong without a ping");
    if (isLater(newestAtPing, state.lastId))
      this.world.fail(
        `${link.clientOwner.name}: a pong came before ${newestAtPing}, which had been seen at its ping; received up to ${state.lastId}`,
      );
    if (state.liveAt === Infinity) state.liveAt = this.world.time;
  }

  // The JSON wire

  onWelcome(client: string, after: string | undefined, welcome: AnyWelcome): void {
    const link = this.#current;
    const state = link && this.#links.get(link);
    if (!link || !state) return this.world.fail("a welcome without a frame");
    const { log } = state;
    const { generation } = log;
    const { room, last, recovered, members, count = 0 } = welcome;
    const isNamed = members?.includes(welcome.client ?? "") || count > MAX_LISTED_MEMBERS;
    if (members && !isNamed) this.world.fail(`${client} is not in its own welcome: ${members}`);
    if ((recovered === undefined) !== (after === undefined))
      this.world.fail(`${client}: recovered is ${recovered} after ${after}`);
    const requestedAt = link.connectedAt;
    const welcomedAt = this.world.time;
    this.#welcomes.push({ client, room, generation, after, last, recovered, requestedAt, welcomedAt });
    const segment = this.#segmentOf.get(client);
    if (recovered) {
      if (segment?.log.generation !== generation)
        this.world.fail(`${client} is told that it resumes, but the store has been lost`);
      if (last !== after) this.world.fail(`${client} resumes after ${last} instead of ${after}`);
      return;
    }
    const next: Segment = {
      client,
      log,
      startId: last,
      startedAt: welcomedAt,
      entries: [],
      blank: new Set(),
    };
    this.#segments.push(next);
    this.#segmentOf.set(client, next);
  }

  /** @param content undefined if the message is removed */
  onMessage(client: string, { id, from, removed }: ChatMessage, content: string): void {
    const text = removed ? undefined : content;
    const entry = this.#onEntry(client, id, { from, text });
    if (!entry) return;
    if (text === undefined) this.#segmentOf.get(client)?.blank.add(entry);
    else if (entry.goneAt !== Infinity) this.#checkNotGone(client, entry);
  }

  /** What the removal covers is blank from then on. */
  onRemoved(client: string, { id, ...removes }: Removal): void {
    this.#onEntry(client, id, { removes });
    const segment = this.#segmentOf.get(client);
    if (!segment) return;
    const { log, entries, blank } = segment;
    const one = "message" in removes ? log.entries.get(removes.message) : undefined;
    if (one) blank.add(one);
    if ("message" in removes) return;
    for (const entry of entries) if (isRemovedBy(removes, entry)) blank.add(entry);
  }

  #onEntry(client: string, id: string, seen: SeenEntry): Entry | undefined {
    const link = this.#current;
    const state = link && this.#links.get(link);
    const segment = this.#segmentOf.get(client);
    if (!link || !state || !segment) return void this.world.fail(`${client} receives ${id} before a welcome`);
    const { log } = state;
    const entry = log.see(id, link.sentAt, seen);
    if (!isLater(id, state.lastId))
      this.world.fail(`${client} receives ${id} after ${state.lastId}: repeated or out of order`);
    state.lastId = id;
    segment.entries.push(entry);
    // A replay may be ahead of what its server has read from the log.
    if (this.settings.isCluster && link.host && !isLost(entry) && state.liveAt < link.sentAt)
      this.#markNewest(link.host, log.room, id);
    const isLate =
      !this.settings.isCluster &&
      link.sentAt - entry.sentAt > this.settings.flushMs + DELIVERY_BOUND_MS &&
      state.liveAt < entry.sentAt &&
      !link.isTouched &&
      this.stillUntil < entry.sentAt;
    if (isLate)
      this.world.fail(`${client} is sent ${id} ${link.sentAt - entry.sentAt} ms later than the first client`);
    return entry;
  }

  /** Once a removal is acknowledged, what it has removed is in no replay. What is queued at that moment is still sent. */
  #checkNotGone(client: string, { id, goneAt, lostIn }: Entry): void {
    const link = this.#current;
    const sentAt = link?.sentAt ?? 0;
    // An event stream has a queue of its own, which a slow network takes long to empty.
    if (link?.client.url.includes("/events?") && link.connectedAt <= goneAt) return;
    if (this.settings.isCluster && (lostIn !== Infinity || !this.#isFollowed(goneAt, sentAt))) return;
    if (sentAt > goneAt + this.settings.flushMs + DELIVERY_BOUND_MS && this.stillUntil < goneAt)
      this.world.fail(
        `${client} receives the content of ${id}, which was removed ${sentAt - goneAt} ms before`,
      );
  }

  /** @param from the client that the server names as the sender */
  checkSender(receiver: string, text: string, from: string): void {
    if (this.sentTexts.get(text)?.client !== from)
      this.world.fail(`${receiver} receives "${text}" as one of ${from}`);
  }

  /** The list built from the welcome and the events has as many members as the server says. */
  onPresence(client: string, { joined, left, count }: PresenceChange): void {
    const state = this.#current && this.#links.get(this.#current);
    if (!state) return this.world.fail(`${client} receives a presence event before a welcome`);
    for (const each of joined) state.members.add(each);
    for (const each of left) state.members.delete(each);
    if (count > MAX_LISTED_MEMBERS) state.isPartial = true;
    const isCut = joined.length === MAX_LISTED_MEMBERS || left.length === MAX_LISTED_MEMBERS; // the next has the rest
    if (!state.isPartial && !isCut && state.members.size !== count)
      this.world.fail(
        `${client} has the members ${[...state.members].sort()}, and is told that they are ${count}`,
      );
  }

  /** The list built from the welcome and the events, for a client that is connected. */
  membersFor(link: Link): string[] | undefined {
    const state = this.#links.get(link);
    return state && !state.isPartial ? [...state.members].sort() : undefined;
  }

  lastIdOf(link: Link): string | undefined {
    return this.#links.get(link)?.lastId;
  }

  #markNewest(host: Host, room: string, id: string): void {
    const rooms = this.#newestAt.get(host) ?? new Map<string, string>();
    this.#newestAt.set(host, rooms);
    if (isLater(id, rooms.get(room) ?? "0-0")) rooms.set(room, id);
  }

  // Clusters

  /** A fault keeps servers from following the log, for that long. */
  onTrouble(forMs: number): void {
    this.#calmSince = Math.max(this.#calmSince, this.world.time + forMs);
  }

  /** The database or a server stands still until then, and so that much longer than before: several freezes add up. */
  onFrozen(untilMs: number, forMs: number): void {
    this.onTrouble(untilMs - this.world.time);
    this.#frozenUntil = Math.max(this.#frozenUntil, untilMs);
    for (const ban of this.#bans.values()) if (this.world.time < ban.knownAt) ban.knownAt += forMs;
  }

  /** The database has lost the last entries, or everything. */
  onDataLost(entries: readonly StoredEntry[], isAll: boolean): void {
    this.#losses++;
    this.#hasLostAll ||= isAll;
    for (const entry of entries) {
      this.#lost.set(entry.id, this.#losses);
      if (!isMessage(entry)) this.#lostRemovals.push(entry);
      else if (entry.content !== undefined) this.#lostTexts.add(Buffer.from(entry.content).toString());
    }
    for (const generations of this.#logs.values()) for (const log of generations.values()) log.lose();
    for (const rooms of this.#newestAt.values()) rooms.clear();
    for (const pings of this.#pings.values()) pings.fill("0-0");
    for (const ban of this.#bans.values()) ban.surelyUntilMs = 0;
  }

  /** What a client shows last, if the database has lost it. */
  lostLastOf(client: string): string | undefined {
    const segment = this.#segmentOf.get(client);
    const last = segment?.entries.at(-1)?.id ?? segment?.startId;
    return last !== undefined && this.#lost.has(last) ? last : undefined;
  }

  get #hasTrouble(): boolean {
    return this.#calmSince > 0 && this.world.time < this.#calmSince + MAX_RECOVERY_MS;
  }

  /** Whether every server has read by `at` what was written at `since`. */
  #isFollowed(since: number, at: number): boolean {
    return at > since + MAX_LAG_MS && this.#calmSince + MAX_LAG_MS < since;
  }

  // Senders

  onSent(text: string, client: string, room: string, stream: string, number: number): void {
    this.sentTexts.set(text, { client, room, sentAt: this.world.time, stream, number });
  }

  onAcknowledged(text: string, id: string | undefined): void {
    const sent = this.sentTexts.get(text);
    const link = this.#current;
    const generation = link?.host?.generation;
    if (!sent || !link || generation === undefined)
      return this.world.fail(`"${text}" is acknowledged, but was not sent`);
    if (sent.acknowledged || sent.isUnconfirmed) return this.world.fail(`"${text}" is answered twice`);
    sent.acknowledged = { generation, id };
    if (id === undefined) return;
    // The broadcast follows the acknowledgement at once.
    this.logOf(sent.room, generation).see(id, link.sentAt, { text, from: sent.client });
  }

  onUnconfirmed(text: string): void {
    const sent = this.sentTexts.get(text);
    if (!sent || sent.acknowledged || sent.isUnconfirmed) this.world.fail(`"${text}" is answered twice`);
    else sent.isUnconfirmed = true;
    if (this.settings.isPersistent && !this.hasPruned && this.#losses === 0)
      this.world.fail(`"${text}" is unconfirmed, although the store persists sessions`);
  }

  // Moderation

  /** The moderator asks for a removal. */
  onRemovalRequested(room: string, generation: number, target: RemovalTarget): void {
    if ("from" in target) return void this.#removedClients.set(`${room} ${target.from}`, this.world.time);
    const { text } = this.logOf(room, generation).entries.get(target.message) ?? {};
    if (text !== undefined) this.#removedTexts.add(text);
  }

  /** @param requestedAt when the server received the request */
  onRemovalAcknowledged(
    room: string,
    generation: number,
    target: RemovalTarget,
    requestedAt: number,
    count: number | undefined,
  ): void {
    const log = this.logOf(room, generation);
    log.hasGone = true;
    if ("message" in target) {
      const isStored = this.settings.isPersistent && !this.hasPruned && !this.#lost.has(target.message);
      if (count === undefined && isStored)
        this.world.fail(`${target.message} in ${room} cannot be removed, although it was stored`);
      const entry = log.entries.get(target.message);
      if (entry && count !== undefined) entry.goneAt = Math.min(entry.goneAt, this.world.time);
      return;
    }
    // Clients may still show what the store has evicted or pruned.
    const isComplete = this.settings.isPersistent && !this.hasPruned;
    if (count === 0 && !isComplete) return;
    for (const entry of log.entries.values())
      if (entry.from === target.from && entry.seenAt <= requestedAt)
        entry.goneAt = Math.min(entry.goneAt, this.world.time);
  }

  /** A page of the history has nothing that was removed before it was asked for. */
  onPage(room: string, generation: number, id: string, requestedAt: number): void {
    const { goneAt = Infinity } = this.logOf(room, generation).entries.get(id) ?? {};
    if (goneAt < requestedAt)
      this.world.fail(`a page of ${room} has the content of ${id}, which was removed`);
  }

  /** Whether a message may have been removed before some client has received it. */
  mayBeRemoved(text: string): boolean {
    if (this.#removedTexts.has(text)) return true;
    const { client, room, sentAt } = this.sentTexts.get(text) ?? {};
    const removedAt = this.#removedClients.get(`${room} ${client}`) ?? -Infinity;
    // Other servers read of the ban and of the removal later, and include what the client has sent to them until then.
    const delayMs = this.settings.isCluster ? MAX_RECOVERY_MS : 0;
    return removedAt + delayMs >= (sentAt ?? Infinity);
  }

  /** @param untilMs by the server's clock */
  onBanRequested(client: string, host: SocketHost, untilMs: number): void {
    const { generation } = host;
    const ban = this.#bans.get(client);
    const knownAt = Math.max(this.world.time, this.#frozenUntil) + MAX_RECOVERY_MS;
    if (ban?.generation !== generation) {
      const times = {
        generation,
        surelyUntilMs: 0,
        possiblyUntilMs: untilMs,
        pendingAt: host,
        acknowledgedAt: Infinity,
        knownAt,
      };
      return void this.#bans.set(client, times);
    }
    ban.pendingAt = host;
    ban.knownAt = knownAt;
    ban.surelyUntilMs = Math.min(ban.surelyUntilMs, untilMs);
    ban.possiblyUntilMs = Math.max(ban.possiblyUntilMs, untilMs);
  }

  /** A banned client has no connection from then on. */
  onBanAcknowledged(client: string, host: SocketHost, untilMs: number): void {
    const ban = this.#bans.get(client);
    if (ban) {
      ban.surelyUntilMs = ban.possiblyUntilMs = untilMs;
      ban.pendingAt = undefined;
      ban.acknowledgedAt = this.world.time;
    }
    for (const end of host.ends) if (end.data.connection?.client === client) this.#checkNotBanned(end);
  }

  /** The server's clock is about to change. What has ended may be forgotten. */
  onClockJump(nowMs: number): void {
    for (const ban of this.#bans.values()) if (ban.surelyUntilMs <= nowMs) ban.surelyUntilMs = 0;
  }

  /** Until when a client may be banned, by the server's clock. */
  bannedUntilMs(client: string, generation: number): number {
    const ban = this.#bans.get(client);
    return ban?.generation === generation ? ban.possiblyUntilMs : 0;
  }

  #checkNotBanned({ data, host }: ServerEnd): void {
    const { client = "" } = data.connection ?? {};
    const ban = this.#bans.get(client);
    if (this.settings.isCluster && !this.#isFollowed(ban?.acknowledgedAt ?? Infinity, this.world.time))
      return;
    if (ban?.generation === host.generation && this.world.dateOf(host.owner) < ban.surelyUntilMs)
      this.world.fail(`${client} is banned, and has a connection`);
  }

  /** The server rejects or closes connections of banned clients only. */
  onBanned(client: string, host: SocketHost): void {
    const ban = this.#bans.get(client);
    if (ban?.pendingAt === host) return;
    // Another server reads of it later, and disconnects the client even if it is over by then.
    const { time } = this.world;
    if (this.settings.isCluster && ban && time < ban.knownAt) {
      const isKnown = !ban.pendingAt && this.#isFollowed(ban.acknowledgedAt, time);
      if (!isKnown) return;
    }
    if (this.world.dateOf(host.owner) >= this.bannedUntilMs(client, host.generation))
      this.world.fail(`${client} is kept out as if it were banned`);
  }

  // The text wire

  /** @param text as a broadcast */
  onText(receiver: string, textLink: TextLink, text: string): void {
    const { link, log, texts } = textLink;
    texts.push(text);
    textLink.lastSentAt = link.sentAt;
    const entry = log.hasGone ? log.byText.get(text) : undefined;
    if (entry && entry.goneAt !== Infinity) this.#checkNotGone(receiver, entry);
  }

  onTextOpen(link: Link, room: string): TextLink {
    const { host } = link;
    if (!host) throw new Error("a line without a server");
    const textLink = {
      link,
      host,
      log: this.logOf(room, host.generation),
      openedAt: this.world.time,
      closedAt: link.server?.isOpen ? Infinity : this.world.time,
      texts: [],
      lastSentAt: -Infinity,
    };
    this.#textLinks.push(textLink);
    return textLink;
  }

  /** A leave is announced once, and only if the client has been away for long enough. */
  onLeaveAnnounced(link: Link, room: string, client: string): void {
    const { sentAt } = link;
    const shutdownAt = (link.host && this.#shutdowns.get(link.host)) ?? Infinity;
    if (this.settings.isCluster) return this.#checkLeaveInCluster(link, room, client);
    // A server that stands still learns of its shutdown afterwards.
    const beganAt = Math.max(shutdownAt, this.stillUntil);
    if (sentAt > beganAt + this.settings.flushMs + DELIVERY_BOUND_MS)
      this.world.fail(`${link.clientOwner.name} is told during a shutdown that ${client} left`);
    const attendance = link.host && this.#attendance.get(link.host)?.get(`${room} ${client}`);
    const slackMs = this.settings.flushMs + DELIVERY_BOUND_MS;
    const absence = attendance?.absences.findLast(
      ({ leftAt, backAt }) =>
        leftAt + LEAVE_DEBOUNCE_MS <= sentAt + 0.001 &&
        (backAt + slackMs >= sentAt || this.stillUntil >= backAt),
    );
    if (!absence)
      return this.world.fail(`${link.clientOwner.name} is told that ${client} left, but it has not`);
    if (absence.announcedTo.has(link))
      return this.world.fail(`${link.clientOwner.name} is told twice that ${client} left`);
    absence.announcedTo.add(link);
  }

  /** Another server learns late that a client has come back, and may take those of one that is frozen for gone. */
  #checkLeaveInCluster({ sentAt, clientOwner }: Link, room: string, client: string): void {
    const attendance = this.#attendance.get(CLUSTER)?.get(`${room} ${client}`);
    const wasAway = attendance?.absences.some(
      ({ leftAt, backAt }) => leftAt < sentAt && backAt + MAX_RECOVERY_MS > sentAt,
    );
    if (!wasAway && !this.#hasTrouble)
      this.world.fail(`${clientOwner.name} is told that ${client} left, but it has not`);
  }

  // Who is connected, by the network

  readonly onOpenChange = (end: ServerEnd, isOpen: boolean): void => {
    const { connection } = end.data;
    if (!connection) return;
    if (!isOpen) this.#watchClosed(connection);
    else if (this.#bans.size > 0) this.#watchBanned(end);
    const { client, room } = connection;
    const scope = this.settings.isCluster ? CLUSTER : end.host;
    let clients = this.#attendance.get(scope);
    if (!clients) this.#attendance.set(scope, (clients = new Map()));
    const key = `${room.name} ${client}`;
    const attendance = clients.get(key) ?? { connections: 0, closedAt: -Infinity, absences: [] };
    clients.set(key, attendance);
    attendance.connections += isOpen ? 1 : -1;
    if (!isOpen) attendance.closedAt = this.world.time;
    const isThere = ({ data }: ServerEnd) =>
      data.connection?.client === client && data.connection.room.name === room.name;
    const leftAt = this.world.time;
    if (!isOpen && attendance.connections === 0)
      attendance.absences.push({ leftAt, backAt: Infinity, announcedTo: new Set() });
    // Servers publish independently: the others may learn that it has left one before that it is on another.
    else if (!isOpen && this.settings.isCluster && ![...end.host.ends].some(isThere))
      attendance.absences.push({ leftAt, backAt: leftAt, announcedTo: new Set() });
    const last = attendance.absences.at(-1);
    if (isOpen && attendance.connections === 1 && last) last.backAt = this.world.time;
    const textLink = isOpen ? undefined : this.#textLinks.findLast(({ link }) => link === end.link);
    if (textLink) textLink.closedAt = this.world.time;
  };

  /** A client that is banned during its upgrade is closed at once. */
  #watchBanned(end: ServerEnd): void {
    const { owner } = end.host;
    this.world.schedule(owner, this.world.time + CLOSE_MS, () => {
      if (end.isOpen) this.#checkNotBanned(end);
    });
  }

  /** What is used long after it was closed is still referenced somewhere, so it leaks. */
  #watchClosed(connection: Connection): void {
    const { codec, client } = connection;
    const lingersUntil = this.world.time + LINGER_MS;
    Object.defineProperty(connection, "codec", {
      get: () => {
        if (this.world.time > Math.max(lingersUntil, this.stillUntil + LINGER_MS))
          this.world.fail(`a connection of ${client} is used, but was closed`);
        return codec;
      },
    });
  }

  // At the end

  /**
   * @param stored all that the store has of a room. One that persists has everything that any client has seen, and every
   * acknowledged message, once.
   */
  checkStored(room: string, generation: number, stored: readonly StoredState[]): void {
    const log = this.logOf(room, generation);
    for (const entry of stored) log.see(entry.id, Infinity, entry);
    this.#stored.set(room, stored);
    if (!this.settings.isPersistent) return;
    const ids = new Set(stored.map(({ id }) => id));
    const texts = new Set([...this.#lostTexts, ...stored.flatMap(({ text }) => text ?? [])]);
    if (ids.size !== stored.length) this.world.fail(`${room} has an entry twice`);
    const oldest = stored[0]?.id;
    /** Only the oldest messages are pruned. */
    const isPruned = (id: string | undefined) =>
      this.hasPruned && (id === undefined || oldest === undefined || isLater(oldest, id));
    for (const { id, text, lostIn } of log.entries.values())
      if (!ids.has(id) && !isPruned(id) && lostIn === Infinity)
        return this.world.fail(`${id} "${text}" was seen in ${room} and is not stored`);
    for (const [text, sent] of this.sentTexts) {
      if (sent.room !== room || !sent.acknowledged || texts.has(text)) continue;
      const id = log.byText.get(text)?.id;
      const isStored = id === undefined ? this.mayBeRemoved(text) : ids.has(id);
      if (!isStored && !isPruned(id)) return this.world.fail(`"${text}" is acknowledged and not stored`);
    }
  }

  /** What the store has, and what a client shows: blank is what a removal covers, and nothing else. */
  #checkBlank(who: string, entry: Entry, isBlank: boolean): void {
    if (entry.removes || isLost(entry)) return;
    if (!isBlank && entry.goneAt !== Infinity)
      this.world.fail(`${who} has the content of ${entry.id}, whose removal is acknowledged`);
    if (isBlank !== entry.isRemoved)
      this.world.fail(
        `${who} has ${entry.id} ${isBlank ? "without its content" : `as "${entry.text}"`}, and it is ${entry.isRemoved ? "" : "not "}removed`,
      );
  }

  #checkRemovals(finalGeneration: number): void {
    for (const [room, stored] of this.#stored) {
      const { entries } = this.logOf(room, finalGeneration);
      for (const { id, text } of stored) {
        const entry = entries.get(id);
        if (entry) this.#checkBlank(`the store of ${room}`, entry, text === undefined);
      }
    }
    for (const { client, log, entries, blank } of this.#segmentOf.values()) {
      if (log.generation !== finalGeneration) continue;
      for (const entry of entries) this.#checkBlank(client, entry, blank.has(entry));
    }
  }

  /** Checks what can be judged only when everything is known. */
  checkAll(finalGeneration: number): void {
    const isComplete = this.settings.isPersistent && !this.hasPruned;
    for (const generations of this.#logs.values())
      for (const log of generations.values()) log.sort(isComplete, this.#lostRemovals);
    for (const { room, sentAt, isSeen } of this.sentTexts.values()) {
      if (isSeen) continue;
      const unseen = this.#unseen.get(room);
      if (unseen) unseen.push(sentAt);
      else this.#unseen.set(room, [sentAt]);
    }
    for (const segment of this.#segments) this.#checkSegment(segment);
    for (const textLink of this.#textLinks) this.#checkTextOrder(textLink);
    for (const welcome of this.#welcomes) this.#checkRecovered(welcome);
    this.#checkRemovals(finalGeneration);
    this.#checkSenderOrder();
    this.#checkAcknowledged(finalGeneration);
    this.#checkLeaves();
    for (const closed of this.#shutDownLinks) this.#checkDrained(closed);
  }

  #checkDrained({ name, log, lastId, closedAt }: ShutDownLink): void {
    for (let i = log.indexAfter(lastId); i < log.sorted.length; i++) {
      const entry = log.sorted[i];
      if (entry && entry.sentAt < closedAt)
        return this.world.fail(`${name} is disconnected by a shutdown before it receives ${entry.id}`);
    }
  }

  /** One order for all, without a gap: nothing lost, nothing twice. */
  #checkSegment({ client, log, startId, entries }: Segment): void {
    const { room, sorted } = log;
    let index = log.indexAfter(startId);
    let last = log.entries.get(startId);
    for (const entry of entries) {
      // A client that has received nothing of what was lost resumes after the loss.
      const lastLostIn = last?.lostIn ?? Infinity;
      while (sorted[index] !== entry && (sorted[index]?.lostIn ?? Infinity) < lastLostIn) index++;
      const expected = sorted[index++];
      if ((expected?.lostIn ?? Infinity) > lastLostIn)
        return this.world.fail(`${client} in ${room} receives ${entry.id} after ${last?.id}, which was lost`);
      last = expected;
      if (expected !== entry)
        return this.world.fail(
          `${client} in ${room} receives ${entry.id} where others receive ${expected?.id} "${expected?.text}"`,
        );
    }
  }

  #checkTextOrder({ link, log, texts }: TextLink): void {
    let next: number | undefined;
    for (const text of texts) {
      // Without ids, a text that was lost and stored again may be at either place.
      const index = this.#lostTexts.has(text) ? undefined : log.byText.get(text)?.index;
      if (index === undefined) {
        next = undefined; // or no client on the JSON wire has seen it
        continue;
      }
      // What was removed is in no replay.
      while (next !== undefined && next < index && isSkippable(log.sorted[next])) next++;
      if (next !== undefined && index !== next)
        return this.world.fail(
          `${link.clientOwner.name} in ${log.room} receives "${text}" where others receive "${log.sorted[next]?.text}"`,
        );
      next = index + 1;
    }
  }

  /**
   * `recovered` is true exactly when the history reaches back to the client's last message. How many messages have
   * followed it by then is known up to those that were under way.
   */
  #checkRecovered(record: WelcomeRecord): void {
    const { client, room, generation, after, last, recovered, requestedAt, welcomedAt } = record;
    const { history, isPersistent } = this.settings;
    const log = this.logOf(room, generation);
    const describe = `${client}, welcomed at ${(welcomedAt / 1000).toFixed(3)} s`;
    const isAfterLost = this.#lost.has(after ?? "") || (this.#hasLostAll && !log.entries.has(after ?? ""));
    if (after !== undefined && recovered === false && isPersistent && !this.hasPruned && !isAfterLost)
      return this.world.fail(`${describe}: not recovered, although the store has everything`);
    if (after !== undefined && log.entries.has(after) && this.settings.isTrimmed && !isAfterLost) {
      const { most } = this.#countAfter(room, log, after, requestedAt, welcomedAt);
      if (!recovered && most <= history)
        this.world.fail(`${describe}: not recovered, although only ${most} messages have followed ${after}`);
    }
    if (after !== undefined && log.entries.has(after) && !isPersistent) {
      const { least, most } = this.#countAfter(room, log, after, requestedAt, welcomedAt);
      if (recovered && least > history)
        this.world.fail(`${describe}: recovered, although ${least} messages have followed ${after}`);
      if (!recovered && most <= history)
        this.world.fail(`${describe}: not recovered, although only ${most} messages have followed ${after}`);
    }
    if (recovered || this.settings.isCluster) return;
    const replayed = this.#countAfter(room, log, last, requestedAt, welcomedAt);
    const all = this.#countAfter(room, log, "0-0", requestedAt, welcomedAt);
    if (replayed.least > history)
      this.world.fail(`${describe}: the replay starts ${replayed.least} messages back instead of ${history}`);
    if (replayed.most < Math.min(history, all.least) && !this.hasPruned)
      this.world.fail(`${describe}: the replay starts only ${replayed.most} messages back`);
  }

  #countAfter(
    room: string,
    log: Log,
    id: string,
    requestedAt: number,
    welcomedAt: number,
  ): { least: number; most: number } {
    let least = 0;
    // Those without an id, which only clients on the text wire have seen, or none.
    let most = (this.#unseen.get(room) ?? []).filter((sentAt) => sentAt <= welcomedAt).length;
    for (let i = log.indexAfter(id); i < log.sorted.length && least <= this.settings.history; i++) {
      const entry = log.sorted[i];
      if (!entry) break;
      if (entry.removes) continue;
      // What the database has lost may have been there at the welcome, or not.
      if (entry.seenAt <= requestedAt && !isLost(entry)) least++;
      if ((entry.sent?.sentAt ?? 0) <= welcomedAt) most++;
    }
    return { least, most };
  }

  #checkSenderOrder(): void {
    for (const [room, generations] of this.#logs)
      for (const log of generations.values()) {
        const numbers = new Map<string, number>();
        for (const { text, sent, lostIn } of log.sorted) {
          if (!sent || lostIn !== Infinity) continue;
          if (sent.number <= (numbers.get(sent.stream) ?? 0))
            return this.world.fail(`"${text}" in ${room} is not in its sender's order`);
          numbers.set(sent.stream, sent.number);
        }
      }
  }

  /** An acknowledged message reaches every client that was there before it, or returns to the same store. */
  #checkAcknowledged(finalGeneration: number): void {
    for (const [text, { room, sentAt, acknowledged }] of this.sentTexts) {
      if (acknowledged?.generation !== finalGeneration) continue;
      if (this.logOf(room, finalGeneration).byText.has(text) || this.mayBeRemoved(text)) continue;
      if (this.#lostTexts.has(text)) continue;
      const witness = this.#segments.findLast(
        (segment) =>
          segment.log.room === room &&
          segment.log.generation === finalGeneration &&
          segment === this.#segmentOf.get(segment.client) &&
          segment.startedAt < sentAt,
      );
      if (witness)
        return this.world.fail(`"${text}" is acknowledged and lost: ${witness.client} never receives it`);
    }
  }

  /**
   * A leave is announced to everyone who was connected all the time. Where little fits into a link, the announcement may
   * wait behind a long replay, and be lost with the connection: only who has received what was sent later is a witness.
   */
  #checkLeaves(): void {
    if (this.settings.isCluster) return; // the lists of members at the end show a leave that is missed
    const boundMs = LEAVE_DEBOUNCE_MS + LEAVE_BOUND_MS + this.settings.flushMs;
    for (const [host, clients] of this.#attendance)
      for (const [key, { absences }] of clients)
        for (const { leftAt, backAt, announcedTo } of absences)
          for (const { link, log, openedAt, closedAt, lastSentAt, host: at } of this.#textLinks) {
            const until = leftAt + boundMs;
            const isWitness = at === host && openedAt < leftAt && Math.min(closedAt, link.touchedAt) > until;
            if (!isWitness || !key.startsWith(`${log.room} `) || announcedTo.has(link)) continue;
            if (this.settings.isNarrow && lastSentAt <= until) continue;
            if (backAt <= until || this.world.now <= until + 1000 || this.stillUntil >= leftAt) continue;
            return this.world.fail(
              `${link.clientOwner.name} is not told that ${key} left at ${(leftAt / 1000).toFixed(3)} s`,
            );
          }
  }
}
