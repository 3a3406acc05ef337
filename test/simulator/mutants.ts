#!/usr/bin/env bun
/**
 * Measures what the rules can find: each mutant is one careless change of the product, made while its file is loaded,
 * and simulations must find it within {@link MAX_SEEDS} seeds. `bun test/simulator/mutants.ts` runs all of them, with a
 * name only that one.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { StoreKind } from "./faults.ts";

const MAX_SEEDS = 300;
export const SOURCE = join(import.meta.dir, "../../src");

interface Mutant {
  readonly name: string;
  /** What the change breaks. */
  readonly breaks: string;
  /** In src/. */
  readonly file: string;
  /** Occurs exactly once in the file. */
  readonly text: string;
  readonly replacement: string;
  /** Defaults to `memory`. */
  readonly store?: StoreKind;
}

export const MUTANTS: readonly Mutant[] = [
  // Order and ids
  {
    name: "id-follows-clock-back",
    breaks: "order: ids go back with the clock",
    file: "store/message-id.ts",
    text: "if (nowMs > this.lastMs)",
    replacement: "if (nowMs !== this.lastMs)",
  },
  {
    name: "out-of-order-accepted",
    breaks: "order: a message overtakes a rejected one of its session",
    file: "chat/seq-order.ts",
    text: 'seq > lowest) return this.#reject(seq, "out-of-order")',
    replacement: 'seq > lowest + 1) return this.#reject(seq, "out-of-order")',
  },
  {
    name: "no-required-seq",
    breaks: "order: a message is stored although the one before it, still at the store, is rejected",
    file: "store/dedup.ts",
    text: "if (requiresSeq !== undefined && ",
    replacement: "if (requiresSeq === 0 && ",
  },
  {
    name: "rate-limited-not-marked",
    breaks: "order: a message is stored although the one before it exceeds the rate limit",
    file: "chat/seq-order.ts",
    text: "this.#inFlight.pop();\n    this.markRejected(seq);",
    replacement: "this.#inFlight.pop();",
  },
  {
    name: "early-reply",
    breaks: "order: a personal line overtakes the sender's own queued broadcast",
    file: "chat/broadcaster.ts",
    text: "?.senders.has(connection.client)",
    replacement: "?.ahead.has(connection)",
  },
  {
    name: "early-rejection",
    breaks: "order: a rejection overtakes the replies to earlier messages",
    file: "chat/replies.ts",
    text: "if (line === undefined) return;",
    replacement: "if (line === undefined) continue;",
    store: "sqlite",
  },
  // Deduplication
  {
    name: "latest-not-duplicate",
    breaks: "dedup: the latest message of a session is not recognized",
    file: "store/dedup.ts",
    text: "if (last && seq <= last.seq)",
    replacement: "if (last && seq < last.seq)",
  },
  {
    name: "session-not-saved",
    breaks: "dedup: sessions are not in the file",
    file: "store/sqlite/store.ts",
    text: "of changedSessions.values())",
    replacement: "of [])",
    store: "sqlite",
  },
  {
    name: "seqs-start-again",
    breaks: "dedup: a client that starts again uses the seqs of earlier messages",
    file: "client/client.ts",
    text: "1 + Math.max(sent ?? 0, ...seqs)",
    replacement: "1 + Math.max(0, ...seqs)",
  },
  // Resume
  {
    name: "resume-repeats",
    breaks: "resume: starts with the message that the client received last",
    file: "store/history.ts",
    text: "this.#firstOffset + index + 1",
    replacement: "this.#firstOffset + index",
  },
  {
    name: "paused-replay-forgets",
    breaks: "resume: a paused replay relies on messages that may be evicted meanwhile",
    file: "chat/replay.ts",
    text: "this.#afterId = entry.id;\n      if (isWritable) void",
    replacement: "if (isWritable) void",
    store: "sqlite",
  },
  {
    name: "outbox-not-resent",
    breaks: "resume: a client that reconnects does not send its outbox again",
    file: "client/client.ts",
    text: "this.#inFlight = 0;\n",
    replacement: "\n",
  },
  // `recovered`
  {
    name: "recovered-off-by-one",
    breaks: "recovered: false after the message just before the oldest one",
    file: "store/history.ts",
    text: "if (id === this.#idBefore) return this.#firstOffset;",
    replacement: "",
  },
  {
    name: "recovered-with-gap",
    breaks: "recovered: true although messages after the client's last one are evicted",
    file: "chat/replay.ts",
    text: "this.recovered = offset !== undefined || isAfterStored;",
    replacement: "this.recovered = after !== undefined;",
  },
  // Hand-over from replay to live
  {
    name: "late-subscription",
    breaks: "hand-over: subscribed a turn after the replay",
    file: "chat/subscription.ts",
    text: "this.room.broadcaster.subscribe(this);",
    replacement: "this.room.context.clock.setImmediate(() => this.room.broadcaster.subscribe(this));",
  },
  {
    name: "queued-twice",
    breaks: "hand-over: subscribed while messages that the replay has sent are queued",
    file: "chat/broadcaster.ts",
    text: "if (shard.queue.length > 0) shard.ahead.set",
    replacement: "if (shard.queue.length < 0) shard.ahead.set",
  },
  {
    name: "ahead-still-subscribed",
    breaks: "hand-over: a connection that is ahead receives the queue again",
    file: "chat/broadcaster.ts",
    text: "if (received === undefined) this.unsubscribe(connection);",
    replacement: "",
  },
  {
    name: "ahead-not-subscribed",
    breaks: "hand-over: a connection that is ahead is not subscribed again",
    file: "chat/broadcaster.ts",
    text: "connection.socket?.subscribe(this.#topic(connection.codec, index));",
    replacement: "",
  },
  {
    name: "replaying-set-leak",
    breaks: "hand-over: connections that close during their replay are never forgotten",
    file: "chat/broadcaster.ts",
    text: "if (!this.#replaying.delete(connection)) this.#subscribed",
    replacement: "if (!this.#replaying.has(connection)) this.#subscribed",
  },
  // Pong
  {
    name: "pong-overtakes-replay",
    breaks: "pong: does not wait for the replay",
    file: "chat/connection.ts",
    text: "if (this.isReplaying) this.#isPongPending = true;",
    replacement: "if (this.isReplaying) this.send(jsonCodec.pong);",
  },
  {
    name: "pong-overtakes-queue",
    breaks: "pong: overtakes queued messages",
    file: "chat/connection.ts",
    text: "this.room.broadcaster.sendAfterQueued(jsonCodec.pong, this)",
    replacement: "this.send(jsonCodec.pong)",
  },
  {
    name: "pongs-not-counted",
    breaks: "pong: a connection that answers pings is closed",
    file: "http/socket-handlers.ts",
    text: "data.missedPongs = 0;\n    if",
    replacement: "if",
  },
  {
    name: "never-reaped",
    breaks: "pong: a dead connection is never closed",
    file: "http/socket-registry.ts",
    text: "data.missedPongs++ < MAX_MISSED_PONGS",
    replacement: "data.missedPongs < MAX_MISSED_PONGS",
  },
  // Leave
  {
    name: "false-leave",
    breaks: "leave: announced although the client is back",
    file: "chat/presence.ts",
    text: "this.#pendingLeaves.delete(client);",
    replacement: "",
  },
  {
    name: "leave-of-one-tab",
    breaks: "leave: announced when one of a client's connections closes",
    file: "chat/presence.ts",
    text: "else if (before > 0 && count === 0)",
    replacement: "else if (before > count)",
  },
  {
    name: "leave-not-debounced",
    breaks: "leave: announced before the grace period is over",
    file: "chat/presence.ts",
    text: "this.clock.elapsed() - LEAVE_DEBOUNCE_MS)",
    replacement: "this.clock.elapsed())",
  },
  {
    name: "leave-not-scheduled",
    breaks: "leave: not announced if another is announced just before",
    file: "chat/presence.ts",
    text: "this.#scheduleLeaves(clients.length === batchSize ? BATCH_PAUSE_MS : undefined);",
    replacement: "",
  },
  {
    name: "leaves-during-shutdown",
    breaks: "leave: announced for every client that a shutdown disconnects",
    file: "chat/presence.ts",
    text: "this.isAnnouncing = false;",
    replacement: "",
  },
  // Presence
  {
    name: "presence-misses-return",
    breaks: "presence: a client welcomed between a leave and a return is not told of the return",
    file: "chat/presence.ts",
    text: "change.isWelcomed ||= change.welcomesBefore !== this.#welcomes;",
    replacement: ";",
  },
  {
    name: "presence-skips-replaying",
    breaks: "presence: a connection with a replay misses events",
    file: "chat/broadcaster.ts",
    text: "if (connection.codec === codec) connection.send(frame);",
    replacement: "if (connection.codec !== codec) connection.send(frame);",
  },
  {
    name: "presence-joined-and-left",
    breaks: "presence: one event names a client as joined and as left",
    file: "chat/presence.ts",
    text: "this.#joinedSinceEvent.delete(client);\n    if",
    replacement: "if",
  },
  // Sessions
  {
    name: "takeover-keeps-older",
    breaks: "session: the older connection stays open",
    file: "chat/session-registry.ts",
    text: 'other.close("replaced");',
    replacement: ";",
  },
  {
    name: "takeover-at-once",
    breaks: "session: a request that its client has given up closes the connection that the client uses",
    file: "chat/session-registry.ts",
    text: "connection.socket?.ping();",
    replacement: 'for (const other of [...others]) if (isNewer(connection, other)) other.close("replaced");',
  },
  {
    name: "takeover-by-older",
    breaks: "session: the older of two connections wins",
    file: "chat/session-registry.ts",
    text: "one.fencingToken > other.fencingToken",
    replacement: "one.fencingToken < other.fencingToken",
  },
  // Drain and shutdown
  {
    name: "shutdown-without-drain",
    breaks: "drain: connections are closed before their accepted messages are stored",
    file: "http/shutdown.ts",
    text: 'await stepInTime("storing accepted messages", () => hub.drain());',
    replacement: "",
    store: "sqlite",
  },
  {
    name: "closed-room-broadcasts",
    breaks: "drain: a closed room's queue reaches the next room of that name",
    file: "chat/broadcaster.ts",
    text: "this.#shards.length = 0;",
    replacement: "",
  },
  // Backpressure
  {
    name: "replay-not-paced",
    breaks: "backpressure: a replay does not wait for its reader",
    file: "chat/subscription.ts",
    text: "return this.send(frame) !== -1;",
    replacement: "return this.send(frame) !== 0;",
    store: "sqlite",
  },
  // Eviction and memory
  {
    name: "history-one-short",
    breaks: "eviction: one message too early",
    file: "store/history.ts",
    text: "this.#messageCount > this.maxMessages",
    replacement: "this.#messageCount >= this.maxMessages",
  },
  {
    name: "occupied-room-evicted",
    breaks: "eviction: a room with clients makes place for another",
    file: "store/memory.ts",
    text: "if (room.refCount === 0) this.#setUnused(name, room);",
    replacement: "this.#setUnused(name, room);",
  },
  {
    name: "evicted-id-forgotten",
    breaks: "eviction: the id before the oldest message does not follow",
    file: "store/history.ts",
    text: "this.#idBefore = oldest.id;",
    replacement: "",
  },
  {
    name: "failed-upgrade-leak",
    breaks: "memory: the room of a client that gives up during its upgrade stays open",
    file: "http/upgrade.ts",
    text: "if (!isUpgraded) connection?.onClosed();",
    replacement: "",
  },
  {
    name: "room-not-released",
    breaks: "memory: the store keeps closed rooms",
    file: "chat/hub.ts",
    text: "this.store.releaseRoom(room.name);",
    replacement: "",
  },
  // Event streams
  {
    name: "stream-not-released",
    breaks: "streams: the room of a stream that has ended stays open",
    file: "http/event-streams.ts",
    text: "        stream.onClosed();\n",
    replacement: "",
  },
  {
    name: "stream-not-resubscribed",
    breaks: "streams: a room's second stream ends the broadcasts to the first",
    file: "http/stream-socket.ts",
    text: "if (sockets) sockets.add(socket);\n    else this",
    replacement: "this",
  },
  {
    name: "stream-forgets-after",
    breaks: "streams: does not resume",
    file: "http/request.ts",
    text: 'lastEventId ?? query.get("after")',
    replacement: "lastEventId",
  },
  // Moderation
  {
    name: "removed-stays-cached",
    breaks: "removal: the content stays in the room's history",
    file: "store/history.ts",
    text: "else this.#erase(entry.removes);",
    replacement: "",
  },
  {
    name: "removal-not-replayed",
    breaks: "removal: a client that resumes does not learn of it",
    file: "chat/subscription.ts",
    text: "if (frame === undefined) return true;",
    replacement: "if (frame === undefined || !isMessage(entry)) return true;",
  },
  {
    name: "removal-repeated",
    breaks: "removal: announced again although there is nothing left to remove",
    file: "store/history.ts",
    text: "if (entry.content !== undefined) count++;",
    replacement: "count++;",
  },
  {
    name: "removal-of-others",
    breaks: "removal: of all messages of a client, takes those of others, too",
    file: "store/history.ts",
    text: "return from === removes.from && compareIds",
    replacement: "return compareIds",
  },
  {
    name: "removal-forgotten",
    breaks: "removal: what is not erased yet is back after a restart",
    file: "store/sqlite/store.ts",
    text: "this.#erasures = this.#sql.erasures.all();",
    replacement: "this.#erasures = [];",
    store: "sqlite",
  },
  {
    name: "ban-of-one-tab",
    breaks: "ban: only one of a client's connections is closed",
    file: "chat/hub.ts",
    text: "for (const receiver of closed) receiver",
    replacement: "for (const receiver of closed.slice(0, 1)) receiver",
  },
  {
    name: "ban-ends-at-once",
    breaks: "ban: the client may return at once",
    file: "http/bans.ts",
    text: "return untilMs > this.clock.now();",
    replacement: "return untilMs > this.clock.now() + 20_000;",
  },
  {
    name: "ban-missed-by-upgrade",
    breaks: "ban: a client that is about to connect comes in",
    file: "chat/hub.ts",
    text: "const isBanned = this.isBanned(connection.room.name, connection);",
    replacement: "const isBanned = false;",
  },
  {
    name: "ban-forgotten",
    breaks: "ban: it ends with the server's process",
    file: "http/bans.ts",
    text: "[...stored, ...changes]",
    replacement: "changes",
    store: "sqlite",
  },
  // Sharding
  {
    name: "shards-share-topic",
    breaks: "sharding: each shard's write reaches all connections",
    file: "chat/broadcaster.ts",
    text: ":${shard}:${this.room}`",
    replacement: ":${this.room}`",
  },
  // The SQLite transaction
  {
    name: "no-transaction",
    breaks: "transaction: a crash stores a message without its session",
    file: "store/sqlite/store.ts",
    text: "this.#insertAtOnce(batch, nowMs)",
    replacement: "this.#insertBatch(batch, nowMs)",
    store: "sqlite",
  },
  {
    name: "failed-batch-remembered",
    breaks: "transaction: the sessions of a batch that was not stored stay in memory",
    file: "store/sqlite/store.ts",
    text: "if (!results) this.#sessions.invalidate(batch.map(([pending]) => pending));",
    replacement: "",
    store: "sqlite",
  },
  // The shared log
  {
    name: "gap-not-noticed",
    breaks: "log: records that are missing are not noticed",
    file: "store/shared-log/log-reader.ts",
    text: "if (isGap) this.listener.onGap(record.id);",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "batch-renumbered",
    breaks: "log: a batch whose reply is lost is written again as another one",
    file: "store/shared-log/writer.ts",
    text: "await this.engine.append(batch);",
    replacement: "await this.engine.append({ ...batch, number: ++this.#batchNumber });",
    store: "shared-log",
  },
  {
    name: "unconfirmed-as-rejected",
    breaks: "log: a message that may be stored is reported as rejected",
    file: "store/shared-log/writer.ts",
    text: 'this.#failBatch(batch, "unconfirmed", "no reply in time")',
    replacement: 'this.#failBatch(batch, "unavailable", "no reply in time")',
    store: "shared-log",
  },
  {
    name: "snapshot-repeated",
    breaks: "log: a room receives records that its snapshot includes",
    file: "store/shared-log/rooms.ts",
    text: "if (room.loadedAtId && compareIds(recordId, room.loadedAtId) <= 0) return;",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "buffered-forgotten",
    breaks: "log: a room misses the records that arrive while it is loaded",
    file: "store/shared-log/rooms.ts",
    text: "for (const { recordId, update } of buffered) this.apply(name, recordId, update);",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "rooms-not-reloaded",
    breaks: "log: after a gap, rooms that are held keep their old history",
    file: "store/shared-log/store.ts",
    text: "    this.#rooms.reloadAll();\n",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "removed-node-goes-on",
    breaks: "cluster: a node that was removed does not join again",
    file: "store/shared-log/cluster.ts",
    text: "const mustJoin = !isKnown || ",
    replacement: "const mustJoin = ",
    store: "shared-log",
  },
  {
    name: "presence-not-republished",
    breaks: "cluster: a node that was taken for dead does not publish its presence again",
    file: "store/shared-log/store.ts",
    text: "if (isPresenceLost) this.#outbox.republishAll();",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "dead-node-stays",
    breaks: "cluster: a node that was killed is never removed",
    file: "store/shared-log/cluster.ts",
    text: "if (await this.engine.removeNode(node)) log",
    replacement: 'if (node === "") log',
    store: "shared-log",
  },
  {
    name: "own-presence-twice",
    breaks: "cluster: a node counts its own clients as those of another, too",
    file: "store/shared-log/store.ts",
    text: "if (!isOwn) this.#rooms.apply(part.room",
    replacement: "this.#rooms.apply(part.room",
    store: "shared-log",
  },
  {
    name: "remote-claim-ignored",
    breaks: "cluster: a session's older connection on another node stays open",
    file: "store/shared-log/store.ts",
    text: "if (!isOwn) this.listener.onSessionClaimed",
    replacement: "if (part.fencingToken < 0) this.listener.onSessionClaimed",
    store: "shared-log",
  },
  {
    name: "ban-outlasts-its-end",
    breaks: "cluster: a client is kept out although its ban is over",
    file: "http/bans.ts",
    text: "return untilMs > this.clock.now();",
    replacement: "return untilMs > this.clock.now() - 10_000;",
    store: "shared-log",
  },
  {
    name: "remote-ban-ignored",
    breaks: "cluster: a client that is banned on another node stays connected",
    file: "store/shared-log/store.ts",
    text: "this.listener.onBan(part.ban);",
    replacement: "",
    store: "shared-log",
  },
  {
    name: "remote-removal-ignored",
    breaks: "cluster: a removal is not announced",
    file: "store/shared-log/store.ts",
    text: "this.#rooms.apply(part.removal.room, id, { entry: part.removal });",
    replacement: "",
    store: "shared-log",
  },
];

