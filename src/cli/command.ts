/** What the operator asked for: the command line and the environment in; a command, or every mistake at once, out. */

import {
  envName,
  flag,
  flagName,
  didYouMean,
  parseFlags,
  type Env,
  type Flag,
  type FlagValues,
} from "./flags.ts";
import { allowedOriginOf, isLocalOnly, parseOrigin, readPem, readSecret } from "./option-values.ts";
import type { LogFormat } from "../ops/log.ts";
import { parseName } from "../protocol/names.ts";
import { storeFactories } from "../store/open.ts";
import { MIN_SECRET_BYTES, RIGHTS, type Right } from "../auth/tokens.ts";

function number(value: string, fallback: number, [min, max]: readonly [number, number], help: string) {
  return flag<number>({
    value,
    fallback,
    help,
    parse(text) {
      const isRight = /^\d{1,9}$/.test(text) && Number(text) >= min && Number(text) <= max;
      return isRight ? { value: Number(text) } : { expected: `${min}–${max}` };
    },
  });
}

function toggle(help: string) {
  return flag<boolean>({
    fallback: false,
    defaultText: "off",
    help,
    parse(text) {
      if (/^(on|true|1|)$/.test(text)) return { value: true };
      return /^(off|false|0)$/.test(text) ? { value: false } : { expected: "on or off" };
    },
  });
}

/** In the order of the help and of the README's table, which a test holds to this one. */
export const serverFlagGroups = {
  "Where it is": {
    host: flag<string>({
      value: "HOST",
      fallback: "127.0.0.1",
      help: "where to listen; 0.0.0.0 lets the network in",
      parse: (text) =>
        /^[\w.:-]+$/.test(text) ? { value: text } : { expected: "an address or a host name" },
    }),
    port: {
      ...number("N", 8000, [0, 65_535], "the port to listen on; 0 picks a free one"),
      alsoEnv: "PORT",
    },
    publicUrl: flag<URL | undefined>({
      value: "URL",
      fallback: undefined,
      defaultText: "what it listens on",
      help: "how people reach it, as in https://chat.example",
      parse(text) {
        const url = parseOrigin(text);
        return url ? { value: url } : { expected: "an address without a path, as in https://chat.example" };
      },
    }),
    trustProxy: toggle("behind a proxy: clients are told apart by X-Forwarded-For"),
    tlsCert: flag<string | undefined>({
      value: "FILE",
      fallback: undefined,
      defaultText: "none",
      help: "speaks TLS, with this certificate (PEM), its chain behind it",
      parse: (file) => readPem(file, /^-----BEGIN (X509 |TRUSTED )?CERTIFICATE-/m, "a certificate in PEM"),
    }),
    tlsKey: flag<string | undefined>({
      value: "FILE",
      fallback: undefined,
      defaultText: "none",
      help: "and this key (PEM)",
      parse: (file) => readPem(file, /^-----BEGIN (RSA |EC )?PRIVATE KEY-/m, "a key in PEM, no passphrase"),
    }),
  },
  "What it keeps": {
    store: flag<URL>({
      value: "URL",
      fallback: new URL("memory:"),
      help: "where messages are kept: memory:, sqlite:FILE, redis://HOST",
      parse(text) {
        const url = URL.parse(text);
        return url && storeFactories.get(url.protocol)?.(url)
          ? { value: url }
          : { expected: "memory:, sqlite:FILE or redis://HOST" };
      },
    }),
    keepDays: number("N", 0, [0, 36_500], "forgets what is older (not memory:); 0: nothing"),
    history: number("N", 100, [0, 100_000], "messages of a room kept ready for who comes"),
  },
  "Who may come in": {
    allowHost: flag<readonly string[]>({
      value: "NAME",
      fallback: [],
      defaultText: "none",
      repeatable: true,
      help: "another host name, used by programs; again for each",
      parse(text) {
        const names = text.split(/[\s,]+/).filter(Boolean);
        return names.every((name) => /^[\w-]+(\.[\w-]+)*\.?$/.test(name))
          ? { value: names.map((name) => name.toLowerCase().replace(/\.$/, "")) }
          : { expected: "host names without a port, as in hubbub" };
      },
    }),
    allowOrigin: flag<readonly string[]>({
      value: "ORIGIN",
      fallback: [],
      defaultText: "none",
      repeatable: true,
      help: "another site whose pages may connect; again for each",
      parse(text) {
        const asked = text.split(/[\s,]+/).filter(Boolean);
        const origins = asked.flatMap((origin) => allowedOriginOf(origin) ?? []);
        return origins.length === asked.length
          ? { value: origins }
          : { expected: "origins, as in https://example.com, each named in full" };
      },
    }),
    openMetrics: toggle("/metrics is for anyone, not only for this machine"),
    secretFile: flag<Buffer | undefined>({
      value: "FILE",
      fallback: undefined,
      defaultText: "none: no tokens",
      alsoEnv: "HUBBUB_SECRET",
      help: "only tokens signed with its content come in",
      parse(text, source) {
        const secret = source === "HUBBUB_SECRET" ? Buffer.from(text) : readSecret(text);
        if (!secret) return { expected: "a file that can be read" };
        return secret.length >= MIN_SECRET_BYTES
          ? { value: secret }
          : { expected: `a secret of at least ${MIN_SECRET_BYTES} bytes` };
      },
    }),
  },
  "How much at once": {
    maxMessageBytes: number("N", 65_536, [1, 131_072], "the largest message; text is counted in UTF-8"),
    messageRate: {
      ...number("N", 0, [0, 1_000_000], "messages a second from a connection; 0: no limit"),
      whenReachable: 100,
    },
    messageBurst: number("N", 1000, [1, 1_000_000], "so many messages at once; each 4 KiB count as one more"),
    maxConnections: flag<number | undefined>({
      ...number("N", 0, [0, 1_000_000], "connections in all; 0: no limit"),
      fallback: undefined,
      defaultText: "the file limit, less a reserve",
    }),
    maxConnectionsPerAddress: number(
      "N",
      0,
      [0, 1_000_000],
      "connections from one address, or IPv6 /64; 0: no limit",
    ),
    connectionRate: {
      ...number("N", 0, [0, 1_000_000], "new ones a second from one address; 0: no limit"),
      whenReachable: 200,
    },
  },
  "Running it": {
    pingSeconds: number("N", 25, [1, 3600], "how often a connection has to show that it is alive"),
    flushMs: number("N", 10, [0, 1000], "so long messages of a busy room wait for others; 0: not at all"),
    drainSeconds: number("N", 5, [0, 3600], "how long stopping may take"),
    log: flag<LogFormat>({
      value: "FORMAT",
      fallback: "text",
      help: "text, json or off: a line for each who comes, goes, is refused",
      parse: (text) =>
        text === "text" || text === "json" || text === "off"
          ? { value: text }
          : { expected: "text, json or off" },
    }),
  },
} as const;

