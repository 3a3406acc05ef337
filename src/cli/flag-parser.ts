/** Flags: a table of them turns the command line and the environment into values, or into a list of all errors. */

import { lazyFs } from "../util/lazy-node.ts";

/** A flag: `--name VALUE` on the command line, else `HUBBUB_NAME` in the environment, else the fallback. */
export interface Flag<T> {
  /** The placeholder of the value in the help, such as `N`; a switch has none. */
  readonly value?: string;
  readonly fallback: T;
  /** The fallback if other machines can reach the server. */
  readonly whenReachable?: T;
  /** The fallback in words, where its value does not say it. */
  readonly defaultText?: string;
  readonly help: string;
  /** A second environment variable. */
  readonly alsoEnv?: string;
  /** May be given more than once; `parse` receives all values, a line each. */
  readonly repeatable?: true;
  /** @param source the flag or the environment variable that the value comes from */
  parse(text: string, source: string): { readonly value: T } | Invalid;
}

interface Invalid {
  readonly expected: string;
  /** Which of several values is invalid. */
  readonly got?: string;
}

export function flag<T>(flag: Flag<T>): Flag<T> {
  return flag;
}

export type Env = Readonly<Record<string, string | undefined>>;

export type FlagTable = Readonly<Record<string, Flag<unknown>>>;
export type FlagValues<T extends FlagTable> = { readonly [Name in keyof T]: T[Name]["fallback"] };

/** Flags that ask about the program. */
const ABOUT = new Map<string, "help" | "version">([
  ["--help", "help"],
  ["-h", "help"],
  ["--version", "version"],
  ["-v", "version"],
]);

/** Written by hand because loading `parseArgs` of `node:util` would add a quarter to the start-up time. */
export function parseFlags<T extends FlagTable>(table: T, argv: readonly string[], env: Env) {
  const named = new Map(Object.entries(table).map(([key, flag]) => [flagName(key), { key, flag }]));
  const errors: string[] = [];
  /** Arguments that are not flags. */
  const positionals: string[] = [];
  const given = new Map<string, string>();
  const repeated = new Set<string>();
  const rest = [...argv];
  for (let argument = rest.shift(); argument !== undefined; argument = rest.shift()) {
    const [, flagText, name = "", inlineValue] = /^(--?([^=]*))(?:=(.*))?$/s.exec(argument) ?? [];
    const kind = ABOUT.get(flagText ?? "");
    const flag = flagText?.startsWith("--") ? named.get(name)?.flag : undefined;
    if (flag) {
      const value = inlineValue ?? (flag.value ? rest.shift() : undefined) ?? "";
      const before = given.get(name);
      if (before !== undefined && !flag.repeatable) repeated.add(name);
      else given.set(name, before === undefined ? value : `${before}\n${value}`);
    } else if (argument === "--") positionals.push(...rest.splice(0));
    else if (flagText === undefined || argument === "-") positionals.push(argument);
    else if (kind) return { kind };
    else {
      errors.push(`${flagText}: unknown option${didYouMean(name, named.keys(), "--")}, see --help`);
      // The next argument is most likely its value: one error is enough.
      if (inlineValue === undefined && rest[0]?.startsWith("-") === false) rest.shift();
    }
  }
  for (const name of repeated) errors.push(`--${name}: expected only once`);

  /** Flags that were given, whether valid or not. */
  const provided = new Set<keyof T>();
  const values = named.entries().map(([name, { key, flag }]) => {
    const text = given.get(name);
    const [source, found] = text === undefined ? (environment(name, flag, env) ?? []) : [`--${name}`, text];
    if (source === undefined || found === undefined) return [key, flag.fallback];
    provided.add(key);
    const result = flag.parse(found, source);
    if ("value" in result) return [key, result.value];
    errors.push(`${source}: expected ${result.expected}${describeGiven(source, result.got ?? found)}`);
    return [key, flag.fallback];
  });
  // Each value comes from the parser of its own flag, which the type of Object.fromEntries cannot express.
  const options = Object.fromEntries(values) as FlagValues<T>;
  return { options, positionals, provided, errors };
}

/** The name and value of the first environment variable of a flag that is set. */
function environment(option: string, { alsoEnv = "" }: Flag<unknown>, env: Env) {
  const name = [envName(option), alsoEnv].find((name) => env[name]);
  return name === undefined ? undefined : ([name, env[name]] as const);
}

