/** The README's own lines, so that they are held to what works. */

const readme = await Bun.file(`${import.meta.dir}/../../README.md`).text();

/** The first block of lines in that language, or the first that holds this word. */
export function linesOf(language: string, word = ""): string {
  const blocks = readme.matchAll(/^```(\w+)\n(.*?)^```$/gms);
  for (const [, name, lines = ""] of blocks) if (name === language && lines.includes(word)) return lines;
  throw new Error(`the README has no lines of ${language} with ${word}`);
}

/** The lines with what is different on this machine; all of it has to be in them. */
export function fill(lines: string, changes: Readonly<Record<string, string>>): string {
  let filled = lines;
  for (const [from, to] of Object.entries(changes)) {
    if (!filled.includes(from)) throw new Error(`the README's lines do not say ${from}`);
    filled = filled.replaceAll(from, to);
  }
  return filled;
}
