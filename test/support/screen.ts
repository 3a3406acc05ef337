/** A terminal with a program in it: keys go in, and what a person would see on the screen comes out. */

import { eventually } from "./deadline.ts";

export class Screen implements Disposable {
  readonly #rows: string[][] = [[]];
  #row = 0;
  #column = 0;
  /** The part of an escape sequence that has arrived. */
  #rest = "";
  readonly #run: Bun.Subprocess;

  constructor(
    command: string[],
    private readonly columns: number,
    env: Record<string, string> = {},
  ) {
    const decoder = new TextDecoder();
    this.#run = Bun.spawn(command, {
      env: { ...process.env, TERM: "xterm", NO_COLOR: "1", ...env },
      terminal: {
        cols: columns,
        rows: 100,
        data: (_, bytes) => this.#write(decoder.decode(bytes, { stream: true })),
      },
    });
  }

  get exited(): Promise<number> {
    return this.#run.exited;
  }

  /** Rows with the spaces at their ends cut off, and a `|` where the cursor is; without the empty ones below. */
  get text(): string {
    const rows = this.#rows.map((cells, i) => {
      // A wide character is followed by an empty cell.
      if (i !== this.#row) return cells.join("").trimEnd();
      const padded = Array.from({ length: Math.max(cells.length, this.#column) }, (_, x) => cells[x] ?? " ");
      return `${padded.slice(0, this.#column).join("")}|${padded.slice(this.#column).join("")}`.trimEnd();
    });
    return rows.join("\n").trimEnd();
  }

  types(keys: string): void {
    this.#run.terminal?.write(keys);
  }

  /** Waits until the screen ends with these rows. */
  async shows(rows: string): Promise<void> {
    const expected = rows.trim();
    try {
      await eventually(async () => `\n${this.text}`.endsWith(`\n${expected}`), "the screen");
    } catch {
      throw new Error(`expected\n${expected}\n\nthe screen shows\n${this.text}`);
    }
  }

  #write(text: string): void {
    const tokens = (this.#rest + text).match(/\x1b\[[\d;?]*[A-Za-z]|\x1b.?$|\x1b\[[\d;?]*$|[^]/gu) ?? [];
    this.#rest =
      tokens.at(-1)?.startsWith("\x1b") && !/[A-Za-z]$/.test(tokens.at(-1) ?? "") ? (tokens.pop() ?? "") : "";
    for (const token of tokens) this.#apply(token);
  }

  #apply(token: string): void {
    const [, argument = "", command] = /^\x1b\[([\d;?]*)([A-Za-z])$/.exec(token) ?? [];
    const count = Number(argument || 1);
    if (command === "A") this.#row = Math.max(0, this.#row - count);
    else if (command === "B") this.#row += count;
    else if (command === "C") this.#column = Math.min(this.columns - 1, this.#column + count);
    else if (command === "D") this.#column = Math.max(0, Math.min(this.#column, this.columns - 1) - count);
    else if (command === "G") this.#column = count - 1;
    else if (command === "J") {
      this.#rows.length = Math.min(this.#rows.length, this.#row + 1);
      this.#rows[this.#row]?.splice(this.#column);
    } else if (command === "K") this.#rows[this.#row]?.splice(this.#column);
    else if (command !== undefined)
      return; // colors and modes
    else if (token === "\r") this.#column = 0;
    else if (token === "\n") this.#row++;
    else this.#put(token);
    while (this.#rows.length <= this.#row) this.#rows.push([]);
  }

  /** A full row wraps at the next character. */
  #put(character: string): void {
    const width = Bun.stringWidth(character);
    if (this.#column + width > this.columns) {
      this.#row++;
      this.#column = 0;
    }
    const cells = (this.#rows[this.#row] ??= []);
    while (cells.length < this.#column) cells.push(" ");
    cells.splice(this.#column, width, character, ...Array<string>(Math.max(0, width - 1)).fill(""));
    this.#column += width;
  }

  [Symbol.dispose](): void {
    this.#run.kill("SIGKILL");
  }
}
