/** Metrics of a store, recorded outside of it. */

import { messagesRejected, recordStored, storeDelay } from "../ops/metrics.ts";
import type { Clock } from "../util/clock.ts";
import type { Backend } from "./store.ts";

/** Records the duration and the outcome of each append, whichever way the message came in. */
export function measured(backend: Backend, clock: Clock): Backend {
  const { store } = backend;
  const append = store.append.bind(store);
  store.append = (pending, callback) => {
    const startMs = clock.elapsed();
    append(pending, {
      onResult(_, result) {
        storeDelay.observe((clock.elapsed() - startMs) / 1000);
        if ("stored" in result) recordStored(pending.content);
        else if ("rejected" in result) messagesRejected.count(result.rejected);
        callback.onResult(pending, result);
      },
    });
  };
  return backend;
}
