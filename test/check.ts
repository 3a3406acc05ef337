/**
 * Everything that has to hold before a change is released, from a fresh clone: installs what the tests need, checks types
 * and format, and runs all tests. The last line is "N passed, N failed"; the exit code is 1 if anything failed. With
 * CI=true, a program that could not be installed is a failure; otherwise its tests are skipped.
 */

import { $ } from "bun";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

process.chdir(join(import.meta.dir, ".."));
/** Programs that are unpacked rather than installed: their packages would start services. Clones share them. */
const TOOLS = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "hubbub-tests");
const PATH = `${process.env.PATH}:${TOOLS}`;
/** Many tests wait rather than compute, so more of them than cores run at once. */
const WORKERS = Math.max(4, navigator.hardwareConcurrency);

let passed = 0;
let failed = 0;
/** What the steps that failed have printed; shown last, where it is seen. */
let failures = "";
let update: Promise<unknown> | undefined;

await step("packages", $`bun install --frozen-lockfile`);
await provide(
  "chromium-headless-shell",
  install,
  "/usr/lib/chromium/chromium-headless-shell",
  "chromium",
  "chromium-browser",
  "google-chrome",
);
await provide("redis-server", install, "redis-server");
await provide("postgresql", install, "/usr/lib/postgresql/*/bin/postgres");
await provide("pgbouncer", install, "/usr/sbin/pgbouncer", "pgbouncer");
await provide("nginx-light", install, "/usr/sbin/nginx", "nginx");
await provide("zbar-tools", install, "zbarimg");
await provide("systemd", install, "systemd-analyze");
await provide("python3-jwt", install, "/usr/lib/python3/dist-packages/jwt");
await provide("python3-websockets", install, "/usr/lib/python3/dist-packages/websockets");
await provide("python3-cryptography", install, "/usr/lib/python3/dist-packages/cryptography");
await Promise.all([provide("caddy", unpack, "caddy"), provide("prometheus", unpack, "promtool")]);
// Beside the tests.
const checks = [
  step("types", $`bun check --no-script`),
  step("types of the page", $`bun check --no-script -p src/page`),
  step("format", $`bun fmt --no-script --check`),
];
// The slowest files start first, so that none of them runs on alone at the end.
const args = [`--parallel=${WORKERS}`, "--no-isolate", "--timings=test/timings.json"];
const tests = Bun.spawn([process.execPath, "run", "test", ...args], {
  stdout: "inherit",
  stderr: "pipe",
  env: { ...process.env, PATH },
});
let report = "";
for await (const chunk of tests.stderr.pipeThrough(new TextDecoderStream())) {
  report += chunk;
  process.stderr.write(chunk);
}
await Promise.all(checks);
passed += count("pass");
failed += count("fail") + count("error");
if ((await tests.exited) !== 0 && failed === 0) failed++;

process.stderr.write(failures);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);

async function step(name: string, command: $.ShellPromise): Promise<void> {
  const { exitCode, stdout, stderr } = await command.quiet().nothrow();
  if (exitCode === 0) return void passed++;
  failed++;
  failures += `${stdout}${stderr}${name}: failed\n`;
}

/** @param names names, paths or patterns of paths of the program: the first is installed where it can be, otherwise any will do */
async function provide(
  debianPackage: string,
  get: (debianPackage: string, program: string) => Promise<unknown>,
  ...names: readonly string[]
): Promise<void> {
  const isThere = (name: string) =>
    existsSync(name) || Bun.which(name, { PATH }) !== null || matchesFile(name);
  const [first = ""] = names;
  if (isThere(first)) return;
  if (process.getuid?.() === 0 && Bun.which("apt-get")) {
    console.log(`Installing ${debianPackage}`);
    await (update ??= $`apt-get update -qq`.quiet().nothrow());
    await get(debianPackage, first);
  }
  if (names.some(isThere)) return;
  const isFailure = process.env.CI === "true";
  if (isFailure) failed++;
  console.error(
    `${debianPackage} is missing, so its tests ${isFailure ? "fail" : "are skipped"}. On Debian: apt-get install ${debianPackage}`,
  );
}

function matchesFile(pattern: string): boolean {
  return pattern.includes("*") && !new Bun.Glob(pattern).scanSync({ absolute: true }).next().done;
}

async function install(debianPackage: string): Promise<void> {
  await $`apt-get install -y -qq --no-install-recommends ${debianPackage}`
    .env({ ...process.env, DEBIAN_FRONTEND: "noninteractive" })
    .quiet()
    .nothrow();
}

/** The program is moved into place last, so that it is never found incomplete. */
async function unpack(debianPackage: string, program: string): Promise<void> {
  const script = `mkdir -p "$0" && folder=$(mktemp -d -p "$0") && cd "$folder" && apt-get download -qq "$1" &&
    dpkg -x *.deb . && mv "usr/bin/$2" ..; rm -r "$folder"`;
  await $`sh -c ${script} ${TOOLS} ${debianPackage} ${program}`.quiet().nothrow();
}

/** A figure of the summary at the end of the test runner's report. */
function count(what: string): number {
  return Number(
    report
      .match(new RegExp(`^ *(\\d+) ${what}s?$`, "gm"))
      ?.at(-1)
      ?.match(/\d+/)?.[0] ?? 0,
  );
}
