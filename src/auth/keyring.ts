/** The keys of a server: they verify tokens, and are read again when their files change. */

import { logEvent } from "../ops/log.ts";
import type { Clock } from "../util/clock.ts";
import { isReadableAgain, readKeyFile, type KeySource } from "./key-files.ts";
import type { Key } from "./keys.ts";
import { INVALID, parseClaims, parseToken, type Claims, type InvalidToken } from "./tokens.ts";

const CHECK_MS = 10_000;
/** Keys that a token is tried with: verifying takes 0.1 ms, and rejecting must not take more than a millisecond. */
const MAX_TRIED = 8;

/** The verified content of a token, and the key that verified it. */
export interface VerifiedToken extends Claims {
  readonly key: Key;
}

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

  /** Reads the files every 10 s. */
  watch(clock: Clock, onChange: () => void): void {
    if (this.hasFiles) clock.setInterval(() => this.#readAgain() && onChange(), CHECK_MS).unref();
  }

  /** Reads the files now, and logs the result even if nothing is new. @returns whether keys have changed */
  reload(): boolean {
    this.#problems.clear();
    const isChanged = this.#readAgain();
    if (!isChanged && this.#problems.size === 0) logEvent("keys unchanged");
    return isChanged;
  }

  /** A file that cannot be used leaves its keys as they are. */
  #readAgain(): boolean {
    const sources = this.sources.map((source) => this.#readSourceAgain(source));
    const isChanged = sources.some((source, i) => source !== this.sources[i]);
    this.sources = sources;
    return isChanged;
  }

  #readSourceAgain(source: KeySource): KeySource {
    const { kind, file } = source;
    if (file === undefined || !isReadableAgain(file)) return source;
    const read = readKeyFile(kind, file);
    if ("expected" in read) {
      if (this.#problems.get(file) !== read.expected)
        logEvent("keys rejected", { file, expected: read.expected, keeping: "the previous keys" });
      this.#problems.set(file, read.expected);
      return source;
    }
    this.#problems.delete(file);
    if (read.content.equals(source.content)) return source;
    logEvent("keys reloaded", { file, keys: read.keys.length });
    return read;
  }

  get #keys(): readonly Key[] {
    return this.sources.flatMap(({ keys }) => keys);
  }
}
