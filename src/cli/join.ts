/** `hubbub join URL`: the client for a terminal or a pipe. */

import { tokenSubject, connect, type ReceivedMessage } from "../client/client.ts";
import { escapeControls } from "../ops/log.ts";
import { compareIds } from "../store/message-id.ts";
import type { Welcome } from "../protocol/events.ts";
import type { Clock } from "../util/clock.ts";
import type { Random } from "../util/random.ts";
import { Prompt } from "./prompt.ts";

/** With this many unacknowledged lines, the input pauses, and with it the program that writes it. */
const MAX_IN_FLIGHT_LINES = 1000;
/** Shorter interruptions are not reported. */
const OUTAGE_NOTICE_MS = 2000;
/** Longer than any name or sentence of a Hubbub server. */
const MAX_SHOWN_CHARACTERS = 500;
/** Names in one notice. */
const MAX_NAMES = 10;
const DIM = 2;
const COLORS = [31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96];

/**
 * Sends each line of input as a message and prints each message as a line. On a terminal, it prints them with times,
 * joins and leaves above the line being typed. At the end of the input it waits until everything is acknowledged, and in a
 * pipe also printed.
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
  const isColored = output.isTTY === true && Bun.enableANSIColors;
  const style = (code: number, text: string) => (isColored ? `\x1b[${code}m${text}\x1b[0m` : text);
  /** Ids of own messages that are acknowledged but not received yet; they are printed before the end. */
  const unprintedAcks = new Set<string>();
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
  let isReasonShown = false;
  /**
   * Clients shown as present. The welcome names some whose joins are announced only then. Those who were present before
   * a reconnect stay in it: they reconnect as well, and have not joined.
   */
  const present = new Set<string>();
  /** Who else is in the room, printed after the first replay. */
  let others: string | undefined;
  let shownDay = dayOf(clock.now());
  const prompt = input.isTTY && output.isTTY ? openPrompt() : undefined;

  function finish(code: number, sentence?: string): void {
    isFinished = true;
    clock.clear(outage);
    prompt?.close();
    if (sentence) errors.write(`${sentence}\n`);
    const pending = connection.outbox.length;
    if (pending > 0) errors.write(`Not acknowledged: ${pending} ${pending === 1 ? "line" : "lines"}.\n`);
    input.destroy();
    connection.close();
    resolve(code);
  }

  /** A line about the connection. */
  function notify(sentence: string): void {
    if (prompt) prompt.print(sentence);
    else errors.write(`${sentence}\n`);
  }

  /** A line with the time, on a terminal. */
  function printTimed(timeMs: number, line: string): void {
    const day = dayOf(timeMs);
    if (day !== shownDay) prompt?.print(style(DIM, (shownDay = day)));
    prompt?.print(`${style(DIM, clockTimeOf(timeMs))} ${line}`);
  }

  function openPrompt(): Prompt {
    output.write(`You are ${sanitize(id)} in ${sanitize(room)} at ${address.origin}. Ctrl+D leaves.\n`);
    return new Prompt(input, output, {
      onLine(line) {
        if (line.trim()) connection.send(line);
        settle();
      },
      onEnd() {
        isInputEnded = true;
        settle();
        if (!isFinished && connection.state.status !== "open")
          errors.write("Waiting for the connection, to send what you wrote. Ctrl+C gives up.\n");
      },
      onInterrupt: () => finish(130),
    });
  }

  /** Resumes the input once there is room, or finishes once everything is done. */
  function settle(): void {
    if (isFinished) return;
    const waiting = isOutageShown ? connection.outbox.length : 0;
    prompt?.setLabel(waiting > 0 ? `(${waiting} waiting) > ` : "> ");
    if (connection.outbox.length < MAX_IN_FLIGHT_LINES && !isInputEnded && !prompt) input.resume();
    if (!isInputEnded || connection.outbox.length > 0) return;
    // In a pipe, only once everything is printed as well.
    if (prompt || (isLive && unprintedAcks.size === 0)) finish(exitCode);
  }

  function readPipe(): void {
    let partialLine = "";
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
  }

  if (!prompt) readPipe();
  // The output pipe is closed; the input is still sent.
  output.on("error", () => (isOutputOpen = false));
  process.once("SIGINT", () => finish(130));

  connection
    .on("message", (message) => {
      unprintedAcks.delete(message.id);
      lastId = message.id;
      const line = format(message, style);
      if (prompt) printTimed(message.time, line);
      else if (isOutputOpen) output.write(`${line}\n`);
      settle();
    })
    .on("acknowledged", ({ id }) => {
      if (id && compareIds(id, lastId) > 0) unprintedAcks.add(id);
      settle();
    })
    .on("welcome", (welcome) => {
      const { client, members, recovered } = welcome;
      isLive = false;
      for (const name of [...members, client]) present.add(name);
      others ??= othersHere(welcome);
      if (recovered === false) {
        unprintedAcks.clear();
        notify("Some messages may be missing here.");
      }
      settle();
    })
    .on("replayed", () => {
      isLive = true;
      if (others) prompt?.print(style(DIM, others));
      others = "";
      settle();
    })
    .on("presence", ({ joined, left }) => {
      const newcomers = joined.filter((name) => !present.has(name));
      for (const name of joined) present.add(name);
      for (const name of left) present.delete(name);
      for (const [verb, names] of Object.entries({ joined: newcomers, left }))
        if (names.length > 0) printTimed(clock.now(), style(DIM, `${listNames(names)} ${verb}`));
    })
    .on("rejected", ({ item, message }) => {
      notify(`Not sent: ${escapeControls(item.text ?? "")}\n${sanitize(message)}`);
      exitCode = 1;
      settle();
    })
    .on("state", (state) => {
      if (state.status === "closed") {
        if (!isFinished)
          finish(1, sanitize(state.reason) || `The server closed the connection (${state.statusCode}).`);
      } else if (state.status !== "open") {
        outage ??= clock.setTimeout(showOutage, OUTAGE_NOTICE_MS);
        // The reason is asked for after the connection has failed, and may arrive after the notice.
        if (isOutageShown && !isReasonShown && state.status === "reconnecting" && state.reason) showOutage();
      } else {
        clock.clear(outage);
        outage = undefined;
        if (isOutageShown) notify("Connected.");
        isOutageShown = false;
        wasOpen = true;
      }
    });
  return promise;

  function showOutage(): void {
    const { state } = connection;
    const reason = state.status === "reconnecting" ? sanitize(state.reason) : "";
    notify(
      `${wasOpen ? "Connection lost" : `Cannot connect to ${address.origin}`}, retrying.${reason ? ` (${reason})` : ""}`,
    );
    isOutageShown = true;
    isReasonShown = reason !== "";
    settle();
  }
}

