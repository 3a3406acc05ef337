/** A WebSocket client over raw TCP: sends any bytes, and reads response heads, frames and the end of the connection. */

import { connect, type Socket } from "node:net";
import { withDeadline } from "./deadline.ts";

/** The headers that ask for an upgrade. The key and its accept value are those of RFC 6455, section 1.3. */
export const UPGRADE = {
  Upgrade: "websocket",
  Connection: "Upgrade",
  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
  "Sec-WebSocket-Version": "13",
};
export const ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/** The headers of a valid handshake; a header set to undefined is left out. */
export const HANDSHAKE: Readonly<Record<string, string | undefined>> = { Host: "localhost", ...UPGRADE };

export function request(
  path: string,
  changes: Readonly<Record<string, string | undefined>> = {},
  firstLine = `GET ${path} HTTP/1.1`,
): Buffer {
  const headers = Object.entries({ ...HANDSHAKE, ...changes }).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}: ${value}\r\n`],
  );
  // Latin-1, so that a header can hold any byte.
  return Buffer.from(`${firstLine}\r\n${headers.join("")}\r\n`, "latin1");
}

/** By default a frame is valid: final, masked, with the shortest form of the length. */
interface FrameShape {
  readonly fin?: boolean;
  /** The three reserved bits, as a number from 0 to 7. */
  readonly reserved?: number;
  readonly isMasked?: boolean;
  /** Bytes of the extended payload length. */
  readonly lengthBytes?: 0 | 2 | 8;
  /** A false length. */
  readonly length?: bigint;
}

type Payload = string | Uint8Array | readonly number[];

const MASK = [0x37, 0xfa, 0x21, 0x3d];

/** A client's frame (RFC 6455, section 5.2). */
export function frame(opcode: number, payload: Payload = "", shape: FrameShape = {}): Buffer {
  const data = typeof payload === "string" ? Buffer.from(payload) : Uint8Array.from(payload);
  const { fin = true, reserved = 0, isMasked = true, length = BigInt(data.length) } = shape;
  const { lengthBytes = length < 126n ? 0 : length < 65_536n ? 2 : 8 } = shape;
  const first = (fin ? 0x80 : 0) | (reserved << 4) | opcode;
  const mask = isMasked ? MASK : [0, 0, 0, 0];
  const head = Buffer.alloc(2 + lengthBytes);
  head[0] = first;
  head[1] = (isMasked ? 0x80 : 0) | (lengthBytes === 0 ? Number(length) : lengthBytes === 2 ? 126 : 127);
  if (lengthBytes === 2) head.writeUInt16BE(Number(length), 2);
  if (lengthBytes === 8) head.writeBigUInt64BE(length, 2);
  const body = data.map((byte, i) => byte ^ (mask[i % 4] ?? 0));
  return Buffer.concat(isMasked ? [head, Buffer.from(MASK), body] : [head, body]);
}

/** The payload of a close frame. */
export function closing(code: number, reason: string | Uint8Array = ""): Buffer {
  return Buffer.concat([Uint8Array.of(code >> 8, code & 255), Buffer.from(reason)]);
}

export const text = (payload?: Payload, shape?: FrameShape) => frame(1, payload, shape);
export const binary = (payload?: Payload, shape?: FrameShape) => frame(2, payload, shape);
export const continuation = (payload?: Payload, shape?: FrameShape) => frame(0, payload, shape);
export const ping = (payload?: Payload, shape?: FrameShape) => frame(9, payload, shape);
export const pong = (payload?: Payload, shape?: FrameShape) => frame(10, payload, shape);
export const close = (code: number, reason?: string | Uint8Array) => frame(8, closing(code, reason));
export const notFinal = { fin: false };

interface Frame {
  readonly fin: boolean;
  readonly opcode: number;
  readonly payload: Buffer;
}

/** A frame as a line: `text hi`, `binary ff00`, `pong hi`, `close 1000 bye`. */
export function describeFrame({ fin, opcode, payload }: Frame): string {
  if (!fin) return `not final ${opcode}`;
  switch (opcode) {
    case 1:
      return `text ${payload}`;
    case 2:
      return `binary ${payload.toHex()}`;
    case 8:
      return payload.length < 2 ? "close" : `close ${payload.readUInt16BE(0)} ${payload.subarray(2)}`;
    case 9:
      return `ping ${payload}`;
    case 10:
      return `pong ${payload}`;
    default:
      return `opcode ${opcode}`;
  }
}

export interface Head {
  readonly status: number;
  /** By lower-case name; repeated headers are joined by commas. */
  readonly headers: ReadonlyMap<string, string>;
}

export class RawClient implements AsyncDisposable {
  readonly #socket: Socket;
  #unread = Buffer.alloc(0);
  #hasEnded = false;
  #changed = Promise.withResolvers<void>();

  /** @param from the local address */
  constructor(port: number, from?: string) {
    const localAddress = from === undefined ? {} : { localAddress: from };
    this.#socket = connect({ port, host: "127.0.0.1", noDelay: true, ...localAddress });
    this.#socket.on("data", (chunk: Buffer) => {
      this.#unread = Buffer.concat([this.#unread, chunk]);
      this.#notify();
    });
    this.#socket.on("error", () => {}); // `close` follows
    this.#socket.on("close", () => {
      this.#hasEnded = true;
      this.#notify();
    });
  }

  #notify(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** In one write: if the server closed between several, a reset could discard what was received. */
  sends(...bytes: readonly Uint8Array[]): void {
    this.#socket.write(Buffer.concat(bytes));
  }

  /** Closes its sending side. */
  ends(): void {
    this.#socket.end();
  }

  /** The response head, or undefined if the connection ends without one. */
  head(): Promise<Head | undefined> {
    return this.#take("a response", (bytes) => {
      const end = bytes.indexOf("\r\n\r\n");
      if (end < 0) return undefined;
      const [statusLine = "", ...lines] = bytes.toString("latin1", 0, end).split("\r\n");
      const headers = new Map<string, string>();
      for (const line of lines) {
        const [, name = "", value = ""] = /^([^:]*): *(.*)$/.exec(line) ?? [];
        const before = headers.get(name.toLowerCase());
        headers.set(name.toLowerCase(), before === undefined ? value : `${before}, ${value}`);
      }
      return { value: { status: Number(statusLine.split(" ")[1]), headers }, size: end + 4 };
    });
  }

  /** The next frame, or undefined at the end of the connection. */
  next(): Promise<Frame | undefined> {
    return this.#take("a frame", readFrame);
  }

  /** Expects exactly these frames next, as {@link describeFrame} writes them. */
  async hears(...expected: readonly string[]): Promise<void> {
    for (const line of expected) {
      const next = await this.next();
      const received = next ? describeFrame(next) : "the end";
      if (received !== line) throw new Error(`expected ${line}, received ${received}`);
    }
  }

  /** All frames up to the end of the connection. */
  async rest(): Promise<Frame[]> {
    const received: Frame[] = [];
    for (let each = await this.next(); each; each = await this.next()) received.push(each);
    return received;
  }

  /** Bytes received but not read; after {@link rest}, those of an incomplete frame. */
  get unread(): number {
    return this.#unread.length;
  }

  async #take<T>(what: string, read: (bytes: Buffer) => { value: T; size: number } | undefined) {
    for (;;) {
      const found = read(this.#unread);
      if (found) {
        this.#unread = this.#unread.subarray(found.size);
        return found.value;
      }
      if (this.#hasEnded) return undefined;
      await withDeadline(this.#changed.promise, () => `expected ${what} or the end, but nothing came`);
    }
  }

  /** Waits for the end of the connection. */
  async ended(): Promise<void> {
    while (!this.#hasEnded)
      await withDeadline(this.#changed.promise, () => "expected the end, but nothing came");
  }

  vanishes(): void {
    this.#socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.vanishes();
  }
}

/** Connects and sends a handshake with these changes. */
export function openRaw(
  { port = 0 }: { readonly port?: number | undefined },
  ...what: Parameters<typeof request>
): RawClient {
  const client = new RawClient(port);
  client.sends(request(...what));
  return client;
}

/** A server's frame is never masked (RFC 6455, section 5.1). */
function readFrame(bytes: Buffer): { value: Frame; size: number } | undefined {
  const [first = 0, second = 0] = bytes;
  if (bytes.length < 2) return undefined;
  if (second & 0x80 || first & 0x70) throw new Error(`a server's frame that is masked or has reserved bits`);
  const start = second === 127 ? 10 : second === 126 ? 4 : 2;
  if (bytes.length < start) return undefined;
  const length =
    start === 2 ? second : start === 4 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
  if (bytes.length < start + length) return undefined;
  const value = {
    fin: (first & 0x80) !== 0,
    opcode: first & 15,
    payload: Buffer.from(bytes.subarray(start, start + length)),
  };
  return { value, size: start + length };
}