/** @throws unless the text occurs exactly once */
export function mutate(source: string, { file, text, replacement }: Mutant): string {
  const [before, after, ...more] = source.split(text);
  if (before === undefined || after === undefined || more.length > 0)
    throw new Error(`src/${file} must contain the mutant's text exactly once: ${text}`);
  return before + replacement + after;
}

/** Runs a mutant in this process. @returns how many seeds it took, and what failed; undefined if nothing did */
async function find(mutant: Mutant): Promise<{ seeds: number; failure: string } | undefined> {
  const path = join(SOURCE, mutant.file);
  let isLoaded = false;
  Bun.plugin({
    name: mutant.name,
    setup(build) {
      build.onLoad({ filter: new RegExp(`${RegExp.escape(path)}$`) }, () => {
        isLoaded = true;
        return { contents: mutate(readFileSync(path, "utf8"), mutant), loader: "ts" };
      });
    },
  });
  const { simulate } = await import("./simulation.ts");
  const { drawPlan } = await import("./faults.ts");
  if (!isLoaded) throw new Error(`src/${mutant.file} is not part of the simulation`);
  for (let seed = 1; seed <= MAX_SEEDS; seed++) {
    const { failure } = simulate(drawPlan(seed, mutant.store ?? "memory"), seed);
    if (failure !== undefined) return { seeds: seed, failure };
    await new Promise((resolve) => setImmediate(resolve)); // a signal ends it now, when it has no files
  }
  return undefined;
}

