/** Running it for others as the README says: its unit for systemd, its lines for Caddy; nginx has proxy.test.ts. */

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { parseCommand } from "../../src/cli/command.ts";
import { findProgram } from "../support/programs.ts";
import { startServer } from "../support/server.ts";
import { codeBlock, substitute } from "../support/docs.ts";

const BINARY = "/usr/local/bin/hubbub";
const SECRET_FILE = "/etc/hubbub/secret";
const source = `${import.meta.dir}/../../src/server.ts`;

/** A file of that name in a folder that goes with it. */
async function temporary(name: string, text: string) {
  const folder = mkdtempSync(`${tmpdir()}/hubbub-deploy-`);
  await Bun.write(`${folder}/${name}`, text);
  return { path: `${folder}/${name}`, [Symbol.dispose]: () => rmSync(folder, { recursive: true }) };
}

async function run(...cmd: readonly string[]) {
  const { exitCode, stdout, stderr } = await Bun.$`${cmd}`.quiet().nothrow();
  return { exitCode, stdout: `${stdout}`, stderr: `${stderr}` };
}

describe("the unit", () => {
  const unit = codeBlock("src/ops/README.md", "ini");
  const [, command = ""] = /^ExecStart=(.*)$/m.exec(unit) ?? [];

  test("starts what it says, and the line below it prints a link that lets in", async () => {
    using secret = await temporary("secret", `${Buffer.alloc(48, 7).toBase64()}\n`);
    const args = substitute(command, { "${CREDENTIALS_DIRECTORY}/secret": secret.path }).split(" ").slice(1);
    await using server = await startServer({ args });
    expect(server.greeting).toContain(" reached as https://chat.example/client\n");
    const [line = ""] = /^hubbub token .*$/m.exec(codeBlock("src/ops/README.md", "sh", "systemctl")) ?? [];
    const [, ...words] = substitute(line, { [SECRET_FILE]: secret.path }).split(" ");
    const { stdout } = await run(process.execPath, source, ...words);
    const link = new URL(stdout.trim());
    expect(link.origin + link.pathname).toBe("https://chat.example/client");
    await using ann = await server.open(`/ws/ann${link.search}`, { Host: "chat.example" });
    await ann.hearsNothingBeforePong();
    const headers = { Host: "chat.example" };
    expect(await server.answer("/ws/ann", { headers })).toHaveProperty("status", 401);
  });

  test("gives stopping the time that it may take", () => {
    const args = command.split(" ").slice(1, -2); // without the secret, which is not there
    const read = parseCommand(args, {});
    if (read.kind !== "serve") throw new Error(`the command is refused: ${command}`);
    const [, seconds] = /^TimeoutStopSec=(\d+)$/m.exec(unit) ?? [];
    expect(Number(seconds)).toBeGreaterThan(read.options.drainSeconds);
  });

  test("is started again for as long as the port is in use, and not when an option is wrong", async () => {
    const [, final] = /^RestartPreventExitStatus=(\d+)$/m.exec(unit) ?? [];
    expect(unit).toMatch(/^Restart=always$/m);
    expect(unit).toMatch(/^StartLimitIntervalSec=0$/m); // systemd's own limit is five starts in ten seconds
    await using server = await startServer();
    const args = command.split(" ").slice(1, -2);
    const inUse = await run(process.execPath, source, ...args, "--port", `${server.port}`);
    expect(inUse.exitCode).not.toBe(Number(final));
    const wrong = await run(process.execPath, source, ...args, "--port", "http");
    expect(wrong.exitCode).toBe(Number(final));
  });

  const { skipped } = findProgram("systemd", "systemd-analyze");
  test.skipIf(skipped !== "")(`is one that systemd has nothing to say about${skipped}`, async () => {
    using file = await temporary("hubbub.service", substitute(unit, { [BINARY]: process.execPath }));
    const verified = await run("systemd-analyze", "verify", "--man=no", file.path);
    // Of other units of this machine it may have something to say, too.
    const about = verified.stderr.split("\n").filter((line) => line.includes("hubbub"));
    expect({ exitCode: verified.exitCode, about }).toEqual({ exitCode: 0, about: [] });
  });
});

describe("the lines for Caddy", () => {
  const { skipped } = findProgram("caddy", "caddy");
  test.skipIf(skipped !== "")(`are valid${skipped}`, async () => {
    using file = await temporary("Caddyfile", codeBlock("src/ops/README.md", "caddy"));
    const { exitCode, stderr } = await run(
      ...["caddy", "validate", "--adapter", "caddyfile", "--config", file.path],
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr });
  });
});
