/** One connection in a room: what it asked for, where it is, and what it is sent. */

import type { ConnectionManager, Member } from "./connection-manager.ts";
import type { FanOut } from "./broadcaster.ts";
import type { Allowance } from "../util/token-bucket.ts";
import { report } from "../ops/log.ts";
import { PersonalLines } from "./personal-lines.ts";
import { closes, json, text, type Close, type ErrorCode, type Wire } from "../protocol/codec.ts";
import { countAnswer } from "../ops/metrics.ts";
import { Sequence } from "../store/dedup.ts";
import type { Answer, Content, Draft, ReadonlyHistory, Sender } from "../store/store.ts";

/** A reader with more than this unread is told to come back; a little later Bun would cut it off without a word. */
export const MAX_UNREAD_BYTES = 1024 * 1024;

/** What surrounds a message at the store, about. */
const DRAFT_BYTES = 200;

/** Why this server ended a connection. */
export type Ended = Close | "silent";

/** As much of a socket as it takes to end it. */
export interface Ending {
  readonly data: { ended?: Ended };
  /** It may have been paused: what is never read of a connection that is closed makes TCP drop the rest, the close frame too. */
  resume?(): void;
  close(code: number, reason: string): void;
}

export function end(socket: Ending, why: Close): void {
  socket.data.ended = why;
  const [code, reason] = closes[why];
  socket.resume?.();
  socket.close(code, reason);
}

/** As much of Bun's socket as the hub needs. */
export interface Socket extends Ending {
  ping(): number;
  /** What is sent meanwhile shares a write. */
  cork(sends: () => void): unknown;
  send(message: Content): number;
  subscribe(topic: string): unknown;
  unsubscribe(topic: string): unknown;
  getBufferedAmount(): number;
}

/** What a client asks for with its address. */
export interface Wish {
  readonly client: string;
  readonly room: string;
  readonly wire: Wire;
  readonly session?: string;
  /** The last entry heard before, to go on from there. */
  readonly after?: string;
  /** How many of the latest messages to hear first, when not going on. */
  readonly history: number;
}

export interface Room {
  readonly name: string;
  readonly history: ReadonlyHistory;
  readonly manager: ConnectionManager<Visitor>;
  /** Those that still hear what was said before them. */
  readonly catchingUp: Set<Visitor>;
  readonly fanOut: FanOut<Visitor>;
  readonly timers: { leaves?: Timer; presence?: Timer };
  visitors: number;
}

/** What somebody comes for, and what the store knows of it. */
export interface Arrival {
  readonly after: string | undefined;
  readonly history: number;
  /** The highest number that the store has of its session. */
  readonly sent: number | null;
  /** Whether nothing is missing after the entry that it asks to go on from. */
  readonly isAfterKept: boolean;
  /** Something is, and the store knows it better than the history. */
  readonly isDamaged: boolean;
  /** Where its latest messages begin, if some of them are older than the history that is kept ready. */
  readonly idBefore: string | undefined;
}

/** One connection in a room. */
export class Visitor implements Member, Sender {
  readonly client: string;
  readonly wire: Wire;
  readonly session: string | undefined;
  socket: Socket | undefined;
  section = 0;
  /** The next position of the room's history to be sent, while catching up. */
  position = 0;
  /** The entry sent last, while those that follow it are older than what is kept ready; then the store is read. */
  behind: string | undefined;
  isReading = false;
  /** It was told that nothing is missing after what it heard last. */
  isResuming = false;
  /** It asked for a sign of life while catching up. */
  isOwedPong = false;
  /** Something sent to it had to wait since this was last looked at. */
  isLagging = false;
  #sequence: Sequence | undefined;
  #lines: PersonalLines | undefined;
  hasShownLife = false;

  constructor(
    { client, wire, session }: Wish,
    readonly room: Room,
    readonly allowance: Allowance,
    /** Dropped once it is in: there are many connections, and it is not needed again. */
    public arrival: Arrival | undefined,
    /** The newer of two connections of a session has the higher one, on whichever nodes they are. */
    readonly ticket: number,
  ) {
    this.client = client;
    this.wire = wire;
    this.session = session;
  }

  get sequence(): Sequence {
    return (this.#sequence ??= new Sequence());
  }

  get lines(): PersonalLines {
    return (this.#lines ??= new PersonalLines(this));
  }

  /** Lines that a replay holds up: those that belong before its next entry, or all when it is over. */
  sendHeldLines(before?: string): void {
    this.#lines?.sendHeld(before);
  }

  /** Whether it is a slow consumer, which is closed and resumes. One that catches up never is by what it is sent: that waits for the network. */
  get isBehind(): boolean {
    const unreadBytes = this.socket?.getBufferedAmount() ?? 0;
    return unreadBytes + (this.#lines?.characters ?? 0) > MAX_UNREAD_BYTES;
  }

  send(message: Content): number {
    const sent = this.socket?.send(message) ?? 0;
    if (sent < 0) this.isLagging = true;
    return sent;
  }

  /** Tells that something was not said, and why. */
  refuse(code: ErrorCode, content: Content, seq?: number, retryAfterSeconds?: number): void {
    if (this.wire === "text") this.lines.rejected(text.notSent(code, content));
    else this.send(json.error(code, seq, retryAfterSeconds));
  }

  /** What its messages take at the store, until they are answered. */
  unansweredBytes = 0;
  onAnswered: (() => void) | undefined;

  given({ content }: Draft): void {
    this.unansweredBytes += DRAFT_BYTES + content.length;
  }

  /** The store's answer to this sender. A fault here costs this connection: the others receive the message all the same. */
  answered(draft: Draft, answer: Answer): void {
    this.unansweredBytes -= DRAFT_BYTES + draft.content.length;
    const { onAnswered } = this;
    this.onAnswered = undefined;
    onAnswered?.();
    try {
      this.#acknowledge(draft, answer);
    } catch (error) {
      report("An answer failed", error);
      if (this.socket) end(this.socket, "failed");
    }
  }

  /** What it wrote is kept, was kept before, or is not kept. */
  #acknowledge(draft: Draft, answer: Answer): void {
    const { seq, content } = draft;
    countAnswer(draft, answer);
    if (seq !== undefined && draft.session !== undefined) this.sequence.answered(seq, answer);
    if (this.wire === "text") {
      if ("refused" in answer) this.lines.rejected(text.notSent(answer.refused, content), draft);
      else {
        const line = typeof content === "string" ? text.youWrote(content) : undefined;
        this.lines.stored(draft, line, "kept" in answer ? answer.kept.prev : this.room.history.head);
      }
    } else if ("refused" in answer) this.refuse(answer.refused, content, seq);
    else if (seq !== undefined) this.send(json.ack(seq, "kept" in answer ? answer.kept.id : answer.id));
  }
}

/** A reader that is to come back and resume. One that catches up never is: it is sent no more than it reads. */
export function isBehind(socket: Socket): boolean {
  return socket.getBufferedAmount() > MAX_UNREAD_BYTES;
}
