/** Which bans are in force, from what the store says and what happens while it is read. */

import { expect, setSystemTime, test } from "bun:test";
import { Bans } from "../../src/http/bans.ts";
import { MemoryStore } from "../../src/store/memory.ts";
import { StoreUnavailable, type Ban } from "../../src/store/store.ts";
import { systemClock } from "../../src/util/clock.ts";
import { systemRandom } from "../../src/util/random.ts";
import { eventually } from "../support/deadline.ts";
import { startHub } from "../support/hub.ts";

const LATER = Date.now() + 3_600_000;
const ROOMS = ["tea"];

/** A store whose list of bans the test writes, and whose replies it can hold back. */
function start(stored: Ban[] = []) {
  const saved: Ban[] = [];
  const fakes = {
    read: (): Promise<readonly Ban[]> => Promise.resolve(stored),
    save: async (ban: Ban): Promise<void> => void saved.push(ban),
  };
  const { hub, join } = startHub({
    makeStore: ({ onEntry }) =>
      Object.assign(new MemoryStore(100, onEntry, systemClock, systemRandom), {
        bans: {
          read: () => fakes.read(),
          save: (ban: Ban) => fakes.save(ban),
        },
      }),
  });
  const bans = new Bans(hub, systemClock);
  const isBanned = (client: string, address?: string) => bans.isBanned("tea", { client, address });
  return { hub, join, bans, saved, stored, fakes, isBanned };
}

const ban = (client: string, untilMs = LATER, rooms: readonly string[] = ROOMS): Ban => ({
  client,
  rooms,
  untilMs,
});

test("after a gap, what is stored replaces what was known: a ban may have been lifted", async () => {
  const { bans, hub, stored, isBanned } = start([
    ban("eve"),
    ban("bob"),
    ban("~guest"),
    ban("~guest@1.2.3.4"),
  ]);
  await bans.load();
  expect(["eve", "bob", "~guest"].map((client) => isBanned(client))).toEqual([true, true, true]);
  expect(isBanned("~other", "1.2.3.4")).toBe(true);
  stored.splice(0, 4, ban("eve"), ban("zoe"));
  hub.onBansMissed();
  await Promise.resolve();
  await bans.load();
  expect(["eve", "bob", "~guest", "zoe"].map((client) => isBanned(client))).toEqual([
    true,
    false,
    false,
    true,
  ]);
  expect(isBanned("~other", "1.2.3.4")).toBe(false);
});

test("bans that are made or lifted while the stored ones are read are newer than these", async () => {
  const { bans, hub, fakes, isBanned } = start();
  const reply = Promise.withResolvers<readonly Ban[]>();
  fakes.read = () => reply.promise;
  const loading = bans.load();
  hub.onBan(ban("eve"));
  hub.onBan(ban("bob", 0));
  await bans.ban(ban("zoe"));
  reply.resolve([ban("bob")]);
  await loading;
  expect(["eve", "bob", "zoe"].map((client) => isBanned(client))).toEqual([true, false, true]);
});

test("of two reads, the one that began last counts; one that fails is repeated", async () => {
  const { bans, hub, fakes, isBanned } = start();
  const replies = [Promise.withResolvers<readonly Ban[]>(), Promise.withResolvers<readonly Ban[]>()];
  const results = [...replies];
  fakes.read = () => results.shift()?.promise ?? Promise.resolve([]);
  const first = bans.load();
  const second = bans.load();
  replies[1]?.resolve([ban("eve")]);
  await second;
  replies[0]?.resolve([ban("bob")]);
  await first;
  expect(["eve", "bob"].map((client) => isBanned(client))).toEqual([true, false]);
  const answers = [Promise.reject(new StoreUnavailable()), Promise.resolve([ban("bob")])];
  const { promise: done, resolve } = Promise.withResolvers<void>();
  fakes.read = () => {
    const answer = answers.shift() ?? Promise.resolve([]);
    if (answers.length === 0) resolve();
    return answer;
  };
  hub.onBansMissed();
  await done;
  await Promise.resolve();
  expect(["eve", "bob"].map((client) => isBanned(client))).toEqual([false, true]);
});

test("of two moderators on different nodes, the one whose ban is stored last decides", async () => {
  const { bans, hub, fakes, isBanned } = start();
  const stored = Promise.withResolvers<void>();
  fakes.save = () => stored.promise;
  const banning = bans.ban(ban("eve"));
  hub.onBan(ban("eve"));
  hub.onBan(ban("eve", 0)); // from the other node
  stored.resolve();
  await banning;
  expect(isBanned("eve")).toBe(false);
});

test("a hundred thousand bans are loaded, and as many made, in linear time", async () => {
  const COUNT = 100_000;
  const { bans, isBanned } = start(Array.from({ length: COUNT }, (_, i) => ban(`client${i}`)));
  await bans.load();
  for (let i = 0; i < COUNT; i++) await bans.ban(ban(`later${i}`));
  expect(
    [`client0`, `client${COUNT - 1}`, "later0", `later${COUNT - 1}`, "ann"].map((c) => isBanned(c)),
  ).toEqual([true, true, true, true, false]);
});

