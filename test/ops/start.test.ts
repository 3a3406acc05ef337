/** Options, help, the banner and start errors. */

import { describe, expect, test } from "bun:test";
import { version } from "../../package.json";
import { helpText, optionsTableRows } from "../../src/cli/help.ts";
import { ownOrigins } from "../../src/http/server-address.ts";
import { serverFlags, parseCommand, tokenFlags, type CliOptions } from "../../src/cli/parse-command.ts";
import { encodeQr, type QrCode } from "../../src/util/qr.ts";
import { secretSource } from "../support/keys.ts";
import { startServer } from "../support/server.ts";
import { unpadded } from "../support/docs.ts";
import { eventually } from "../support/deadline.ts";

const DEFAULTS: CliOptions = {
  host: "127.0.0.1",
  port: 8000,
  publicUrl: undefined,
  trustProxy: false,
  store: new URL("memory:"),
  keepDays: 0,
  history: 100,
  allowHost: [],
  allowOrigin: [],
  listRooms: false,
  openMetrics: false,
  secretFile: [],
  publicKeyFile: [],
  allowGuests: [],
  guests: "write",
  maxMessageBytes: 65_536,
  messageRate: 0,
  messageBurst: 1000,
  maxConnections: undefined,
  maxConnectionsPerAddress: 0,
  connectionRate: 0,
  tlsCert: undefined,
  tlsKey: undefined,
  pingSeconds: 25,
  flushMs: 10,
  drainSeconds: 5,
  log: "text",
};
/** Defaults that differ if other machines can reach the server. */
const REACHABLE: Partial<CliOptions> = { messageRate: 100, connectionRate: 200 };
const SECRET = "0123456789abcdef0123456789abcdef";

