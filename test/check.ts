/**
 * The whole check, from a fresh clone: installs what the tests need where that is possible, then types,
 * format and all tests. Its last line is "N passed, N failed"; it exits 1 if anything failed.
 */

import { $ } from "bun";
import { join } from "node:path";

process.chdir(join(import.meta.dir, ".."));
let passed = 0;
let failed = 0;

await step("packages", $`bun install --frozen-lockfile`);
await provide("chromium", ["chromium", "chromium-browser", "google-chrome"]);
await provide("redis-server", ["redis-server"]);
await provide("nginx-light", ["nginx", "/usr/sbin/nginx"]);
await step("types", $`bun check --no-script`);
await step("format", $`bun fmt --no-script --check`);

// Much of it is waiting: two files at a time take little more than half as long as one after the other.
const tests = Bun.spawn([process.execPath, "run", "test", "--parallel=2", "--no-isolate"], {
  stdout: "inherit",
  stderr: "pipe",
});
let report = "";
for await (const chunk of tests.stderr.pipeThrough(new TextDecoderStream())) {
  report += chunk;
  process.stderr.write(chunk);
}
passed += count("pass");
failed += count("fail") + count("error");
if ((await tests.exited) !== 0 && failed === 0) failed++;

console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);

async function step(name: string, command: $.ShellPromise): Promise<void> {
  const { exitCode } = await command.nothrow();
  if (exitCode === 0) passed++;
  else {
    failed++;
    console.error(`${name}: failed`);
  }
}

/** Installs a program from Debian's packages, as root; elsewhere says what to install, and its tests are skipped. */
async function provide(name: string, programs: readonly string[]): Promise<void> {
  if (programs.some((program) => Bun.which(program))) return;
  if (process.getuid?.() === 0 && Bun.which("apt-get")) {
    console.log(`Installing ${name}`);
    const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
    await $`apt-get update -qq && apt-get install -y -qq --no-install-recommends ${name}`
      .env(env)
      .quiet()
      .nothrow();
  }
  if (!programs.some((program) => Bun.which(program)))
    console.log(`Without ${name} its tests are skipped: install it (on Debian: apt-get install ${name}).`);
}

/** A figure of the summary that ends the test runner's report. */
function count(what: string): number {
  return Number(
    report
      .match(new RegExp(`^ *(\\d+) ${what}s?$`, "gm"))
      ?.at(-1)
      ?.match(/\d+/)?.[0] ?? 0,
  );
}