/** Each in a process of its own, because a module is loaded once. @returns whether all were found */
async function findAll(): Promise<boolean> {
  const missed: string[] = [];
  console.log(`seeds  ${"mutant".padEnd(26)} found by`);
  for (const { name } of MUTANTS) {
    const child = Bun.spawn([process.execPath, import.meta.path, name], {
      stdout: "pipe",
      stderr: "inherit",
    });
    const line = await child.stdout.text();
    console.log(line.trimEnd());
    if ((await child.exited) !== 0) missed.push(name);
  }
  console.log(`${MUTANTS.length - missed.length} of ${MUTANTS.length} mutants found`);
  return missed.length === 0;
}

if (import.meta.main) {
  const [name] = process.argv.slice(2);
  if (name === undefined) process.exit((await findAll()) ? 0 : 1);
  const mutant = MUTANTS.find((each) => each.name === name);
  if (!mutant)
    throw new Error(`No mutant is called ${name}. There are: ${MUTANTS.map((each) => each.name).join(", ")}`);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1));
  const found = await find(mutant);
  const [failure = ""] = (found?.failure ?? "not found").split("\n");
  console.log(`${String(found?.seeds ?? "-").padStart(5)}  ${name.padEnd(26)} ${failure.slice(0, 160)}`);
  process.exit(found ? 0 : 1);
}
