/** Many simulations, each with its own mix of faults. README.md says what they check. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { eventually } from "../support/deadline.ts";
import { drawPlan, type Action, type Settings } from "./faults.ts";
import { simulate } from "./simulation.ts";

/** On a machine with nothing else to do, it takes a minute. */
const PATIENCE_MS = 900_000;
const RUN = join(import.meta.dir, "run.ts");

/** What a run prints. */
async function run(args: readonly string[], env: Record<string, string> = {}) {
  const command = [process.execPath, RUN, ...args];
  await using simulator = Bun.spawn(command, { env: { ...process.env, ...env }, stderr: "inherit" });
  return { output: await simulator.stdout.text(), code: await simulator.exited };
}

test(
  "every promise is kept under faults: 1,000 seeds with the memory store, 200 with SQLite, 50 with a shared log",
  async () => {
    const runs = await Promise.all([
      run(["--seeds", "1000"]),
      run(["--seeds", "200", "--store", "sqlite"]),
      run(["--seeds", "50", "--store", "shared-log"]),
    ]);
    for (const { output, code } of runs) expect({ output, code }).toEqual({ output, code: 0 });
  },
  PATIENCE_MS,
);

test("a simulation leaves nothing in memory", async () => {
  const load = { seconds: 10, users: 8, messagesPerSecond: 5, faultsPerSecond: 4 };
  const traces = Array.from({ length: 12 }, (_, seed) => {
    const trace = () => {};
    simulate(drawPlan(seed, "memory", load), seed, trace);
    return new WeakRef(trace);
  });
  await eventually(async () => {
    Bun.gc(true);
    const left = traces.filter((trace) => trace.deref() !== undefined);
    return left.length <= 1; // code may still refer to the latest one
  }, "the simulations are no longer in memory");
});

const LINK = { delayMs: 1, jitterMs: 1, kernelBytes: 2_700_000, bytesPerCharacter: 1 };
const SERVER = {
  history: 100,
  pingSeconds: 5,
  flushMs: 10,
  drainSeconds: 1,
  messageRate: 0,
  messageBurst: 0,
};
const CLUSTER = {
  kind: "shared-log",
  nodes: 2,
  delayMs: 1,
  lostReplyShare: 0,
  isTrimmed: false,
} as const;

function userNamed(name: string, profile = LINK) {
  return { name, client: name, wire: "json", room: "tea", profile, sendsBytes: false, history: 0 } as const;
}

interface Scenario extends Omit<Settings, "server"> {
  readonly title: string;
  readonly server?: Partial<typeof SERVER>;
  readonly actions: readonly Action[];
}

const SCENARIOS: readonly Scenario[] = [
  {
    title:
      "a client with many messages stays connected while a database rejects them, whatever the rate limit",
    store: CLUSTER,
    seconds: 15,
    users: [userNamed("j0")],
    server: { messageRate: 20, messageBurst: 50 },
    actions: [
      { atMs: 3000, kind: "disk-full", user: 0, amount: 1 },
      { atMs: 3500, kind: "send", user: 0, amount: 35 },
      { atMs: 8010, kind: "disk-full", user: 0, amount: 1 },
    ],
  },
  {
    title: "a client may read the broadcasts too slowly before its first pong, once its replay is over",
    store: { kind: "memory" },
    seconds: 5,
    users: [
      userNamed("j0", { delayMs: 50, jitterMs: 0, kernelBytes: 65_536, bytesPerCharacter: 60 }),
      userNamed("j1"),
    ],
    server: { history: 2 },
    actions: [
      { atMs: 2000, kind: "leave", user: 0, amount: 0 },
      { atMs: 2060, kind: "send", user: 1, amount: 300 },
    ],
  },
  {
    title: "a server that stands still announces a leave before it learns of its shutdown",
    store: { kind: "memory" },
    seconds: 10,
    users: [userNamed("j0"), { ...userNamed("t1"), wire: "text" }],
    actions: [
      { atMs: 2000, kind: "leave", user: 0, amount: 1 },
      { atMs: 2050, kind: "freeze-server", user: 0, amount: 1 },
      { atMs: 3000, kind: "shut-down", user: 0, amount: 0 },
    ],
  },
];

test.each(SCENARIOS)("$title", ({ server, actions, ...settings }) => {
  const plan = { settings: { ...settings, server: { ...SERVER, ...server } }, actions };
  expect(simulate(plan, 1).failure).toBeUndefined();
});

test.each([
  { frozen: "the database", kind: "database-frozen", times: 5 },
  { frozen: "a server", kind: "freeze-node", times: 2 },
] as const)("a ban may be over when a server reads of it, after freezes of $frozen", ({ kind, times }) => {
  const settings: Settings = {
    store: CLUSTER,
    seconds: 30,
    users: [userNamed("j0"), userNamed("j1")],
    server: { ...SERVER, pingSeconds: 2 },
  };
  const actions: Action[] = [];
  for (let i = 0; i < times; i++) actions.push({ atMs: 2000 + i, kind, user: 0, amount: 0.98 });
  // Its amount selects the other server.
  actions.push({ atMs: 2100, kind: "ban", user: 0, amount: 0.401 });
  for (let seed = 1; seed <= 8; seed++) expect(simulate({ settings, actions }, seed).failure).toBeUndefined();
});

test.each(["memory", "sqlite", "shared-log"])(
  "a seed gives the same trace in another process, without the JIT and in another time zone: %s",
  async (store) => {
    const traceOf = async (env: Record<string, string>) => {
      const { output } = await run(["--seed", "4", "--store", store], env);
      return /trace ([0-9a-f]{64})/.exec(output)?.[1];
    };
    const environments = [
      {},
      { BUN_JSC_useJIT: "0" },
      { TZ: "Pacific/Auckland" },
      { TZ: "America/St_Johns" },
    ];
    const [trace, ...others] = await Promise.all(environments.map(traceOf));
    expect(trace).toBeString();
    expect(others).toEqual(others.map(() => trace));
  },
  PATIENCE_MS,
);
