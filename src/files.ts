/** Files, of which most starts need none: `node:fs` takes more than a millisecond to load. */

export function files(): typeof import("node:fs") {
  return process.getBuiltinModule("node:fs");
}
