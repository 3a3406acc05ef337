/** The two servers that are compared, each in a separate process, and their CPU time. */

import { dlopen, ptr } from "bun:ffi";
import { withDeadline } from "../support/deadline.ts";

const COMMANDS = {
  ours: ["../../src/server.ts", "--port", "0", "--message-rate", "0", "--log", "off"],
  plain: ["plain.ts"],
} as const;

export type Side = keyof typeof COMMANDS;
export const SIDES: readonly Side[] = ["ours", "plain"];

const clock = cpuClock();
/** Elsewhere, wall time stands for CPU time. */
export const isCpuMeasured = clock !== undefined;

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
    const read = async () => {
      for await (const chunk of server.stdout.pipeThrough(new TextDecoderStream())) {
        greeting += chunk;
        if (greeting.includes("\n")) break;
      }
    };
    const complain = () => `${file} did not start: ${greeting}`;
    await withDeadline(read(), complain);
    const port = Number(/:(\d+)\//.exec(greeting)?.[1]);
    if (!port) throw new Error(complain());
    return new Server(server, port);
  }

  /** User and system time of all threads. */
  readonly cpuSeconds = (): number => clock?.(this.process.pid) ?? performance.now() / 1000;

  [Symbol.dispose](): void {
    this.process.kill("SIGKILL");
  }
}

/** Reads a process's CPU clock, which is exact to the nanosecond, while /proc counts ticks of 10 ms (clock_getcpuclockid(3)). */
function cpuClock(): ((pid: number) => number) | undefined {
  if (process.platform !== "linux") return undefined;
  try {
    const { symbols } = dlopen("libc.so.6", {
      clock_gettime: { args: ["i32", "ptr"], returns: "i32" },
    });
    const time = new BigInt64Array(2);
    return (pid) => {
      // The kernel's encoding: the complement of the id, and 2 for what the scheduler has counted.
      if (symbols.clock_gettime((~pid << 3) | 2, ptr(time)) !== 0) throw new Error("the server has ended");
      return Number(time[0]) + Number(time[1]) / 1e9;
    };
  } catch {
    return undefined;
  }
}
