/** The keys of a server: they verify tokens, and are read again when their files change. */

import { logEvent } from "../ops/log.ts";
import type { Clock } from "../util/clock.ts";
import { isReadableAgain, readKeyFile, type KeySource } from "./key-files.ts";
import type { InvalidKeys, Key } from "./keys.ts";
import { INVALID, parseClaims, parseToken, type Claims, type InvalidToken } from "./tokens.ts";

const CHECK_MS = 10_000;
/** A file that is being written is not the same after this time. */
const CONFIRM_MS = 1000;
/** Keys that a token is tried with: verifying takes 0.1 ms, and rejecting must not take more than a millisecond. */
const MAX_TRIED = 8;

/** The verified content of a token, and the key that verified it. */
export interface VerifiedToken extends Claims {
  readonly key: Key;
}

type ReadFile = KeySource | InvalidKeys;

export class Keyring {
  /** By file: the problem that was logged last. */
  readonly #problems = new Map<string, string>();

  constructor(private sources: readonly KeySource[]) {}

  /** Without keys, no tokens are required. */
  get isEmpty(): boolean {
    return this.sources.length === 0;
  }

  /** Whether there are files to read again. */
  get hasFiles(): boolean {
    return this.sources.some(({ file }) => file !== undefined);
  }

  /** Whether tokens that this key has verified are still valid. */
  has({ id }: Key): boolean {
    return this.#keys.some((key) => key.id === id);
  }

  /** @returns the token's content if it is valid at `nowMs` (Unix time); otherwise why not, for the client */
  verify(token: string, nowMs: number): VerifiedToken | InvalidToken {
    const parsed = parseToken(token);
    if (!parsed) return INVALID;
    const { algorithm, kid, signed, signature } = parsed;
    const key = this.#keys
      .values()
      .filter((key) => key.algorithms.includes(algorithm))
      .filter((key) => kid === undefined || key.kid === undefined || key.kid === kid)
      .take(MAX_TRIED)
      .find((key) => key.verify(signed, signature));
    if (!key) return INVALID;
    const claims = parseClaims(parsed.payload, nowMs, key.isPublic);
    return "detail" in claims ? claims : { ...claims, key };
  }

  /** Reads the files every 10 s. What is new counts once a second read finds the same, because it may be half-written. */
  watch(clock: Clock, onChange: () => void): void {
    if (!this.hasFiles) return;
    const check = () => {
      const first = this.#readFiles();
      if (first.every((read, i) => isSame(read, this.sources[i]))) return this.#problems.clear();
      const confirm = () => {
        const second = this.#readFiles();
        if (this.#use(second.map((read, i) => (isSame(read, first[i]) ? read : undefined)))) onChange();
      };
      clock.setTimeout(confirm, CONFIRM_MS).unref();
    };
    clock.setInterval(check, CHECK_MS).unref();
  }

  /** Reads the files now, and logs the result even if nothing is new. @returns whether keys have changed */
  reload(): boolean {
    this.#problems.clear();
    const isChanged = this.#use(this.#readFiles());
    if (!isChanged && this.#problems.size === 0) logEvent("keys unchanged");
    return isChanged;
  }

  #readFiles(): readonly ReadFile[] {
    return this.sources.map((source) => {
      const { kind, file } = source;
      return file === undefined || !isReadableAgain(file) ? source : readKeyFile(kind, file);
    });
  }

  /** @param files undefined to leave one as it is @returns whether keys have changed */
  #use(files: readonly (ReadFile | undefined)[]): boolean {
    const sources = this.sources.map((source, i) => this.#choose(source, files[i]));
    const isChanged = sources.some((source, i) => source !== this.sources[i]);
    this.sources = sources;
    return isChanged;
  }

  /** A file that cannot be used leaves its keys as they are. */
  #choose(source: KeySource, read: ReadFile | undefined): KeySource {
    const { file } = source;
    if (file === undefined || read === undefined) return source;
    if ("expected" in read) {
      if (this.#problems.get(file) !== read.expected)
        logEvent("keys rejected", { file, expected: read.expected, keeping: "the previous keys" });
      this.#problems.set(file, read.expected);
      return source;
    }
    this.#problems.delete(file);
    if (isSame(read, source)) return source;
    logEvent("keys reloaded", { file, keys: read.keys.length });
    return read;
  }

  get #keys(): readonly Key[] {
    return this.sources.flatMap(({ keys }) => keys);
  }
}

function isSame(one: ReadFile, other: ReadFile | undefined): boolean {
  if (other === undefined) return false;
  if ("expected" in one) return "expected" in other && one.expected === other.expected;
  return "content" in other && one.content.equals(other.content);
}
