/** What a frame of somebody's leads to: parsed, held against their limits, and given to the store. */

import { messagesRejected } from "../ops/metrics.ts";
import {
  exceedsBytes,
  jsonCodec,
  MAX_AROUND_CHARACTERS,
  parseFrame,
  type ClientCommand,
} from "../protocol/codec.ts";
import type { CloseReason, ErrorCode } from "../protocol/codes.ts";
import type { Content, PendingMessage } from "../store/message.ts";
import type { MessageStore } from "../store/store.ts";
import { costOf } from "../util/token-bucket.ts";
import type { Connection } from "./connection.ts";

export interface HearingOptions {
  readonly maxMessageBytes: number;
}

type SequenceInfo = Partial<Pick<PendingMessage, "session" | "seq" | "requiresSeq">>;

export class Hearing {
  constructor(
    private readonly store: MessageStore,
    private readonly options: HearingOptions,
    private readonly dismiss: (connection: Connection, why: CloseReason) => void,
  ) {}

  receive(connection: Connection, frame: Content): void {
    this.#dispatch(connection, frame);
    if (!connection.hadBackpressure) return;
    connection.hadBackpressure = false;
    if (connection.isBehind) this.dismiss(connection, "tooSlow");
  }

  #dispatch(connection: Connection, frame: Content): void {
    const { maxMessageBytes } = this.options;
    if (connection.wire === "text" || typeof frame !== "string") {
      if (!exceedsBytes(frame, maxMessageBytes)) this.#append(connection, frame);
      else if (connection.wire === "text") this.dismiss(connection, "tooBig");
      else this.#refuse(connection, "message-too-big", frame);
      return;
    }
    const command = parseFrame(frame, maxMessageBytes);
    if ("error" in command) {
      if (command.seq !== undefined) connection.sendOrder.markRejected(command.seq);
      return this.#refuse(connection, command.error, frame, command.seq);
    }
    switch (command.type) {
      case "ping":
        // What was sent before a pong is all that there was: so it waits for the end of a replay, and nothing for it.
        if (connection.room.replaying.has(connection)) connection.pongPending = true;
        else connection.room.broadcaster.enqueueFor(jsonCodec.pong, connection);
        this.#chargeAbuse(connection, frame);
        break;
      case "message":
        // What is not its text is in vain, and has to be read all the same.
        if (frame.length > 2 * command.text.length + MAX_AROUND_CHARACTERS)
          this.#chargeAbuse(connection, frame);
        this.#receiveMessage(connection, command);
        break;
      default:
        command satisfies never;
    }
  }

  #receiveMessage(
    connection: Connection,
    { text, seq, skip }: Extract<ClientCommand, { type: "message" }>,
  ): void {
    const { session } = connection;
    if (seq === undefined || session === undefined) return this.#append(connection, text, { seq });
    const admitted = connection.sendOrder.admit(seq, skip);
    if ("rejected" in admitted) this.#refuse(connection, admitted.rejected, text, seq);
    else this.#append(connection, text, { session, seq, requiresSeq: admitted.after });
  }

  /** Gives it to the store, unless its sender has said too much already. */
  #append(connection: Connection, content: Content, { session, seq, requiresSeq }: SequenceInfo = {}): void {
    const { room, client, bucket } = connection;
    const waitSeconds = bucket.take(costOf(content), performance.now());
    if (waitSeconds > 0) {
      if (session !== undefined && seq !== undefined) connection.sendOrder.rollback(seq);
      return this.#refuse(connection, "rate-limited", content, seq, waitSeconds);
    }
    room.manager.hasSent(client); // here, too: it may be gone before the store answers
    const pending: PendingMessage = {
      room: room.name,
      from: client,
      content,
      session,
      seq,
      requiresSeq,
    };
    if (connection.wire === "text") connection.lines.given(pending);
    connection.given(pending);
    this.store.append(pending, connection);
  }

  #refuse(
    connection: Connection,
    code: ErrorCode,
    content: Content,
    seq?: number,
    retryAfterSeconds?: number,
  ): void {
    messagesRejected.count(code);
    connection.sendRejected(code, content, seq, retryAfterSeconds);
    this.#chargeAbuse(connection, content);
  }

  /** One more frame that is no message, or a refused one: there is an end to that, too. */
  #chargeAbuse(connection: Connection, frame: Content): void {
    if (!connection.bucket.chargeAbuse(performance.now(), costOf(frame))) this.dismiss(connection, "abuse");
  }
}
