/** What a frame of somebody's leads to: parsed, held against their limits, and given to the store. */

import { messagesRefused } from "../ops/metrics.ts";
import {
  isTooBig,
  json,
  MAX_AROUND_CHARACTERS,
  parse,
  type Close,
  type Command,
  type ErrorCode,
} from "../protocol/codec.ts";
import type { Content, Draft, Store } from "../store/store.ts";
import type { Visitor } from "./connection.ts";

export interface HearingOptions {
  readonly maxMessageBytes: number;
}

type Numbering = Partial<Pick<Draft, "session" | "seq" | "after">>;

export class Hearing {
  constructor(
    private readonly store: Store,
    private readonly options: HearingOptions,
    private readonly dismiss: (visitor: Visitor, why: Close) => void,
  ) {}

  hear(visitor: Visitor, frame: Content): void {
    this.#obey(visitor, frame);
    if (!visitor.isLagging) return;
    visitor.isLagging = false;
    if (visitor.isBehind) this.dismiss(visitor, "tooSlow");
  }

  #obey(visitor: Visitor, frame: Content): void {
    const { maxMessageBytes } = this.options;
    if (visitor.wire === "text" || typeof frame !== "string") {
      if (!isTooBig(frame, maxMessageBytes)) this.#append(visitor, frame);
      else if (visitor.wire === "text") this.dismiss(visitor, "tooBig");
      else this.#refuse(visitor, "message-too-big", frame);
      return;
    }
    const command = parse(frame, maxMessageBytes);
    if ("error" in command) {
      if (command.seq !== undefined) visitor.sequence.refuse(command.seq);
      return this.#refuse(visitor, command.error, frame, command.seq);
    }
    switch (command.type) {
      case "ping":
        // What was sent before a pong is all that there was: so it waits for the end of a replay, and nothing for it.
        if (visitor.room.catchingUp.has(visitor)) visitor.isOwedPong = true;
        else visitor.room.fanOut.sendAfter(json.pong, visitor);
        this.#bear(visitor, frame);
        break;
      case "message":
        // What is not its text is in vain, and has to be read all the same.
        if (frame.length > 2 * command.text.length + MAX_AROUND_CHARACTERS) this.#bear(visitor, frame);
        this.#hearMessage(visitor, command);
        break;
      default:
        command satisfies never;
    }
  }

  #hearMessage(visitor: Visitor, { text, seq, skip }: Extract<Command, { type: "message" }>): void {
    const { session } = visitor;
    if (seq === undefined || session === undefined) return this.#append(visitor, text, { seq });
    const admitted = visitor.sequence.admit(seq, skip);
    if ("refused" in admitted) this.#refuse(visitor, admitted.refused, text, seq);
    else this.#append(visitor, text, { session, seq, after: admitted.after });
  }

  /** Gives it to the store, unless its sender has said too much already. */
  #append(visitor: Visitor, content: Content, { session, seq, after }: Numbering = {}): void {
    const { room, client, allowance } = visitor;
    const givenMs = performance.now();
    const waitSeconds = allowance.take(content, givenMs);
    if (waitSeconds > 0) {
      if (session !== undefined && seq !== undefined) visitor.sequence.retract(seq);
      return this.#refuse(visitor, "rate-limited", content, seq, waitSeconds);
    }
    room.manager.hasSent(client); // here, too: it may be gone before the store answers
    const draft: Draft = { room: room.name, from: client, content, session, seq, after, givenMs };
    if (visitor.wire === "text") visitor.lines.given(draft);
    visitor.given(draft);
    this.store.append(draft, visitor);
  }

  #refuse(
    visitor: Visitor,
    code: ErrorCode,
    content: Content,
    seq?: number,
    retryAfterSeconds?: number,
  ): void {
    messagesRefused.count(code);
    visitor.refuse(code, content, seq, retryAfterSeconds);
    this.#bear(visitor, content);
  }

  /** One more frame that is no message, or a refused one: there is an end to that, too. */
  #bear(visitor: Visitor, frame: Content): void {
    if (!visitor.allowance.bear(performance.now(), frame)) this.dismiss(visitor, "abuse");
  }
}
