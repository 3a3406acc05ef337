/** `bun run release`, for this machine's platform and for one other. */

import { afterAll, expect, test } from "bun:test";
import { basename } from "node:path";
import { version } from "../../package.json";
import { PLATFORMS, release } from "../release.ts";
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
