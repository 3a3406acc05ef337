/** Real Postgres clusters: one that tests share, with a schema each, or one of their own to kill and freeze. */

import { $, SQL } from "bun";
import { statfsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { eventually } from "./deadline.ts";
import { freePort } from "./http.ts";
import { findPostgres } from "./programs.ts";

const { path: program, skipped } = findPostgres();
export { skipped };

/** Whether commits wait for the disk. */
const VOLATILE = { fsync: "off" };
export const DURABLE = { fsync: "on" };
/** Many servers share one cluster. */
const COMMON = { max_connections: "300", shared_buffers: "64MB" };

/** Memory where there is enough of it: copying and removing the thousand files of a cluster on a disk takes seconds. */
const PARENT = hasSpace("/dev/shm") ? "/dev/shm" : tmpdir();

/** Postgres refuses to run as root. */
const [USER, GROUP] = ["nobody", "nogroup"];
const isRoot = process.getuid?.() === 0;
const AS_USER = isRoot ? ["setpriv", `--reuid=${USER}`, `--regid=${GROUP}`, "--clear-groups"] : [];

interface Setup {
  readonly settings?: Readonly<Record<string, string>>;
  /** The lines of pg_hba.conf; by default everyone on this machine may connect without a password. */
  readonly access?: string;
}

export class Postgres implements AsyncDisposable {
  #process: Bun.Subprocess | undefined;

  private constructor(
    readonly port: number,
    /** Also has the Unix socket. */
    readonly folder: string,
    private readonly settings: Readonly<Record<string, string>>,
  ) {}

  /** Starts a cluster on a free port of 127.0.0.1; disposing it kills it and removes its data. */
  static async start({ settings = VOLATILE, access }: Setup = {}): Promise<Postgres> {
    template ??= createTemplate();
    const from = await template;
    const folder = await mkdtemp(join(PARENT, "hubbub-postgres-"));
    // However this process ends.
    removeWithUs(folder, `kill -QUIT $(head -1 "${folder}/data/postmaster.pid") && sleep 1;`);
    const postgres = new Postgres(freePort(), folder, { ...COMMON, ...settings });
    await $`cp -a ${from}/data ${folder}`;
    if (access !== undefined) await postgres.addFile("data/pg_hba.conf", access);
    await giveToUser(folder);
    await postgres.start();
    return postgres;
  }

  /** Starts it again after {@link kill} or {@link stop}, with its data. */
  async start(): Promise<void> {
    const isUp = async () => {
      // It exits while processes of its predecessor are still there.
      if (!this.#process || this.#process.exitCode !== null) this.#spawn();
      return this.query("SELECT 1").then(
        () => true,
        () => false,
      );
    };
    await eventually(isUp, "Postgres answers");
  }

  #spawn(): void {
    const settings = {
      ...this.settings,
      unix_socket_directories: this.folder,
      listen_addresses: "127.0.0.1",
    };
    this.#process = Bun.spawn({
      cmd: [
        ...AS_USER,
        program ?? "postgres",
        ...["-D", join(this.folder, "data"), "-p", `${this.port}`],
        ...Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
      ],
      stdin: "ignore",
      stdout: "ignore",
      stderr: Bun.file(join(this.folder, "log")),
    });
  }

  /** A file that the server can read, and others cannot. @returns its path */
  async addFile(name: string, content: string): Promise<string> {
    const path = join(this.folder, name);
    await writeFile(path, content, { mode: 0o600 });
    await giveToUser(path);
    return path;
  }

  url(schema: string, database = "postgres"): string {
    return `postgres://hubbub@127.0.0.1:${this.port}/${database}?schema=${schema}`;
  }

  /** Runs statements as the superuser. @returns the rows of all of them */
  async query(statements: string): Promise<Record<string, unknown>[]> {
    const url = `postgres://hubbub@127.0.0.1:${this.port}/postgres`;
    const sql = new SQL({ url, max: 1, connectionTimeout: 5 });
    try {
      return [...(await sql.unsafe(statements))].flat();
    } finally {
      await sql.close({ timeout: 0 });
    }
  }

  /** SIGKILL for the postmaster and all of its processes. */
  async kill(): Promise<void> {
    // So that none is started meanwhile.
    this.#process?.kill("SIGSTOP");
    await this.#signal("SIGKILL");
    await this.#exited();
  }

  /** SIGKILL for the postmaster alone; its processes notice. */
  async killPostmaster(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#exited();
  }

  /** A shutdown as by its administrator, which ends all connections (`pg_ctl stop -m fast`). */
  async stop(): Promise<void> {
    this.#process?.kill("SIGINT");
    await this.#exited();
  }

  async #exited(): Promise<void> {
    await this.#process?.exited;
    this.#process = undefined;
  }

  async freeze(): Promise<void> {
    this.#process?.kill("SIGSTOP");
    await this.#signal("SIGSTOP");
  }

  async thaw(): Promise<void> {
    await this.#signal("SIGCONT");
  }

  /** Ends all other connections. */
  async terminateBackends(): Promise<void> {
    await this.query(
      "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
    );
  }

  async #signal(signal: NodeJS.Signals): Promise<void> {
    const pid = this.#process?.pid;
    const children = await readFile(`/proc/${pid}/task/${pid}/children`, "utf8").catch(() => "");
    for (const child of children.split(" ").filter(Boolean))
      try {
        process.kill(Number(child), signal);
      } catch {} // it has ended meanwhile
    this.#process?.kill(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
    await rm(this.folder, { recursive: true });
  }
}

/** A cluster that is copied, which is ten times as fast as creating one. */
let template: Promise<string> | undefined;

async function createTemplate(): Promise<string> {
  const folder = await mkdtemp(join(PARENT, "hubbub-postgres-template-"));
  removeWithUs(folder);
  await giveToUser(folder);
  const initdb = join(dirname(program ?? ""), "initdb");
  const options = ["-U", "hubbub", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"];
  await $`${AS_USER} ${initdb} -D ${join(folder, "data")} ${options}`.quiet();
  return folder;
}

/** For all clusters that are there at a time. */
function hasSpace(path: string): boolean {
  try {
    const { bavail, bsize } = statfsSync(path);
    return bavail * bsize > 2 * 1024 ** 3;
  } catch {
    return false;
  }
}

async function giveToUser(path: string): Promise<void> {
  if (isRoot) await $`chown ${USER}:${GROUP} ${path}`;
}

/** Once this process has ended: a helper waits for the end of a pipe. */
function removeWithUs(folder: string, before = ""): void {
  const end = `read _; ${before} rm -rf "${folder}"`;
  const detached = true; // what ends this process may end its group
  Bun.spawn({ cmd: ["sh", "-c", end], stdin: "pipe", stdout: "ignore", stderr: "ignore", detached }).unref();
}

let shared: Promise<Postgres> | undefined;

/** The shared cluster, for tests that do not disturb it. */
export function sharedPostgres(): Promise<Postgres> {
  return (shared ??= Postgres.start());
}
