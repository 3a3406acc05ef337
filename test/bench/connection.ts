/**
 * One client of the load generator, over raw TCP, with as little work per frame as possible, so that the server is what
 * is measured. It counts the messages received and sums up their numbers, so that a lost message and a duplicate do not
 * cancel out.
 */

import { SUBPROTOCOL } from "../../src/protocol/codec.ts";

/** On "sse", some clients are JSON connections, which send, and the others event streams. */
export type Wire = "text" | "json" | "echo" | "sse";

/** A message begins with its number, in this many digits, and is padded to this length. */
const DIGITS = 8;
const TEXT_BYTES = 64;
/** What follows the text in a JSON frame; the text is its last field. */
const JSON_TAIL = '"}';
const ZERO = 0x30;

/** The first letter of "Client #c0001 says: …", "You wrote: …", "Not sent (…): …" and "Message text was: …". */
const [SAYS, WROTE, NOT_SENT, REPLY] = [0x43, 0x59, 0x4e, 0x4d];
/** The first letter of a JSON event's type: message, ack, error. */
const [MESSAGE, ACK, ERROR] = [0x6d, 0x61, 0x65];
const JSON_HEAD = '{"type":"';

/** The end of a message in an event stream. */
const SSE_TAIL = Buffer.from(`${JSON_TAIL}\n\n`);

const PING = 9;
const CLOSE = 8;

export interface Watcher {
  /** The reply to its own message: an ack, "You wrote", or the echo. */
  acknowledged(connection: Connection): void;
  /** A message that this connection waits for, or any message if it is watched. */
  received(connection: Connection, number: number): void;
  failed(why: string): void;
}

/** A client's frame, built once; only its number changes. */
export class Draft {
  readonly #frame: Buffer;
  readonly #numbers: readonly number[];

  constructor(wire: Wire) {
    const text = "0".repeat(DIGITS).padEnd(TEXT_BYTES, "x");
    // On the JSON wire the number is also the seq; the 1 prevents leading zeros.
    const isJson = wire === "json" || wire === "sse";
    const payload = isJson ? `{"type":"message","text":"${text}","seq":1${"0".repeat(DIGITS)}}` : text;
    // The mask is zero, which RFC 6455 allows, so that the number can be written unmasked.
    const mask = [0, 0, 0, 0];
    const { length } = payload;
    const head = length < 126 ? [0x81, 0x80 | length] : [0x81, 0x80 | 126, length >> 8, length & 255];
    this.#frame = Buffer.concat([Uint8Array.from([...head, ...mask]), Buffer.from(payload)]);
    const textAt = this.#frame.indexOf("0".repeat(DIGITS), head.length + mask.length);
    this.#numbers = isJson ? [textAt, this.#frame.length - 1 - DIGITS] : [textAt];
  }

  numbered(number: number): Buffer {
    for (const at of this.#numbers) {
      let rest = number;
      for (let i = at + DIGITS - 1; i >= at; i--) {
        this.#frame[i] = ZERO + (rest % 10);
        rest = Math.floor(rest / 10);
      }
    }
    return this.#frame;
  }
}

export class Connection {
  /** Messages received, and the sum of their numbers. */
  count = 0;
  sum = 0;
  /** Messages sent, and the sum of their numbers. */
  sent = 0;
  sentSum = 0;
  /** Whether every delivery is reported to the watcher. */
  isWatched = false;
  /** The number of the last message of the run. */
  awaits = -1;
  /** Whether it pauses after each read until it is woken. */
  dozes = false;
  readonly #opened = Promise.withResolvers<void>();
  /** Offset of the kind from the start of a frame, and of the text from its end. */
  readonly #kindAt: number;
  readonly #tail: number;
  #socket: Bun.Socket | undefined;
  #isOpen = false;
  #rest: Buffer | undefined;

  private constructor(
    private readonly wire: Wire,
    private readonly watcher: Watcher,
  ) {
    this.#kindAt = wire === "json" ? JSON_HEAD.length : 0;
    this.#tail = TEXT_BYTES + (wire === "json" ? JSON_TAIL.length : 0);
  }

