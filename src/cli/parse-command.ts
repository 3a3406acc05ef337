/** The command line and the environment: parsed into a command, or into a list of all errors. */

import {
  allowedOriginOf,
  didYouMean,
  envName,
  files,
  flag,
  flagName,
  list,
  number,
  optional,
  parseFlags,
  parseOrigin,
  readPem,
  toggle,
  type Env,
  type Flag,
  type FlagValues,
} from "./flag-parser.ts";
import type { LogFormat } from "../ops/log.ts";
import { parseName } from "../protocol/names.ts";
import { isStoreUrl } from "../store/open.ts";
import { parseSecret, readKeyFile, type KeySource } from "../auth/key-files.ts";
import { parseRoomPattern } from "../auth/room-patterns.ts";
import { RIGHTS } from "../auth/tokens.ts";

/** In the order of `--help` and of the table in README.md, which a test compares with this one. */
export const serverFlagGroups = {
  Network: {
    host: flag<string>({
      value: "HOST",
      fallback: "127.0.0.1",
      help: "address to listen on; 0.0.0.0 opens it to the network",
      parse: (text) =>
        /^[\w.:-]+$/.test(text) ? { value: text } : { expected: "an address or a host name" },
    }),
    port: number(8000, [0, 65_535], "port to listen on; 0 picks a free one", { alsoEnv: "PORT" }),
    publicUrl: optional<URL>("URL", "public address of the server, such as https://chat.example", {
      defaultText: "the listening address",
      parse(text) {
        const url = parseOrigin(text);
        return url ? { value: url } : { expected: "an address without a path, such as https://chat.example" };
      },
    }),
    trustProxy: toggle("behind a proxy: take client addresses from X-Forwarded-For"),
    tlsCert: optional<string>("FILE", "serve TLS with this certificate, followed by its chain (PEM)", {
      parse: (file) => readPem(file, /^-----BEGIN (X509 |TRUSTED )?CERTIFICATE-/m, "a PEM certificate"),
    }),
    tlsKey: optional<string>("FILE", "private key of the certificate (PEM, without a passphrase)", {
      parse: (file) =>
        readPem(file, /^-----BEGIN (RSA |EC )?PRIVATE KEY-/m, "a PEM key without a passphrase"),
    }),
  },
  Storage: {
    store: flag<URL>({
      value: "URL",
      fallback: new URL("memory:"),
      help: "the store: memory:, sqlite:FILE, redis://HOST or postgres://HOST",
      parse(text) {
        const url = URL.parse(text);
        return url && isStoreUrl(url)
          ? { value: url }
          : { expected: "memory:, sqlite:FILE, redis://HOST or postgres://HOST" };
      },
    }),
    keepDays: number(0, [0, 36_500], "delete messages after N days (not memory:); 0 keeps them"),
    history: number(100, [0, 100_000], "messages per room for newcomers; memory and Redis retain no more"),
  },
  Access: {
    allowHost: list(
      "NAME",
      "none",
      "another host name that programs use",
      "host names without a port, such as hubbub",
      (name) => (/^[\w-]+(\.[\w-]+)*\.?$/.test(name) ? name.toLowerCase().replace(/\.$/, "") : undefined),
    ),
    allowOrigin: list(
      "ORIGIN",
      "none",
      "another site whose pages may connect",
      "complete origins, such as https://example.com",
      allowedOriginOf,
    ),
    listRooms: toggle("list all rooms at /rooms, not only those asked for by name"),
    openMetrics: toggle("serve /metrics to anyone, not only to this machine"),
    secretFile: files<KeySource>(
      "secret that verifies tokens; the first one signs them",
      (text, source) =>
        source === "HUBBUB_SECRET" ? parseSecret(Buffer.from(text)) : readKeyFile("secret", text),
      { defaultText: "none: no tokens", alsoEnv: "HUBBUB_SECRET" },
    ),
    publicKeyFile: files<KeySource>("public keys that verify tokens: PEM, JWK or JWKS", (file) =>
      readKeyFile("public", file),
    ),
    allowGuests: list(
      "PATTERN",
      "none",
      "room that needs no token, or a pattern such as open-*",
      "a room name, or a pattern such as open-*",
      parseRoomPattern,
    ),
    guests: flag<"read" | "write">({
      value: "RIGHT",
      fallback: "write",
      help: "what clients without a token may do there: read or write",
      parse: (text) =>
        text === "read" || text === "write" ? { value: text } : { expected: "read or write" },
    }),
  },
  Limits: {
    maxMessageBytes: number(65_536, [1, 131_072], "largest message in bytes, text counted as UTF-8"),
    messageRate: number(0, [0, 1_000_000], "messages per second and connection; 0 is unlimited", {
      whenReachable: 100,
    }),
    messageBurst: number(1000, [1, 1_000_000], "messages in one burst; each 4 KiB count as one more"),
    maxConnections: flag<number | undefined>({
      ...number(0, [0, 1_000_000], "open connections in total; 0 is unlimited"),
      fallback: undefined,
      defaultText: "the file descriptor limit minus a reserve",
    }),
    maxConnectionsPerAddress: number(
      0,
      [0, 1_000_000],
      "open connections per address or IPv6 /64; 0 is unlimited",
    ),
    connectionRate: number(0, [0, 1_000_000], "new connections per second and address; 0 is unlimited", {
      whenReachable: 200,
    }),
  },
  Operation: {
    // Below Bun's idle timeout, see serve.ts.
    pingSeconds: number(25, [1, 600], "ping interval; two unanswered pings end a connection"),
    flushMs: number(10, [0, 1000], "how long a busy room batches messages; 0 disables batching"),
    drainSeconds: number(5, [0, 3600], "how long a shutdown may take"),
    log: flag<LogFormat>({
      value: "FORMAT",
      fallback: "text",
      help: "log format: text, json or off",
      parse: (text) =>
        text === "text" || text === "json" || text === "off"
          ? { value: text }
          : { expected: "text, json or off" },
    }),
  },
} as const;

