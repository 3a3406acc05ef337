/** Files of keys: a secret, or public keys. */

import { lazyFs } from "../util/lazy-node.ts";
import { Secret, type InvalidKeys, type Keys } from "./keys.ts";
import { parsePublicKeys } from "./public-keys.ts";

/** The size of the hash: the minimum that RFC 7518, section 3.2 requires. */
const MIN_SECRET_BYTES = 32;

/** More than any set of keys takes: reading holds up the server. */
const MAX_FILE_BYTES = 1024 * 1024;

/** `secret` is a file whose text is one secret, `public` a file of public keys. */
type KeyKind = "secret" | "public";

/** Keys, and where they come from. */
export interface KeySource {
  readonly kind: KeyKind;
  /** Undefined for a secret in the environment. */
  readonly file: string | undefined;
  readonly content: Buffer;
  readonly keys: Keys;
}

export function readKeyFile(kind: KeyKind, file: string): KeySource | InvalidKeys {
  const { readFileSync, statSync } = lazyFs();
  let content: Buffer;
  try {
    if (statSync(file).size > MAX_FILE_BYTES) return { expected: "a file of at most 1 MiB" };
    content = readFileSync(file);
  } catch {
    return { expected: "a readable file" };
  }
  return kind === "secret"
    ? parseSecret(withoutLineBreak(content), file)
    : parsed(kind, file, content, parsePublicKeys(content.toString()));
}

/** @param file undefined for a secret in the environment */
export function parseSecret(content: Buffer, file?: string): KeySource | InvalidKeys {
  if (content.includes("-----BEGIN "))
    return { expected: "a secret that nobody else knows; public keys belong to --public-key-file" };
  if (content.length < MIN_SECRET_BYTES)
    return { expected: `a secret of at least ${MIN_SECRET_BYTES} bytes` };
  return parsed("secret", file, content, [new Secret(content)]);
}

function parsed(
  kind: KeyKind,
  file: string | undefined,
  content: Buffer,
  keys: Keys | InvalidKeys,
): KeySource | InvalidKeys {
  return "expected" in keys ? keys : { kind, file, content, keys };
}

/** An editor appends one. */
function withoutLineBreak(bytes: Buffer): Buffer {
  const hasNewline = bytes.at(-1) === 0x0a;
  return bytes.subarray(0, bytes.length - (hasNewline ? (bytes.at(-2) === 0x0d ? 2 : 1) : 0));
}

/** Whether reading the file again ends at once, unlike a pipe or a terminal; it may fail. */
export function isReadableAgain(file: string): boolean {
  try {
    const stats = lazyFs().statSync(file);
    return stats.isFile() || stats.isDirectory();
  } catch {
    return true;
  }
}
