/** The commands of the documentation that no other test runs, as they stand there. */

import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { codeBlock, readDoc, ROOT, substitute } from "./support/docs.ts";
import { bearer, SECURED } from "./support/keys.ts";
import { sharedRedis, skipped as withoutRedis } from "./support/redis.ts";
import { serverExecutable } from "./support/server-executable.ts";
import { startServer } from "./support/server.ts";
import { TempFolder } from "./support/temp-folder.ts";

setDefaultTimeout(240_000);

/** A shell in an empty folder, in which `hubbub` is a command. */
class Shell implements Disposable {
  readonly #folder = new TempFolder();

  constructor() {
    mkdirSync(join(this.path, "bin"));
    symlinkSync(serverExecutable(), join(this.path, "bin/hubbub"));
  }

  get path(): string {
    return this.#folder.path;
  }

  /** @returns what it prints @throws if it fails */
  async run(script: string, env: Record<string, string> = {}): Promise<string> {
    const PATH = `${this.path}/bin:${process.env.PATH}`;
    const { exitCode, stdout, stderr } = await Bun.$`sh -c ${script}`
      .cwd(this.path)
      .env({ ...process.env, PATH, ...env })
      .quiet()
      .nothrow();
    if (exitCode !== 0) throw new Error(`${script}: exit status ${exitCode}\n${stdout}${stderr}`);
    return `${stdout}`.trim();
  }

  [Symbol.dispose](): void {
    this.#folder[Symbol.dispose]();
  }
}

/** The lines of a code block, without the comments beside them. */
function linesOf(path: string, word: string): string[] {
  return codeBlock(path, "sh", word)
    .trim()
    .replace(/ +#.*$/gm, "")
    .split("\n");
}

describe("src/http/README.md", () => {
  const README = "src/http/README.md";
  /** Each command with the lines that follow it, in which “…” stands for anything. */
  const examples = [...readDoc(README).matchAll(/^```sh\n(.*?)^```$/gms)]
    .flatMap(([, block = ""]) => [...block.matchAll(/^([^#].*)\n((?:#.*\n)*)/gm)])
    .map(([, command = "", comment = ""]) => ({ command, answer: comment.replace(/^# ?/gm, "").trim() }))
    .filter(({ command }) => !command.includes("curl -N")); // which event-source.test.ts runs

  test("each curl prints what is shown", async () => {
    await using open = await startServer();
    await using secured = await startServer(SECURED);
    for (const text of ["one", "two"]) {
      const headers = { ...bearer("ci"), "Content-Type": "text/plain" };
      const { status } = await secured.get("/rooms/builds/messages", { method: "POST", headers, body: text });
      expect(status).toBe(201);
    }
    const TOKEN = bearer("mod", { can: ["moderate"] }).Authorization.replace("Bearer ", "");
    using shell = new Shell();
    for (const { command, answer } of examples) {
      const { origin } = command.includes("$TOKEN") ? secured : open;
      const printed = await shell.run(substitute(command, { "http://localhost:8000": origin }), { TOKEN });
      expect(printed).toMatch(new RegExp(`^${answer.split("…").map(RegExp.escape).join(".+")}$`));
    }
    expect(examples.length).toBeGreaterThan(8);
  });
});

describe("src/cli/README.md", () => {
  const README = "src/cli/README.md";

  test("the commands of the overview", async () => {
    using shell = new Shell();
    const lines = linesOf(README, "hubbub health");
    const isServer = (line: string) => /^hubbub(?! [a-z])/.test(line);
    const start = (line = "") =>
      startServer({
        args: line.split(" ").slice(1),
        cwd: shell.path,
        env: { HUBBUB_STORE: "sqlite:chat.db" },
      });
    const [local, network] = lines.filter(isServer);
    await (await start(local)).stop("SIGTERM");
    await using server = await start(network);
    const env = { ...SECURED.env, PORT: `${server.port}`, HUBBUB_STORE: "sqlite:chat.db" };
    const [join, token, exporting, importing, health, ...more] = lines.filter((line) => !isServer(line));
    expect(more).toEqual([]);
    const page = `'${server.origin}/client?id=ann'`;
    expect(await shell.run(`echo hi | ${substitute(join ?? "", { URL: page })}`)).toBe("ann: hi");
    expect(await shell.run(token ?? "", env)).toStartWith(`http://localhost:${server.port}/client?token=`);
    await shell.run(exporting ?? "", env);
    await shell.run(importing ?? "", { ...env, HUBBUB_STORE: "sqlite:copy.db" });
    expect(await shell.run("hubbub export --store sqlite:copy.db")).toContain('"text":"hi"');
    expect(await shell.run(health ?? "", env)).toContain(" is healthy.");
  });

  const withoutZstd = Bun.which("zstd") ? "" : " (skipped: zstd is not installed)";
  const skipped = withoutRedis || withoutZstd;
  test.skipIf(skipped !== "")(`export and import, also those of src/store/README.md${skipped}`, async () => {
    const redis = await sharedRedis();
    const filled = (command: string) =>
      command
        .replace("redis://localhost:6380", redis.url("copied"))
        .replace("redis://localhost", redis.url("moved"));
    using shell = new Shell();
    await using first = await startServer({ args: ["--store", "sqlite:chat.db"], cwd: shell.path });
    await first.post("lobby", { from: "ann", text: "hi" });
    await first.stop("SIGTERM");
    const [exporting = "", importing = "", serving = "", ...more] = linesOf(
      "src/store/README.md",
      "hubbub import",
    );
    expect(more).toEqual([]);
    for (const command of [exporting, importing]) await shell.run(filled(command));
    await using second = await startServer({ args: filled(serving).split(" ").slice(1) });
    expect(await second.texts()).toEqual(["hi"]);
    await second.stop("SIGTERM");
    for (const command of linesOf(README, "zstd")) await shell.run(filled(command));
    expect(await shell.run(`hubbub export --store '${redis.url("copied")}'`)).toContain('"text":"hi"');
  });
});

describe("test/simulator/README.md", () => {
  test("each command, with one seed", async () => {
    const commands = linesOf("test/simulator/README.md", "--seeds");
    expect(commands.length).toBe(4);
    const outputs = await Promise.all(
      commands.map((command) =>
        Bun.$`sh -c ${command.replace("bun ", `${process.execPath} `).replace(/--seeds \d+/, "--seeds 1")}`
          .cwd(ROOT)
          .text(),
      ),
    );
    for (const output of outputs) expect(output).toContain("1 seeds, 0 failures");
  });
});
