/** What the operator asked for: the command line and the environment in; a command, or every mistake at once, out. */

import { readFileSync } from "node:fs";
import {
  envName,
  flag,
  nameOf,
  nearest,
  readFlags,
  type Env,
  type Flag,
  type Table,
  type Values,
} from "./flags.ts";
import { readName } from "./names.ts";
import { stores } from "./stores.ts";
import { MIN_SECRET_BYTES } from "./tokens.ts";

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

/** In the order of the help and of the README's table, which a test holds to this one. */
const groups = {
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
      otherwise: "what it listens on",
      help: "how people reach it, as in https://chat.example",
      parse(text) {
        const url = originOf(text);
        return url ? { value: url } : { expected: "an address without a path, as in https://chat.example" };
      },
    }),
    trustProxy: flag<boolean>({
      fallback: false,
      otherwise: "off",
      help: "addresses are the last of X-Forwarded-For",
      parse(text) {
        if (/^(on|true|1|)$/.test(text)) return { value: true };
        return /^(off|false|0)$/.test(text) ? { value: false } : { expected: "on or off" };
      },
    }),
  },
  "What it keeps": {
    store: flag<URL>({
      value: "URL",
      fallback: new URL("memory:"),
      help: "where messages are kept",
      parse(text) {
        const url = URL.parse(text);
        return url && stores.has(url.protocol)
          ? { value: url }
          : { expected: [...stores.keys()].join(" or ") };
      },
    }),
    history: number("N", 100, [0, 100_000], "messages of a room kept ready for who comes"),
  },
  "Who may come in": {
    allowOrigin: flag<readonly string[]>({
      value: "ORIGIN",
      fallback: [],
      otherwise: "none",
      many: true,
      help: "another site whose pages may connect; again for each",
      parse(text) {
        const origins = text.split(/[\s,]+/).filter(Boolean);
        return origins.every(originOf)
          ? { value: origins.map((origin) => originOf(origin)?.origin ?? "") }
          : { expected: "origins, as in https://example.com" };
      },
    }),
    secretFile: flag<Buffer | undefined>({
      value: "FILE",
      fallback: undefined,
      otherwise: "none: no tokens",
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
    messageRate: number("N", 20, [0, 1_000_000], "messages a second from a connection; 0: no limit"),
    messageBurst: number("N", 40, [1, 1_000_000], "so many at once; each 4 KiB count as one more"),
    maxConnections: number("N", 0, [0, 1_000_000], "connections in all; 0: no limit"),
    maxConnectionsPerAddress: number("N", 0, [0, 1_000_000], "and from one IP address, or IPv6 /64 network"),
    pingSeconds: number("N", 25, [1, 3600], "how often a connection has to show that it is alive"),
  },
} as const;

export const flags = {
  ...groups["Where it is"],
  ...groups["What it keeps"],
  ...groups["Who may come in"],
  ...groups["How much at once"],
};

export type Options = Values<typeof flags>;

export type Command =
  | { readonly do: "serve"; readonly options: Options; readonly warnings: readonly string[] }
  | { readonly do: "join"; readonly address: URL; readonly token: string | undefined }
  | { readonly do: "token"; readonly client: string; readonly options: Options & TokenOptions }
  | { readonly do: "help" | "version" }
  | { readonly do: "refuse"; readonly mistakes: readonly string[] };

/** Of the command `token`, beside the server's own. */
const tokenFlags = {
  room: flag<readonly string[]>({
    value: "ROOM",
    fallback: [],
    otherwise: "every room",
    many: true,
    help: "a room that the token is for; again for each",
    parse(text) {
      const rooms = text.split(/\s+/).map((room) => readName("room", room));
      const names = rooms.flatMap((room) => ("name" in room ? [room.name] : []));
      return names.length === rooms.length ? { value: names } : { expected: "the name of a room" };
    },
  }),
  days: number("N", 30, [1, 36_500], "how long the token is good for"),
} as const;

export type TokenOptions = Values<typeof tokenFlags>;

/** Reads the whole request; an empty variable in the environment counts as not set. */
export function readCommand(argv: readonly string[], env: Env): Command {
  const [first, ...rest] = argv;
  if (first === "join") return readJoin(rest, env);
  if (first === "token") return readToken(rest, env);
  const read = readFlags(flags, argv, env);
  if ("do" in read) return read;
  const strays = read.others.map((other) => `${other}: hubbub takes options only, see --help`);
  const mistakes = [...read.mistakes, ...strays];
  if (mistakes.length > 0) return { do: "refuse", mistakes };
  return { do: "serve", options: read.options, warnings: unknownIn(env) };
}

function readToken(argv: readonly string[], env: Env): Command {
  const read = readFlags({ ...flags, ...tokenFlags }, argv, env);
  if ("do" in read) return read;
  const { options, others } = read;
  const mistakes = [...read.mistakes];
  const id = readName("client id", others[0] ?? "");
  if (others.length !== 1) mistakes.push("token: expected one client id, as in: hubbub token ann");
  else if ("sentence" in id) mistakes.push(`token: ${id.sentence}`);
  if (options.secretFile === undefined && mistakes.length === 0)
    mistakes.push("token: needs the server's secret, by --secret-file or HUBBUB_SECRET");
  if (mistakes.length > 0 || "sentence" in id) return { do: "refuse", mistakes };
  return { do: "token", client: id.name, options };
}

function readJoin([address, ...more]: readonly string[], env: Env): Command {
  const url = URL.parse(address ?? "");
  if (more.length === 0 && (url?.protocol === "http:" || url?.protocol === "https:"))
    return {
      do: "join",
      address: url,
      token: url.searchParams.get("token") ?? (env.HUBBUB_TOKEN || undefined),
    };
  return {
    do: "refuse",
    mistakes: ["join: expected one address, as in: hubbub join http://localhost:8000/client?room=tea"],
  };
}

function unknownIn(env: Env): string[] {
  const known = Object.entries(flags).flatMap(([key, { alsoEnv }]) => [envName(key), alsoEnv ?? ""]);
  known.push("HUBBUB_TOKEN");
  return Object.keys(env)
    .filter((name) => name.startsWith("HUBBUB_") && !known.includes(name))
    .map((name) => `${name}: unknown in the environment${nearest(name, known.values())}, ignored`);
}

/** An origin of the web, without anything behind it. */
function originOf(text: string): URL | undefined {
  const url = /^https?:/.test(text) ? URL.parse(text) : null;
  return url && url.href === `${url.origin}/` ? url : undefined;
}

/** Any bytes; the line break that an editor puts at the end is none of them. */
function readSecret(file: string): Buffer | undefined {
  try {
    const bytes = readFileSync(file);
    const isLine = bytes.at(-1) === 0x0a;
    return bytes.subarray(0, bytes.length - (isLine ? (bytes.at(-2) === 0x0d ? 2 : 1) : 0));
  } catch {
    return undefined;
  }
}

/** `--name VALUE`, and what it is without being said. */
function describe(key: string, { value, fallback, otherwise }: Flag<unknown>): [string, string] {
  return [`--${nameOf(key)}${value ? ` ${value}` : ""}`, otherwise ?? `${fallback}`];
}

/** The rows of the README's table. */
export function optionRows(): string[] {
  return Object.entries(flags).map(([key, flag]) => {
    const [name, otherwise] = describe(key, flag);
    return `| \`${name}\` | ${flag.otherwise ?? `\`${otherwise}\``} | ${flag.help} |`;
  });
}

/** The manual that `--help` prints, at most 80 columns wide. */
export function helpText(): string {
  const list = (table: Table) =>
    Object.entries(table)
      .map(([key, flag]) => {
        const [name, otherwise] = describe(key, flag);
        return `  ${name}  (${otherwise})\n      ${flag.help}\n`;
      })
      .join("");
  return `Hubbub: one file to run, and a room full of people and programs can talk.

  hubbub                  a chat at http://localhost:8000/client
  hubbub --host 0.0.0.0   the same, open to everyone on your network
  hubbub join URL         takes part in one at the terminal, or in a pipe:
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'
  hubbub token ann        makes a link for ann, where a secret is set

${Object.entries(groups)
  .map(([title, table]) => `${title}\n${list(table)}`)
  .join("\n")}
Of the command token, beside the secret and the public address
${list(tokenFlags)}
  -h, --help     print this
  -v, --version  print the version

Each option can be set in the environment, too: --max-message-bytes N as
HUBBUB_MAX_MESSAGE_BYTES=N. The port can be PORT, the secret itself
HUBBUB_SECRET, and HUBBUB_TOKEN is the token that join shows.`;
}
