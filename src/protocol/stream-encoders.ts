/** The two formats of an event stream. Neither has frames, so what is written together can be joined. */

import { jsonCodec, type Encoder, type Message, type Removal, type StreamFormat } from "./codec.ts";

/** The first event of a stream. */
export interface StreamWelcome {
  readonly room: string;
  /** The id just before the first message that follows. */
  readonly last: string;
  /** Only when resuming: whether nothing is missing since. */
  readonly recovered?: boolean;
}

export interface StreamEncoder extends Encoder {
  readonly name: StreamFormat;
  readonly contentType: string;
  /** @param retryMs how long the client should wait before it reconnects */
  welcome(welcome: StreamWelcome, retryMs: number): string;
  message(message: Message): string;
  removed(removal: Removal): string;
  /** Sent now and then, so that proxies keep the response open. */
  readonly heartbeat: string;
}

/** Server-Sent Events (HTML standard, section 9.2). */
export const sseEncoder: StreamEncoder = {
  name: "sse",
  contentType: "text/event-stream; charset=utf-8",
  welcome(welcome, retryMs) {
    const data = JSON.stringify({ type: "welcome", ...welcome });
    return `retry: ${retryMs}\nevent: welcome\nid: ${welcome.last}\ndata: ${data}\n\n`;
  },
  message(message) {
    return `id: ${message.id}\ndata: ${jsonCodec.message(message)}\n\n`;
  },
  removed(removal) {
    return `event: removed\nid: ${removal.id}\ndata: ${jsonCodec.removed(removal)}\n\n`;
  },
  heartbeat: ": ping\n\n",
};

/** JSON lines. */
export const ndjsonEncoder: StreamEncoder = {
  name: "ndjson",
  contentType: "application/x-ndjson; charset=utf-8",
  welcome(welcome) {
    return `${JSON.stringify({ type: "welcome", ...welcome })}\n`;
  },
  message(message) {
    return `${jsonCodec.message(message)}\n`;
  },
  removed(removal) {
    return `${jsonCodec.removed(removal)}\n`;
  },
  heartbeat: '{"type":"ping"}\n',
};