export const serverFlags = {
  ...serverFlagGroups.Network,
  ...serverFlagGroups.Storage,
  ...serverFlagGroups.Access,
  ...serverFlagGroups.Limits,
  ...serverFlagGroups.Operation,
};

export type CliOptions = FlagValues<typeof serverFlags>;

const COMMANDS = ["join", "token", "export", "import", "health"] as const;
type CommandName = (typeof COMMANDS)[number];

export type CliCommand =
  | { readonly kind: "serve"; readonly options: CliOptions; readonly warnings: readonly string[] }
  | { readonly kind: "join"; readonly address: URL; readonly token: string | undefined }
  | {
      readonly kind: "token";
      readonly client: string;
      readonly secret: Buffer;
      readonly options: CliOptions & TokenOptions;
    }
  | ({ readonly kind: "export"; readonly file: string | undefined } & FlagValues<typeof exportFlags>)
  | ({ readonly kind: "import"; readonly file: string | undefined } & FlagValues<typeof importFlags>)
  | ({ readonly kind: "health" } & FlagValues<typeof healthFlags>)
  | { readonly kind: "help"; readonly about: "serve" | CommandName }
  | { readonly kind: "version" }
  | { readonly kind: "invalid"; readonly errors: readonly string[] };

/** Flags of `hubbub token` only; it takes those of the server, too. */
export const tokenFlags = {
  room: list(
    "ROOM",
    "all rooms",
    "room the token is valid for, or a pattern such as team-*",
    "a room name, or a pattern such as team-*",
    parseRoomPattern,
  ),
  can: list(
    "RIGHT",
    "read and write",
    "right that the token grants: read, write, moderate or metrics",
    `${RIGHTS.slice(0, -1).join(", ")} or ${RIGHTS.at(-1)}`,
    (name) => RIGHTS.find((right) => right === name),
  ),
  days: number(30, [1, 36_500], "days until the token expires"),
} as const;

