/**
 * `bun run release`: the executables of this version for all platforms in dist/, their SHA256SUMS, and the version's section
 * of the changelog as NOTES.md. What this machine can run is run; of the others, only the header is checked. The exit code is
 * 1 if something is wrong; then there are no SHA256SUMS.
 */

import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import pkg from "../package.json";
import { startServer } from "./support/server.ts";
import { TempFolder } from "./support/temp-folder.ts";

const ROOT = join(import.meta.dir, "..");

interface Platform {
  readonly name: string;
  readonly system: NodeJS.Platform;
  /** See {@link formatOf}. */
  readonly format: string;
}

export const PLATFORMS: readonly Platform[] = [
  { name: "linux-x64", system: "linux", format: "ELF x64 /lib64/ld-linux-x86-64.so.2" },
  { name: "linux-arm64", system: "linux", format: "ELF arm64 /lib/ld-linux-aarch64.so.1" },
  { name: "linux-x64-musl", system: "linux", format: "ELF x64 /lib/ld-musl-x86_64.so.1" },
  { name: "linux-arm64-musl", system: "linux", format: "ELF arm64 /lib/ld-musl-aarch64.so.1" },
  { name: "macos-arm64", system: "darwin", format: "Mach-O arm64" },
  { name: "macos-x64", system: "darwin", format: "Mach-O x64" },
  { name: "windows-x64", system: "win32", format: "PE x64" },
];

/** Of Debian's qemu-user and libc6-arm64-cross: the command, and the folder of the libraries. */
const QEMU = { command: "qemu-aarch64", libraries: "/usr/aarch64-linux-gnu" };

interface Executable {
  readonly file: string;
  /** The command that starts it; undefined if this machine cannot run it. */
  readonly command: readonly string[] | undefined;
}

if (import.meta.main) {
  const { title, text } = changes(await Bun.file(join(ROOT, "CHANGELOG.md")).text());
  const folder = join(ROOT, "dist");
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(folder))
    if (/^(hubbub-|SHA256SUMS$|NOTES\.md$)/.test(name)) rmSync(join(folder, name));
  const sums: string[] = [];
  for (const platform of PLATFORMS)
    try {
      const { file, command } = await release(platform, folder);
      const [program] = command ?? [];
      const ran = program === undefined ? "built, not run" : program === file ? "run" : `run with ${program}`;
      console.log(`${basename(file).padEnd(30)} ${ran}`);
      sums.push(`${await sha256(file)}  ${basename(file)}\n`);
    } catch (error) {
      console.error(error instanceof Error ? error.message : error);
    }
  if (sums.length < PLATFORMS.length) process.exit(1);
  await Bun.write(join(folder, "SHA256SUMS"), sums.join(""));
  await Bun.write(join(folder, "NOTES.md"), text);
  if (title.includes("unreleased")) console.log(`CHANGELOG.md has no date: ${title}`);
}

