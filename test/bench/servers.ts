/** The two servers that are compared, each in a separate process, and their CPU time. */

import { readFileSync } from "node:fs";

const COMMANDS = {
  ours: ["../../src/server.ts", "--port", "0", "--message-rate", "0", "--log", "off"],
  plain: ["plain.ts"],
} as const;

export type Side = keyof typeof COMMANDS;
export const SIDES: readonly Side[] = ["ours", "plain"];

/** USER_HZ: fixed for programs on Linux, whatever the kernel's timer frequency. */
const TICKS_PER_SECOND = 100;
/** Elsewhere, wall time stands for CPU time. */
export const isCpuMeasured = process.platform === "linux";

export class Server implements Disposable {
  private constructor(
    private readonly process: Bun.Subprocess,
    readonly port: number,
  ) {}

  static async start(side: Side): Promise<Server> {
    const [file, ...args] = COMMANDS[side];
    const server = Bun.spawn([process.execPath, `${import.meta.dir}/${file}`, ...args], {
      // Default options, whatever is set in this shell.
      env: Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(HUBBUB_|PORT$)/.test(name))),
      stdout: "pipe",
      stderr: "inherit",
    });
    let greeting = "";
    for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream())) {
      greeting += chunk;
      if (greeting.includes("\n")) break;
    }
    const port = Number(/:(\d+)\//.exec(greeting)?.[1]);
    if (!port) throw new Error(`${file} did not start: ${greeting}`);
    return new Server(server, port);
  }

  /** User and system time of all threads (proc(5), fields 14 and 15 of stat). */
  readonly cpuSeconds = (): number => {
    if (!isCpuMeasured) return performance.now() / 1000;
    const stat = readFileSync(`/proc/${this.process.pid}/stat`, "latin1");
    // The second field is a name in parentheses, which may contain spaces.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  };

  [Symbol.dispose](): void {
    this.process.kill("SIGKILL");
  }
}
