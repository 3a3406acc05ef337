/** One simulation: users, a server, and what a plan makes happen to them. */

import { drainMicrotasks } from "bun:jsc";
import { JsonUser, TextUser, type User } from "./clients.ts";
import type { Action, DatabaseFault, Plan } from "./faults.ts";
import { Moderator } from "./moderator.ts";
import { Network } from "./network.ts";
import { Rules, type StoredState } from "./rules.ts";
import { SimulatedServer } from "./servers.ts";
import { StreamUser } from "./subscriber.ts";
import { createDisk, SharedLogDisk, MAX_ROOMS, type Crash, type Disk } from "./stores.ts";
import type { Hub } from "../../src/chat/hub.ts";
import { isMessage, type StoredEntry } from "../../src/store/message.ts";
import { Dice, Owner, World } from "./world.ts";

export interface Outcome {
  readonly failure: string | undefined;
  readonly simulatedMs: number;
  readonly events: number;
  readonly messages: number;
}

/** Apart from the plan's own draws, so that a shorter plan meets the same network. */
const EXECUTION_SEED = 0x5eed;
/** Besides some ping intervals: the client's longest back-off, twice. */
const SETTLE_MS = 90_000;
const PAGE_SIZE = 1000;
const SEEDS_PER_MEMORY_CHECK = 32;
/** What the garbage collector may find by chance on the stack. */
const GARBAGE_CONNECTIONS = 4;
const SETTLE_STEP_MS = 500;
/** Of a message event. */
const MAX_FRAME_CHARACTERS = 120;
/** In this many times its link's longest delay, a client is connected and receives its replay. */
const OPEN_DELAYS = 3;
/** Until a rejected message is resent and answered. */
const RESEND_MS = 1500;
/** Less than what a client takes for a session that may have expired. */
const MAX_CLOCK_JUMP_MS = 3_600_000;
/** Less than what a session lives. */
const MAX_LONG_JUMP_MS = 5 * 24 * 3_600_000;
/** How long the SQLite store lets messages wait for a commit that they share. */
const MAX_COMMIT_WAIT_MS = 2;
/** The server's process ends during this share of the removals of all messages of a client. */
const CRASHED_REMOVALS = 0.3;
const CRASHES: readonly Crash[] = ["now", "now", "between statements", "in a commit"];
const MAX_BAN_MS = 20_000;
/** Longer than a lease and the grace period after it. */
const MAX_FREEZE_MS = 60_000;
/** Beyond what nodes tolerate. */
const MAX_OUTAGE_MS = 20_000;
const MAX_NODE_SKEW_MS = 2000;
const MAX_KEPT_RECORDS = 10;
const MAX_LOST_RECORDS = 20;
/** A lease, the grace period after it, and some heartbeats. */
const MAX_PRESENCE_LAG_MS = 40_000;
/** How long servers take to notice that a database is back. */
const NOTICE_MS = 500;
/** How long a client is away that receives a long replay, and how long it does not read. */
const MAX_AWAY_MS = 5000;
const MAX_REQUEST_DELAY_MS = 10_000;
/** When a client whose request is late is woken: it then gives the request up within seconds. */
const WAKES_MS = [1000, 2000];
const LONG_REPLAY_MS = 2000;
/** Until a process that could not start is started again. */
const RESTART_MS = 1000;
/** This share of the bans concerns a client that is about to connect. */
const BANNED_UPGRADES = 0.3;
/** Entries of a page of the history. */
const MAX_PAGE = 200;
/** After this, leaves and presence have been announced. */
const QUIET_MS = 2_000;

function stateOf(entry: StoredEntry): StoredState {
  const { id } = entry;
  if (!isMessage(entry)) return { id, removes: entry.removes };
  const { from, content } = entry;
  return { id, from, text: content === undefined ? undefined : Buffer.from(content).toString() };
}

