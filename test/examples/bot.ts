/**
 * A bot for Bun that answers "sum 1 2 3" with "6". It needs the client library and its types in its folder:
 *
 *     curl -fsS -O http://localhost:8000/hubbub.js -O http://localhost:8000/hubbub.d.ts
 *     bun run bot.ts http://localhost:8000 lobby
 */

import { connect } from "./hubbub.js";

const [server = "http://localhost:8000", room = "lobby"] = process.argv.slice(2);
const id = "adder";

// Only new messages: those from before it started may have an answer. After a reconnect, those that it missed follow.
const chat = connect({ server, id, room, history: 0 });

chat.on("message", ({ from, text = "" }) => {
  const numbers = /^sum((?: -?\d+)+)$/.exec(text)?.[1]?.trim().split(" ").map(Number);
  if (numbers && from !== id) chat.send(`${numbers.reduce((sum, number) => sum + number, 0)}`);
});
chat.on("state", ({ status, reason = "" }) => {
  console.log(status, reason);
  if (status === "closed") process.exit(1);
});
