/** The documented Dockerfile and compose files, without Docker. */

import { describe, expect, test } from "bun:test";
import { chownSync, copyFileSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseCommand } from "../../src/cli/parse-command.ts";
import { codeBlock, readDoc } from "../support/docs.ts";
import { buildExecutable } from "../support/executable.ts";
import { startServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

const dockerfile = codeBlock("src/ops/README.md", "dockerfile");
const env = Object.fromEntries(
  [...dockerfile.matchAll(/(HUBBUB_\w+)=(\S+)/g)].map(([, name = "", value = ""]) => [name, value]),
);

/** The words of an instruction in its JSON form. */
function wordsOf(instruction: string): string[] {
  const [, words = "[]"] = new RegExp(`^${instruction} .*?(\\[.*\\])$`, "m").exec(dockerfile) ?? [];
  return JSON.parse(words);
}

describe("the Dockerfile", () => {
  /** Of the image's user, `nonroot`. */
  const USER_ID = 65532;
  const VOLUME = "/home/nonroot";
  /** What a container runtime does: a root that cannot be written to, a volume, /proc and /dev/null, another user. */
  const ENTER = `root=$0 volume=$1; shift
    mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" && mount --bind "$volume" "$root${VOLUME}" &&
    mount -t proc proc "$root/proc" && mount --bind /dev/null "$root/dev/null" &&
    exec unshare --root "$root" --wd ${VOLUME} --setgid ${USER_ID} --setuid ${USER_ID} "$@"`;
  const canEnter = process.getuid?.() === 0 && Bun.spawnSync(["unshare", "--mount", "true"]).success;
  const skipped = canEnter ? "" : " (skipped: only root on Linux can run this)";

  test.skipIf(!canEnter)(
    `runs the executable with nothing but the C library, read-only but for its volume${skipped}`,
    async () => {
      using built = await buildExecutable();
      using folder = new TempFolder();
      const [root, volume] = [join(folder.path, "root"), join(folder.path, "volume")];
      for (const path of [`root${VOLUME}`, "root/proc", "root/dev", "volume"])
        mkdirSync(join(folder.path, path), { recursive: true });
      chownSync(volume, USER_ID, USER_ID);
      writeFileSync(join(root, "dev/null"), "");
      const [, place = ""] = /^COPY .* (\S+)$/m.exec(dockerfile) ?? [];
      const libraries = (await Bun.$`ldd ${built.executable}`.text()).match(/\/\S+/g) ?? [];
      const copies = [[built.executable, place], ...libraries.map((library) => [library, library])];
      for (const [from = "", to = ""] of copies) {
        mkdirSync(dirname(join(root, to)), { recursive: true });
        copyFileSync(from, join(root, to));
      }

      const enter = ["unshare", "--mount", "sh", "-c", ENTER, root, volume];
      const PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
      const command = [...enter, ...wordsOf("ENTRYPOINT")];
      await using server = await startServer({ command, env: { ...env, PATH } });
      expect(server.greeting).toContain("messages are stored in chat.db");
      expect((await server.post("lobby", { from: "ann", text: "hi" })).status).toBe(201);
      expect(existsSync(join(volume, "chat.db"))).toBe(true);

      const check = [...enter, ...wordsOf("HEALTHCHECK")];
      const health = await Bun.$`${check}`
        .env({ ...env, PATH, PORT: `${server.port}` })
        .quiet()
        .nothrow();
      expect([health.exitCode, `${health.stderr}`]).toEqual([0, ""]);
      await server.stop("SIGTERM");
      expect([server.process.exitCode, await server.errors]).toEqual([0, ""]);
    },
  );
});

describe("the compose files", () => {
  interface Service {
    readonly environment?: Record<string, string>;
    readonly volumes?: readonly string[];
    readonly ports?: readonly string[];
    readonly command?: string;
  }
  interface Compose {
    readonly services: Readonly<Record<string, Service>>;
    readonly volumes: Readonly<Record<string, object>>;
  }
  const blocks = readDoc("src/ops/README.md").matchAll(/^```yaml\n(services:.*?)^```$/gms);
  const files = [...blocks].map(([, yaml = ""]): Compose => JSON.parse(JSON.stringify(Bun.YAML.parse(yaml))));

  test("start the server with valid options, on a store that is a service", () => {
    const stores = new Set<string>();
    for (const { services } of files) {
      const given = Object.entries(services.hubbub?.environment ?? {});
      const filled = given.map(([name, value]) => [name, value.replaceAll(/\$\{\w+\}/g, "x".repeat(64))]);
      const command = parseCommand([], { ...env, ...Object.fromEntries(filled) });
      if (command.kind !== "serve") throw new Error(JSON.stringify(command));
      const { store, port, publicUrl } = command.options;
      expect(command.warnings).toEqual([]);
      expect(services).toHaveProperty(store.hostname);
      if (services.caddy)
        expect(services.caddy.command).toEndWith(` --from ${publicUrl?.host} --to hubbub:${port}`);
      else expect(services.hubbub?.ports).toEqual([`${port}:${port}`]);
      stores.add(store.protocol);
    }
    expect([...stores]).toEqual(["redis:", "postgres:"]);
  });

  test("declare their volumes", () => {
    for (const { services, volumes } of files) {
      const used = Object.values(services).flatMap((service) => service.volumes ?? []);
      expect(used.map((volume) => volume.split(":")[0])).toEqual(Object.keys(volumes));
    }
  });
});
