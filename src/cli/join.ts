/** `hubbub join URL`: the client for a terminal or a pipe. */

import { tokenSubject, connect } from "../client/client.ts";
import { escapeControls } from "../ops/log.ts";
import { compareIds } from "../store/message-id.ts";
import type { ChatMessage } from "../protocol/events.ts";
import type { Clock } from "../util/clock.ts";
import type { Random } from "../util/random.ts";

/** With this many unacknowledged lines, the input pauses, and with it the program that writes it. */
const MAX_IN_FLIGHT_LINES = 1000;
/** Shorter interruptions are not reported. */
const OUTAGE_NOTICE_MS = 2000;
/** Longer than any name or sentence of a Hubbub server. */
const MAX_SHOWN_CHARACTERS = 500;
const COLORS = [31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96];

/**
 * Sends each line of input as a message and prints each message as a line. At the end of the input it waits until
 * everything is acknowledged and printed.
 * @param address of the chat page, such as `http://localhost:8000/client?room=tea&id=ann`
 * @param token undefined if the server requires none
 * @returns the exit code: 0; 1 after reporting what was not sent; 130 after SIGINT
 */
export function runJoin(
  address: URL,
  token: string | undefined,
  clock: Clock,
  random: Random,
): Promise<number> {
  const { stdin: input, stdout: output, stderr: errors, env } = process;
  const { promise, resolve } = Promise.withResolvers<number>();
  const id =
    address.searchParams.get("id") ??
    (token && tokenSubject(token)) ??
    env.USER ??
    `terminal-${Math.floor(random.next() * 65_536)}`;
  const room = address.searchParams.get("room") ?? "lobby";
  // resendUnknown: in a log, a line twice is better than one missing.
  const connection = connect({
    server: address.origin,
    id,
    room,
    resendUnknown: true,
    ...(token ? { token } : {}),
  });
  /** Ids of own messages that are acknowledged but not received yet; they are printed before the end. */
  const unprintedAcks = new Set<string>();
  let partialLine = "";
  let exitCode = 0;
  let isInputEnded = false;
  /** The replay of the current connection is complete. */
  let isLive = false;
  let lastId = "0-0";
  let isOutputOpen = true;
  let isFinished = false;
  let wasOpen = false;
  let outage: Timer | undefined;
  let isOutageShown = false;

  function finish(code: number, sentence?: string): void {
    isFinished = true;
    clock.clear(outage);
    if (sentence) errors.write(`${sentence}\n`);
    const pending = connection.outbox.length;
    if (pending > 0) errors.write(`Not acknowledged: ${pending} ${pending === 1 ? "line" : "lines"}.\n`);
    input.destroy();
    connection.close();
    resolve(code);
  }

  /** Resumes the input once there is room, or finishes once everything is done. */
  function settle(): void {
    if (connection.outbox.length < MAX_IN_FLIGHT_LINES && !isInputEnded) input.resume();
    if (isInputEnded && isLive && connection.outbox.length === 0 && unprintedAcks.size === 0)
      finish(exitCode);
  }

  input.setEncoding("utf8");
  // Not readline, which also breaks lines at U+2028.
  input.on("data", (text: string) => {
    const lines = (partialLine + text).split("\n");
    partialLine = lines.pop() ?? "";
    for (const line of lines) connection.send(line.replace(/\r$/, ""));
    if (connection.outbox.length >= MAX_IN_FLIGHT_LINES) input.pause();
  });
  input.on("end", () => {
    if (partialLine) connection.send(partialLine);
    isInputEnded = true;
    settle();
  });
  // The output pipe is closed; the input is still sent.
  output.on("error", () => (isOutputOpen = false));
  process.once("SIGINT", () => finish(130));

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
      if (recovered === false) {
        unprintedAcks.clear();
        errors.write("Some messages may be missing here.\n");
      }
      settle();
    })
    .on("replayed", () => {
      isLive = true;
      settle();
    })
    .on("rejected", ({ item, message }) => {
      errors.write(`Not sent: ${escapeControls(item.text ?? "")}\n${sanitize(message)}\n`);
      exitCode = 1;
      settle();
    })
    .on("state", (state) => {
      if (state.status === "closed") {
        if (!isFinished)
          finish(1, sanitize(state.reason) || `The server closed the connection (${state.statusCode}).`);
      } else if (state.status !== "open") outage ??= clock.setTimeout(showOutage, OUTAGE_NOTICE_MS);
      else {
        clock.clear(outage);
        outage = undefined;
        if (isOutageShown) errors.write("Connected.\n");
        isOutageShown = false;
        wasOpen = true;
      }
    });
  return promise;

  function showOutage(): void {
    const { state } = connection;
    const reason = state.status === "reconnecting" ? sanitize(state.reason) : "";
    errors.write(
      `${wasOpen ? "Connection lost" : `Cannot connect to ${address.origin}`}, retrying.${reason ? ` (${reason})` : ""}\n`,
    );
    isOutageShown = true;
  }
}

/** Text from the server, escaped for the terminal and cut to a length that no honest server exceeds. */
function sanitize(text: string): string {
  const isLong = text.length > MAX_SHOWN_CHARACTERS;
  return escapeControls(isLong ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}…` : text);
}

/** `name: text`, escaped for the terminal; further lines are indented. */
function format({ from, text, data }: ChatMessage, colored: boolean): string {
  const body = (text ?? `(${Math.floor(((data?.length ?? 0) * 3) / 4)} bytes)`)
    .split("\n")
    .map(escapeControls)
    .join("\n    ");
  const name = sanitize(from);
  if (!colored) return `${name}: ${body}`;
  const color = COLORS[Bun.hash.crc32(from) % COLORS.length];
  return `\x1b[${color}m${name}\x1b[0m: ${body}`;
}
