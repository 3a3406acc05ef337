/** `hubbub join URL`: the client at a terminal, or in a pipe. */

import type { Readable, Writable } from "node:stream";
import { tokenSubject, connect } from "../client/client.ts";
import { escapeControls } from "../ops/log.ts";
import { compareIds } from "../store/message.ts";
import type { ChatMessage } from "../protocol/events.ts";

/** So many lines may be on their way; then the input waits, and with it whatever writes it. */
const MAX_IN_FLIGHT_LINES = 1000;
/** A short interruption needs no mention. */
const PATIENCE_MS = 2000;
/** Longer than any name or sentence of the server's. */
const MAX_SHOWN_CHARACTERS = 500;
const COLORS = [31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96];

interface Terminal {
  readonly input: Readable;
  readonly output: Writable & { readonly isTTY?: boolean };
  readonly errors: Writable;
  /** Who is speaking, when the address does not say. */
  readonly user: string | undefined;
}

/**
 * Lines typed go out, lines come in. At the end of the input it waits until everything is acknowledged.
 * @param address a page, as in `http://localhost:8000/client?room=tea&id=ann`
 * @param token where the server asks for one
 * @returns the exit code: 0, or 1 after a sentence that says what was not sent
 */
export function runJoin(
  address: URL,
  token: string | undefined,
  { input, output, errors, user }: Terminal,
): Promise<number> {
  const { promise, resolve } = Promise.withResolvers<number>();
  const id =
    address.searchParams.get("id") ??
    (token && tokenSubject(token)) ??
    user ??
    `terminal-${crypto.getRandomValues(new Uint16Array(1))[0]}`;
  const room = address.searchParams.get("room") ?? "lobby";
  // A line that a restarted server has forgotten is said again: in a log a line twice is better than one missing.
  const connection = connect({
    server: address.origin,
    id,
    room,
    resendUnknown: true,
    ...(token ? { token } : {}),
  });
  /** Acknowledged, and not heard yet: they are printed like all others before it ends. */
  const unprintedAcks = new Set<string>();
  let partialLine = "";
  let exitCode = 0;
  let ended = false;
  /** All that was said before is heard, since the latest connection. */
  let isLive = false;
  let lastId = "0-0";
  let isOutputOpen = true;
  let isOver = false;
  let wasOpen = false;
  let outage: ReturnType<typeof setTimeout> | undefined;
  let isOutageShown = false;

  function end(code: number, sentence?: string): void {
    isOver = true;
    clearTimeout(outage);
    if (sentence) errors.write(`${sentence}\n`);
    const left = connection.outbox.length;
    if (left > 0) errors.write(`Not acknowledged: ${left === 1 ? "1 line" : `${left} lines`}.\n`);
    input.destroy();
    connection.close();
    resolve(code);
  }

  function settle(): void {
    if (connection.outbox.length < MAX_IN_FLIGHT_LINES && !ended) input.resume();
    if (ended && isLive && connection.outbox.length === 0 && unprintedAcks.size === 0) end(exitCode);
  }

  input.setEncoding("utf8");
  // Lines as everyone else counts them; readline would also break one at U+2028.
  input.on("data", (text: string) => {
    const lines = (partialLine + text).split("\n");
    partialLine = lines.pop() ?? "";
    for (const line of lines) connection.send(line.replace(/\r$/, ""));
    if (connection.outbox.length >= MAX_IN_FLIGHT_LINES) input.pause();
  });
  input.on("end", () => {
    if (partialLine) connection.send(partialLine);
    ended = true;
    settle();
  });
  // Whoever read the output has gone; what comes in is still to go out.
  output.on("error", () => (isOutputOpen = false));
  process.once("SIGINT", () => end(130));

  connection
    .on("message", (message) => {
      unprintedAcks.delete(message.id);
      lastId = message.id;
      if (isOutputOpen) output.write(`${format(message, output.isTTY === true)}\n`);
      settle();
    })
    .on("acknowledged", ({ id }) => {
      if (id && compareIds(id, lastId) > 0) unprintedAcks.add(id);
      settle();
    })
    .on("welcome", ({ recovered }) => {
      isLive = false;
      if (recovered === false) unprintedAcks.clear();
      if (recovered === false) errors.write("Some messages may be missing here.\n");
      settle();
    })
    .on("replayed", () => {
      isLive = true;
      settle();
    })
    .on("rejected", ({ item, message }) => {
      errors.write(`Not sent: ${escapeControls(item.text)}\n${shown(message)}\n`);
      exitCode = 1;
      settle();
    })
    .on("state", (state) => {
      if (state.status === "closed") {
        if (!isOver)
          end(1, shown(state.reason) || `The server has closed the connection (${state.statusCode}).`);
      } else if (state.status !== "open") outage ??= setTimeout(showOutage, PATIENCE_MS);
      else {
        clearTimeout(outage);
        outage = undefined;
        if (isOutageShown) errors.write("Connected.\n");
        isOutageShown = false;
        wasOpen = true;
      }
    });
  return promise;

  function showOutage(): void {
    const { state } = connection;
    const reason = state.status === "reconnecting" ? shown(state.reason) : "";
    errors.write(
      `${wasOpen ? "Connection lost" : `No connection to ${address.origin} yet`}, trying again.${reason ? ` (${reason})` : ""}\n`,
    );
    isOutageShown = true;
  }
}

/** Remote text for a line of a terminal, in full only as long as it can be meant well. */
function shown(text: string): string {
  return escapeControls(
    text.length > MAX_SHOWN_CHARACTERS ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}…` : text,
  );
}

/** One line: what could move the cursor or turn the text around is shown, not done. */
function format({ from, text, data }: ChatMessage, colored: boolean): string {
  const said = (text ?? `(${Math.floor(((data?.length ?? 0) * 3) / 4)} bytes)`)
    .split("\n")
    .map(escapeControls)
    .join("\n    ");
  const name = shown(from);
  if (!colored) return `${name}: ${said}`;
  const color = COLORS[Bun.hash.crc32(from) % COLORS.length];
  return `\x1b[${color}m${name}\x1b[0m: ${said}`;
}
