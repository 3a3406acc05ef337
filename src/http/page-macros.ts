/** Macros: they run when the server is loaded or compiled, and their results become part of the code. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const ROOT = join(import.meta.dir, "../..");

/** @param file from the top of the repository */
export function readSource(file: string): string {
  return readFileSync(join(ROOT, file), "utf8");
}

/** A module without imports, as JavaScript for browsers. */
export function transpile(file: string): string {
  // Bun's types lack `minify`, which also shortens names: a sixth less after compression.
  const options = { loader: "ts", target: "browser", minify: true } as const;
  return new Bun.Transpiler(options).transformSync(readSource(file));
}

/**
 * The page in one file, with its style and script inlined.
 * @returns its HTML, and the source expressions that allow its style and script in a Content-Security-Policy
 * @throws if the page cannot be built, or comes out without a style or script
 */
export function bundlePage(): { html: string; styleHash: string; scriptHash: string } {
  const folder = mkdtempSync(join(tmpdir(), "hubbub-page-"));
  try {
    // In a macro `Bun.build` throws, because it would deadlock.
    const build = ["build", "--compile", "--target=browser", "--minify", "index.html", `--outdir=${folder}`];
    const { success, stderr } = Bun.spawnSync([process.execPath, ...build], { cwd: ROOT });
    if (!success) throw new Error(`The page cannot be built: ${stderr}`);
    const html = readFileSync(join(folder, "index.html"), "utf8");
    return { html, styleHash: hashOf("style", html), scriptHash: hashOf("script", html) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function hashOf(tag: "script" | "style", html: string): string {
  const source = new RegExp(`<${tag}[^>]*>(.+?)</${tag}>`, "s").exec(html)?.[1];
  if (source === undefined) throw new Error(`The page has no <${tag}>`);
  return `'sha256-${new Bun.CryptoHasher("sha256").update(source).digest("base64")}'`;
}
