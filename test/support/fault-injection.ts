/** Preloaded by survival.test.ts: whatever the client "boom" does fails inside the server. */

import { Connections } from "../../src/http/sockets.ts";
import { Hub } from "../../src/chat/hub.ts";
import { Allowance } from "../../src/util/token-bucket.ts";
import { ConnectionManager } from "../../src/chat/connection-manager.ts";
import { json, text } from "../../src/protocol/codec.ts";

const { connect, disconnect, broadcast } = ConnectionManager.prototype;

ConnectionManager.prototype.connect = function (connection) {
  if (connection.client === "boom-open") throw new Error("injected into open");
  connect.call(this, connection);
};

ConnectionManager.prototype.disconnect = function (connection, nowMs) {
  if (connection.client === "boom-close") throw new Error("injected into close");
  disconnect.call(this, connection, nowMs);
};

ConnectionManager.prototype.broadcast = function (wire, section, content) {
  const message = String(content);
  if (message.includes("boom-message")) throw new Error("injected into message");
  if (message.includes(`boom-${wire}`)) throw new Error(`injected into ${wire}`);
  if (message === "Client #boom-timer left the chat") throw new Error("injected into the timer");
  if (message.endsWith("boom-ping") || message.endsWith("boom-pong")) armed = message.slice(-4);
  if (message.endsWith("boom-later")) void Promise.reject(new Error("injected into a promise"));
  return broadcast.call(this, wire, section, content);
};

const encodeMessage = json.message;
/** A replay encodes it again. */
let hasFailed = false;
json.message = (entry) => {
  const fails = entry.content === "boom-encoding" && !hasFailed;
  hasFailed ||= fails;
  if (fails) throw new Error("injected into the encoding");
  return encodeMessage(entry);
};

const { youWrote } = text;
text.youWrote = (content) => {
  if (content === "boom-answer") throw new Error("injected into the answer");
  return youWrote(content);
};

/** A control frame has no author: what is to break next is said before it. */
let armed: string | undefined;
const { bear } = Allowance.prototype;
const { catchUp } = Hub.prototype;
const { sweep } = Connections.prototype;
let sweeps = 0;

Allowance.prototype.bear = function (nowMs) {
  const what = armed;
  armed = undefined;
  if (what) throw new Error(`injected into ${what}`);
  return bear.call(this, nowMs);
};

Hub.prototype.catchUp = function (visitor) {
  if (visitor.client === "boom-drain" && visitor.position > 0) throw new Error("injected into drain");
  catchUp.call(this, visitor);
};

Connections.prototype.sweep = function (nowMs) {
  if (sweeps++ === 0) throw new Error("injected into the sweep");
  sweep.call(this, nowMs);
};
