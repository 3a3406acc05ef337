/** The Lua scripts that run inside Redis: lua/common.lua, what some share (lua/read.lua, lua/probe.lua), and their own files. */

import append from "./lua/append.lua" with { type: "text" };
import ban from "./lua/ban.lua" with { type: "text" };
import common from "./lua/common.lua" with { type: "text" };
import heartbeat from "./lua/heartbeat.lua" with { type: "text" };
import idBeforeLatest from "./lua/id-before-latest.lua" with { type: "text" };
import importBatch from "./lua/import.lua" with { type: "text" };
import importBegin from "./lua/import-begin.lua" with { type: "text" };
import importClear from "./lua/import-clear.lua" with { type: "text" };
import importCheck from "./lua/import-check.lua" with { type: "text" };
import importEnd from "./lua/import-end.lua" with { type: "text" };
import join from "./lua/join.lua" with { type: "text" };
import lastSeq from "./lua/last-seq.lua" with { type: "text" };
import openRoom from "./lua/open-room.lua" with { type: "text" };
import probe from "./lua/probe.lua" with { type: "text" };
import read from "./lua/read.lua" with { type: "text" };
import readAfter from "./lua/read-after.lua" with { type: "text" };
import readBans from "./lua/read-bans.lua" with { type: "text" };
import readBefore from "./lua/read-before.lua" with { type: "text" };
import listRooms from "./lua/list-rooms.lua" with { type: "text" };
import remove from "./lua/remove.lua" with { type: "text" };
import removeNode from "./lua/remove-node.lua" with { type: "text" };

export interface RedisScript {
  readonly source: string;
  /** What `EVALSHA` takes: the SHA-1 of the source, in hex. */
  readonly sha: string;
}

export const scripts = {
  append: defineScript(append),
  heartbeat: defineScript(probe, heartbeat),
  join: defineScript(join),
  remove: defineScript(remove),
  ban: defineScript(ban),
  readBans: defineScript(readBans),
  removeNode: defineScript(removeNode),
  openRoom: defineScript(read, openRoom),
  readAfter: defineScript(read, readAfter),
  readBefore: defineScript(read, readBefore),
  idBeforeLatest: defineScript(read, idBeforeLatest),
  listRooms: defineScript(listRooms),
  lastSeq: defineScript(lastSeq),
  importBegin: defineScript(importBegin),
  importBatch: defineScript(importCheck, importBatch),
  importClear: defineScript("allow_writes_when_full()", importCheck, importClear),
  importEnd: defineScript(importCheck, importEnd),
  applyPending: defineScript("allow_writes_when_full()", "apply_pending()"),
  position: defineScript(
    "local meta = redis.call('HMGET', P .. 'meta', 'applied', 'head', 'epoch', 'origin')",
    "return { meta[1] or meta[2], meta[2], meta[3], meta[4], redis.call('EXISTS', P .. 'import') }",
  ),
  leave: defineScript("return redis.call('DEL', P .. 'lease:' .. ARGV[1])"),
  serverTime: defineScript("return redis.call('TIME')"),
};

function defineScript(...parts: readonly string[]): RedisScript {
  const source = [common, ...parts].join("\n");
  return { source, sha: new Bun.CryptoHasher("sha1").update(source).digest("hex") };
}
