/** What a simulated server stores messages in, and what of it survives the server's process. */

import { Database as SqliteDatabase } from "bun:sqlite";
import {
  copyFileSync,
  existsSync,
  mkdtempSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryStore } from "../../src/store/memory.ts";
import { SqliteStore } from "../../src/store/sqlite/store.ts";
import type { Backend, StoreListener } from "../../src/store/store.ts";
import { DelayedStore, type Delays } from "../support/delayed-store.ts";
import { SharedLogStore } from "../../src/store/shared-log/store.ts";
import { sharedLogTiming } from "../../src/store/shared-log/timing.ts";
import { Database, SimulatedEngine, type DatabaseSettings } from "./database.ts";
import type { Dice, Owner, World } from "./world.ts";

export type StoreSettings =
  | { readonly kind: "memory" }
  | ({ readonly kind: "delayed" } & Delays)
  | DatabaseSettings
  /** A commit takes up to that long. Messages expire after some days, or never if that is 0. */
  | { readonly kind: "sqlite"; readonly commitMs: number; readonly keepDays: number };

/** With history, in memory; rooms of strangers evict each other. */
export const MAX_ROOMS = 4;
const MAX_BYTES = 64 * 1024 * 1024;

/** How a process ends, seen from its store. */
export type Crash = "now" | "between statements" | "in a commit";

export interface Disk {
  /** Whether a new process finds what the last one stored. */
  readonly isPersistent: boolean;
  /** Opens the store for a new process. */
  open(listener: StoreListener, owner: Owner): Backend;
  /** The process ends, at once or during a later write; `kill` is called when it does. */
  crash(crash: Crash, kill: () => void): void;
  /** While full, nothing can be stored. */
  setFull(isFull: boolean): void;
  /** Runs the simulation. */
  within<T>(run: () => T): T;
}

export function createDisk(settings: StoreSettings, world: World, history: number): Disk {
  if (settings.kind === "shared-log") return new SharedLogDisk(settings, world, history);
  return settings.kind === "sqlite"
    ? new SqliteDisk(world, history, settings.commitMs, settings.keepDays)
    : new NoDisk(settings, world, history);
}

/** Everything is lost with the process. */
class NoDisk implements Disk {
  readonly isPersistent = false;

  constructor(
    private readonly settings: Exclude<StoreSettings, { kind: "sqlite" | "shared-log" }>,
    private readonly world: World,
    private readonly history: number,
  ) {}

  open({ onEntry }: StoreListener, owner: Owner): Backend {
    const clock = this.world.clockOf(owner);
    const limits = { rooms: MAX_ROOMS, roomBytes: MAX_BYTES, bytes: MAX_BYTES };
    const memory = new MemoryStore(this.history, onEntry, clock, this.world.randomOf(), limits);
    if (this.settings.kind === "memory") return { store: memory };
    return { store: new DelayedStore(memory, this.settings, clock, this.world.dice.next) };
  }

  crash(_: Crash, kill: () => void): void {
    kill();
  }

  setFull(): void {}

  within<T>(run: () => T): T {
    return run();
  }
}

/** The database outlives the nodes; it has faults of its own. */
export class SharedLogDisk implements Disk {
  readonly isPersistent = true;
  readonly database: Database;
  readonly #engines = new Map<Owner, SimulatedEngine>();

  constructor(
    settings: DatabaseSettings,
    private readonly world: World,
    private readonly history: number,
  ) {
    this.database = new Database(world, settings, history);
  }

  open(listener: StoreListener, owner: Owner): Backend {
    const engine = new SimulatedEngine(this.database, owner);
    this.#engines.set(owner, engine);
    const context = {
      clock: this.world.clockOf(owner),
      random: this.world.randomOf(),
      timing: sharedLogTiming,
    };
    const options = { history: this.history, keepDays: 0 };
    const store = new SharedLogStore(engine, options, listener, context);
    return { store, cluster: store };
  }

  /** Nothing gets through between a node and the database. */
  setCut(owner: Owner, isCut: boolean): void {
    const engine = this.#engines.get(owner);
    if (engine) engine.isCut = isCut;
  }

  isCutOff(owner: Owner): boolean {
    return this.#engines.get(owner)?.isCut === true;
  }

  crash(_: Crash, kill: () => void): void {
    kill();
  }

  setFull(isFull: boolean): void {
    this.database.isRejecting = isFull;
  }

  within<T>(run: () => T): T {
    return run();
  }
}

/** In memory where the system has a file system for it, because every crash copies the files. */
const FOLDER = existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
const FILES = ["", "-wal", "-newest"];
/** A crash that waits for a write happens without one after this time. */
const MAX_CRASH_WAIT_MS = 1000;
const MAX_STATEMENTS_TO_CRASH = 6;
const UNLIMITED_PAGES = 1_000_000;
/** A quarter of the default: a commit and a crash write less, and more commits change the tree of pages. */
const PAGE_BYTES = 1024;

/** A database file in which nothing but the size of its pages is decided. */
function emptyDatabase(): Uint8Array {
  using database = new SqliteDatabase(":memory:");
  database.run(`PRAGMA page_size = ${PAGE_BYTES}`);
  database.run("VACUUM");
  return database.serialize();
}

