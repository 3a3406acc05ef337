/** The structure of src/: imports point down, nothing imports in a cycle, and time and randomness come from one place. */

import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

const SRC = join(import.meta.dir, "../src");

/** A folder may import from those below it. */
const SERVER = ["server.ts", "cli", "http", "chat", "store", "auth", "ops", "protocol", "util"];
/** The page and the client run in browsers, and `hubbub join` is a client. From the protocol they import types. */
const BROWSER = ["page", "client"];

const transpiler = new Bun.Transpiler({ loader: "ts" });
const sources = new Map(
  [...new Bun.Glob("**/*.ts").scanSync(SRC)]
    .sort()
    .map((file) => [file, readFileSync(join(SRC, file), "utf8")]),
);

/** What a file imports from src, by path. */
function importsOf(file: string): string[] {
  const statements = (sources.get(file) ?? "").matchAll(
    /^(?:import|export)\b[^;"]*?from "(\.[^"]+)"|^import "(\.[^"]+)"|\bimport\("(\.[^"]+)"\)/gm,
  );
  return [...statements]
    .map(([, from, bare, dynamic]) => normalize(join(dirname(file), from ?? bare ?? dynamic ?? "")))
    .filter((path) => sources.has(path));
}

/** What is left of its imports once types are erased. */
function runtimeImportsOf(file: string): string[] {
  return transpiler
    .scanImports(sources.get(file) ?? "")
    .map(({ path }) => normalize(join(dirname(file), path)))
    .filter((path) => sources.has(path));
}

const folderOf = (path: string) => path.split("/")[0] ?? "";

test("every folder has its place", () => {
  const unknown = [...sources.keys()]
    .map(folderOf)
    .filter((folder) => ![...SERVER, ...BROWSER].includes(folder));
  expect(unknown).toEqual([]);
});

test("imports point down", () => {
  const isAllowed = (from: string, to: string) => {
    if (from === to) return true;
    if (from === "page") return ["client", "protocol", "util"].includes(to);
    if (from === "client") return to === "protocol";
    if (to === "client") return from === "cli";
    return SERVER.indexOf(from) < SERVER.indexOf(to);
  };
  const wrong = [...sources.keys()].flatMap((file) =>
    importsOf(file)
      .filter((path) => !isAllowed(folderOf(file), folderOf(path)))
      .map((path) => `${file} imports ${path}`),
  );
  expect(wrong).toEqual([]);
});

/** The page tells at once which names the server would reject, and draws the QR code of its link. */
const PAGE_IMPORTS = ["protocol/names.ts", "util/qr.ts"];

test("the client imports only types from outside, the page also the rule for names and the QR encoder", () => {
  const wrong = [...sources.keys()]
    .filter((file) => BROWSER.includes(folderOf(file)))
    .flatMap((file) =>
      runtimeImportsOf(file)
        .filter((path) => !BROWSER.includes(folderOf(path)))
        .filter((path) => folderOf(file) !== "page" || !PAGE_IMPORTS.includes(path))
        .map((path) => `${file} imports ${path}`),
    );
  expect(wrong).toEqual([]);
});

test("no file imports itself by way of others, types included", () => {
  const isDone = new Set<string>();
  const cycles: string[] = [];
  function visit(file: string, path: readonly string[]): void {
    if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(" → "));
    if (path.includes(file) || isDone.has(file)) return;
    for (const next of importsOf(file)) visit(next, [...path, file]);
    isDone.add(file);
  }
  for (const file of sources.keys()) visit(file, []);
  expect(cycles).toEqual([]);
});

test("time and randomness come from the clock and the random source that are passed down", () => {
  /** Browsers and `hubbub join` have no server to pass them one; macros run before there is one. */
  const exceptions = /^(client|page)\/|^util\/(clock|random)\.ts$/;
  const globals =
    /(?<![.\w#])(setTimeout|setInterval|setImmediate|clearTimeout|clearInterval|Bun\.sleep|Date\.now|new Date\(\)|performance\.now|Math\.random|crypto\.(randomUUID|getRandomValues|randomBytes))\b/;
  const wrong = [...sources].flatMap(([file, source]) =>
    exceptions.test(file)
      ? []
      : source
          .split("\n")
          .flatMap((line, i) =>
            globals.test(line) && !/^\s*(\/?\*|\/\/)/.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [],
          ),
  );
  expect(wrong).toEqual([]);
});
