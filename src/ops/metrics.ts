/** Counters, gauges and histograms of this process, in the text format of Prometheus. */

import { CLOSE_CODES, ERROR_MESSAGES, REJECTION_STATUS } from "../protocol/codes.ts";
import type { Clock } from "../util/clock.ts";
import { lazyFs } from "../util/lazy-node.ts";

type Labels = Readonly<Record<string, string>>;

/** What follows a metric's name, the labels, and the value. */
type Sample = readonly [suffix: string, labels: Labels, value: number];

/** The metrics in their order of registration; samples are read at each scrape. */
const registry: { type: string; name: string; help: string; samples: () => Iterable<Sample> }[] = [];

function counter(name: string, help: string) {
  let count = 0;
  registry.push({ type: "counter", name, help, samples: () => [["", {}, count]] });
  return { add: (amount: number) => void (count += amount) };
}

/**
 * A counter with one label that has few values. Each value is present from the start, at 0: Prometheus would not see
 * the first increment of a series that appears with it.
 */
function counters(name: string, help: string, label: string, values: readonly (string | number)[]) {
  const counts = new Map(values.map((value) => [value, 0]));
  const samples = () =>
    counts.entries().map(([value, count]): Sample => ["", { [label]: `${value}` }, count]);
  registry.push({ type: "counter", name, help, samples });
  return { count: (value: string | number) => void counts.set(value, (counts.get(value) ?? 0) + 1) };
}

/** @param bounds upper bounds of the buckets in seconds, ascending */
function histogram(name: string, help: string, bounds: readonly number[]) {
  /** Per bucket, not cumulative; the last one has no bound. */
  const counts = [...bounds, Infinity].map(() => 0);
  let sum = 0;
  function* samples(): Generator<Sample> {
    let below = 0;
    for (const [i, count] of counts.entries())
      yield ["_bucket", { le: `${bounds[i] ?? "+Inf"}` }, (below += count)];
    yield ["_sum", {}, sum];
    yield ["_count", {}, below];
  }
  registry.push({ type: "histogram", name, help, samples });
  return {
    observe(seconds: number): void {
      sum += seconds;
      let i = 0;
      while (seconds > (bounds[i] ?? Infinity)) i++;
      counts[i] = (counts[i] ?? 0) + 1;
    },
  };
}

/** Registers a gauge, or a counter that the system keeps, whose value is read at each scrape; it is omitted while undefined. */
export function register(
  type: "gauge" | "counter",
  name: string,
  help: string,
  read: () => number | undefined,
  labels: Labels = {},
): void {
  function* samples(): Generator<Sample> {
    const value = read();
    if (value !== undefined) yield ["", labels, value];
  }
  registry.push({ type, name, help, samples });
}

const messagesIn = counter("hubbub_received_messages_total", "Messages stored.");
const bytesIn = counter("hubbub_received_bytes_total", "Bytes of the stored messages, text in UTF-8.");
const messagesOut = counter("hubbub_sent_messages_total", "Messages delivered, counted once per connection.");
const bytesOut = counter("hubbub_sent_bytes_total", "Payload bytes of the delivered frames.");
export const messagesRejected = counters(
  "hubbub_rejected_messages_total",
  "Messages rejected.",
  "reason",
  Object.keys(ERROR_MESSAGES),
);
export const requestsRejected = counters(
  "hubbub_rejected_requests_total",
  "HTTP requests and WebSocket upgrades rejected.",
  "reason",
  Object.keys(REJECTION_STATUS),
);
/** Close codes that clients cause: normal, going away, no code, no close frame. */
export const CLIENT_CODES: readonly number[] = [1000, 1001, 1005, 1006];
export const disconnectsTotal = counters(
  "hubbub_disconnects_total",
  "WebSocket connections closed.",
  "code",
  [...new Set([...CLIENT_CODES, ...Object.values(CLOSE_CODES).map(([code]) => code)]), "other"],
);
export const resumesTotal = counters("hubbub_resumes_total", "Resume attempts.", "recovered", [
  "true",
  "false",
]);
export const moderationsTotal = counters("hubbub_moderations_total", "Actions of moderators.", "action", [
  "remove-message",
  "remove-client",
  "disconnect",
]);
export const storeDelay = histogram(
  "hubbub_store_delay_seconds",
  "Time from passing a message to the store to its result.",
  [0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
);
const loopDelay = histogram(
  "hubbub_event_loop_delay_seconds",
  "How late a 100 ms timer fires: how busy the event loop is.",
  [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
);

/** Counts a message that was stored; duplicates are not counted. */
export function recordStored(content: string | Uint8Array): void {
  messagesIn.add(1);
  bytesIn.add(Buffer.byteLength(content));
}

/** Counts a broadcast or replayed message or removal. */
export function recordDelivery(frame: string | Uint8Array, isMessage: boolean, connections: number): void {
  if (isMessage) messagesOut.add(connections);
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
  const max = maxDescriptors === Infinity ? undefined : maxDescriptors;
  register("counter", "process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  const [resident, start] = ["process_resident_memory_bytes", "process_start_time_seconds"];
  register("gauge", resident, "Resident memory size in bytes.", () => process.memoryUsage.rss());
  register("gauge", start, "Start time of the process since unix epoch in seconds.", () => startSeconds);
  register("gauge", "process_open_fds", "Number of open file descriptors.", openDescriptors);
  register("gauge", "process_max_fds", "Maximum number of open file descriptors.", () => max);
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
  for (const { type, name, help, samples } of registry) {
    const rows = [...samples()].map(([suffix, labels, value]) => {
      const pairs = Object.entries(labels).map(([label, text]) => `${label}=${JSON.stringify(text)}`);
      return `${name}${suffix}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}`;
    });
    if (rows.length > 0) lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...rows);
  }
  return `${lines.join("\n")}\n`;
}