  static async open(port: number, id: string, wire: Wire, watcher: Watcher): Promise<Connection> {
    const connection = new Connection(wire, watcher);
    connection.#socket = await Bun.connect({
      hostname: "127.0.0.1",
      port,
      socket: {
        open: (socket) => {
          socket.setNoDelay(true);
          socket.write(handshake(port, id, wire));
        },
        data: (_, bytes) => connection.#read(bytes),
        close: () => connection.#fail("a connection was closed by the server"),
        error: (_, { message }) => connection.#fail(message),
      },
    });
    await connection.#opened.promise;
    return connection;
  }

  send(pending: Draft, number: number): void {
    this.sent++;
    this.sentSum += number;
    this.#write(pending.numbered(number));
  }

  #write(frame: Uint8Array): void {
    // The kernel refuses only after megabytes of backlog, when there is nothing left to measure.
    if (this.#socket?.write(frame) !== frame.length) this.#fail("the server does not read what it is sent");
  }

  reset(): void {
    this.count = this.sum = this.sent = this.sentSum = 0;
  }

  close(): void {
    this.#socket?.terminate();
  }

  #fail(why: string): void {
    this.#opened.reject(new Error(why));
    this.watcher.failed(why);
  }

  wake(): void {
    this.#socket?.resume();
  }

  #read(chunk: Buffer): void {
    if (this.dozes) this.#socket?.pause();
    const bytes = this.#rest ? Buffer.concat([this.#rest, chunk]) : chunk;
    const size = bytes.length;
    let at = this.#isOpen ? 0 : this.#readHead(bytes);
    if (this.wire === "sse") at = this.#readEvents(bytes, at);
    while (this.#isOpen && this.wire !== "sse" && size - at >= 2) {
      let start = at + 2;
      let length = bytes[at + 1] ?? 0;
      if (length === 126) {
        if (size - at < 4) break;
        length = ((bytes[at + 2] ?? 0) << 8) | (bytes[at + 3] ?? 0);
        start = at + 4;
      } else if (length > 126) return this.#fail("a frame that is longer than any that was asked for");
      const end = start + length;
      if (end > size) break;
      const opcode = (bytes[at] ?? 0) & 15;
      if (opcode === 1) this.#readFrame(bytes, start, end);
      else if (opcode === PING) this.#pong(bytes.subarray(start, end));
      else if (opcode === CLOSE) return this.#fail("the server said goodbye");
      at = end;
    }
    this.#rest = at < size ? Buffer.from(bytes.subarray(at)) : undefined;
  }

  #readHead(bytes: Buffer): number {
    // A stream is open once it is welcomed.
    const end = bytes.indexOf(this.wire === "sse" ? "\n\n" : "\r\n\r\n");
    if (end < 0) return 0;
    const status = bytes.toString("latin1", 0, bytes.indexOf("\r\n"));
    if (/^HTTP\/1.1 (101|200) /.test(status)) {
      this.#isOpen = true;
      this.#opened.resolve();
    } else this.#fail(`the handshake was answered with ${status}`);
    return this.wire === "sse" ? end + 2 : end + 4;
  }

  /** A message is one event, within a chunk of the response; its text is at its end. @returns where the rest begins */
  #readEvents(bytes: Buffer, start: number): number {
    let at = start;
    while (this.#isOpen) {
      const end = bytes.indexOf(SSE_TAIL, at);
      if (end < 0) break;
      this.#deliver(bytes, end - TEXT_BYTES);
      at = end + SSE_TAIL.length;
    }
    return at;
  }

  /** One byte tells the kind of a frame: the first of the text, or in JSON the first of the type. */
  #readFrame(bytes: Buffer, start: number, end: number): void {
    switch (bytes[start + this.#kindAt]) {
      case SAYS: // a leave is shorter
        if (end - start > TEXT_BYTES) this.#deliver(bytes, end - this.#tail);
        break;
      case MESSAGE:
        this.#deliver(bytes, end - this.#tail);
        break;
      case REPLY:
        this.#deliver(bytes, end - this.#tail);
        this.watcher.acknowledged(this);
        break;
      case WROTE:
      case ACK:
        this.watcher.acknowledged(this);
        break;
      case NOT_SENT:
      case ERROR:
        this.#fail(`a message was refused: ${bytes.toString("utf8", start, end)}`);
        break;
    }
  }

  #deliver(bytes: Buffer, at: number): void {
    let number = 0;
    for (let i = at; i < at + DIGITS; i++) number = number * 10 + (bytes[i] ?? 0) - ZERO;
    this.count++;
    this.sum += number;
    if (this.isWatched || number === this.awaits) this.watcher.received(this, number);
  }

  /** A control frame has at most 125 bytes, so its length is in the second byte. */
  #pong(payload: Buffer): void {
    this.#write(Buffer.concat([Uint8Array.of(0x8a, 0x80 | payload.length, 0, 0, 0, 0), payload]));
  }
}

function handshake(port: number, id: string, wire: Wire): string {
  if (wire === "sse") return `GET /rooms/lobby/events HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`;
  return [
    `GET ${wire === "echo" ? "/websocket" : `/ws/${id}`} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    ...(wire === "json" ? [`Sec-WebSocket-Protocol: ${SUBPROTOCOL}`] : []),
    "\r\n",
  ].join("\r\n");
}