type TokenOptions = FlagValues<typeof tokenFlags>;

/** Flags of `hubbub export` and `hubbub import`. Without a file, they write to standard output and read standard input. */
export const exportFlags = {
  store: serverFlags.store,
  room: optional<string>("ROOM", "export only this room", {
    defaultText: "all rooms",
    parse(room) {
      const parsed = parseName("room", room);
      return "name" in parsed ? { value: parsed.name } : { expected: "a room name" };
    },
  }),
} as const;
export const importFlags = { store: serverFlags.store, history: serverFlags.history } as const;

/** What `hubbub health` must know about the server. */
export const healthFlags = {
  host: serverFlags.host,
  port: serverFlags.port,
  tlsCert: serverFlags.tlsCert,
} as const;

/** Empty environment variables count as not set. */
export function parseCommand(argv: readonly string[], environment: Env): CliCommand {
  const env = withoutKubernetes(environment);
  const [first, ...rest] = argv;
  if (first === "join") return readJoin(rest, env);
  if (first === "token") return readToken(rest, env);
  if (first === "export") return readTransfer("export", exportFlags, rest, env);
  if (first === "import") return readTransfer("import", importFlags, rest, env);
  if (first === "health") return readHealth(rest, env);
  const read = parseFlags(serverFlags, argv, env);
  if (read.kind) return { ...read, about: "serve" };
  const { options, provided } = read;
  const errors = [...read.errors];
  for (const other of read.positionals)
    errors.push(`${other}: unknown command${didYouMean(other, COMMANDS, "")}, see --help`);
  if (provided.has("tlsCert") !== provided.has("tlsKey"))
    errors.push(
      `--tls-${provided.has("tlsCert") ? "key" : "cert"}: expected a file: a certificate and its key are needed together`,
    );
  if (options.store.protocol === "memory:" && options.keepDays > 0)
    errors.push(
      "--keep-days: expected 0 with --store memory:, which keeps the latest --history messages only",
    );
  if (provided.has("allowGuests") && !provided.has("secretFile") && !provided.has("publicKeyFile"))
    errors.push(
      "--allow-guests: expected with --secret-file or --public-key-file, as without them everyone may join",
    );
  if (provided.has("guests") && !provided.has("allowGuests"))
    errors.push("--guests: expected with --allow-guests, which names the rooms");
  if (errors.length > 0) return { kind: "invalid", errors };
  return { kind: "serve", options: withDefaults(options, provided), warnings: unknownVariables(env) };
}

/** Whether only this machine can reach the server: it listens on a loopback address, and no proxy makes it public. */
export function isLocalOnly({ host, publicUrl }: Pick<CliOptions, "host" | "publicUrl">): boolean {
  // A URL normalizes all spellings of an address.
  const name = URL.parse(`http://${host.includes(":") ? `[${host}]` : host}`)?.hostname ?? "";
  return !publicUrl && /^(localhost\.?|127(\.\d+){3}|\[::1\]|\[::ffff:7f[\da-f]{2}:[\da-f]+\])$/.test(name);
}

/** Some limits have another default if other machines can reach the server. */
function withDefaults(options: CliOptions, provided: ReadonlySet<string>): CliOptions {
  if (isLocalOnly(options)) return options;
  const defaults = Object.entries<Flag<unknown>>(serverFlags).flatMap(([key, { whenReachable }]) =>
    whenReachable === undefined || provided.has(key) ? [] : [[key, whenReachable] as const],
  );
  return { ...options, ...Object.fromEntries(defaults) };
}

