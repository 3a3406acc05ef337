/** Results: medians, and their table. */

import { cpus, release, type } from "node:os";
import { TOO_BUSY, type Run } from "./load.ts";
import { SIDES, type Side } from "./servers.ts";
import type { Wire } from "./connection.ts";

/** One server in one scenario. */
interface Outcome {
  /** Deliveries per second of the server's CPU time; 0 if that was too little to measure. */
  readonly perCpuSecond: number;
  readonly lowest: number;
  readonly highest: number;
  readonly p50: number;
  readonly p99: number;
  readonly generatorBusy: number;
  readonly runs: readonly Run[];
}

export interface Result {
  readonly scenario: string;
  readonly wire: Wire;
  /** Hubbub to plain; 0 if the CPU time was too little to measure. */
  readonly ratio: number;
  readonly ours: Outcome;
  readonly plain: Outcome;
}

/** A scenario without figures, with the reason. */
export interface Failure {
  readonly scenario: string;
  readonly wire: Wire;
  readonly failure: string;
}

export type Row = Result | Failure;

export function isMeasured(row: Row): row is Result {
  return !("failure" in row);
}

export interface Results {
  readonly machine: Readonly<Record<"cpu" | "os" | "bun" | "date", string> & { cores: number }>;
  readonly results: readonly Result[];
}

/** Below this, timers and garbage collection weigh more than deliveries. */
const LEAST_CPU_SECONDS = 0.1;

export function machine(): Results["machine"] {
  const [cpu] = cpus();
  return {
    cpu: cpu?.model.trim() ?? "unknown",
    cores: cpus().length,
    os: `${type()} ${release()}`,
    bun: Bun.version,
    date: new Date().toISOString().slice(0, 10),
  };
}

export function summarize(
  scenario: string,
  wire: Wire,
  runs: Readonly<Record<Side, readonly Run[]>>,
): Result {
  const [ours, plain] = [outcome(runs.ours), outcome(runs.plain)];
  const hasCpu = ours.perCpuSecond > 0 && plain.perCpuSecond > 0;
  return {
    scenario,
    wire,
    ratio: hasCpu ? round(ours.perCpuSecond / plain.perCpuSecond, 2) : 0,
    ours,
    plain,
  };
}

function outcome(runs: readonly Run[]): Outcome {
  const hasCpu = median(runs.map(({ cpuSeconds }) => cpuSeconds)) >= LEAST_CPU_SECONDS;
  const rates = hasCpu ? runs.map(({ deliveries, cpuSeconds }) => Math.round(deliveries / cpuSeconds)) : [0];
  return {
    perCpuSecond: median(rates),
    lowest: Math.min(...rates),
    highest: Math.max(...rates),
    p50: round(median(runs.map(({ p50 }) => p50)), 2),
    p99: round(median(runs.map(({ p99 }) => p99)), 2),
    generatorBusy: round(median(runs.map(({ busy }) => busy)), 2),
    runs: runs.map((run) => ({
      ...run,
      seconds: round(run.seconds, 3),
      cpuSeconds: round(run.cpuSeconds, 4),
      p50: round(run.p50, 3),
      p99: round(run.p99, 3),
      busy: round(run.busy, 3),
    })),
  };
}

const WIRE_NAMES: Record<Wire, string> = { text: "text", json: "JSON", sse: "SSE", echo: "text" };

/** Lines of Markdown, also for the terminal; README.md has the same. */
export function table(measured: readonly Row[]): string[] {
  const rows = [
    ["scenario", "wire", "Hubbub", "plain", "ratio", "Hubbub p50 / p99", "plain p50 / p99"],
    ...measured.map((row) => [
      row.scenario,
      WIRE_NAMES[row.wire],
      ...(isMeasured(row) ? figures(row) : ["–", "–", "–", "–", `failed: ${row.failure}`]),
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  const lines = rows.map((row) => `| ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join(" | ")} |`);
  return [lines[0] ?? "", `| ${widths.map((width) => "-".repeat(width)).join(" | ")} |`, ...lines.slice(1)];
}

function figures({ ratio, ours, plain }: Result): string[] {
  return [
    figure(ours),
    figure(plain),
    ratio > 0 ? ratio.toFixed(2) : "–",
    `${ours.p50.toFixed(2)} / ${ours.p99.toFixed(2)} ms`,
    `${plain.p50.toFixed(2)} / ${plain.p99.toFixed(2)} ms`,
  ];
}

/** Names the runs in which the generator may have been the bottleneck. */
export function warnings({ results }: Results): string[] {
  return results.flatMap((result) =>
    SIDES.filter((side) => result[side].generatorBusy > TOO_BUSY).map(
      (side) =>
        `The load generator was the bottleneck (${Math.round(100 * result[side].generatorBusy)} % of a core): ` +
        `${result.scenario}, ${result.wire}, ${side}. The CPU time is the server's nevertheless; the latency includes the generator's.`,
    ),
  );
}

function figure({ perCpuSecond, lowest, highest }: Outcome): string {
  if (perCpuSecond === 0) return "–";
  return `${thousands(perCpuSecond)} (${thousands(lowest)}–${thousands(highest)})`;
}

function thousands(number: number): string {
  return `${Math.round(number / 1000)}k`;
}

function median(numbers: readonly number[]): number {
  const sorted = Float64Array.from(numbers).sort();
  const { length } = sorted;
  return ((sorted[(length - 1) >> 1] ?? NaN) + (sorted[length >> 1] ?? NaN)) / 2;
}

function round(number: number, digits: number): number {
  return Number(number.toFixed(digits));
}
