/** The response of an event stream, used like one of Bun's WebSockets, and the topics that these streams subscribe to. */

import type { ServerSocket, SocketData } from "./socket-registry.ts";
import type { Content } from "../protocol/codec.ts";

type Bytes = Uint8Array<ArrayBuffer>;

/** How much of a replay is queued ahead of what the network takes. */
const QUEUE_BYTES = 64 * 1024;

const utf8 = new TextEncoder();

/** What happens to the stream. */
export interface StreamHandlers {
  /** It takes more again, after {@link StreamSocket.send} was negative. */
  drain(): void;
  /** It has ended, by whichever side. Called once. */
  close(reason: string | undefined): void;
}

export class StreamSocket implements ServerSocket {
  /** The body of the response. */
  readonly body: ReadableStream<Bytes>;
  #controller!: ReadableStreamDefaultController<Bytes>;
  #topic: string | undefined;
  #isClosed = false;
  #hasBackpressure = false;
  #sentBytes = 0;
  /** Of these, what the network had taken at the last {@link ping}. */
  #takenBytes = 0;

  constructor(
    readonly data: SocketData,
    private readonly topics: StreamTopics,
    private readonly heartbeat: string,
    private readonly handlers: StreamHandlers,
  ) {
    this.body = new ReadableStream<Bytes>(
      {
        start: (controller) => void (this.#controller = controller),
        pull: () => this.#onDrain(),
        cancel: () => this.#onClosed(undefined),
      },
      { highWaterMark: QUEUE_BYTES, size: (chunk) => chunk?.byteLength ?? 0 },
    );
  }

  send(content: Content): number {
    if (this.#isClosed) return 0;
    const bytes = typeof content === "string" ? utf8.encode(content) : content;
    this.#sentBytes += bytes.length;
    this.#controller.enqueue(bytes);
    if (this.getBufferedAmount() < QUEUE_BYTES) return bytes.length;
    this.#hasBackpressure = true;
    return -1;
  }

  getBufferedAmount(): number {
    return QUEUE_BYTES - (this.#controller.desiredSize ?? QUEUE_BYTES);
  }

  /** Called after every chunk that the network takes while the queue is short. */
  #onDrain(): void {
    if (!this.#hasBackpressure) return;
    this.#hasBackpressure = false;
    this.handlers.drain();
  }

  /** Sends the heartbeat. HTTP has no pong: instead, the network has to take something now and then. */
  ping(): number {
    const buffered = this.getBufferedAmount();
    const takenBytes = this.#sentBytes - buffered;
    if (buffered === 0 || takenBytes > this.#takenBytes) this.data.missedPongs = 0;
    this.#takenBytes = takenBytes;
    return this.send(this.heartbeat);
  }

  cork(sends: () => void): void {
    sends();
  }

  subscribe(topic: string): void {
    this.#topic = topic;
    this.topics.add(topic, this);
  }

  unsubscribe(topic: string): void {
    this.topics.delete(topic, this);
  }

  /** Sends what is queued, and ends the response; to a slow consumer it is cut off. */
  close(_code: number, reason: string): void {
    if (this.#isClosed) return;
    if (this.data.disconnectReason === "tooSlow") this.#controller.error();
    else this.#controller.close();
    this.#onClosed(reason);
  }

  /** Cuts the response off. */
  terminate(): void {
    if (this.#isClosed) return;
    this.#controller.error();
    this.#onClosed("stalled");
  }

  #onClosed(reason: string | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    if (this.#topic !== undefined) this.unsubscribe(this.#topic);
    this.handlers.close(reason);
  }

  /** A stream receives no input. */
  pause(): void {}

  resume(): void {}
}

/** What Bun's pub/sub is for WebSockets. */
export class StreamTopics {
  readonly #sockets = new Map<string, Set<StreamSocket>>();

  add(topic: string, socket: StreamSocket): void {
    const sockets = this.#sockets.get(topic);
    if (sockets) sockets.add(socket);
    else this.#sockets.set(topic, new Set([socket]));
  }

  delete(topic: string, socket: StreamSocket): void {
    const sockets = this.#sockets.get(topic);
    if (sockets?.delete(socket) && sockets.size === 0) this.#sockets.delete(topic);
  }

  /**
   * Sends to all streams of the topic; they share the bytes.
   * @returns negative if one has backpressure; undefined if the topic has no streams
   */
  publish(topic: string, content: Content): number | undefined {
    const sockets = this.#sockets.get(topic);
    if (!sockets) return undefined;
    const bytes = typeof content === "string" ? utf8.encode(content) : content;
    let result = bytes.length;
    for (const socket of sockets) if (socket.send(bytes) < 0) result = -1;
    return result;
  }
}
