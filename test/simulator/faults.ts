/**
 * What a seed makes happen. Settings and faults are drawn per seed ("swarm testing", Groce et al., ISSTA 2012): a run
 * with few kinds of faults and extreme settings gets further into its corner than one with a bit of everything.
 */

import type { LinkProfile } from "./network.ts";
import type { ServerSettings } from "./servers.ts";
import type { StoreSettings } from "./stores.ts";
import { Dice } from "./world.ts";

/** `memory` includes stores that are slow and reject messages. */
export const STORE_KINDS = ["memory", "sqlite", "shared-log"] as const;
export type StoreKind = (typeof STORE_KINDS)[number];

export interface Settings {
  readonly store: StoreSettings;
  readonly seconds: number;
  readonly server: ServerSettings;
  readonly users: readonly UserSettings[];
}

interface UserSettings {
  /** Unique. */
  readonly name: string;
  /** Its client id: several users with the same one are tabs of one client. */
  readonly client: string;
  /** An event stream only receives. */
  readonly wire: "json" | "text" | "stream";
  readonly room: string;
  readonly profile: LinkProfile;
  /** Of the JSON wire: its messages are bytes. */
  readonly sendsBytes: boolean;
  /** Of the text wire: `?history=`. */
  readonly history: number;
}

/** Faults of one user's connection or process. */
const USER_FAULTS = [
  "cut",
  "dark-up",
  "dark-down",
  "dark",
  "stall",
  "slow",
  "freeze",
  "leave",
  "crash",
  "crash-dark",
  "take-over",
  "late-reader",
  "skew",
] as const;
/** Faults of the server or of the whole network. */
const SERVER_FAULTS = [
  "kill",
  "lose-power",
  "shut-down",
  "black-hole",
  "freeze-server",
  "cut-all",
  "server-clock",
  "disk-full",
  "stranger",
] as const;

/** Where buffers are small: a client is away, and while it receives its long replay, another one leaves and returns. */
const NARROW_FAULTS = ["long-replay"] as const;

/** A request arrives after its client has given it up; a client is woken, and checks its connection. */
const WAKE_FAULTS = ["late-request", "wake"] as const;

/** What a moderator does. */
const MODERATION = ["remove-message", "remove-client", "ban", "read-page"] as const;

/** Faults of the database that several servers share. */
const DATABASE_FAULTS = [
  "database-down",
  "database-frozen",
  "database-rejects",
  "database-cut",
  "database-trims",
  "database-loses-some",
  "database-loses-all",
  "freeze-node",
] as const;

export type DatabaseFault = Exclude<(typeof DATABASE_FAULTS)[number], "freeze-node">;

type FaultKind =
  | (typeof USER_FAULTS)[number]
  | (typeof SERVER_FAULTS)[number]
  | (typeof NARROW_FAULTS)[number]
  | (typeof WAKE_FAULTS)[number]
  | (typeof MODERATION)[number]
  | (typeof DATABASE_FAULTS)[number];

export interface Action {
  readonly atMs: number;
  readonly kind: "send" | FaultKind;
  /** Index of the user. */
  readonly user: number;
  /** How much or how long, from 0 to 1; of `send`, how many messages. */
  readonly amount: number;
}

export interface Plan {
  readonly settings: Settings;
  readonly actions: readonly Action[];
}

/** The load that the speed is measured with. */
export const STANDARD_LOAD = { seconds: 60, users: 8, messagesPerSecond: 40, faultsPerSecond: 1 };
/** More connections than a shard has. */
const CROWD = { seconds: 10, users: 300, messagesPerSecond: 2, faultsPerSecond: 2 };
const CROWD_SHARE = 0.04;
const MAX_BURST = 40;
const MODERATED_SHARE = 0.4;
/** Apart from the plan's other draws, so that a moderator changes nothing else. */
const MODERATOR_SEED = 0x30d;
const DATABASE_SEED = 0xdb;
const NARROW_SEED = 0x4a;
const LONG_REPLAYS_PER_SECOND = 0.1;
const WAKE_SEED = 0xa;
const WAKE_SHARE = 0.3;
const WAKES_PER_SECOND = 0.2;

