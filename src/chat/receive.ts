/** Handles a frame from a client: parses it, checks rights, order and rate limit, and gives its message to the store. */

import { messagesRejected } from "../ops/metrics.ts";
import {
  MAX_OVERHEAD_CHARACTERS,
  type ClientCommand,
  type Content,
  type SentMessage,
} from "../protocol/codec.ts";
import type { ErrorCode } from "../protocol/codes.ts";
import { isNumbered, type PendingMessage } from "../store/message.ts";
import { costOf } from "../util/token-bucket.ts";
import type { Connection } from "./connection.ts";

export function receive(connection: Connection, frame: Content): void {
  const command = connection.codec.parse(frame, connection.room.context.options.maxMessageBytes);
  if ("close" in command) return connection.close(command.close);
  if ("error" in command) {
    const message = { session: connection.session, seq: command.seq, content: frame };
    if (isNumbered(message)) connection.seqOrder.markRejected(message.seq);
    reject(connection, command.error, message);
  } else if (command.type === "ping") {
    connection.sendPong();
    chargeAbuse(connection, frame);
  } else {
    // The rest is discarded but still cost parsing time.
    const isMostlyDiscarded = frame.length > 2 * command.content.length + MAX_OVERHEAD_CHARACTERS;
    if (isMostlyDiscarded && !chargeAbuse(connection, frame)) return;
    receiveMessage(connection, command);
  }
  connection.closeIfSlow();
}

/** Gives a message to the store, if it is allowed, in order and within the rate limit. */
function receiveMessage(
  connection: Connection,
  { content, seq, skip = false }: Extract<ClientCommand, { type: "message" }>,
): void {
  const { client: from, room, session, bucket } = connection;
  const { store, clock } = room.context;
  // Checked before the order: without the right, later messages are rejected as well, so this one need not hold them back.
  if (!connection.can.includes("write")) return reject(connection, "read-only", { content, seq });
  let pending: PendingMessage = { room: room.name, from, content, session, seq, requiresSeq: undefined };
  if (isNumbered(pending)) {
    const admitted = connection.seqOrder.admit(pending.seq, skip);
    if ("rejected" in admitted) return reject(connection, admitted.rejected, pending);
    pending = { ...pending, ...admitted };
  }
  const waitSeconds = bucket.take(costOf(content), clock.elapsed());
  if (waitSeconds > 0) {
    if (isNumbered(pending)) connection.seqOrder.rollback(pending.seq);
    return reject(connection, "rate-limited", pending, waitSeconds);
  }
  room.presence.markSender(from); // the client may have left when the message is delivered
  connection.expectResult(pending);
  store.append(pending, connection);
}

function reject(
  connection: Connection,
  code: ErrorCode,
  message: SentMessage,
  retryAfterSeconds?: number,
): void {
  messagesRejected.count(code);
  connection.replies.reject(code, message, retryAfterSeconds);
  chargeAbuse(connection, message.content);
}

/** Rejected frames and non-messages count against the abuse budget. @returns false if that closed the connection */
function chargeAbuse(connection: Connection, frame: Content): boolean {
  const { clock } = connection.room.context;
  const isWithinBudget = connection.bucket.chargeAbuse(clock.elapsed(), costOf(frame));
  if (!isWithinBudget) connection.close("abuse");
  return isWithinBudget;
}