/** The changelog's section for this version. @throws if there is none */
export function changes(changelog: string): { readonly title: string; readonly text: string } {
  const section = changelog.split(/^## /m).find((each) => each.startsWith(`${pkg.version} `));
  if (section === undefined) throw new Error(`CHANGELOG.md has no section for ${pkg.version}`);
  const end = section.indexOf("\n");
  return { title: section.slice(0, end), text: section.slice(end).trim().concat("\n") };
}

/** Builds an executable, checks its header, and runs it if possible. @throws if something is wrong with it */
export async function release(platform: Platform, folder: string): Promise<Executable> {
  const { name, system, format } = platform;
  const file = join(folder, `hubbub-${pkg.version}-${name}${system === "win32" ? ".exe" : ""}`);
  await build(name, file);
  const found = await formatOf(file);
  if (found !== format) throw new Error(`${file} is ${found} instead of ${format}`);
  // What `bun build` leaves on x64 is invalid (oven-sh/bun#39837), for which macOS ends a program.
  if (name === "macos-x64") removeSignature(file);
  if (system === "darwin" && process.platform === "darwin")
    await Bun.$`codesign --force --sign - ${file}`.quiet();
  const command = commandOf(platform, file);
  if (command) await tryOut(command);
  return { file, command };
}

/** As `bun run build` does. */
async function build(name: string, file: string): Promise<void> {
  const target = `--target=bun-${name.replace("macos", "darwin")}`;
  const [, ...args] = pkg.scripts.build.split(" ").map((word) => (word === "dist/hubbub" ? file : word));
  const builder = Bun.spawn([process.execPath, ...args, target], {
    cwd: ROOT,
    stdout: "ignore",
    stderr: "pipe",
  });
  const errors = await builder.stderr.text();
  if ((await builder.exited) !== 0) throw new Error(`${name} cannot be built: ${errors.trim()}`);
}

/** Format and processor of an executable, and on Linux the loader that it asks for. */
async function formatOf(file: string): Promise<string> {
  const header = Buffer.from(await Bun.file(file).slice(0, 4096).arrayBuffer());
  const text = header.toString("latin1");
  if (text.startsWith("\x7fELF")) {
    const processors = new Map([
      [62, "x64"],
      [183, "arm64"],
    ]);
    const [loader] = /\/lib\w*\/ld-[\w.-]+/.exec(text) ?? [];
    return `ELF ${processors.get(header.readUInt16LE(18))} ${loader}`;
  }
  if (text.startsWith("\xcf\xfa\xed\xfe")) {
    const processors = new Map([
      [0x0100_0007, "x64"],
      [0x0100_000c, "arm64"],
    ]);
    return `Mach-O ${processors.get(header.readUInt32LE(4))}`;
  }
  const start = header.readUInt32LE(0x3c);
  if (text.startsWith("MZ") && text.startsWith("PE\0\0", start))
    return `PE ${header.readUInt16LE(start + 4) === 0x8664 ? "x64" : undefined}`;
  return "no executable";
}

/**
 * Removes the code signature of a Mach-O executable, which is at its end and has the last load command. On Intel processors,
 * macOS runs executables without one. (Layouts: `mach_header_64`, `segment_command_64` and `linkedit_data_command` in
 * Apple's mach-o/loader.h.)
 */
function removeSignature(file: string): void {
  const [HEADER_BYTES, LC_SEGMENT_64, LC_CODE_SIGNATURE] = [32, 0x19, 0x1d];
  const bytes = readFileSync(file);
  const [commands, commandBytes] = [bytes.readUInt32LE(16), bytes.readUInt32LE(20)];
  let linkedit = 0;
  let command = HEADER_BYTES;
  for (let i = 1; i < commands; i++) {
    if (bytes.readUInt32LE(command) === LC_SEGMENT_64) linkedit = command; // the last segment
    command += bytes.readUInt32LE(command + 4);
  }
  if (bytes.readUInt32LE(command) !== LC_CODE_SIGNATURE) throw new Error(`${file} is not signed last`);
  const [size, start] = [bytes.readUInt32LE(command + 4), bytes.readUInt32LE(command + 8)];
  bytes.writeUInt32LE(commands - 1, 16);
  bytes.writeUInt32LE(commandBytes - size, 20);
  bytes.fill(0, command, command + size);
  const linkeditStart = Number(bytes.readBigUInt64LE(linkedit + 40));
  bytes.writeBigUInt64LE(BigInt(start - linkeditStart), linkedit + 48);
  writeFileSync(file, bytes.subarray(0, start));
}

/** What starts the executable on this machine; undefined if nothing does. */
function commandOf({ name, system, format }: Platform, file: string): string[] | undefined {
  if (system !== process.platform) return undefined;
  const isNative = name.includes(process.arch);
  if (system !== "linux") return isNative ? [file] : undefined;
  const prefix = isNative ? [] : [QEMU.command, "-L", QEMU.libraries];
  const loader = `${isNative ? "" : QEMU.libraries}${format.split(" ").at(-1)}`;
  // It fails if something is missing: the loader itself, or a library, such as libstdc++ for musl.
  return succeeds(...prefix, loader, "--list", file) ? [...prefix, file] : undefined;
}

function succeeds(...command: readonly string[]): boolean {
  try {
    return Bun.spawnSync([...command]).success;
  } catch {
    return false; // there is no such program
  }
}

/** Its version, its health check, its echo and its shutdown. @throws if one of them is not as it should be */
async function tryOut(command: readonly string[]): Promise<void> {
  using folder = new TempFolder();
  const run = async (...args: readonly string[]) =>
    (await Bun.$`${command} ${args}`.cwd(folder.path).text()).trim();
  const version = await run("--version");
  if (version !== pkg.version) throw new Error(`${command.at(-1)} says that its version is ${version}`);
  await using server = await startServer({ command, cwd: folder.path });
  await run("health", "--port", `${server.port}`);
  const peer = await server.open("/websocket");
  peer.says("hi");
  await peer.hears("Message text was: hi");
  await server.stop("SIGTERM");
  if (server.process.exitCode !== 0)
    throw new Error(`${command.at(-1)} does not stop: ${await server.errors}`);
}

async function sha256(file: string): Promise<string> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(file).stream()) hasher.update(chunk);
  return hasher.digest("hex");
}
