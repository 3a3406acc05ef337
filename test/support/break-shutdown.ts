/** Preloaded: the step of the memory store that `BREAK` names fails, or never ends. */

import { MemoryStore } from "../../src/store/memory.ts";

const fail = (what: string) => () => Promise.reject(new Error(`injected into ${what}`));

switch (process.env.BREAK) {
  case "open":
    Object.assign(MemoryStore.prototype, { open: fail("open") });
    break;
  case "drain":
    MemoryStore.prototype.drain = fail("drain");
    break;
  case "endless drain":
    MemoryStore.prototype.drain = () => new Promise(() => {});
    break;
  case "close":
    Object.assign(MemoryStore.prototype, { close: fail("close") });
    break;
  default:
    throw new Error(`nothing to break: ${process.env.BREAK}`);
}
