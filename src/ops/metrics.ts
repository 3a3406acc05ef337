/** Counters, gauges and histograms of this process, in the text format of Prometheus. */

import { CLOSE_CODES, ERROR_MESSAGES, REJECTION_STATUS } from "../protocol/codes.ts";
import type { Clock } from "../util/clock.ts";
import { lazyFs } from "../util/lazy-node.ts";

type Labels = Readonly<Record<string, string>>;

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  /** Each sample: what follows the name, the labels, and the value. */
  samples(): Iterable<readonly [suffix: string, labels: Labels, value: number]>;
}

const registry: Metric[] = [];

class Counter implements Metric {
  readonly type = "counter";
  #count = 0;

  constructor(
    readonly name: string,
    readonly help: string,
  ) {
    registry.push(this);
  }

  add(amount: number): void {
    this.#count += amount;
  }

  samples() {
    return [["", {}, this.#count] as const];
  }
}

/**
 * A counter with one label that has few values. Each value is present from the start, at 0: Prometheus would not see
 * the first increment of a series that appears with it.
 */
class Counters implements Metric {
  readonly type = "counter";
  readonly #counts = new Map<string | number, number>();

  constructor(
    readonly name: string,
    readonly help: string,
    private readonly label: string,
    values: readonly (string | number)[],
  ) {
    for (const value of values) this.#counts.set(value, 0);
    registry.push(this);
  }

  count(value: string | number): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
  }

  *samples() {
    for (const [value, count] of this.#counts) yield ["", { [this.label]: `${value}` }, count] as const;
  }
}

class Histogram implements Metric {
  readonly type = "histogram";
  /** Per bucket, not cumulative. */
  readonly #counts: number[];
  #count = 0;
  #sum = 0;

  /** @param bounds upper bounds of the buckets in seconds, ascending */
  constructor(
    readonly name: string,
    readonly help: string,
    private readonly bounds: readonly number[],
  ) {
    this.#counts = bounds.map(() => 0);
    registry.push(this);
  }

  observe(seconds: number): void {
    this.#count++;
    this.#sum += seconds;
    let i = 0;
    while (seconds > (this.bounds[i] ?? Infinity)) i++;
    this.#counts[i] = (this.#counts[i] ?? 0) + 1;
  }

  *samples() {
    let below = 0;
    for (const [i, bound] of this.bounds.entries())
      yield ["_bucket", { le: `${bound}` }, (below += this.#counts[i] ?? 0)] as const;
    yield ["_bucket", { le: "+Inf" }, this.#count] as const;
    yield ["_sum", {}, this.#sum] as const;
    yield ["_count", {}, this.#count] as const;
  }
}

/** Registers a gauge whose value is read at each scrape; it is omitted while the value is undefined. */
export function registerGauge(
  name: string,
  help: string,
  value: () => number | undefined,
  labels: Labels = {},
): void {
  register("gauge", name, help, value, labels);
}

function register(
  type: "gauge" | "counter",
  name: string,
  help: string,
  value: () => number | undefined,
  labels: Labels = {},
): void {
  registry.push({
    name,
    help,
    type,
    *samples() {
      const current = value();
      if (current !== undefined) yield ["", labels, current];
    },
  });
}

const messagesIn = new Counter("hubbub_received_messages_total", "Messages stored.");
const bytesIn = new Counter("hubbub_received_bytes_total", "Bytes of the stored messages, text in UTF-8.");
const messagesOut = new Counter(
  "hubbub_sent_messages_total",
  "Messages delivered, counted once per connection.",
);
const bytesOut = new Counter("hubbub_sent_bytes_total", "Payload bytes of the delivered frames.");
export const messagesRejected = new Counters(
  "hubbub_rejected_messages_total",
  "Messages rejected.",
  "reason",
  Object.keys(ERROR_MESSAGES),
);
export const requestsRejected = new Counters(
  "hubbub_rejected_requests_total",
  "HTTP requests and WebSocket upgrades rejected.",
  "reason",
  Object.keys(REJECTION_STATUS),
);
/** Close codes that clients cause: normal, going away, no code, no close frame. */
export const CLIENT_CODES: readonly number[] = [1000, 1001, 1005, 1006];
export const disconnectsTotal = new Counters(
  "hubbub_disconnects_total",
  "WebSocket connections closed.",
  "code",
  [...new Set([...CLIENT_CODES, ...Object.values(CLOSE_CODES).map(([code]) => code)]), "other"],
);
export const resumesTotal = new Counters("hubbub_resumes_total", "Resume attempts.", "recovered", [
  "true",
  "false",
]);
const storeDelay = new Histogram(
  "hubbub_store_delay_seconds",
  "Time from passing a message to the store to its result.",
  [0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
);
const loopDelay = new Histogram(
  "hubbub_event_loop_delay_seconds",
  "How late a 100 ms timer fires: how busy the event loop is.",
  [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
);

/** Records the result of an append. @param seconds since the message was passed to the store */
export function recordAppend(seconds: number): void {
  storeDelay.observe(seconds);
}

/** Counts a message that was stored; duplicates are not counted. */
export function recordStored(content: string | Uint8Array): void {
  messagesIn.add(1);
  bytesIn.add(Buffer.byteLength(content));
}

/** Counts a broadcast or a replayed message. */
export function recordDelivery(frame: string | Uint8Array, connections: number): void {
  messagesOut.add(connections);
  bytesOut.add(connections * Buffer.byteLength(frame));
}

const LOOP_PERIOD_MS = 100;

/** Starts to measure the delay of the event loop. */
export function monitorEventLoop(clock: Clock): void {
  let lastMs = clock.elapsed();
  clock
    .setInterval(() => {
      const nowMs = clock.elapsed();
      loopDelay.observe(Math.max(0, nowMs - lastMs - LOOP_PERIOD_MS) / 1000);
      lastMs = nowMs;
    }, LOOP_PERIOD_MS)
    .unref();
}

/** Registers the standard process metrics, with the names and help texts of the Prometheus client libraries. */
export function watchProcess(maxDescriptors: number): void {
  const startSeconds = Math.round(performance.timeOrigin) / 1000;
  register("counter", "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  const resident = "process_resident_memory_bytes";
  registerGauge(resident, "Resident memory size in bytes.", () => process.memoryUsage.rss());
  registerGauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
    () => startSeconds,
  );
  registerGauge("process_open_fds", "Number of open file descriptors.", openDescriptors);
  registerGauge("process_max_fds", "Maximum number of open file descriptors.", () =>
    maxDescriptors === Infinity ? undefined : maxDescriptors,
  );
}

/** File descriptors open now; undefined on a system without /dev/fd. */
function openDescriptors(): number | undefined {
  try {
    return lazyFs().readdirSync("/dev/fd").length - 1; // without the descriptor that reads the folder
  } catch {
    return undefined;
  }
}

/** @returns all metrics in the Prometheus text format, version 0.0.4 */
export function renderMetrics(): string {
  const lines: string[] = [];
  for (const metric of registry) {
    const samples = [...metric.samples()];
    if (samples.length === 0) continue;
    lines.push(`# HELP ${metric.name} ${metric.help}`, `# TYPE ${metric.name} ${metric.type}`);
    for (const [suffix, labels, value] of samples) {
      const pairs = Object.entries(labels).map(([name, label]) => `${name}=${JSON.stringify(label)}`);
      lines.push(`${metric.name}${suffix}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
