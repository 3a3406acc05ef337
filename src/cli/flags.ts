/** Options in general: a table of them, the command line and the environment in; values, and every mistake at once, out. */

/** One option: `--name VALUE`, or `HUBBUB_NAME` in the environment, or the fallback. */
export interface Flag<T> {
  /** What stands for the value in `--help` and in the README; a switch has none. */
  readonly value?: string;
  readonly fallback: T;
  /** The fallback once other machines can reach the server. */
  readonly whenReachable?: T;
  /** How the fallback reads, where it is no plain value. */
  readonly defaultText?: string;
  readonly help: string;
  /** A second name in the environment. */
  readonly alsoEnv?: string;
  /** May be given again and again; the values reach `parse` separated by spaces. */
  readonly repeatable?: true;
  /** @param source the name that the value was given under */
  parse(text: string, source: string): { readonly value: T } | { readonly expected: string };
}

export function flag<T>(flag: Flag<T>): Flag<T> {
  return flag;
}

export type Env = Readonly<Record<string, string | undefined>>;

export type FlagTable = Readonly<Record<string, Flag<unknown>>>;
export type FlagValues<T extends FlagTable> = { readonly [Name in keyof T]: T[Name]["fallback"] };

interface ParsedFlags<T extends FlagTable> {
  readonly options: FlagValues<T>;
  /** What is no option. */
  readonly positionals: readonly string[];
  /** Those that were set to something, right or wrong. */
  readonly provided: ReadonlySet<keyof T>;
  readonly errors: readonly string[];
}

/** By hand: `parseArgs` of `node:util` takes a quarter of what a plain server takes to start. */
export function parseFlags<T extends FlagTable>(
  table: T,
  argv: readonly string[],
  env: Env,
): ParsedFlags<T> | { readonly kind: "help" | "version" } {
  const named = new Map(Object.entries(table).map(([key, flag]) => [flagName(key), { key, flag }]));
  const errors: string[] = [];
  const positionals: string[] = [];
  const provided = new Map<string, string>();
  const repeated = new Set<string>();
  const rest = [...argv];
  for (let argument = rest.shift(); argument !== undefined; argument = rest.shift()) {
    const [, flagText, name = "", inlineValue] = /^(--?([^=]*))(?:=(.*))?$/s.exec(argument) ?? [];
    if (argument === "--") positionals.push(...rest.splice(0));
    else if (flagText === undefined || argument === "-") positionals.push(argument);
    else if (flagText === "--help" || flagText === "-h") return { kind: "help" };
    else if (flagText === "--version" || flagText === "-v") return { kind: "version" };
    else {
      const { flag } = (flagText.startsWith("--") && named.get(name)) || {};
      if (flag) {
        const value = inlineValue ?? (flag.value ? rest.shift() : undefined) ?? "";
        const before = provided.get(name);
        if (before === undefined) provided.set(name, value);
        else if (flag.repeatable) provided.set(name, `${before} ${value}`);
        else repeated.add(name);
        continue;
      }
      errors.push(`${flagText}: unknown option${didYouMean(name, named.keys(), "--")}, see --help`);
      // What follows it is most likely its value, and one sentence is enough.
      if (inlineValue === undefined && rest[0]?.startsWith("-") === false) rest.shift();
    }
  }

  for (const name of repeated) errors.push(`--${name}: expected only once`);

  const set = new Set<keyof T>();
  function read(name: string, key: string, flag: Flag<unknown>): unknown {
    const text = provided.get(name);
    const [source, found] = text === undefined ? (environment(name, flag, env) ?? []) : [`--${name}`, text];
    if (source === undefined) return flag.fallback;
    set.add(key);
    const result = flag.parse(found ?? "", source);
    if ("value" in result) return result.value;
    errors.push(`${source}: expected ${result.expected}${describeGiven(source, found ?? "")}`);
    return flag.fallback;
  }

  const values = Object.fromEntries(
    named.entries().map(([name, { key, flag }]) => [key, read(name, key, flag)]),
  );
  // Each value is what its own flag makes of a text, which the type of entries cannot say.
  return { options: values as FlagValues<T>, positionals, provided: set, errors };
}

/** The first of a flag's variables that is set, and what it says. */
function environment(option: string, { alsoEnv }: Flag<unknown>, env: Env): [string, string] | undefined {
  for (const name of [envName(option), alsoEnv]) {
    const text = name && env[name];
    if (text) return [name, text];
  }
  return undefined;
}

/** What was found instead of what was expected; never a secret or a password. */
function describeGiven(source: string, text: string): string {
  if (source === "HUBBUB_SECRET") return "";
  return `, got ${JSON.stringify(text.replace(/\/\/[^/]*@/, "//…@"))}`;
}

/** The name that was probably meant. @param prefix what it is written with */
export function didYouMean(name: string, names: Iterable<string>, prefix: string): string {
  const [best] = Iterator.from(names)
    .map((other) => ({ other, distance: distanceBetween(name, other) }))
    .toArray()
    .sort((a, b) => a.distance - b.distance);
  return best && best.distance <= 1 + name.length / 4 ? ` (did you mean ${prefix}${best.other}?)` : "";
}

/** Levenshtein's: characters to insert, delete or replace. */
function distanceBetween(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, i) => i);
  for (let i = 0; i < from.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < to.length; j++)
      next.push(
        Math.min((next[j] ?? 0) + 1, (row[j + 1] ?? 0) + 1, (row[j] ?? 0) + (from[i] === to[j] ? 0 : 1)),
      );
    row = next;
  }
  return row.at(-1) ?? 0;
}

/** `maxMessageBytes` is `max-message-bytes` on the command line. */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

/** `max-message-bytes` is `HUBBUB_MAX_MESSAGE_BYTES` in the environment. */
export function envName(option: string): string {
  return `HUBBUB_${option.toUpperCase().replaceAll("-", "_")}`;
}