function readToken(argv: readonly string[], env: Env): CliCommand {
  const read = parseFlags({ ...serverFlags, ...tokenFlags }, argv, env);
  if (read.kind) return { ...read, about: "token" };
  const { options, positionals } = read;
  const errors = [...read.errors];
  const id = parseName("client id", positionals[0] ?? "");
  if (positionals.length !== 1) errors.push('token: expected one client id, as in "hubbub token ann"');
  else if ("detail" in id) errors.push(`token: ${id.detail}`);
  if (!read.provided.has("secretFile"))
    errors.push("token: expected the server's secret in --secret-file or HUBBUB_SECRET");
  const [secret] = options.secretFile;
  if (errors.length > 0 || "detail" in id || !secret) return { kind: "invalid", errors };
  return { kind: "token", client: id.name, secret: secret.content, options };
}

function readTransfer<K extends "export" | "import", T extends typeof importFlags | typeof exportFlags>(
  kind: K,
  flags: T,
  argv: readonly string[],
  env: Env,
) {
  const read = parseFlags(flags, argv, env);
  if (read.kind) return { ...read, about: kind };
  const { options, positionals } = read;
  const errors = [...read.errors];
  if (positionals.length > 1) errors.push(`${kind}: expected one file at most, got ${positionals.length}`);
  if (options.store.protocol === "memory:")
    errors.push(
      `${kind}: expected a store that outlives its server in --store, such as sqlite:FILE, redis://HOST or postgres://HOST`,
    );
  if (errors.length > 0) return { kind: "invalid", errors } as const;
  return { kind, file: positionals[0], ...options };
}

function readHealth(argv: readonly string[], env: Env): CliCommand {
  const read = parseFlags(healthFlags, argv, env);
  if (read.kind) return { ...read, about: "health" };
  const { options, positionals } = read;
  const errors = [
    ...read.errors,
    ...positionals.map((other) => `${other}: expected no argument, see --help`),
  ];
  if (options.port === 0) errors.push("--port: expected the port that the server listens on, got 0");
  return errors.length > 0 ? { kind: "invalid", errors } : { kind: "health", ...options };
}

function readJoin(argv: readonly string[], env: Env): CliCommand {
  const read = parseFlags({}, argv, {});
  if (read.kind) return { ...read, about: "join" };
  const { errors, positionals } = read;
  if (errors.length > 0) return { kind: "invalid", errors };
  const address = positionals.length === 1 ? URL.parse(positionals[0] ?? "") : null;
  if (address && /^https?:$/.test(address.protocol))
    return {
      kind: "join",
      address,
      token: address.searchParams.get("token") ?? (env.HUBBUB_TOKEN || undefined),
    };
  return {
    kind: "invalid",
    errors: ['join: expected one address, as in "hubbub join http://localhost:8000/client?room=tea"'],
  };
}

/**
 * In every container of a namespace with a Service named hubbub, Kubernetes sets `HUBBUB_PORT=tcp://…`,
 * `HUBBUB_SERVICE_HOST`, `HUBBUB_SERVICE_PORT_HTTP`, `HUBBUB_PORT_8000_TCP` and the like; with one named hubbub-redis,
 * `HUBBUB_REDIS_PORT=tcp://…` and so on.
 */
function withoutKubernetes(env: Env): Env {
  const isKubernetes = (name: string, value = "") =>
    /^HUBBUB(_\w+)?_(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))/.test(name) ||
    (/^HUBBUB(_\w+)?_PORT$/.test(name) && /^(tcp|udp|sctp):\/\//.test(value));
  return Object.fromEntries(Object.entries(env).filter(([name, value]) => !isKubernetes(name, value)));
}

function unknownVariables(env: Env): string[] {
  const known = Object.entries(serverFlags).flatMap(([key, { alsoEnv }]) => [
    envName(flagName(key)),
    ...(alsoEnv ? [alsoEnv] : []),
  ]);
  known.push("HUBBUB_TOKEN");
  return Object.keys(env)
    .filter((name) => name.startsWith("HUBBUB_") && !known.includes(name))
    .map((name) => `${name}: unknown environment variable, ignored${didYouMean(name, known, "")}`);
}
