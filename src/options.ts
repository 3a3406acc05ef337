/** What the operator asked for: the command line and the environment in; options, or every mistake at once, out. */

import { parseArgs } from "node:util";
import { stores } from "./stores.ts";

/** One option: `--name VALUE`, or `HUBBUB_NAME` in the environment, or the fallback. */
interface Flag<T> {
  readonly name: string;
  /** What stands for the value in `--help` and in the README. */
  readonly value: string;
  readonly fallback: T;
  readonly help: string;
  /** A second name in the environment, one that platforms set by habit. */
  readonly alsoEnv?: string;
  /** The value, or what was expected instead. */
  parse(text: string): { readonly value: T } | { readonly expected: string };
}

const host: Flag<string> = {
  name: "host",
  value: "HOST",
  fallback: "127.0.0.1",
  help: "where to listen; 0.0.0.0 lets the network in",
  parse: (text) => (/^[\w.:-]+$/.test(text) ? { value: text } : { expected: "an address or a host name" }),
};

const port: Flag<number> = {
  name: "port",
  value: "N",
  fallback: 8000,
  help: "the port to listen on; 0 picks a free one",
  alsoEnv: "PORT",
  parse: (text) =>
    /^\d{1,5}$/.test(text) && Number(text) <= 65_535 ? { value: Number(text) } : { expected: "0–65535" },
};

const store: Flag<URL> = {
  name: "store",
  value: "URL",
  fallback: new URL("memory:"),
  help: "where messages are kept",
  parse(text) {
    const url = URL.parse(text);
    return url && stores.has(url.protocol) ? { value: url } : { expected: [...stores.keys()].join(" or ") };
  },
};

const history: Flag<number> = {
  name: "history",
  value: "N",
  fallback: 100,
  help: "messages of a room kept ready for who comes",
  parse: (text) =>
    /^\d{1,6}$/.test(text) && Number(text) <= 100_000 ? { value: Number(text) } : { expected: "0–100000" },
};

/** In the order of the help and of the README's table, which a test holds to this list. */
export const flags = [host, port, store, history] as const;

export interface Options {
  readonly host: string;
  readonly port: number;
  readonly store: URL;
  readonly history: number;
}

export type Command =
  | { readonly do: "serve"; readonly options: Options }
  | { readonly do: "join"; readonly address: URL }
  | { readonly do: "help" | "version" }
  | { readonly do: "refuse"; readonly mistakes: readonly string[] };

/** Reads the whole request; an empty variable in the environment counts as not set. */
export function readCommand(argv: readonly string[], env: Record<string, string | undefined>): Command {
  if (argv[0] === "join") return readJoin(argv.slice(1));
  const { tokens } = parseArgs({
    args: [...argv],
    options: {
      help: { type: "boolean", short: "h" },
      version: { type: "boolean", short: "v" },
      ...Object.fromEntries(flags.map(({ name }) => [name, { type: "string" } as const])),
    },
    strict: false,
    tokens: true,
  });

  const mistakes: string[] = [];
  const given = new Map<string, string | undefined>();
  for (const [i, token] of tokens.entries()) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional") {
      // What follows an unknown option is most likely its value, and one sentence is enough.
      const before = tokens[i - 1];
      const isValue =
        before?.kind === "option" && !given.has(before.name) && before.index === token.index - 1;
      if (!isValue) mistakes.push(`${token.value}: hubbub takes options only, see --help`);
    } else if (token.name === "help" || token.name === "version") return { do: token.name };
    else if (flags.some(({ name }) => name === token.name)) given.set(token.name, token.value);
    else mistakes.push(`${token.rawName}: unknown option, see --help`);
  }

  function read<T>(flag: Flag<T>): T {
    const [source, text] = given.has(flag.name)
      ? [`--${flag.name}`, given.get(flag.name) ?? ""]
      : ([envName(flag), flag.alsoEnv ?? ""]
          .map((name) => [name, env[name] ?? ""] as const)
          .find(([, text]) => text) ?? []);
    if (source === undefined) return flag.fallback;
    const result = flag.parse(text ?? "");
    if ("value" in result) return result.value;
    mistakes.push(`${source}: expected ${result.expected}, got ${JSON.stringify(text)}`);
    return flag.fallback;
  }

  const options = { host: read(host), port: read(port), store: read(store), history: read(history) };
  return mistakes.length > 0 ? { do: "refuse", mistakes } : { do: "serve", options };
}

function readJoin([address, ...more]: readonly string[]): Command {
  const url = URL.parse(address ?? "");
  if (more.length === 0 && (url?.protocol === "http:" || url?.protocol === "https:"))
    return { do: "join", address: url };
  return {
    do: "refuse",
    mistakes: ["join: expected one address, as in: hubbub join http://localhost:8000/client?room=tea"],
  };
}

export function envName({ name }: { readonly name: string }): string {
  return `HUBBUB_${name.toUpperCase().replaceAll("-", "_")}`;
}

/** The manual that `--help` prints, at most 80 columns wide. */
export function helpText(): string {
  const rows = flags.map((flag) => [
    `--${flag.name} ${flag.value}`,
    `${flag.help} (${flag.fallback})`,
    `or ${[envName(flag), flag.alsoEnv].filter(Boolean).join(", ")} in the environment`,
  ]);
  return `Hubbub: one file to run, and a room full of people and programs can talk.

  hubbub                  a chat at http://localhost:8000/client
  hubbub --host 0.0.0.0   the same, open to everyone on your network
  hubbub join URL         takes part in one at the terminal, or in a pipe:
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'

Options
${rows.map(([left = "", ...right]) => right.map((line, i) => `  ${(i ? "" : left).padEnd(15)}${line}`).join("\n")).join("\n")}
  -h, --help     print this
  -v, --version  print the version`;
}
