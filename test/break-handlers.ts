/** Preloaded by survival.test.ts: whatever the client "boom" does fails inside the server. */

import { ConnectionManager } from "../src/manager.ts";

const { connect, disconnect, broadcast } = ConnectionManager.prototype;

ConnectionManager.prototype.connect = function (connection) {
  if (connection.client === "boom-open") throw new Error("injected into open");
  connect.call(this, connection);
};

ConnectionManager.prototype.disconnect = function (connection, nowMs) {
  if (connection.client === "boom-close") throw new Error("injected into close");
  disconnect.call(this, connection, nowMs);
};

ConnectionManager.prototype.broadcast = function (wire, content) {
  const message = String(content);
  if (message.endsWith("boom-message")) throw new Error("injected into message");
  if (message === "Client #boom-timer left the chat") throw new Error("injected into the timer");
  if (message.endsWith("boom-later")) void Promise.reject(new Error("injected into a promise"));
  return broadcast.call(this, wire, content);
};