export const serverFlags = {
  ...serverFlagGroups["Where it is"],
  ...serverFlagGroups["What it keeps"],
  ...serverFlagGroups["Who may come in"],
  ...serverFlagGroups["How much at once"],
  ...serverFlagGroups["Running it"],
};

export type ServerOptions = FlagValues<typeof serverFlags>;

export type CliCommand =
  | { readonly kind: "serve"; readonly options: ServerOptions; readonly warnings: readonly string[] }
  | { readonly kind: "join"; readonly address: URL; readonly token: string | undefined }
  | { readonly kind: "token"; readonly client: string; readonly options: ServerOptions & TokenOptions }
  | { readonly kind: "help"; readonly about: "serve" | "join" | "token" }
  | { readonly kind: "version" }
  | { readonly kind: "refuse"; readonly errors: readonly string[] };

/** Of the command `token`, beside the server's own. */
export const tokenFlags = {
  room: flag<readonly string[]>({
    value: "ROOM",
    fallback: [],
    defaultText: "every room",
    repeatable: true,
    help: "a room that the token is for; again for each",
    parse(text) {
      const rooms = text.split(/\s+/).map((room) => parseName("room", room));
      const names = rooms.flatMap((room) => ("name" in room ? [room.name] : []));
      return names.length === rooms.length ? { value: names } : { expected: "the name of a room" };
    },
  }),
  can: flag<readonly Right[]>({
    value: "RIGHT",
    fallback: [],
    defaultText: "read and write",
    repeatable: true,
    help: "what the token allows, such as metrics; again for each",
    parse(text) {
      const asked = text.split(/[\s,]+/).filter(Boolean);
      const rights = asked.flatMap((name) => RIGHTS.find((right) => right === name) ?? []);
      return rights.length === asked.length
        ? { value: rights }
        : { expected: `${RIGHTS.slice(0, -1).join(", ")} or ${RIGHTS.at(-1)}` };
    },
  }),
  days: number("N", 30, [1, 36_500], "how long the token is good for"),
} as const;