/** @param trace is called with everything that happens */
export function simulate(plan: Plan, seed: number, trace?: (line: string) => void): Outcome {
  const simulation = new Simulation(plan, seed, trace);
  const { world, network } = simulation;
  world.within({ ...world.globals(), ...network.globals() }, () => {
    try {
      simulation.disk.within(() => simulation.run());
    } catch (error) {
      world.fail(`an exception: ${error instanceof Error ? error.stack : error}`);
    }
  });
  const { failure, now, events } = world;
  trace?.(`end: ${failure ?? "no failure"}`);
  return { failure, simulatedMs: now, events, messages: simulation.messages };
}

class Simulation {
  readonly world: World;
  readonly network: Network;
  readonly #owner = new Owner("network");
  readonly #rules: Rules;
  readonly #moderator: Moderator;
  readonly #users: User[];
  /** Those that have not left at the end. */
  #present: readonly User[];
  readonly disk: Disk;
  /** Several of them share a database. */
  readonly #servers: SimulatedServer[] = [];
  readonly #skewsMs: number[] = [];
  readonly #nodeCount: number;
  #generation = 0;
  #isSettling = false;
  #strangers = 0;

  constructor(
    private readonly plan: Plan,
    private readonly seed: number,
    trace: ((line: string) => void) | undefined,
  ) {
    const { settings } = plan;
    const { history, flushMs } = settings.server;
    this.world = new World(new Dice(seed ^ EXECUTION_SEED), trace);
    this.#nodeCount = settings.store.kind === "shared-log" ? settings.store.nodes : 1;
    this.disk = createDisk(settings.store, this.world, history);
    this.#rules = new Rules(this.world, {
      history,
      flushMs,
      isPersistent: this.disk.isPersistent,
      isTrimmed: settings.store.kind === "shared-log" && settings.store.isTrimmed,
      isNarrow: settings.users.some(({ profile }) => profile.bytesPerCharacter > 1),
      isStoreSlow: settings.store.kind === "delayed" || settings.store.kind === "shared-log",
      isCluster: settings.store.kind === "shared-log",
    });
    this.#moderator = new Moderator(this.world, this.#rules);
    this.network = new Network(this.world, this.#owner, this.#rules);
    const surroundings = { world: this.world, network: this.network, rules: this.#rules };
    this.#users = settings.users.map(
      ({ name, client, wire, room, profile, history: replayed, sendsBytes }) =>
        wire === "json"
          ? new JsonUser(surroundings, name, client, room, profile, sendsBytes)
          : wire === "text"
            ? new TextUser(surroundings, name, client, room, profile, replayed)
            : new StreamUser(surroundings, name, client, room, profile, history),
    );
    this.#present = this.#users;
  }

  get messages(): number {
    return this.#rules.sentTexts.size;
  }

  #startServer(node: number): void {
    if (!this.disk.isPersistent) this.#generation++;
    const { server } = this.plan.settings;
    const { onOpenChange } = this.#rules;
    const started = new SimulatedServer(
      this.world,
      this.network,
      server,
      this.disk,
      this.#generation,
      onOpenChange,
    );
    started.owner.clockSkewMs = this.#skewsMs[node] ?? 0;
    this.#servers[node] = started;
    this.network.hosts = this.#servers;
    started.start(() => this.#killServer(started, false, RESTART_MS));
  }

  /** The one that a fault concerns. */
  #serverFor({ user, amount }: Pick<Action, "user" | "amount">): SimulatedServer | undefined {
    const node = this.#nodeCount > 1 ? (user + Math.floor(amount * 1000)) % this.#nodeCount : 0;
    return this.#servers[node];
  }

  run(): void {
    const { world, plan } = this;
    for (let node = 0; node < this.#nodeCount; node++) this.#startServer(node);
    for (const user of this.#users) {
      const atMs = world.dice.between(0, 1000);
      world.schedule(this.#owner, atMs, () => user.join());
    }
    this.#scheduleNext(0);
    world.runUntil(plan.settings.seconds * 1000);
    this.#settle();
    if (world.failure === undefined) this.#rules.checkAll(this.#generation);
  }

  /** One action schedules the next, so that the queue of events stays short. */
  #scheduleNext(index: number): void {
    const action = this.plan.actions[index];
    if (!action) return;
    this.world.schedule(this.#owner, action.atMs, () => {
      this.#perform(action);
      this.#scheduleNext(index + 1);
    });
  }

  #perform(action: Action): void {
    const { kind, user: index, amount } = action;
    const user = this.#users[index];
    if (!user) return;
    const server = this.#serverFor(action);
    const { world } = this;
    if (kind !== "send") world.trace?.(`${world.now.toFixed(3)} ${kind} ${user.name} ${amount}`);
    const { link } = user;
    switch (kind) {
      case "send":
        for (let count = 0; count < amount; count++) user.send();
        break;
      case "cut":
        return link?.cut(world.dice);
      case "dark":
        return link?.goDark("both");
      case "dark-up":
        return link?.goDark("up");
      case "dark-down":
        return link?.goDark("down");
      case "stall":
        return link?.stall(10_000 * amount ** 3);
      case "slow":
        return link?.slowDown(1000 * amount ** 2, 5000);
      case "freeze":
        link?.touch();
        user.owner.busyUntil = world.now + 30_000 * amount ** 3;
        break;
      case "leave":
        user.leave();
        this.#later(10_000 * amount ** 3, () => this.#rejoin(user));
        break;
      case "crash":
      case "crash-dark":
        user.crash();
        if (kind === "crash") link?.cut(world.dice);
        else link?.goDark("both");
        this.#later(10_000 * amount ** 3, () => this.#rejoin(user));
        break;
      case "take-over":
        if (user instanceof JsonUser) user.takeOver();
        break;
      case "late-reader": {
        user.leave();
        user.join();
        const { delayMs, jitterMs } = this.network.profileOf(user.owner);
        const afterMs = OPEN_DELAYS * (1 + delayMs + jitterMs);
        this.#later(afterMs, () => user.link?.stall(10_000 * amount ** 2));
        break;
      }
      case "long-replay":
        user.leave();
        this.#later(MAX_AWAY_MS * amount, () => this.#replayLong(user));
        break;
      case "late-request":
        link?.cut(world.dice);
        this.network.delayNextRequest(user.owner, MAX_REQUEST_DELAY_MS * amount);
        for (const afterMs of WAKES_MS) this.#later(afterMs, () => this.#wake(user));
        break;
      case "wake":
        this.#wake(user);
        break;
      case "skew":
        user.owner.clockSkewMs = (amount - 0.5) * 3_600_000;
        break;
      case "kill":
      case "lose-power":
        return this.#crashServer(server, kind === "lose-power", 5000 * amount ** 2);
      case "shut-down": {
        // While messages arrive: what is not stored yet is the hardest part.
        for (const each of this.#users) each.send();
        const { delayMs } = this.network.profileOf(user.owner);
        this.#later(delayMs + MAX_COMMIT_WAIT_MS * amount, () => this.#shutDownServer(server, 1000 * amount));
        break;
      }
      case "server-clock":
        return this.#skewClock(server, amount);
      case "disk-full":
        return this.#fillDisk(5000 * amount ** 2);
      case "black-hole":
        this.network.isBlackHole = true;
        this.#later(5000 * amount, () => (this.network.isBlackHole = false));
        break;
      case "freeze-server":
        this.#freezeServer(server, 5000 * amount ** 3);
        break;
      case "freeze-node":
        this.#freezeServer(server, MAX_FREEZE_MS * amount ** 2);
        break;
      case "database-down":
      case "database-frozen":
      case "database-rejects":
      case "database-cut":
      case "database-trims":
      case "database-loses-some":
      case "database-loses-all":
        return this.#disturbDatabase(kind, amount, server, user);
      case "remove-message":
        return this.#moderate(server, (at) => this.#moderator.removeMessage(at, user.room, amount ** 3));
      case "remove-client":
        // It takes several steps, and continues after a restart.
        if (amount < CRASHED_REMOVALS && this.disk.isPersistent)
          this.#crashServer(server, false, 5000 * amount, ["between statements", "in a commit"]);
        return this.#moderate(server, (at) => this.#moderator.removeAllOf(at, user.room, user.client));
      case "ban":
        if (amount < BANNED_UPGRADES) return this.#banDuringUpgrade(server, user, amount / BANNED_UPGRADES);
        return this.#ban(server, user, MAX_BAN_MS * amount ** 2);
      case "read-page":
        return this.#moderate(server, (at) =>
          this.#moderator.read(at, user.room, amount ** 3, Math.ceil(MAX_PAGE * amount)),
        );
      case "stranger":
        for (let count = 0; count < MAX_ROOMS; count++) this.#postAsStranger();
        break;
      case "cut-all":
        for (const { link: each } of this.#users) each?.cut(world.dice);
        break;
      default:
        kind satisfies never;
    }
  }

  #fillDisk(forMs: number): void {
    this.disk.setFull(true);
    this.#rules.fullUntil = Math.max(this.#rules.fullUntil, this.world.now + forMs);
    this.#later(forMs, () => this.disk.setFull(false));
  }

  /** The device of the user is online again, or its page visible. */
  #wake({ owner }: User): void {
    this.world.schedule(owner, this.world.time, () => owner.onOnline?.({ type: "online" }));
  }

  #ban(server: SimulatedServer | undefined, { room, client }: User, forMs: number): void {
    this.#moderate(server, (at) => this.#moderator.ban(at, room, client, forMs));
  }

  #banDuringUpgrade(server: SimulatedServer | undefined, user: User, amount: number): void {
    user.leave();
    user.join();
    const { delayMs, jitterMs } = this.network.profileOf(user.owner);
    const { store } = this.plan.settings;
    const storeMs = store.kind === "delayed" ? store.delayMs : 0;
    this.#later(delayMs + amount * (1 + jitterMs + storeMs), () => this.#ban(server, user, MAX_BAN_MS / 2));
  }

  #moderate(server: SimulatedServer | undefined, act: (server: SimulatedServer) => void): void {
    if (server?.owner.isAlive) act(server);
  }

  #skewClock(server: SimulatedServer | undefined, amount: number): void {
    if (!server) return;
    this.#rules.onClockJump(this.world.dateOf(server.owner));
    // The clocks of a cluster agree within seconds.
    const skewMs = this.#nodeCount > 1 ? (amount - 0.5) * MAX_NODE_SKEW_MS : this.#clockJumpMs(amount);
    server.owner.clockSkewMs = this.#skewsMs[this.#servers.indexOf(server)] = skewMs;
  }

  /** @param user connects again when a database that has lost data is back, before all servers have noticed */
  #disturbDatabase(
    kind: DatabaseFault,
    amount: number,
    server: SimulatedServer | undefined,
    user: User,
  ): void {
    const { disk, world } = this;
    if (!(disk instanceof SharedLogDisk)) return;
    const { database } = disk;
    const forMs = MAX_OUTAGE_MS * amount ** 2;
    this.#rules.onTrouble(forMs);
    switch (kind) {
      case "database-frozen":
        database.owner.busyUntil = Math.max(database.owner.busyUntil, world.now) + forMs;
        this.#rules.onFrozen(database.owner.busyUntil, forMs);
        break;
      case "database-rejects":
        database.isRejecting = true;
        this.#later(forMs, () => (database.isRejecting = false));
        break;
      case "database-cut": {
        const owner = server?.owner;
        if (!owner) return;
        disk.setCut(owner, true);
        this.#later(forMs, () => disk.setCut(owner, false));
        break;
      }
      case "database-trims":
        database.trimLog(Math.floor(amount * MAX_KEPT_RECORDS));
        break;
      case "database-down":
      case "database-loses-some":
      case "database-loses-all":
        database.isDown = true;
        if (kind === "database-loses-some")
          this.#rules.onDataLost(database.loseRecords(Math.ceil(amount * MAX_LOST_RECORDS)), false);
        if (kind === "database-loses-all") this.#rules.onDataLost(database.loseEverything(), true);
        this.#later(1 + forMs / 2, () => (database.isDown = false));
        this.#later(1 + forMs / 2 + world.dice.between(0, NOTICE_MS), () => this.#reconnect(user));
        break;
      default:
        kind satisfies never;
    }
  }

  get #roomNames(): ReadonlySet<string> {
    return new Set(this.#users.map(({ room }) => room));
  }

  /** A message in a room that nobody is in takes the place of another such room, never that of an occupied one. */
  #postAsStranger(): void {
    const { hub, owner } = this.#servers[0] ?? {};
    const isOccupied = hub?.roomCount === this.#roomNames.size;
    if (!owner?.isAlive || !isOccupied || this.plan.settings.store.kind === "delayed") return;
    this.#postTo(hub, owner, `stranger-${++this.#strangers}`);
  }

  #postTo(hub: Hub, owner: Owner, room: string): void {
    const message = { room, from: "stranger", content: "hello", session: undefined, seq: undefined };
    this.world.as(owner, () => void hub.post(message));
  }

  #reconnect(user: User): void {
    if (this.#isSettling || !user.link?.isAlive) return;
    user.leave();
    user.join();
  }

  /** The connection reads nothing for some time, in which another client of the room leaves and returns. */
  #replayLong(user: User): void {
    if (this.#isSettling) return;
    user.join();
    const { delayMs, jitterMs } = this.network.profileOf(user.owner);
    this.#later(OPEN_DELAYS * (1 + delayMs + jitterMs), () => user.link?.stall(LONG_REPLAY_MS));
    const other = this.#users.findLast((each) => each !== user && each.room === user.room);
    if (!other) return;
    this.#later(LONG_REPLAY_MS / 2, () => this.#isSettling || other.leave());
    this.#later(LONG_REPLAY_MS, () => this.#rejoin(other));
  }

  #rejoin(user: User): void {
    if (!this.#isSettling) user.join();
  }

  #later(ms: number, run: () => void): void {
    this.world.schedule(this.#owner, this.world.time + ms, run);
  }

  /** Where messages expire, some jumps are days long. */
  #clockJumpMs(amount: number): number {
    const { store } = this.plan.settings;
    const isLong = store.kind === "sqlite" && store.keepDays > 0 && amount > 0.5;
    if (!isLong) return (amount - 0.5) * MAX_CLOCK_JUMP_MS;
    this.#rules.hasPruned = true;
    return amount * MAX_LONG_JUMP_MS;
  }

  #crashServer(
    server: SimulatedServer | undefined,
    isSilent: boolean,
    downMs: number,
    crashes: readonly Crash[] = CRASHES,
  ): void {
    if (!server?.owner.isAlive) return;
    const crash = this.world.dice.pick(crashes);
    this.disk.crash(crash, () => this.#killServer(server, isSilent, downMs));
  }

  #shutDownServer(server: SimulatedServer | undefined, downMs: number): void {
    if (!server?.owner.isAlive || server.isShuttingDown) return;
    this.#rules.onShutdown(server);
    server.shutDown(() => this.#killServer(server, false, downMs));
  }

  #killServer(server: SimulatedServer, isSilent: boolean, downMs: number): void {
    if (!server.owner.isAlive) return;
    server.kill(isSilent);
    this.#rules.onTrouble(downMs);
    const node = this.#servers.indexOf(server);
    this.#later(1 + downMs, () => this.#startServer(node));
  }

  #freezeServer(server: SimulatedServer | undefined, ms: number): void {
    const { world } = this;
    if (!server) return;
    const { owner, ends } = server;
    for (const { link } of ends) link.touch();
    owner.busyUntil = Math.max(owner.busyUntil, world.now) + ms;
    this.#rules.onFrozen(owner.busyUntil, ms);
    this.#rules.stillUntil = Math.max(this.#rules.stillUntil, owner.busyUntil);
  }

  /** No more faults: everything is acknowledged and delivered within bounded time. */
  #settle(): void {
    const { world } = this;
    this.network.isBlackHole = false;
    this.disk.setFull(false);
    const database = this.disk instanceof SharedLogDisk ? this.disk.database : undefined;
    if (database) database.isReliable = true;
    this.#isSettling = true;
    const { server, store } = this.plan.settings;
    const { messageRate, pingSeconds } = server;
    const backlogMs = messageRate > 0 ? (2000 * this.messages) / messageRate : 0;
    const rejectedMs = store.kind === "delayed" ? RESEND_MS * store.rejectShare * this.messages : 0;
    // A server or the database may be frozen for minutes: several faults add up.
    const owners = [...this.#servers, ...this.#users, ...(database ? [database] : [])];
    const thawedMs = Math.max(world.now, ...owners.map(({ owner }) => owner.busyUntil));
    const untilMs = thawedMs + SETTLE_MS + 4000 * pingSeconds + backlogMs + rejectedMs + this.#replayMs;
    let missing: string | undefined = "";
    while (missing !== undefined && world.failure === undefined) {
      // Repeatedly, since a crash may still be due.
      this.#moderate(this.#servers[0], (server) => this.#moderator.endBans(server));
      for (const user of this.#users) user.settle();
      world.runUntil(world.now + SETTLE_STEP_MS);
      missing = this.#findUnsettled();
      if (missing !== undefined && world.now > untilMs) world.fail(`not settled: ${missing}`);
    }
    if (world.failure !== undefined) return;
    world.runUntil(world.now + QUIET_MS);
    this.#awaitMembers(this.#nodeCount > 1 ? MAX_PRESENCE_LAG_MS : 0);
    this.#checkSessions();
    for (const server of this.#servers) this.#checkMemory(server);
    this.#checkStored();
    this.#leaveOneInEachRoom();
    // The connections of clients that could not be reached end with their pongs.
    this.#awaitMembers(QUIET_MS + MAX_PRESENCE_LAG_MS + 4000 * pingSeconds);
    for (const user of this.#present) user.leave();
    world.runUntil(world.now + QUIET_MS + 4000 * pingSeconds);
    this.#checkEmpty();
  }

  /** How long the slowest link takes for all messages: in a round trip, it delivers what the kernels hold. */
  get #replayMs(): number {
    const rounds = this.plan.settings.users.map(({ profile }) => {
      const { delayMs, jitterMs, kernelBytes, bytesPerCharacter } = profile;
      const frames = Math.max(1, Math.floor(kernelBytes / (MAX_FRAME_CHARACTERS * bytesPerCharacter)));
      return (2 * (delayMs + jitterMs)) / frames;
    });
    return this.messages * Math.max(...rounds);
  }

  #findUnsettled(): string | undefined {
    const database = this.disk instanceof SharedLogDisk ? this.disk.database : undefined;
    const isFrozen = (database?.owner.busyUntil ?? 0) > this.world.now;
    if (database?.isDown || database?.isRejecting || isFrozen) return "the database is unavailable";
    for (const { owner } of this.#servers) {
      if (owner.busyUntil > this.world.now && this.#nodeCount > 1) return "a server is frozen";
      if (this.disk instanceof SharedLogDisk && this.disk.isCutOff(owner))
        return "a server cannot reach the database";
    }
    for (const user of this.#users) {
      if (user.owner.busyUntil > this.world.now) return `${user.name} is frozen`;
      if (user.link && user.link.extraDelayMs > 0) return `${user.name} is slow`;
      if (user.link?.down.isPaused) return `${user.name} does not read`;
      const lost = this.#rules.lostLastOf(user.name);
      if (lost !== undefined) return `${user.name} shows ${lost}, which is lost`;
      const what = user.unsettled(this.#rules.logOf(user.room, this.#generation).newestId);
      if (what !== undefined) return `${user.name} ${what}`;
    }
    return undefined;
  }

  /** One client sees that the others are gone: also those that were connected to a server when it was killed. */
  #leaveOneInEachRoom(): void {
    const staying = new Map<string, User>();
    for (const user of this.#users)
      if (user instanceof JsonUser && !staying.has(user.room)) staying.set(user.room, user);
    const leaving = this.#users.filter((user) => staying.get(user.room) !== user);
    for (const user of leaving) user.leave();
    this.#present = [...staying.values()];
  }

  /**
   * The members that each client knows of are the ones that are there, after that time at the latest: the presence of a
   * server that was killed ends some time after its lease.
   */
  #awaitMembers(maxMs: number): void {
    const { world } = this;
    const untilMs = world.now + maxMs;
    while (this.#findWrongMembers() !== undefined && world.now < untilMs && !world.failure)
      world.runUntil(world.now + SETTLE_STEP_MS);
    const wrong = this.#findWrongMembers();
    if (wrong !== undefined) world.fail(wrong);
  }

  #findWrongMembers(): string | undefined {
    for (const user of this.#present) {
      const known = user.link && this.#rules.membersFor(user.link);
      if (!known) continue;
      const inRoom = this.#present.filter((each) => each.room === user.room && !(each instanceof StreamUser));
      const present = [...new Set(inRoom.map(({ client }) => client))];
      if (known.join() !== present.sort().join())
        return `${user.name} knows of ${known}, and ${present} are there`;
    }
    return undefined;
  }

  /**
   * Each session has one connection, on whichever node. Another one may remain if its client cannot be reached or has
   * crashed: a request that was under way while the client gave it up. It delivers to nobody, and ends when its pongs are
   * missed.
   */
  #checkSessions(): void {
    const sessions = new Set<string>();
    for (const { ends } of this.#servers)
      for (const { data, link } of ends) {
        const { client, session } = data.connection ?? {};
        const wasGivenUp = !link.wasOpen && !link.clientOwner.isAlive;
        if (session === undefined || !link.isAlive || wasGivenUp) continue;
        if (sessions.has(session)) this.world.fail(`${client} has two connections of the session ${session}`);
        sessions.add(session);
      }
  }

  /** The server refers to open connections only. Collecting garbage takes as long as some simulated seconds. */
  #checkMemory(server: SimulatedServer): void {
    if (this.seed % SEEDS_PER_MEMORY_CHECK !== 0) return;
    this.network.sweep();
    for (let attempt = 0; attempt < 3; attempt++) {
      drainMicrotasks();
      Bun.gc(true);
      if (server.liveConnections <= server.ends.size + GARBAGE_CONNECTIONS) return;
    }
    this.world.fail(`${server.liveConnections} connections are in memory, and ${server.ends.size} are open`);
  }

  #checkStored(): void {
    const { store } = this.#servers[0]?.hub ?? {};
    if (!store) return;
    for (const room of this.#roomNames) {
      const stored: StoredState[] = [];
      const read = async () => {
        for (let page = await store.readHistory(room, { limit: PAGE_SIZE }); ;) {
          stored.unshift(...page.entries.map(stateOf));
          const before = page.entries[0]?.id;
          if (!page.more || before === undefined)
            return this.#rules.checkStored(room, this.#generation, stored);
          page = await store.readHistory(room, { before, limit: PAGE_SIZE });
        }
      };
      void read().catch((error: unknown) => this.world.fail(`the stored messages cannot be read: ${error}`));
    }
    this.world.runUntil(this.world.now + QUIET_MS);
  }

  /** All clients have left. */
  #checkEmpty(): void {
    for (const server of this.#servers) {
      const { hub, sockets, topics } = server;
      const left = { rooms: hub.roomCount, sockets: sockets.size, topics: topics.size };
      if (left.rooms + left.sockets + left.topics > 0)
        this.world.fail(`without clients, there are still ${JSON.stringify(left)}`);
      if (this.plan.settings.store.kind === "memory") this.#checkEvictable(server);
    }
  }

  /** Rooms that all clients have left make place for others. */
  #checkEvictable({ hub, owner }: SimulatedServer): void {
    for (let count = 0; count < MAX_ROOMS; count++) this.#postTo(hub, owner, `last-${count}`);
    for (const room of this.#roomNames)
      void hub.store.readHistory(room, { limit: 1 }).then(({ entries }) => {
        if (entries.length > 0) this.world.fail(`${room} has been left by all, and is not evicted`);
      });
    drainMicrotasks();
  }
}
