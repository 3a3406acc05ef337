/** The stores that a simulated server opens. */

import { MemoryStore } from "../../src/store/memory.ts";
import type { Backend, StoreListener } from "../../src/store/store.ts";
import type { Owner, World } from "./world.ts";

export type StoreKind = "memory";

/** What outlives a server's process. */
export interface Disk {
  /** Opens the store for a new process. */
  open(listener: StoreListener, owner: Owner): Backend;
  /** Whether a new process finds what the last one stored. */
  readonly isPersistent: boolean;
}

export function createDisk(_kind: StoreKind, world: World, history: number): Disk {
  return {
    isPersistent: false,
    open: ({ onMessage }, owner) => ({
      store: new MemoryStore(history, onMessage, world.clockOf(owner), world.randomOf()),
    }),
  };
}
