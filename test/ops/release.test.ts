/** `bun run release`, for this machine's platform and for one other. */

import { afterAll, expect, test } from "bun:test";
import { basename } from "node:path";
import { version } from "../../package.json";
import { changes, PLATFORMS, release } from "../release.ts";
import { readDoc } from "../support/docs.ts";
import { TempFolder } from "../support/temp-folder.ts";

const folder = new TempFolder();
afterAll(() => folder[Symbol.dispose]());

const system = { darwin: "macos", linux: "linux", win32: "windows" }[String(process.platform)];
const native = PLATFORMS.find(({ name }) => name === `${system}-${process.arch}`);
/** Its runtime comes from the package registry, if Bun's cache does not have it. */
const foreign = PLATFORMS.find(({ name }) => name === (process.arch === "x64" ? "linux-arm64" : "linux-x64"));
if (!native || !foreign) throw new Error(`${process.platform} on ${process.arch} has no executable`);

const built = await release(foreign, folder.path).catch((error: unknown) => error);
const isOffline = built instanceof Error && built.message.includes("Failed to download");
const skipped =
  isOffline && process.env.CI !== "true" ? " (skipped: the package registry is unreachable)" : "";

test("the executable for this platform is built, named after the version, and run", async () => {
  const { file, command } = await release(native, folder.path);
  expect(basename(file)).toStartWith(`hubbub-${version}-${native.name}`);
  expect(command).toEqual([file]);
});

test.skipIf(skipped !== "")(
  `the executable for another platform is built, and run if there is an emulator${skipped}`,
  () => expect(built).toHaveProperty("file", `${folder.path}/hubbub-${version}-${foreign.name}`),
);

test("the changelog has a section for this version, which becomes the notes", () => {
  expect(changes(readDoc("CHANGELOG.md")).text).toContain("\n- ");
  const later = `# Changelog\n\n## ${version}.1 (later)\n\nOther.\n\n## ${version} (today)\n\nThis.\n\n## 0.0.9 (before)\n\nOld.\n`;
  expect(changes(later)).toEqual({ title: `${version} (today)`, text: "This.\n" });
  expect(() => changes("# Changelog\n")).toThrow(`CHANGELOG.md has no section for ${version}`);
});
