/** Node's modules that take a millisecond or more to load, loaded on first use: most starts need none of them. */

let fs: typeof import("node:fs") | undefined;

export function lazyFs(): typeof import("node:fs") {
  return (fs ??= process.getBuiltinModule("node:fs")); // the SQLite store needs it several times for each commit
}

export function lazyOs(): typeof import("node:os") {
  return process.getBuiltinModule("node:os");
}

export function lazyTty(): typeof import("node:tty") {
  return process.getBuiltinModule("node:tty");
}

export function lazyCrypto(): typeof import("node:crypto") {
  return process.getBuiltinModule("node:crypto");
}
