/** Preloaded by survival.test.ts: whatever the client "boom" does fails inside the server. */

import { ConnectionManager } from "../src/connections.ts";

const { connect, disconnect, broadcast } = ConnectionManager.prototype;

ConnectionManager.prototype.connect = function (client, connection) {
  if (client === "boom-open") throw new Error("injected into open");
  connect.call(this, client, connection);
};

ConnectionManager.prototype.disconnect = function (client, connection, nowMs) {
  if (client === "boom-close") throw new Error("injected into close");
  disconnect.call(this, client, connection, nowMs);
};

ConnectionManager.prototype.broadcast = function (message) {
  if (typeof message === "string" && message.endsWith("boom-message"))
    throw new Error("injected into message");
  if (message === "Client #boom-timer left the chat") throw new Error("injected into the timer");
  if (typeof message === "string" && message.endsWith("boom-later"))
    void Promise.reject(new Error("injected into a promise"));
  broadcast.call(this, message);
};