/** The rejected value, for an error message; without secrets and passwords. */
function describeGiven(source: string, text: string): string {
  if (source === "HUBBUB_SECRET") return "";
  return `, got ${JSON.stringify(text.replace(/\/\/[^/]*@/, "//…@"))}`;
}

/** ` (did you mean …?)` with the most similar name, or nothing. @param prefix of the name in the message */
export function didYouMean(name: string, names: Iterable<string>, prefix: string): string {
  const distances = [...names].map((other) => [distanceBetween(name, other), other] as const);
  const [[distance, best] = [Infinity, ""]] = distances.sort(([a], [b]) => a - b);
  return distance <= 1 + name.length / 4 ? ` (did you mean ${prefix}${best}?)` : "";
}

/** Levenshtein distance. */
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

/** A flag without a fallback. */
export function optional<T>(
  value: string,
  help: string,
  more: Pick<Flag<T>, "parse"> & Partial<Flag<T | undefined>>,
) {
  return flag<T | undefined>({ value, fallback: undefined, defaultText: "none", help, ...more });
}

/** A whole number within bounds, both included. */
export function number(
  fallback: number,
  [min, max]: readonly [number, number],
  help: string,
  more: Partial<Flag<number>> = {},
) {
  return flag<number>({
    value: "N",
    fallback,
    help,
    parse(text) {
      const isValid = /^\d{1,9}$/.test(text) && Number(text) >= min && Number(text) <= max;
      return isValid ? { value: Number(text) } : { expected: `${min}–${max}` };
    },
    ...more,
  });
}

/** A list: the flag may be repeated, and one value may hold several, separated by spaces or commas. */
export function list<T>(
  value: string,
  defaultText: string,
  help: string,
  expected: string,
  parseOne: (text: string) => T | undefined,
) {
  return flag<readonly T[]>({
    value,
    fallback: [],
    defaultText,
    repeatable: true,
    help: `${help}; repeatable`,
    parse(text) {
      const given = text.split(/[\s,]+/).filter(Boolean);
      const values = given.map(parseOne).filter((each) => each !== undefined);
      return given.length > 0 && values.length === given.length ? { value: values } : { expected };
    },
  });
}

/** Files: the flag may be repeated, and an environment variable may hold several, separated by commas. */
export function files<T extends object>(
  help: string,
  read: (file: string, source: string) => T | Invalid,
  more: Partial<Flag<readonly T[]>> = {},
) {
  return flag<readonly T[]>({
    value: "FILE",
    fallback: [],
    defaultText: "none",
    repeatable: true,
    help: `${help}; repeatable`,
    parse(text, source) {
      const values: T[] = [];
      const isList = source !== this.alsoEnv;
      for (const file of isList ? text.split(source.startsWith("--") ? "\n" : /\s*,\s*/) : [text]) {
        const value = read(file, source);
        if ("expected" in value) return { expected: value.expected, got: file };
        values.push(value);
      }
      return { value: values };
    },
    ...more,
  });
}

export function toggle(help: string) {
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

/** An http or https origin as a URL, if the text is nothing else. Browsers send no wildcards. */
export function parseOrigin(text: string): URL | undefined {
  const url = /^https?:/.test(text) ? URL.parse(text) : null;
  return url && url.href === `${url.origin}/` && !url.hostname.includes("*") ? url : undefined;
}

/** The `Origin` header of pages of that site, of an app (`capacitor://localhost`) or of a browser extension. */
export function allowedOriginOf(text: string): string | undefined {
  const site = parseOrigin(text);
  if (site) return site.origin;
  const [, scheme = "", host] = /^([a-z][a-z\d+.-]*):\/\/([\w.-]+(?::\d{1,5})?)\/?$/.exec(text) ?? [];
  const isApp = !NEVER_AN_ORIGIN.test(scheme) && didYouMean(scheme, ["http", "https"], "") === "";
  return host && isApp ? `${scheme}://${host}` : undefined;
}

/** Schemes that no page's origin has. */
const NEVER_AN_ORIGIN = /^(wss?|file|ftp|data|blob|about|javascript)$/;

/** Checks the label (RFC 7468), since Bun treats an empty certificate as none and would start without TLS. */
export function readPem(file: string, label: RegExp, what: string) {
  try {
    const value = lazyFs().readFileSync(file, "utf8");
    return label.test(value) ? { value } : { expected: what };
  } catch {
    return { expected: "a readable file" };
  }
}
