/** Preloaded: once "boom" is in the log, reading it throws inside the server until the key "fixed" is set; "reads" counts. */

import "./fast-shared-log.ts";
import { RedisConnection } from "../../src/store/redis/connection.ts";

const { send } = RedisConnection.prototype;

RedisConnection.prototype.send = async function (command, args, deadlineMs) {
  const reply = await send.call(this, command, args, deadlineMs);
  if (command !== "XREAD" || !JSON.stringify(reply).includes("tboom")) return reply;
  await send.call(this, "INCR", ["reads"]);
  if ((await send.call(this, "GET", ["fixed"])) === null) throw new TypeError("injected into the log");
  return reply;
};