describe("options", () => {
  const cases: [string[], Record<string, string>, CliOptions][] = [
    [[], {}, DEFAULTS],
    [["--port", "9000"], {}, { ...DEFAULTS, port: 9000 }],
    [["--port=0", "--host=::"], {}, { ...DEFAULTS, ...REACHABLE, host: "::", port: 0 }],
    [[], { PORT: "9001" }, { ...DEFAULTS, port: 9001 }],
    [
      [],
      { PORT: "9001", HUBBUB_PORT: "9002", HUBBUB_HOST: "0.0.0.0" },
      { ...DEFAULTS, ...REACHABLE, host: "0.0.0.0", port: 9002 },
    ],
    [["--port", "9003"], { PORT: "nonsense", HUBBUB_PORT: "" }, { ...DEFAULTS, port: 9003 }],
    [[], { PORT: "" }, DEFAULTS],
    [["--history", "0"], { HUBBUB_STORE: "memory:" }, { ...DEFAULTS, history: 0 }],
    [
      ["--public-url", "https://Chat.example:443", "--trust-proxy"],
      {},
      { ...DEFAULTS, ...REACHABLE, publicUrl: new URL("https://chat.example"), trustProxy: true },
    ],
    [["--trust-proxy=off"], { HUBBUB_TRUST_PROXY: "on" }, DEFAULTS],
    [[], { HUBBUB_TRUST_PROXY: "on" }, { ...DEFAULTS, trustProxy: true }],
    [
      ["--allow-host", "Hubbub", "--allow-host", "hubbub.chat.svc.cluster.local."],
      {},
      { ...DEFAULTS, allowHost: ["hubbub", "hubbub.chat.svc.cluster.local"] },
    ],
    [
      ["--allow-origin", "https://a.example/", "--allow-origin", "http://b.example:81"],
      {},
      { ...DEFAULTS, allowOrigin: ["https://a.example", "http://b.example:81"] },
    ],
    [
      [],
      { HUBBUB_ALLOW_ORIGIN: "https://a.example, https://b.example" },
      { ...DEFAULTS, allowOrigin: ["https://a.example", "https://b.example"] },
    ],
    [[], { HUBBUB_SECRET: SECRET }, { ...DEFAULTS, secretFile: [secretSource(SECRET)] }],
    [["--message-rate", "7", "--ping-seconds=1"], {}, { ...DEFAULTS, messageRate: 7, pingSeconds: 1 }],
    [
      ["--host=0.0.0.0", "--message-rate=0"],
      {},
      { ...DEFAULTS, ...REACHABLE, host: "0.0.0.0", messageRate: 0 },
    ],
  ];
  for (const [argv, env, options] of cases)
    test(`${argv.join(" ") || "(none)"} with ${JSON.stringify(env)}`, () =>
      expect(parseCommand(argv, env)).toEqual({ kind: "serve", options, warnings: [] }));

  test.each([
    [true, ["127.0.0.1", "127.0.0.2", "127.1", "::1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "localhost"]],
    [false, ["0.0.0.0", "::", "192.168.1.5", "::ffff:192.168.1.5", "fe80::1", "127.example", "chat.example"]],
  ])("only this machine can reach it: %p, with --host %p", (isLocal, hosts) => {
    for (const host of hosts) {
      const command = parseCommand(["--host", host], {});
      const messageRate = "options" in command ? command.options.messageRate : command;
      expect({ host, messageRate }).toEqual({ host, messageRate: isLocal ? 0 : 100 });
    }
  });

  test.each([
    ["port", ["--port", "1", "--port=2"], ["--port: expected only once"]],
    ["port", ["--port=1", "--port=1", "--port=1"], ["--port: expected only once"]],
    ["trustProxy", ["--trust-proxy", "--trust-proxy=off"], ["--trust-proxy: expected only once"]],
    [
      "both",
      ["--port=1", "--log=off", "--log=json", "--port=2", "--host=a b"],
      [
        "--port: expected only once",
        "--log: expected only once",
        '--host: expected an address or a host name, got "a b"',
      ],
    ],
  ])("an option with one value may be given only once: %s, %j", (_, argv, errors) =>
    expect(parseCommand(argv, {})).toEqual({ kind: "invalid", errors: expect.arrayContaining(errors) }),
  );

  test("every option that is not repeatable is rejected the second time, also by token", () => {
    for (const [key, { repeatable }] of Object.entries<{ repeatable?: true }>({
      ...serverFlags,
      ...tokenFlags,
    })) {
      const option = `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
      const command = parseCommand(["token", "ann", `${option}=1`, `${option}=1`], {});
      const isRejected =
        command.kind === "invalid" && command.errors.includes(`${option}: expected only once`);
      expect({ option, isRejected }).toEqual({ option, isRejected: repeatable !== true });
    }
  });

  test("the command line overrides the environment", () => {
    expect(parseCommand(["--port", "1"], { HUBBUB_PORT: "2", PORT: "3" })).toHaveProperty("options.port", 1);
    const command = parseCommand(["--secret-file", import.meta.path], { HUBBUB_SECRET: SECRET });
    expect(command).toMatchObject({ options: { secretFile: [{ file: import.meta.path }] } });
    expect(command.kind).toBe("serve");
  });

  const KUBERNETES = {
    HUBBUB_PORT: "tcp://10.43.0.17:8000",
    HUBBUB_SERVICE_HOST: "10.43.0.17",
    HUBBUB_SERVICE_PORT: "8000",
    HUBBUB_SERVICE_PORT_HTTP: "8000",
    HUBBUB_PORT_8000_TCP: "tcp://10.43.0.17:8000",
    HUBBUB_PORT_8000_TCP_ADDR: "10.43.0.17",
    HUBBUB_REDIS_SERVICE_HOST: "10.43.0.18",
    HUBBUB_REDIS_SERVICE_PORT: "6379",
    HUBBUB_REDIS_PORT: "tcp://10.43.0.18:6379",
    HUBBUB_REDIS_PORT_6379_TCP: "tcp://10.43.0.18:6379",
    HUBBUB_REDIS_PORT_6379_TCP_PROTO: "tcp",
    HUBBUB_CHAT_2_PORT: "tcp://10.43.0.19:80",
  };
  test("variables that Kubernetes sets for Services named hubbub and hubbub-… are ignored silently", () => {
    const serve = { kind: "serve" as const, options: DEFAULTS, warnings: [] };
    expect(parseCommand([], KUBERNETES)).toEqual(serve);
    expect(parseCommand([], { HUBBUB_PORT: "udp://[fd00::1]:53" })).toEqual(serve);
    const other = { ...serve, options: { ...DEFAULTS, port: 9000 } };
    expect(parseCommand([], { ...KUBERNETES, PORT: "9000" })).toEqual(other);
    expect(parseCommand([], { ...KUBERNETES, HUBBUB_PORT: "9000" })).toEqual(other);
    expect(parseCommand(["token", "ann"], { ...KUBERNETES, HUBBUB_SECRET: SECRET }).kind).toBe("token");
    expect(parseCommand([], { HUBBUB_PORT: "http://a" }).kind).toBe("invalid");
  });

  test("origins of apps and extensions may be allowed; text that browsers never send as an origin may not", () => {
    const origins = [
      "capacitor://localhost",
      "ionic://localhost",
      "tauri://localhost",
      "app://obsidian.md",
      "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
      "moz-extension://a8f0e9f4-1f1c-4a0f-9d5a-0b6b0c7d8e9f",
      "https://example.com",
    ];
    const command = parseCommand(["--allow-origin", origins.join(",")], {});
    expect(command).toHaveProperty("options.allowOrigin", origins);
    for (const wrong of [
      ...["https://*.example.com", "*", "null", "*://localhost", "capacitor://*", "https://example.com/chat"],
      ...[
        "wss://example.com",
        "htps://example.com",
        "file:///",
        "capacitor://localhost/x",
        "tauri:",
        "https:example.com/x",
      ],
    ])
      expect(parseCommand(["--allow-origin", wrong], {})).toEqual({
        kind: "invalid",
        errors: [`--allow-origin: expected complete origins, such as https://example.com, got "${wrong}"`],
      });
  });

  test.each(["https://*.example.com", "https://*", "https://chat.example/path", "chat.example"])(
    "%s is no public URL",
    (url) => {
      const error = `--public-url: expected an address without a path, such as https://chat.example, got "${url}"`;
      expect(parseCommand(["--public-url", url], {})).toEqual({ kind: "invalid", errors: [error] });
    },
  );

  test("--keep-days is rejected with the memory store, which has no retention by age", () => {
    const error =
      "--keep-days: expected 0 with --store memory:, which keeps the latest --history messages only";
    expect(parseCommand(["--keep-days=7"], {})).toEqual({ kind: "invalid", errors: [error] });
    expect(parseCommand([], { HUBBUB_KEEP_DAYS: "7" })).toEqual({ kind: "invalid", errors: [error] });
    expect(parseCommand(["--keep-days=0"], {}).kind).toBe("serve");
    expect(parseCommand(["--keep-days=7", "--store", "sqlite:chat.db"], {}).kind).toBe("serve");
    expect(parseCommand(["--keep-days=7", "--store", "redis://a"], {}).kind).toBe("serve");
  });

  test("join and token have a help of their own", () => {
    for (const about of ["join", "token"] as const) {
      for (const argv of [
        [about, "--help"],
        [about, "-h"],
        [about, "ann", "--help"],
      ])
        expect(parseCommand(argv, {})).toEqual({ kind: "help", about });
      const help = helpText(about);
      expect(help).toStartWith(`hubbub ${about} `);
      for (const line of help.split("\n")) expect(line.length).toBeLessThanOrEqual(80);
      expect(help).not.toContain("--message-rate");
    }
    for (const name of Object.keys(tokenFlags)) expect(helpText("token")).toContain(`  --${name} `);
  });

  test("all errors are reported at once, each with the name of its option", () => {
    const command = parseCommand(
      [
        ...["--prot", "1", "stray", "-x", "--port=http", "--host", "a b", "--store", "x://ann:password@y"],
        ...[
          "--history=-1",
          "--allow-host",
          "hubbub:8000",
          "--allow-origin",
          "*",
          "--public-url=https://a.example/chat",
          "--trust-proxy=maybe",
        ],
        ...["--max-message-byte", "7", "--secret-file", "/nowhere/to/be/found"],
      ],
      { HUBBUB_PING_SECONDS: "0" },
    );
    expect(command).toEqual({
      kind: "invalid",
      errors: [
        "--prot: unknown option (did you mean --port?), see --help",
        "-x: unknown option, see --help",
        "--max-message-byte: unknown option (did you mean --max-message-bytes?), see --help",
        '--host: expected an address or a host name, got "a b"',
        '--port: expected 0–65535, got "http"',
        '--public-url: expected an address without a path, such as https://chat.example, got "https://a.example/chat"',
        '--trust-proxy: expected on or off, got "maybe"',
        '--store: expected memory:, sqlite:FILE, redis://HOST or postgres://HOST, got "x://…@y"',
        '--history: expected 0–100000, got "-1"',
        '--allow-host: expected host names without a port, such as hubbub, got "hubbub:8000"',
        '--allow-origin: expected complete origins, such as https://example.com, got "*"',
        '--secret-file: expected a readable file, got "/nowhere/to/be/found"',
        'HUBBUB_PING_SECONDS: expected 1–600, got "0"',
        "stray: unknown command, see --help",
      ],
    });
  });

  test("a list must not be empty: a forgotten value would grant a token every room and right", () =>
    expect(parseCommand(["token", "ann", "--room=", "--can", " ,", "--secret-file"], {})).toMatchObject({
      errors: [
        '--secret-file: expected a readable file, got ""',
        '--room: expected a room name, or a pattern such as team-*, got ""',
        '--can: expected read, write, moderate or metrics, got " ,"',
      ],
    }));

  test("a secret is not printed", () =>
    expect(parseCommand([], { HUBBUB_SECRET: "too short" })).toEqual({
      kind: "invalid",
      errors: ["HUBBUB_SECRET: expected a secret of at least 32 bytes"],
    }));

  test("an unknown environment variable is only a warning, since another program may use it", () =>
    expect(parseCommand([], { HUBBUB_PROT: "1", HUBBUB_TOKEN: "x", OTHER: "y" })).toEqual({
      kind: "serve",
      options: DEFAULTS,
      warnings: ["HUBBUB_PROT: unknown environment variable, ignored (did you mean HUBBUB_PORT?)"],
    }));

  for (const text of ["", "65536", "-1", "80.5", "1e3", " 80", "0x50"])
    test(`--port=${text} is invalid`, () =>
      expect(parseCommand([`--port=${text}`], {})).toEqual({
        kind: "invalid",
        errors: [`--port: expected 0–65535, got ${JSON.stringify(text)}`],
      }));

  test("an invalid value in the environment is reported with the name of its variable", () =>
    expect(parseCommand([], { PORT: "http" })).toEqual({
      kind: "invalid",
      errors: ['PORT: expected 0–65535, got "http"'],
    }));

  const unknown = (option: string) => `${option}: unknown option, see --help`;
  test.each([
    ["--", ["unknown command"], ["--", "--port"]],
    ["a value that looks like an option", ['expected 0–65535, got "--host"'], ["--port", "--host"]],
    ["no value", ['expected 0–65535, got ""'], ["--port"]],
    ["a value with =", ['expected 0–65535, got "8=0"'], ["--port=8=0"]],
    ["an argument after a switch", ["off: unknown command, see --help"], ["--trust-proxy", "off"]],
    ["combined short options", [unknown("-hv")], ["-hv"]],
    ["three dashes", ["---port: unknown option"], ["---port"]],
    ["no name", [unknown("--")], ["--=x"]],
    ["an unknown option with a value", [unknown("--qqq"), "x: unknown command"], ["--qqq=1", "x"]],
    ["a lone dash", ["-: unknown command"], ["-"]],
    [
      "an option that join does not have",
      [unknown("--room")],
      ["join", "--room=tea", "http://localhost:8000/client"],
    ],
  ])("the command line: %s", (_, errors, argv) => {
    const command = parseCommand(argv, {});
    if (command.kind !== "invalid") throw new Error(`parsed as ${command.kind}`);
    expect(command.errors).toHaveLength(errors.length);
    for (const [i, error] of errors.entries()) expect(command.errors[i]).toContain(error);
  });

  test("the documented options are those of --help", () => {
    const readme = unpadded("src/cli/README.md");
    for (const row of optionsTableRows()) expect(readme).toContain(row);
  });

  test("the help fits 80 columns", () => {
    for (const line of helpText("serve").split("\n")) expect(line.length).toBeLessThanOrEqual(80);
  });
});

describe("the command", () => {
  const source = `${import.meta.dir}/../../src/server.ts`;
  async function run(...args: string[]) {
    const { exitCode, stdout, stderr } = await Bun.$`${process.execPath} run ${source} ${args}`
      .quiet()
      .nothrow();
    return { exitCode, stdout: `${stdout}`, stderr: `${stderr}` };
  }

  test("--version", async () =>
    expect(await run("--version")).toEqual({ exitCode: 0, stdout: `${version}\n`, stderr: "" }));

  test("--help", async () =>
    expect(await run("--help", "--port", "x")).toEqual({
      exitCode: 0,
      stdout: `${helpText("serve")}\n`,
      stderr: "",
    }));

  test("token --help", async () =>
    expect(await run("token", "--help")).toEqual({
      exitCode: 0,
      stdout: `${helpText("token")}\n`,
      stderr: "",
    }));

  test("an invalid option is one sentence on stderr, and exit code 2", async () =>
    expect(await run("--port", "http")).toEqual({
      exitCode: 2,
      stdout: "",
      stderr: '--port: expected 0–65535, got "http"\n',
    }));

  test("a port in use is one sentence and exit code 1, since it may be free in a moment", async () => {
    await using server = await startServer();
    expect(await run("--port", `${server.port}`)).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: `Port ${server.port} is in use. Stop the program that listens there, or choose another port with --port.\n`,
    });
    expect(await server.answer("/nope")).toHaveProperty("status", 404);
  });

  test("an address that this machine does not have yet is one sentence and exit code 1", async () =>
    expect(await run("--host", "192.0.2.1")).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: "Cannot listen on 192.0.2.1. Choose an address of this machine with --host.\n",
    }));

  test("a host name that cannot be resolved is one sentence and exit code 1", async () => {
    const sentence = "Cannot listen on nowhere.invalid. Choose an address of this machine with --host.\n";
    expect(await run("--host", "nowhere.invalid", "--port", "0")).toEqual({
      exitCode: 1,
      stdout: "",
      stderr: sentence,
    });
  });

  test("an unexpected error of a store at the start is reported with its stack, and exit code 1", async () => {
    const args = ["--preload", `${import.meta.dir}/../support/break-shutdown.ts`, source, "--port", "0"];
    const env = { ...process.env, BREAK: "open" };
    const { exitCode, stdout, stderr } = await Bun.$`${process.execPath} ${args}`.env(env).quiet().nothrow();
    expect([exitCode, `${stdout}`]).toEqual([1, ""]);
    expect(`${stderr}`).toStartWith("Startup failed: Error: injected into open\n");
  });

  test.each(["capacitor://localhost", "tauri://localhost", `chrome-extension://${"a".repeat(32)}`])(
    "pages of %s can connect if it is allowed, and others cannot",
    async (origin) => {
      await using server = await startServer({ args: ["--allow-origin", origin] });
      await using ann = await server.open("/ws/ann", { Origin: origin });
      ann.says("hi");
      await ann.hears("You wrote: hi", "Client #ann says: hi");
      const { headers } = await server.get("/rooms/lobby/members", { headers: { Origin: origin } });
      expect(headers.get("access-control-allow-origin")).toBe(origin);
      const other = { headers: { Origin: `${origin}x` } };
      expect(await server.get("/ws/ann", other)).toHaveProperty("status", 403);
    },
  );

  test("the first line has the address of the page", async () => {
    await using server = await startServer({ env: { PORT: "1" } });
    expect(server.greeting).toBe(
      `Hubbub ${version} is listening on http://localhost:${server.port}/client\n`,
    );
    expect(await server.answer("/?id=7&x=%20")).toHaveProperty("status", 302);
    expect((await server.get("/?id=7&x=%20")).headers.get("location")).toBe("/client?id=7&x=%20");
    expect(await server.answer("/client")).toHaveProperty("status", 200);
  });

  test.each([{}, { NO_COLOR: "1" }])(
    "on a terminal, the address is on a line of its own, %j",
    async (env) => {
      const printed = await bannerOn(80, [], env);
      const address = new RegExp(`^Hubbub ${version}\r\n\r\n  http://localhost:\\d+/client\r\n`);
      expect(printed).toMatch(address);
    },
  );

  describe("where other machines can reach the server, a terminal also shows the QR code of a link", () => {
    const HOST = "0.0.0.0";

    test.skipIf(ownOrigins({ publicUrl: undefined, tlsCert: undefined }, HOST, 1).length < 2)(
      "on the network",
      async () => {
        const printed = await bannerOn(100, ["--host", HOST]);
        const links = [...printed.matchAll(/^  (\S+)  \(from your network\)\r$/gm)].map(
          ([, link = ""]) => link,
        );
        const codes = links.map((link) => halfBlocks(encodeQr(link)));
        expect(codes).toContainEqual(qrLinesOf(printed));
      },
    );

    test("or of the public one", async () => {
      const printed = await bannerOn(100, ["--host", HOST, "--public-url", "https://chat.example"]);
      expect(qrLinesOf(printed)).toEqual(halfBlocks(encodeQr("https://chat.example/client")));
    });

    test("but not in a narrow terminal, without colors, with tokens, or where only this machine can", async () => {
      const open = ["--host", HOST, "--public-url", "https://chat.example"];
      expect(qrLinesOf(await bannerOn(20, open))).toEqual([]);
      expect(qrLinesOf(await bannerOn(100, open, { NO_COLOR: "1" }))).toEqual([]);
      expect(qrLinesOf(await bannerOn(100, open, { HUBBUB_SECRET: SECRET }))).toEqual([]);
      expect(qrLinesOf(await bannerOn(100, ["--public-url", "https://chat.example"]))).toEqual([]);
    });
  });

  test("in a pipe, the banner is one line, also with FORCE_COLOR", async () => {
    await using server = await startServer({ env: { FORCE_COLOR: "1" } });
    expect(server.greeting).toBe(
      `Hubbub ${version} is listening on http://localhost:${server.port}/client\n`,
    );
  });
});