export type TokenOptions = FlagValues<typeof tokenFlags>;

/** Reads the whole request; an empty variable in the environment counts as not set. */
export function parseCommand(argv: readonly string[], environment: Env): CliCommand {
  const env = withoutKubernetes(environment);
  const [first, ...rest] = argv;
  if (first === "join") return readJoin(rest, env);
  if (first === "token") return readToken(rest, env);
  const read = parseFlags(serverFlags, argv, env);
  if ("kind" in read) return { ...read, about: "serve" };
  const unknownArguments = read.positionals.map(
    (other) => `${other}: no such command${didYouMean(other, ["join", "token"], "")}, see --help`,
  );
  const errors = [...read.errors, ...unknownArguments];
  if (read.provided.has("tlsCert") !== read.provided.has("tlsKey"))
    errors.push(
      `--tls-${read.provided.has("tlsCert") ? "key" : "cert"}: expected a file, since a certificate and its key need each other`,
    );
  if (read.options.store.protocol === "memory:" && read.options.keepDays > 0)
    errors.push("--keep-days: expected 0 with --store memory:, which forgets by --history and at its end");
  if (errors.length > 0) return { kind: "refuse", errors };
  return {
    kind: "serve",
    options: withDefaults(read.options, read.provided),
    warnings: unknownVariables(env),
  };
}

/** What was not given has another default where other machines can reach the server. */
function withDefaults(options: ServerOptions, provided: ReadonlySet<string>): ServerOptions {
  if (isLocalOnly(options)) return options;
  const positionals = Object.entries<Flag<unknown>>(serverFlags).flatMap(([key, { whenReachable }]) =>
    whenReachable === undefined || provided.has(key) ? [] : [[key, whenReachable] as const],
  );
  return { ...options, ...Object.fromEntries(positionals) };
}

function readToken(argv: readonly string[], env: Env): CliCommand {
  const read = parseFlags({ ...serverFlags, ...tokenFlags }, argv, env);
  if ("kind" in read) return { ...read, about: "token" };
  const { options, positionals } = read;
  const errors = [...read.errors];
  const id = parseName("client id", positionals[0] ?? "");
  if (positionals.length !== 1) errors.push("token: expected one client id, as in: hubbub token ann");
  else if ("detail" in id) errors.push(`token: ${id.detail}`);
  if (!read.provided.has("secretFile"))
    errors.push("token: needs the server's secret, by --secret-file or HUBBUB_SECRET");
  if (errors.length > 0 || "detail" in id) return { kind: "refuse", errors };
  return { kind: "token", client: id.name, options };
}

function readJoin(argv: readonly string[], env: Env): CliCommand {
  const read = parseFlags({}, argv, {});
  if ("kind" in read) return { ...read, about: "join" };
  if (read.errors.length > 0) return { kind: "refuse", errors: read.errors };
  const [address, ...more] = read.positionals;
  const url = URL.parse(address ?? "");
  if (more.length === 0 && (url?.protocol === "http:" || url?.protocol === "https:"))
    return {
      kind: "join",
      address: url,
      token: url.searchParams.get("token") ?? (env.HUBBUB_TOKEN || undefined),
    };
  return {
    kind: "refuse",
    errors: ["join: expected one address, as in: hubbub join http://localhost:8000/client?room=tea"],
  };
}

/** Kubernetes sets these in every container beside a Service named hubbub: `HUBBUB_PORT=tcp://…`, `HUBBUB_SERVICE_HOST`, `HUBBUB_PORT_8000_TCP`. */
function withoutKubernetes(env: Env): Env {
  const isTheirs = (name: string, value = "") =>
    /^HUBBUB_(SERVICE|PORT)_/.test(name) || (name === "HUBBUB_PORT" && /^(tcp|udp|sctp):\/\//.test(value));
  return Object.fromEntries(Object.entries(env).filter(([name, value]) => !isTheirs(name, value)));
}

function unknownVariables(env: Env): string[] {
  const ours = Object.keys(env).filter((name) => name.startsWith("HUBBUB_"));
  if (ours.length === 0) return [];
  const known = Object.entries(serverFlags).flatMap(([key, { alsoEnv }]) => [
    envName(flagName(key)),
    alsoEnv ?? "",
  ]);
  known.push("HUBBUB_TOKEN");
  return ours
    .filter((name) => !known.includes(name))
    .map((name) => `${name}: unknown in the environment${didYouMean(name, known, "")}, ignored`);
}
