/** Node's own modules that take a millisecond or more to load: most starts need none of them. */

export function lazyFs(): typeof import("node:fs") {
  return process.getBuiltinModule("node:fs");
}

export function lazyOs(): typeof import("node:os") {
  return process.getBuiltinModule("node:os");
}

export function tty(): typeof import("node:tty") {
  return process.getBuiltinModule("node:tty");
}
