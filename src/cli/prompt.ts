/** A line editor at the bottom of a terminal: what is printed meanwhile appears above the line being typed. */

import { clearScreenDown, createInterface, cursorTo, moveCursor, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";

interface PromptHandlers {
  onLine(line: string): void;
  /** Ctrl+D, or the terminal is gone. */
  onEnd(): void;
  /** Ctrl+C. */
  onInterrupt(): void;
}

export class Prompt {
  readonly #readline: Interface;
  #isClosed = false;
  /** Rows from the first of the line just entered to its last. */
  #enteredRows = 0;

  constructor(
    input: Readable,
    private readonly output: Writable,
    { onLine, onEnd, onInterrupt }: PromptHandlers,
  ) {
    this.#readline = createInterface({ input, output, terminal: true, prompt: "> " });
    // Before readline handles the key.
    input.prependListener("keypress", (_, key: { name?: string } | undefined) => {
      this.#tellRow(this.#readline.getCursorPos().rows);
      if (key?.name === "return" || key?.name === "enter") this.#enteredRows = this.#moveToEnd();
    });
    input.on("keypress", () => this.#wrapFullRow());
    // Before readline draws the line again, which the terminal has wrapped anew.
    output.prependListener("resize", () => this.#tellRow(this.#readline.getCursorPos().rows));
    this.#readline
      .on("line", (line) => {
        this.#clearRows(this.#enteredRows + 1);
        onLine(line);
        this.#draw();
      })
      .on("SIGINT", onInterrupt)
      .on("close", () => {
        if (!this.#isClosed) this.#clearRows(0);
        this.#isClosed = true;
        onEnd();
      });
    this.#draw();
  }

  print(text: string): void {
    if (!this.#isClosed) this.#clearRows(this.#readline.getCursorPos().rows);
    this.output.write(`${text}\n`);
    this.#tellRow(0);
    this.#draw();
  }

  /** What stands before the line being typed. */
  setLabel(label: string): void {
    if (this.#isClosed || label === this.#readline.getPrompt()) return;
    this.#tellRow(this.#readline.getCursorPos().rows);
    this.#readline.setPrompt(label);
    this.#draw();
  }

  close(): void {
    if (this.#isClosed) return;
    this.#clearRows(this.#readline.getCursorPos().rows);
    this.#isClosed = true;
    this.#readline.close();
  }

  #draw(): void {
    if (!this.#isClosed) this.#readline.prompt(true);
  }

  /** Readline starts a new row after the cursor. @returns the row of the line's end */
  #moveToEnd(): number {
    this.#readline.write(null, { ctrl: true, name: "e" });
    return this.#readline.getCursorPos().rows;
  }

  /** Tells readline in which row of the line the cursor is. Bun's does not notice when typing has wrapped. */
  #tellRow(prevRows: number): void {
    Object.assign(this.#readline, { prevRows });
  }

  /** A terminal wraps a full row only at the next character; readline counts on the cursor being in the next row. */
  #wrapFullRow(): void {
    const { rows, cols } = this.#readline.getCursorPos();
    const isAtEnd = this.#readline.cursor === this.#readline.line.length;
    if (cols === 0 && rows > 0 && isAtEnd && !this.#isClosed) this.output.write(" \r");
  }

  /** Clears from that many rows above the cursor on. */
  #clearRows(above: number): void {
    moveCursor(this.output, 0, -above);
    cursorTo(this.output, 0);
    clearScreenDown(this.output);
  }
}
