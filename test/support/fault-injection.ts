/** Preloaded by survival.test.ts: handlers, broadcasts and timers throw for clients and messages called "boom-…". */

import { SocketRegistry } from "../../src/http/socket-registry.ts";
import { TokenBucket } from "../../src/util/token-bucket.ts";
import { Broadcaster } from "../../src/chat/broadcaster.ts";
import { Connection } from "../../src/chat/connection.ts";
import { Hub } from "../../src/chat/hub.ts";
import { ConnectionManager } from "../../src/chat/connection-manager.ts";
import { jsonCodec, textCodec } from "../../src/protocol/codec.ts";

const { connect, disconnect } = ConnectionManager.prototype;
const { publishToShard } = Broadcaster.prototype;

ConnectionManager.prototype.connect = function (connection) {
  if (connection.client === "boom-open") throw new Error("injected into open");
  connect.call(this, connection);
};

ConnectionManager.prototype.disconnect = function (connection) {
  if (connection.client === "boom-close") throw new Error("injected into close");
  return disconnect.call(this, connection);
};

Broadcaster.prototype.publishToShard = function (codec, shard, content) {
  const message = String(content);
  if (message.includes("boom-message")) throw new Error("injected into message");
  if (message.includes(`boom-${codec.name}`)) throw new Error(`injected into ${codec.name}`);
  if (message === "Client #boom-timer left the chat") throw new Error("injected into the timer");
  if (message.endsWith("boom-ping") || message.endsWith("boom-pong")) armed = message.slice(-4);
  if (message.endsWith("boom-later")) void Promise.reject(new Error("injected into a promise"));
  return publishToShard.call(this, codec, shard, content);
};

const { getPresence } = Hub.prototype;
Hub.prototype.getPresence = function (room) {
  if (room === "boom-members") throw new Error("injected into the members");
  return getPresence.call(this, room);
};

const encodeMessage = jsonCodec.message;
/** Only once: a replay encodes the message again. */
let hasFailed = false;
jsonCodec.message = (message) => {
  const fails = message.content === "boom-encoding" && !hasFailed;
  hasFailed ||= fails;
  if (fails) throw new Error("injected into the encoding");
  return encodeMessage(message);
};

const { stored } = textCodec;
textCodec.stored = (pending) => {
  if (pending.content === "boom-answer") throw new Error("injected into the answer");
  return stored(pending);
};

/** A control frame carries no name, so the message before it says what to break. */
let armed: string | undefined;
const { chargeAbuse } = TokenBucket.prototype;
const { onDrain } = Connection.prototype;
const { pingAndReap } = SocketRegistry.prototype;
let sweeps = 0;

TokenBucket.prototype.chargeAbuse = function (nowMs) {
  const what = armed;
  armed = undefined;
  if (what) throw new Error(`injected into ${what}`);
  return chargeAbuse.call(this, nowMs);
};

Connection.prototype.onDrain = function () {
  if (this.client === "boom-drain" && this.isReplaying) throw new Error("injected into drain");
  onDrain.call(this);
};

SocketRegistry.prototype.pingAndReap = function () {
  if (sweeps++ === 0) throw new Error("injected into the sweep");
  pingAndReap.call(this);
};