/** Real SQLite files. A crash leaves them as they are at that moment; the process that follows gets a copy. */
class SqliteDisk implements Disk {
  readonly isPersistent = true;
  readonly #folder = mkdtempSync(join(FOLDER, "hubbub-simulator-"));
  #version = 0;
  #path = join(this.#folder, "0.db");
  #store: SqliteStore | undefined;
  #database: SqliteDatabase | undefined;
  /** The crash that the next writes lead to. */
  #crash: { kind: Crash; statementsLeft: number; kill: () => void } | undefined;

  constructor(
    private readonly world: World,
    private readonly history: number,
    private readonly commitMs: number,
    private readonly keepDays: number,
  ) {
    writeFileSync(this.#path, emptyDatabase());
  }

  get #dice(): Dice {
    return this.world.dice;
  }

  open({ onEntry }: StoreListener, owner: Owner): Backend {
    this.#crash = undefined; // of a process that has ended otherwise
    const options = { history: this.history, keepDays: this.keepDays };
    const clock = this.world.clockOf(owner);
    const store = new SqliteStore(this.#path, options, onEntry, clock, this.world.randomOf());
    const close = store.close.bind(store);
    let isClosed = false;
    // A process that crashes during its shutdown closes the store in what is left of its last event.
    store.close = () => {
      if (this.#store === store) this.#store = this.#database = undefined;
      if (!isClosed) close();
      isClosed = true;
    };
    this.#store = store;
    return { store };
  }

  crash(kind: Crash, kill: () => void): void {
    if (kind === "now") return this.#end(kill);
    const crash = { kind, kill, statementsLeft: this.#dice.whole(1, MAX_STATEMENTS_TO_CRASH) };
    this.#crash = crash;
    const outside = this.world.current;
    this.world.schedule(outside, this.world.time + MAX_CRASH_WAIT_MS, () => {
      if (this.#crash === crash) this.#end(kill);
    });
  }

  /** The process has ended, and its last event runs on without effect. */
  #end(kill: () => void): void {
    this.#crash = undefined;
    const store = this.#store;
    if (!store) return kill(); // it has been closed
    const before = this.#path;
    const database = this.#database;
    this.#store = this.#database = undefined;
    this.#path = join(this.#folder, `${++this.#version}.db`);
    for (const suffix of FILES)
      if (existsSync(before + suffix)) copyFileSync(before + suffix, this.#path + suffix);
    kill();
    this.world.schedule(this.world.outside, this.world.time, () => {
      database?.run(`PRAGMA max_page_count = ${UNLIMITED_PAGES}`);
      store.close();
      for (const suffix of [...FILES, "-lock"]) rmSync(before + suffix, { force: true });
    });
  }

  /** Called before each statement that writes. */
  #onStatement(): void {
    const crash = this.#crash;
    if (crash?.kind === "between statements" && --crash.statementsLeft <= 0) this.#end(crash.kill);
  }

  /** Called at the end of a transaction, before its commit. */
  #onCommit(database: SqliteDatabase): void {
    if (database !== this.#database && database.filename === this.#path) {
      this.#database = database;
      // No other process opens the file, so the locks of each transaction would only take time.
      database.run("PRAGMA locking_mode = EXCLUSIVE");
    }
    this.world.spend(this.#dice.next() * this.commitMs);
    const crash = this.#crash;
    if (crash?.kind !== "in a commit") return;
    // The commit's own frames are written to the log in part; the mark of the newest message is not written.
    const before = this.#path;
    const logBytes = statSync(`${before}-wal`).size;
    copyFileSync(`${before}-newest`, `${before}-newest-before`);
    this.#crash = undefined;
    crash.kill();
    const { outside } = this.world;
    this.world.schedule(outside, this.world.time, () => {
      copyFileSync(`${before}-newest-before`, `${before}-newest`);
      this.#end(() => {});
      const log = `${this.#path}-wal`;
      const grownBytes = statSync(log).size - logBytes;
      if (grownBytes > 0) truncateSync(log, logBytes + this.#dice.whole(0, grownBytes));
    });
  }

  setFull(isFull: boolean): void {
    const database = this.#database;
    const { page_count = 0 } = database?.query<{ page_count: number }, []>("PRAGMA page_count").get() ?? {};
    database?.run(`PRAGMA max_page_count = ${isFull ? page_count : UNLIMITED_PAGES}`);
  }

  within<T>(run: () => T): T {
    const { query, transaction } = SqliteDatabase.prototype;
    const disk = this;
    const observed = new WeakSet<object>();
    Reflect.set(SqliteDatabase.prototype, "query", function (this: SqliteDatabase, sql: string) {
      const statement = query.call(this, sql);
      if (!/^(INSERT|REPLACE|UPDATE|DELETE)/.test(sql) || observed.has(statement)) return statement;
      observed.add(statement);
      const { run: runStatement } = statement;
      Reflect.set(statement, "run", (...values: Parameters<typeof runStatement>) => {
        disk.#onStatement();
        return runStatement.apply(statement, values);
      });
      return statement;
    });
    Reflect.set(
      SqliteDatabase.prototype,
      "transaction",
      function (this: SqliteDatabase, work: (...values: readonly unknown[]) => unknown) {
        return transaction.call(this, (...values) => {
          const result = work(...values);
          disk.#onCommit(this);
          return result;
        });
      },
    );
    try {
      return run();
    } finally {
      Object.assign(SqliteDatabase.prototype, { query, transaction });
      this.#store?.close();
      rmSync(this.#folder, { recursive: true, force: true });
    }
  }
}
