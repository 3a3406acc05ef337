/** The server as a bundle: it starts in a third of the time of its source, and the tests start it a thousand times. */

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "../..");
const CACHE = join(ROOT, "node_modules/.cache/test-server");

/** Modules of this folder that can run before the server's. Bundled with it, they share its modules. */
const PRELOADS = [
  "break-redis.ts",
  "break-shutdown.ts",
  "clock.ts",
  "delayed-store.ts",
  "fast-redis.ts",
  "fault-injection.ts",
  "losing-store.ts",
];

let folder: string | undefined;

/** The command of the bundled server. The first call in a process builds it. */
export function bundledServer(preload?: string): string[] {
  if (preload && !PRELOADS.includes(preload)) throw new Error(`${preload} is not in PRELOADS`);
  folder ??= build();
  const before = preload ? ["--preload", join(folder, "test/support", preload.replace(".ts", ".js"))] : [];
  return [process.execPath, ...before, join(folder, "src/server.js")];
}

function build(): string {
  mkdirSync(CACHE, { recursive: true });
  // Test processes end without an event in which they could remove their own.
  for (const pid of readdirSync(CACHE))
    if (!isRunning(Number(pid))) rmSync(join(CACHE, pid), { recursive: true, force: true });
  const built = join(CACHE, `${process.pid}`);
  const entries = ["src/server.ts", ...PRELOADS.map((name) => `test/support/${name}`)];
  const options = ["--target=bun", "--format=esm", "--splitting", "--root=.", `--outdir=${built}`];
  const { success, stderr } = Bun.spawnSync([process.execPath, "build", ...options, ...entries], {
    cwd: ROOT,
  });
  if (!success) throw new Error(`The server cannot be built: ${stderr}`);
  return built;
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