test("a ban replaces the client's earlier ones that cover none but its rooms", async () => {
  const { bans, saved } = start();
  const banIn = (rooms: readonly string[], untilMs = LATER) => bans.ban(ban("eve", untilMs, rooms));
  const roomsOf = (...rooms: string[]) => rooms.filter((room) => bans.isBanned(room, { client: "eve" }));
  const all = ["tea", "team-a", "team-b", "lobby"];
  await banIn(["team-*", "tea"]);
  await banIn(["tea", "team-*"], LATER + 1);
  expect(saved.map(({ rooms }) => rooms.join(" "))).toEqual(["tea team-*", "tea team-*"]);
  await banIn(["tea"], 0);
  expect(roomsOf(...all)).toEqual(["tea", "team-a", "team-b"]);
  await banIn(["*", "!team-a"], 0);
  expect(roomsOf(...all)).toEqual(["tea", "team-a", "team-b"]);
  await banIn(["te*"], 0);
  expect(roomsOf(...all)).toEqual([]);
  await banIn(["*", "!team-a"]);
  expect(roomsOf(...all)).toEqual(["tea", "team-b", "lobby"]);
  await banIn(["*", "!team-b"], 0);
  expect(roomsOf(...all)).toEqual(["tea", "team-b", "lobby"]);
  await banIn(["*", "!team-a"], 0);
  expect(roomsOf(...all)).toEqual([]);
});

test("what is left of a moderator's rooms", () => {
  const { bans, hub } = start();
  const left = (...rooms: string[]) => bans.roomsLeft(rooms, "mod").join(" ");
  expect(left("tea", "lob*")).toBe("lob* tea");
  hub.onBan(ban("mod", LATER, ["lob*", "!lobby"]));
  expect(left("*")).toBe("* !lob*");
  expect(left("lo*", "tea")).toBe("lo* tea !lob*");
  expect(left("lob", "tea", "lob-a")).toBe("tea");
  expect(() => left("lob-*")).toThrow("A moderator has disconnected you from all rooms of your token.");
  hub.onBan(ban("mod", LATER, ["tea"]));
  expect(left("*")).toBe("* !lob* !tea");
  hub.onBan(ban("mod", LATER, ["*"]));
  expect(() => left("*")).toThrow();
  hub.onBan(ban("mod", 0, ["*"]));
  expect(left("*")).toBe("* !lob* !tea");
});

test("an address is banned as long as its guest: one that is reported late, or restored, is not", async () => {
  const { bans, hub, saved, isBanned } = start();
  hub.onBan(ban("~eve"));
  hub.onBan(ban("~eve@1.2.3.4"));
  expect([isBanned("~bob", "1.2.3.4"), isBanned("~bob", "1.2.3.5"), isBanned("bob", "1.2.3.4")]).toEqual([
    true,
    false,
    false,
  ]);
  await bans.ban(ban("~eve", LATER + 5));
  await bans.ban(ban("~eve", LATER + 9, ["*"]));
  expect(
    saved.map(({ client, rooms, untilMs }) => `${client} ${rooms} ${untilMs && untilMs - LATER}`),
  ).toEqual([
    "~eve tea 5",
    "~eve@1.2.3.4 tea 5",
    "~eve * 9",
    "~eve@1.2.3.4 * 9",
    "~eve tea 0",
    "~eve@1.2.3.4 tea 0",
  ]);
  expect(isBanned("~bob", "1.2.3.4")).toBe(true);
  hub.onBan(ban("~eve", 0, ["*"])); // from another node, which does not know of the address yet
  expect(isBanned("~bob", "1.2.3.4")).toBe(false);
  hub.onBan(ban("~eve@1.2.3.4", LATER + 9, ["*"]));
  expect(isBanned("~bob", "1.2.3.4")).toBe(false);
  await bans.ban(ban("~eve"));
  expect(isBanned("~bob", "1.2.3.4")).toBe(false);
});

test("an address is banned as soon as the store is available, if the ban is still in force", async () => {
  const { bans, hub, join, saved, fakes } = start();
  const guests = ["~eve", "~bob"];
  for (const [i, guest] of guests.entries()) await join(guest, "text", { address: `1.2.3.${i}` });
  const failed = Promise.withResolvers<void>();
  let failures = 0;
  fakes.save = async () => {
    if (++failures === guests.length) failed.resolve();
    throw new StoreUnavailable();
  };
  for (const guest of guests) hub.onBan(ban(guest));
  await failed.promise;
  fakes.save = async (ban) => void saved.push(ban);
  await bans.ban(ban("~bob", 0));
  await eventually(async () => saved.length > 1, "the other address is banned");
  expect(saved.map(({ client }) => client)).toEqual(["~bob", "~eve@1.2.3.0"]);
});

test("a lifted ban stays lifted when the clock goes back, and one that has ended is in force again", async () => {
  const { bans, hub, isBanned } = start();
  const now = Date.now();
  try {
    for (const client of ["eve", "bob"]) hub.onBan(ban(client, now + 1000));
    await bans.ban(ban("eve", now));
    setSystemTime(now + 2000);
    expect([isBanned("eve"), isBanned("bob")]).toEqual([false, false]);
    setSystemTime(now - 2000);
    expect([isBanned("eve"), isBanned("bob")]).toEqual([false, true]);
  } finally {
    setSystemTime();
  }
});
