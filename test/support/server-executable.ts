/**
 * The server as an executable, made as `bun run build` makes it: it starts in a quarter of the time of its source, and the
 * tests start it a thousand times.
 */

import { mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { scripts } from "../../package.json";
import { ROOT } from "./docs.ts";

const CACHE = join(ROOT, "node_modules/.cache/test-server");

let built: string | undefined;

/** The path of the executable, which the first call in a process builds from test-server.ts. */
export function serverExecutable(): string {
  return (built ??= build());
}

function build(): string {
  mkdirSync(CACHE, { recursive: true });
  // Test processes end without an event in which they could remove their own.
  for (const pid of readdirSync(CACHE))
    if (!isRunning(Number(pid))) rmSync(join(CACHE, pid), { recursive: true, force: true });
  const executable = join(CACHE, `${process.pid}`);
  const [, ...args] = scripts.build
    .replace("src/server.ts", "test/support/test-server.ts")
    .replace("dist/hubbub", executable)
    .split(" ");
  const { success, stderr } = Bun.spawnSync([process.execPath, ...args], { cwd: ROOT });
  if (!success) throw new Error(`The server cannot be built: ${stderr}`);
  return executable;
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
