/** What the process counts and measures, in the text format of Prometheus. */

import { openDescriptors } from "../http/descriptors.ts";
import { refusalCodes } from "../http/access.ts";
import { CLOSE_CODES, ERROR_MESSAGES } from "../protocol/codec.ts";
import type { AppendResult, Content, PendingMessage } from "../store/store.ts";

type Labels = Readonly<Record<string, string>>;

interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram";
  /** What stands behind the name, and the value. */
  samples(): Iterable<readonly [suffix: string, labels: Labels, value: number]>;
}

const all: Metric[] = [];

class Counter implements Metric {
  readonly type = "counter";
  #count = 0;

  constructor(
    readonly name: string,
    readonly help: string,
  ) {
    all.push(this);
  }

  add(amount: number): void {
    this.#count += amount;
  }

  samples() {
    return [["", {}, this.#count] as const];
  }
}

/** Counts by the value of a label, of which there are few; each is there from the start, so that its first step shows. */
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
    all.push(this);
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
  /** Of each bucket alone, up to its bound. */
  readonly #counts: number[];
  #count = 0;
  #sum = 0;

  /** @param bounds of the buckets, in seconds, rising */
  constructor(
    readonly name: string,
    readonly help: string,
    private readonly bounds: readonly number[],
  ) {
    this.#counts = bounds.map(() => 0);
    all.push(this);
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

/** A value that is there to be looked at: asked for whenever somebody looks; left out where it cannot be told. */
export function registerGauge(
  name: string,
  help: string,
  value: () => number | undefined,
  labels: Labels = {},
): void {
  look("gauge", name, help, value, labels);
}

function look(
  type: "gauge" | "counter",
  name: string,
  help: string,
  value: () => number | undefined,
  labels: Labels = {},
): void {
  all.push({
    name,
    help,
    type,
    *samples() {
      const now = value();
      if (now !== undefined) yield ["", labels, now];
    },
  });
}

const messagesIn = new Counter("hubbub_received_messages_total", "Messages that were kept.");
const bytesIn = new Counter(
  "hubbub_received_bytes_total",
  "Bytes of the messages that were kept, text in UTF-8.",
);
const messagesOut = new Counter("hubbub_sent_messages_total", "Messages sent to connections of their rooms.");
const bytesOut = new Counter("hubbub_sent_bytes_total", "Bytes of the frames' content of these.");
export const messagesRejected = new Counters(
  "hubbub_refused_messages_total",
  "Messages that were not kept.",
  "reason",
  Object.keys(ERROR_MESSAGES),
);
export const requestsRejected = new Counters(
  "hubbub_refused_requests_total",
  "Requests that were refused.",
  "reason",
  refusalCodes,
);
/** Normal, going away, no code, and no close at all. */
export const CLIENT_CODES: readonly number[] = [1000, 1001, 1005, 1006];
export const disconnectsTotal = new Counters(
  "hubbub_disconnects_total",
  "WebSockets that have ended.",
  "code",
  [...new Set([...CLIENT_CODES, ...Object.values(CLOSE_CODES).map(([code]) => code)]), "other"],
);
export const resumesTotal = new Counters(
  "hubbub_resumes_total",
  "Clients that came back to go on.",
  "recovered",
  ["true", "false"],
);
const storeDelay = new Histogram(
  "hubbub_store_delay_seconds",
  "From giving a message to the store to its answer.",
  [0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10],
);
const loopDelay = new Histogram(
  "hubbub_event_loop_delay_seconds",
  "How late a timer is that should go off every 100 ms.",
  [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
);

/** What became of a message, however it came. */
export function recordAppend({ content, givenMs }: PendingMessage, result: AppendResult): void {
  storeDelay.observe((performance.now() - givenMs) / 1000);
  if ("rejected" in result) messagesRejected.count(result.rejected);
  if (!("stored" in result)) return;
  messagesIn.add(1);
  bytesIn.add(bytesOf(content));
}

export function recordDelivery(message: Content, connections: number): void {
  messagesOut.add(connections);
  bytesOut.add(connections * bytesOf(message));
}

function bytesOf(content: Content): number {
  return typeof content === "string" ? Buffer.byteLength(content) : content.byteLength;
}

const LOOP_PERIOD_MS = 100;

/** Starts to measure how busy the event loop is. */
export function monitorEventLoop(): void {
  let lastMs = performance.now();
  setInterval(() => {
    const nowMs = performance.now();
    loopDelay.observe(Math.max(0, nowMs - lastMs - LOOP_PERIOD_MS) / 1000);
    lastMs = nowMs;
  }, LOOP_PERIOD_MS).unref();
}

/** What every program shows that Prometheus watches, by its names. */
export function watchProcess(maxDescriptors: number): void {
  const startSeconds = Math.round(performance.timeOrigin) / 1000;
  look("counter", "process_cpu_seconds_total", "CPU time that the process has used.", () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  const resident = "process_resident_memory_bytes";
  registerGauge(resident, "Memory of the process that is not swapped out.", () => process.memoryUsage.rss());
  registerGauge("process_start_time_seconds", "When the process started, in Unix time.", () => startSeconds);
  registerGauge("process_open_fds", "File descriptors that are open.", openDescriptors);
  registerGauge("process_max_fds", "File descriptors that may be open.", () =>
    maxDescriptors === Infinity ? undefined : maxDescriptors,
  );
}

/** Prometheus' text format, version 0.0.4. */
export function renderMetrics(): string {
  const lines: string[] = [];
  for (const metric of all) {
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
