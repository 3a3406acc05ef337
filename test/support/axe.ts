/** axe-core, which finds accessibility problems in a page. Downloaded for the tests, not a dependency. */

import { expect, test } from "bun:test";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { THEMES, WIDTHS, type Look, type Page } from "./browser.ts";

const VERSION = "4.14.1";
const INTEGRITY =
  "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==";
const CACHE = join(import.meta.dir, "../../node_modules/.cache");
const SOURCE = join(CACHE, `axe-core-${VERSION}/node_modules/axe-core/axe.min.js`);
/** WCAG 2.2 A and AA, and what axe-core calls best practice. */
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa", "best-practice"];

const isThere = await download();
/** For titles: why the tests that need it are skipped. In CI it is empty, and they run and fail instead. */
export const skippedAxe =
  isThere || process.env.CI === "true"
    ? ""
    : ` (skipped: axe-core ${VERSION} cannot be downloaded from the package registry)`;

/**
 * Looks in every theme, and leaves the page in the light one.
 * @returns a line per violation: the theme, the rule, what it asks for, and the elements
 */
export async function findViolations(page: Page): Promise<string[]> {
  if (!isThere) throw new Error(`axe-core ${VERSION} cannot be downloaded from the package registry`);
  if (!(await page.run<boolean>("'axe' in window")))
    await page.run(`(() => { ${await Bun.file(SOURCE).text()}\n})()`);
  const found: string[] = [];
  for (const { title, ...theme } of THEMES) {
    await page.setTheme(theme);
    const violations = await page.run<string[]>(
      `axe.run(document, { runOnly: ${JSON.stringify(RULES)}, resultTypes: ["violations"] }).then(({ violations }) =>
      violations.map(({ id, help, nodes }) => id + ": " + help + ": " + nodes.map(({ target, any }) => target.join(" ") + any.map(({ message }) => " (" + message + ")").join("")).join(", ")))`,
    );
    found.push(...violations.map((violation) => `${title}: ${violation}`));
  }
  await page.setTheme({});
  return found;
}

/** Tests that nothing is found in what the page shows. @param find shows it, and returns the violations */
export function testLooks(what: string, find: (look: Look) => Promise<string[]>): void {
  for (const width of WIDTHS)
    test.skipIf(skippedAxe !== "")(
      `axe-core finds nothing ${what} at ${width} px, in any theme${skippedAxe}`,
      async () => expect(await find({ width, height: 844 })).toEqual([]),
    );
}

/** With the registry's own client, which checks the integrity, and keeps a cache. @returns whether it is there */
async function download(): Promise<boolean> {
  if (await Bun.file(SOURCE).exists()) return true;
  // In a folder of its own: several test files may download at once.
  await mkdir(CACHE, { recursive: true });
  const folder = await mkdtemp(join(CACHE, "axe-core-"));
  const dependencies = { "axe-core": VERSION };
  const lock = {
    lockfileVersion: 1,
    workspaces: { "": { name: "axe", dependencies } },
    packages: { "axe-core": [`axe-core@${VERSION}`, "", {}, INTEGRITY] },
  };
  await Bun.write(join(folder, "package.json"), JSON.stringify({ name: "axe", dependencies }));
  await Bun.write(join(folder, "bun.lock"), JSON.stringify(lock));
  const install = Bun.spawn([process.execPath, "install", "--frozen-lockfile", "--ignore-scripts"], {
    cwd: folder,
    stdout: "ignore",
    stderr: "ignore",
  });
  const isInstalled = (await install.exited) === 0;
  // If another test file was faster, the folder exists and is not replaced.
  if (isInstalled) await rename(folder, join(CACHE, `axe-core-${VERSION}`)).catch(() => {});
  await rm(folder, { recursive: true, force: true });
  return await Bun.file(SOURCE).exists();
}
