/** `hubbub health`, which a container runs as its health check. */

import { expect, test } from "bun:test";
import { parseCommand } from "../../src/cli/parse-command.ts";
import { startServer } from "../support/server.ts";

const source = `${import.meta.dir}/../../src/server.ts`;
const TLS = `${import.meta.dir}/../support/tls/localhost`;

async function health(env: Record<string, string>, ...args: readonly string[]) {
  const command = [process.execPath, source, "health", ...args];
  const { exitCode, stdout, stderr } = await Bun.$`${command}`.env(env).quiet().nothrow();
  return { exitCode, stdout: `${stdout}`, stderr: `${stderr}` };
}

const healthy = (origin: string) => ({
  exitCode: 0,
  stdout: `The server at ${origin} is healthy.\n`,
  stderr: "",
});
const unhealthy = (origin: string, reason: string) => ({
  exitCode: 1,
  stdout: "",
  stderr: `The server at ${origin} is not healthy: ${reason}.\n`,
});

test("a server is healthy, whichever address it listens on and whatever proxy the environment names", async () => {
  const proxies = { HTTP_PROXY: "http://127.0.0.1:1", http_proxy: "http://127.0.0.1:1" };
  for (const [host, asked] of [
    ["127.0.0.1", "127.0.0.1"],
    ["localhost", "localhost"],
    ["0.0.0.0", "127.0.0.1"],
    ["::", "[::1]"],
  ] as const) {
    await using server = await startServer({ args: ["--host", host] });
    const env = { ...proxies, HUBBUB_HOST: host, PORT: `${server.port}` };
    expect(await health(env)).toEqual(healthy(`http://${asked}:${server.port}`));
  }
});

test("a server with a certificate for another name, and tokens, is healthy", async () => {
  const certificate = ["--tls-cert", `${TLS}.crt`];
  await using server = await startServer({
    args: [...certificate, "--tls-key", `${TLS}.key`],
    secret: "0123456789abcdef0123456789abcdef",
  });
  const origin = `https://127.0.0.1:${server.port}`;
  expect(await health({}, ...certificate, "--port", `${server.port}`)).toEqual(healthy(origin));
  const withoutTls = await health({}, "--port", `${server.port}`);
  expect(withoutTls.exitCode).toBe(1);
});

test("a server that is frozen, gone, or another program is not healthy", async () => {
  await using server = await startServer();
  const env = { HUBBUB_PORT: `${server.port}` };
  const origin = `http://127.0.0.1:${server.port}`;
  server.freeze();
  expect(await health(env)).toEqual(unhealthy(origin, "it has not answered for 5 s"));
  await server.stop();
  expect(await health(env)).toEqual(unhealthy(origin, "it cannot be reached"));
  await using other = Bun.serve({
    port: server.port,
    hostname: "127.0.0.1",
    fetch: () => Response.redirect("https://chat.example"),
  });
  expect(await health({ PORT: `${other.port}` })).toEqual(unhealthy(origin, "it answers with status 302"));
});

test("arguments, port 0 and options of other commands are rejected", () => {
  const errorsOf = (...argv: readonly string[]) => parseCommand(["health", ...argv], {});
  expect(errorsOf("localhost", "--port=0", "--history=1")).toEqual({
    kind: "invalid",
    errors: [
      "--history: unknown option, see --help",
      "localhost: expected no argument, see --help",
      "--port: expected the port that the server listens on, got 0",
    ],
  });
  expect(parseCommand(["helth"], {})).toMatchObject({
    errors: ["helth: unknown command (did you mean health?), see --help"],
  });
});