/** Text from the server, escaped for the terminal and cut to a length that no honest server exceeds. */
function sanitize(text: string): string {
  const isLong = text.length > MAX_SHOWN_CHARACTERS;
  return escapeControls(isLong ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}…` : text);
}

/** `name: text`, escaped for the terminal; further lines are indented. */
function format(
  { from, text, bytes, removed }: ReceivedMessage,
  style: (code: number, text: string) => string,
): string {
  const body = (removed ? "(removed)" : (text ?? `(${bytes?.length ?? 0} bytes)`))
    .split("\n")
    .map(escapeControls)
    .join("\n    ");
  const name = sanitize(from);
  return `${style(COLORS[Bun.hash.crc32(from) % COLORS.length] ?? 0, name)}: ${body}`;
}

function othersHere({ client, count, members }: Welcome): string {
  const others = members.filter((name) => name !== client);
  return count <= 1 ? "Nobody else is here." : `Also here: ${listNames(others, count - 1)}`;
}

function listNames(names: readonly string[], count = names.length): string {
  const shown = names.slice(0, MAX_NAMES).map(sanitize);
  const more = count - shown.length;
  if (more > 0) return `${shown.join(", ")} and ${more} more`;
  const last = shown.pop() ?? "";
  return shown.length > 0 ? `${shown.join(", ")} and ${last}` : last;
}

function dayOf(timeMs: number): string {
  const options = { weekday: "long", day: "numeric", month: "long", year: "numeric" } as const;
  return new Date(timeMs).toLocaleDateString("en-GB", options);
}

/** Hours and minutes. */
function clockTimeOf(timeMs: number): string {
  return new Date(timeMs).toTimeString().slice(0, 5);
}
