/** The documented systemd unit and Caddy configuration. For nginx see proxy.test.ts. */

import { describe, expect, test } from "bun:test";
import { statSync } from "node:fs";
import { parseCommand } from "../../src/cli/parse-command.ts";
import { findProgram } from "../support/programs.ts";
import { startServer } from "../support/server.ts";
import { codeBlock, substitute } from "../support/docs.ts";
import { TempFolder } from "../support/temp-folder.ts";

const BINARY = "/usr/local/bin/hubbub";
const SECRET_FILE = "/etc/hubbub/secret";
const source = `${import.meta.dir}/../../src/server.ts`;

async function run(...cmd: readonly string[]) {
  const { exitCode, stdout, stderr } = await Bun.$`${cmd}`.quiet().nothrow();
  return { exitCode, stdout: `${stdout}`, stderr: `${stderr}` };
}

describe("the systemd unit", () => {
  const unit = codeBlock("src/ops/README.md", "ini");
  const [, command = ""] = /^ExecStart=(.*)$/m.exec(unit) ?? [];

  test("starts the server, and the documented command prints a link with a valid token", async () => {
    using folder = new TempFolder();
    const secret = folder.write("secret", `${Buffer.alloc(48, 7).toBase64()}\n`);
    const args = substitute(command, { "${CREDENTIALS_DIRECTORY}/secret": secret }).split(" ").slice(1);
    await using server = await startServer({ args });
    expect(server.greeting).toContain(" reached as https://chat.example/client\n");
    const [line = ""] = /^hubbub token .*$/m.exec(codeBlock("src/ops/README.md", "sh", "systemctl")) ?? [];
    const [, ...words] = substitute(line, { [SECRET_FILE]: secret }).split(" ");
    const { stdout } = await run(process.execPath, source, ...words);
    const link = new URL(stdout.trim());
    expect(link.origin + link.pathname).toBe("https://chat.example/client");
    await using ann = await server.open(`/ws/ann${link.search}`, { Host: "chat.example" });
    await ann.hearsNothingBeforePong();
    const headers = { Host: "chat.example" };
    expect(await server.answer("/ws/ann", { headers })).toHaveProperty("status", 401);
  });

  const withoutOpenssl = Bun.which("openssl") ? "" : " (skipped: openssl is not installed)";
  test.skipIf(withoutOpenssl !== "")(
    `has a secret that the documented command makes, and only its owner can read${withoutOpenssl}`,
    async () => {
      using folder = new TempFolder();
      const etc = `${folder.path}/hubbub`;
      const [make = ""] = codeBlock("src/ops/README.md", "sh", "systemctl").split("\n");
      expect(await run("sh", "-c", substitute(make, { "/etc/hubbub": etc }))).toHaveProperty("exitCode", 0);
      expect([statSync(etc).mode & 0o777, statSync(`${etc}/secret`).mode & 0o777]).toEqual([0o700, 0o600]);
      expect(parseCommand(["--secret-file", `${etc}/secret`], {}).kind).toBe("serve");
    },
  );

  test("allows the time that a graceful shutdown may take", () => {
    const args = command.split(" ").slice(1, -2); // without the secret file, which does not exist here
    const read = parseCommand(args, {});
    if (read.kind !== "serve") throw new Error(`the command is refused: ${command}`);
    const [, seconds] = /^TimeoutStopSec=(\d+)$/m.exec(unit) ?? [];
    expect(Number(seconds)).toBeGreaterThan(read.options.drainSeconds);
  });

  test("restarts the server while the port is in use, but not after a wrong option", async () => {
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
  test.skipIf(skipped !== "")(`is valid${skipped}`, async () => {
    using folder = new TempFolder();
    const file = folder.write("hubbub.service", substitute(unit, { [BINARY]: process.execPath }));
    const verified = await run("systemd-analyze", "verify", "--man=no", file);
    // It may complain about other units of this machine.
    const about = verified.stderr.split("\n").filter((line) => line.includes("hubbub"));
    expect({ exitCode: verified.exitCode, about }).toEqual({ exitCode: 0, about: [] });
  });
});

describe("the Caddy configuration", () => {
  const { skipped } = findProgram("caddy", "caddy");
  test.skipIf(skipped !== "")(`is valid${skipped}`, async () => {
    using folder = new TempFolder();
    const file = folder.write("Caddyfile", codeBlock("src/ops/README.md", "caddy"));
    const { exitCode, stderr } = await run(
      ...["caddy", "validate", "--adapter", "caddyfile", "--config", file],
    );
    expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr });
  });
});
