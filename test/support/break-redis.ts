/** Preloaded by redis-faults.test.ts: once "boom" is in the log, reading it fails inside the server until the key "mended" is set. */

import { RedisConnection } from "../../src/store/redis/connection.ts";

const { send } = RedisConnection.prototype;

RedisConnection.prototype.send = async function (command, args, waitMs) {
  const reply = await send.call(this, command, args, waitMs);
  if (command !== "XREAD" || !JSON.stringify(reply).includes("tboom")) return reply;
  await send.call(this, "INCR", ["looks"]);
  if ((await send.call(this, "GET", ["mended"])) === null) throw new TypeError("injected into the log");
  return reply;
};