/** What a server prints on a terminal of that width. */
async function bannerOn(cols: number, args: readonly string[], env: Record<string, string> = {}) {
  let printed = "";
  const decoder = new TextDecoder();
  const run = Bun.spawn(
    [process.execPath, `${import.meta.dir}/../../src/server.ts`, "--port", "0", ...args],
    {
      env: { TERM: "xterm", ...env },
      terminal: { cols, data: (_, bytes) => void (printed += decoder.decode(bytes, { stream: true })) },
    },
  );
  await eventually(async () => printed.includes("Press Ctrl+C to stop."), "the banner");
  run.kill();
  await run.exited;
  return printed;
}

/** The lines in black on white. */
function qrLinesOf(printed: string): string[] {
  return [...printed.matchAll(/^\x1b\[38;5;16;48;5;231m(.*)\x1b\[0m\r$/gm)].map(([, line = ""]) => line);
}

/** Two modules in a character, within a quiet zone of two modules. */
function halfBlocks(code: QrCode = []): string[] {
  const lines = [];
  for (let y = -2; y < code.length + 2; y += 2) {
    let line = "";
    for (let x = -2; x < code.length + 2; x++)
      line += [" ", "▀", "▄", "█"][Number(code[y]?.[x] ?? false) + 2 * Number(code[y + 1]?.[x] ?? false)];
    lines.push(line);
  }
  return lines;
}