/** @param load fixes what a seed otherwise draws */
export function drawPlan(seed: number, store: StoreKind, load?: typeof STANDARD_LOAD): Plan {
  const dice = new Dice(seed);
  const isCrowded = dice.chance(CROWD_SHARE) && store !== "shared-log";
  const drawn = isCrowded ? CROWD : drawLoad(dice);
  const { seconds, users: userCount, messagesPerSecond, faultsPerSecond } = load ?? drawn;
  const rooms = dice.chance(0.7) || isCrowded ? ["tea"] : ["tea", "milk"];
  const bytesPerCharacter = dice.chance(0.2) ? dice.pick([20, 60]) : 1;
  const history = dice.pick([1, 2, 5, 20, 100, 1000]);
  const profile = (): LinkProfile => ({
    delayMs: dice.pick([0.1, 1, 10, 50]),
    jitterMs: dice.pick([0, 1, 20]),
    kernelBytes: bytesPerCharacter > 1 ? dice.pick([16_384, 65_536, 262_144]) : 2_700_000,
    bytesPerCharacter,
  });
  const hasTabs = load === undefined && dice.chance(0.3);
  const users: UserSettings[] = [];
  for (let i = 0; i < userCount; i++) {
    // The rules need a client with ids in every room.
    const isJson = i < rooms.length || dice.chance(userCount > 100 ? 0.2 : 0.6);
    const wire = isJson ? "json" : dice.chance(0.3) ? "stream" : "text";
    const name = `${wire[0]}${i}`;
    users.push({
      name,
      client: (hasTabs && dice.chance(0.5) && users[i - rooms.length]?.client) || name,
      wire,
      room: rooms[i % rooms.length] ?? "tea",
      profile: profile(),
      sendsBytes: load === undefined && dice.chance(0.1),
      history: dice.pick([0, 3, 100, 1000]),
    });
  }
  const isLimited = dice.chance(0.2);
  const moderator = new Dice(seed ^ MODERATOR_SEED);
  const settings: Settings = {
    store: drawStore(dice, store, load !== undefined),
    seconds,
    users,
    server: {
      history,
      pingSeconds: dice.pick([2, 5, 25]),
      flushMs: dice.pick([0, 10, 10, 50]),
      drainSeconds: dice.pick([1, 5]),
      messageRate: isLimited ? dice.pick([5, 20]) : 0,
      messageBurst: isLimited ? dice.pick([5, 50]) : 0,
    },
  };
  const actions = drawActions(dice, settings, messagesPerSecond, faultsPerSecond);
  const isModerated = load === undefined && moderator.chance(MODERATED_SHARE);
  if (settings.store.kind === "shared-log")
    actions.push(...drawDatabaseFaults(new Dice(seed ^ DATABASE_SEED), settings));
  if (load === undefined && bytesPerCharacter > 1) {
    const narrow = new Dice(seed ^ NARROW_SEED);
    const draw = () => [narrow.pick(NARROW_FAULTS), narrow.next()] as const;
    actions.push(...drawTimes(narrow, settings, LONG_REPLAYS_PER_SECOND, draw));
  }
  const wakes = new Dice(seed ^ WAKE_SEED);
  if (load === undefined && wakes.chance(WAKE_SHARE)) {
    const draw = () => [wakes.pick(WAKE_FAULTS), wakes.next()] as const;
    actions.push(...drawTimes(wakes, settings, WAKES_PER_SECOND, draw));
  }
  if (isModerated) actions.push(...drawModeration(moderator, settings));
  return { settings, actions: actions.sort((a, b) => a.atMs - b.atMs) };
}

function drawLoad(dice: Dice): typeof STANDARD_LOAD {
  return {
    seconds: dice.whole(10, 60),
    users: dice.whole(2, 8),
    messagesPerSecond: dice.pick([1, 3, 10, 40]),
    faultsPerSecond: dice.pick([0.1, 0.3, 1, 2]),
  };
}

function drawStore(dice: Dice, kind: StoreKind, isPlain: boolean): StoreSettings {
  if (kind === "shared-log")
    return {
      kind,
      nodes: dice.whole(2, 4),
      delayMs: isPlain ? 1 : dice.pick([0.5, 2, 20, 100]),
      lostReplyShare: isPlain ? 0 : dice.pick([0, 0, 0.02]),
      isTrimmed: !isPlain && dice.chance(0.3),
    };
  if (kind === "sqlite")
    return isPlain
      ? { kind, commitMs: 0.1, keepDays: 0 }
      : { kind, commitMs: dice.pick([0, 0.1, 3, 30]), keepDays: dice.pick([0, 0, 1]) };
  if (isPlain || dice.chance(0.7)) return { kind };
  return {
    kind: "delayed",
    delayMs: dice.pick([1, 20, 200]),
    rejectShare: dice.pick([0, 0.05, 0.3]),
    unconfirmedShare: dice.pick([0, 0.05, 0.3]),
  };
}

function drawActions(
  dice: Dice,
  settings: Settings,
  messagesPerSecond: number,
  faultsPerSecond: number,
): Action[] {
  const kinds: FaultKind[] = [
    ...USER_FAULTS.filter(() => dice.chance(0.4)),
    ...SERVER_FAULTS.filter(() => dice.chance(0.25)),
  ];
  const burstShare = dice.pick([0, 0, 0.02]);
  const actions = drawTimes(dice, settings, messagesPerSecond, () => [
    "send",
    dice.chance(burstShare) ? dice.whole(2, MAX_BURST) : 1,
  ]);
  if (kinds.length > 0)
    actions.push(...drawTimes(dice, settings, faultsPerSecond, () => [dice.pick(kinds), dice.next()]));
  return actions;
}

function drawDatabaseFaults(dice: Dice, settings: Settings): Action[] {
  const kinds = DATABASE_FAULTS.filter(() => dice.chance(0.3));
  if (kinds.length === 0) return [];
  return drawTimes(dice, settings, dice.pick([0.03, 0.1, 0.3]), () => [dice.pick(kinds), dice.next()]);
}

function drawModeration(dice: Dice, settings: Settings): Action[] {
  const kinds = MODERATION.filter(() => dice.chance(0.6));
  if (kinds.length === 0) return [];
  return drawTimes(dice, settings, dice.pick([0.1, 0.5, 2]), () => [dice.pick(kinds), dice.next()]);
}

/** Independent of each other, and of random users. */
function drawTimes(
  dice: Dice,
  { seconds, users }: Settings,
  perSecond: number,
  draw: () => readonly [kind: Action["kind"], amount: number],
): Action[] {
  const actions: Action[] = [];
  for (let atMs = 0; ;) {
    atMs += (-Math.log(1 - dice.next()) * 1000) / perSecond;
    if (atMs >= seconds * 1000) return actions;
    const user = dice.whole(0, users.length - 1);
    const [kind, amount] = draw();
    actions.push({ atMs, kind, user, amount });
  }
}
