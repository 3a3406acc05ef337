/** Preloaded: a part of the memory store fails, or never ends; `BREAK` says which. */

import { MemoryStore } from "../../src/store/memory.ts";

const fail = (what: string) => () => Promise.reject(new Error(`injected into ${what}`));

switch (process.env.BREAK) {
  case "start":
    Object.assign(MemoryStore.prototype, { start: fail("start") });
    break;
  case "settle":
    MemoryStore.prototype.settle = fail("settle");
    break;
  case "late settle":
    MemoryStore.prototype.settle = () => new Promise(() => {});
    break;
  case "end":
    Object.assign(MemoryStore.prototype, { end: fail("end") });
    break;
  default:
    throw new Error(`nothing to break: ${process.env.BREAK}`);
}
