/** Many simulations, each with its own mix of faults. README.md says what they check. */

import { expect, test } from "bun:test";
import { join } from "node:path";

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
  "every promise is kept under faults: 1,000 seeds with the memory store, 200 with SQLite",
  async () => {
    const runs = await Promise.all([run(["--seeds", "1000"]), run(["--seeds", "200", "--store", "sqlite"])]);
    for (const { output, code } of runs) expect({ output, code }).toEqual({ output, code: 0 });
  },
  PATIENCE_MS,
);

test.each(["memory", "sqlite"])(
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
