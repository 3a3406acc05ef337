/** The documentation names only what exists: files, links, headings, options, scripts. */

import { describe, expect, test } from "bun:test";
import { generateKeyPairSync } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import pkg from "../package.json";
import { parseCommand, serverFlags, tokenFlags } from "../src/cli/parse-command.ts";
import { REJECTION_STATUS } from "../src/protocol/codes.ts";
import { readDoc, ROOT } from "./support/docs.ts";
import { TempFolder } from "./support/temp-folder.ts";

const documents = [
  ...new Bun.Glob("*.md").scanSync(ROOT),
  ...new Bun.Glob("{src,test}/**/README.md").scanSync(ROOT),
].sort();

/** Options of other programs, and of our scripts in test/. */
const OTHER_FLAGS = new Set([
  ..."data-binary appendonly appendfsync maxmemory maxmemory-policy now store seconds seed seeds trace timeout follow".split(
    " ",
  ),
  ..."help version no-script check ignore-missing chmod interval read-only from to".split(" "),
]);
/** Variables that are not options. */
const OTHER_VARIABLES = new Set(["HUBBUB_SECRET", "HUBBUB_TOKEN", "HUBBUB_PORT"]);

const kebab = (name: string) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const options = Object.keys({ ...serverFlags, ...tokenFlags }).map(kebab);

/** The anchor that GitHub gives a heading. */
function anchorOf(heading: string): string {
  return heading
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, "")
    .replaceAll(" ", "-");
}

function anchorsOf(path: string): string[] {
  const prose = readDoc(path).replace(/^```.*?^```$/gms, "");
  return [...prose.matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) => anchorOf(heading));
}

function matches(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map(([, first = ""]) => first);
}

describe.each(documents)("%s", (path) => {
  const text = readDoc(path);
  const folder = dirname(path);

  test("links only to what exists", () => {
    const links = matches(text, /\]\(([^)]*)\)/g).filter((link) => !/^https?:/.test(link));
    const broken = links.filter((link) => {
      const [file = "", anchor] = link.split("#");
      const target = file === "" ? path : join(folder, file);
      if (!existsSync(join(ROOT, target))) return true;
      return anchor !== undefined && !anchorsOf(target).includes(anchor);
    });
    expect(broken).toEqual([]);
  });

  test("names only files that exist", () => {
    const paths = matches(text, /(?<![\w/])((?:src|test)\/[\w./-]*\w)/g);
    const names = [
      ...matches(text, /`((?:[\w-]+\/)*[\w.-]+\.(?:ts|lua|css|html))`/g),
      ...matches(text, /^\| \[?`((?:[\w-]+\/)+)`/gm),
    ];
    const missing = [
      ...paths.filter((file) => !existsSync(join(ROOT, file))),
      ...names.filter((file) => !["", "src", folder].some((base) => existsSync(join(ROOT, base, file)))),
    ];
    expect(missing).toEqual([]);
  });

  test("names only options, variables and scripts that exist", () => {
    const flags = matches(text, /(?<![\w-])--([a-z][a-z-]*[a-z])/g);
    const variables = matches(text, /\b(HUBBUB_[A-Z_]+)\b/g).filter((name) => !OTHER_VARIABLES.has(name));
    const known = new Set(options.map((name) => `HUBBUB_${name.toUpperCase().replaceAll("-", "_")}`));
    const scripts = matches(text, /\bbun(?:@[\d.]+)? run (?!src\/)([\w-]+)/g);
    expect([
      ...flags.filter((flag) => !options.includes(flag) && !OTHER_FLAGS.has(flag)),
      ...variables.filter((name) => !known.has(name)),
      ...scripts.filter((script) => !(script in pkg.scripts)),
    ]).toEqual([]);
  });
});

test("the command line accepts each documented hubbub command", () => {
  const blocks = documents.flatMap((path) => matches(readDoc(path), /^```sh\n(.*?)^```$/gms));
  const commands = blocks.flatMap((block) =>
    matches(block, /(?:^|\| |CONTAINER )((?:dist\/)?hubbub\b[^|>#\n]*)/gm),
  );
  using folder = new TempFolder();
  const { publicKey } = generateKeyPairSync("ed25519");
  const fills = new Map([
    ["--secret-file", folder.write("secret", "s".repeat(32))],
    [
      "--public-key-file",
      folder.write("public.pem", publicKey.export({ type: "spki", format: "pem" }).toString()),
    ],
    ["join", "http://localhost:8000/client"],
  ]);
  const rejected = commands.flatMap((command) => {
    const words = matches(command, /('[^']*'|\S+)/g).map((word) => word.replaceAll("'", ""));
    const filled = words.map((word, i) => fills.get(words[i - 1] ?? "") ?? word).slice(1);
    const parsed = parseCommand(filled, { HUBBUB_STORE: "sqlite:chat.db", HUBBUB_SECRET: "s".repeat(32) });
    return parsed.kind === "invalid" ? [{ command, errors: parsed.errors }] : [];
  });
  expect(rejected).toEqual([]);
  expect(commands.length).toBeGreaterThan(25);
});

test("each file in src, test/bench, test/chaos, test/examples and test/simulator is listed in the README of its folder, or in one above it", () => {
  const files = ["src", "test/bench", "test/chaos", "test/examples", "test/simulator"].flatMap((top) =>
    readdirSync(join(ROOT, top), { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile() && entry.name !== "README.md")
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name))),
  );
  const isListed = (file: string) => {
    for (let folder = dirname(file); folder !== "."; folder = dirname(folder)) {
      const readme = join(folder, "README.md");
      if (!existsSync(join(ROOT, readme))) continue;
      const name = relative(folder, file);
      return [name, `${dirname(name)}/`].some((listed) => readDoc(readme).includes(`\`${listed}\``));
    }
    return false;
  };
  expect(files.filter((file) => !isListed(file))).toEqual([]);
});

test("every rejection code is documented, in the row of its status", () => {
  const readme = readDoc("src/http/README.md");
  const undocumented = Object.entries(REJECTION_STATUS).filter(
    ([code, status]) => !new RegExp(`^\\| ${status} .*\`${code}\``, "m").test(readme),
  );
  // Of a message on a WebSocket only: a request has no type.
  expect(undocumented).toEqual([["unknown-type", 400]]);
});

test.each([
  ["ConnectOptions", "Options of `connect`"],
  ["ClientEvents", "Events"],
])("the client's %s are documented", (type, heading) => {
  const body = new RegExp(`^export interface ${type} \\{\n(.*?)^\\}`, "ms").exec(
    readDoc("src/client/client.ts"),
  )?.[1];
  const section = readDoc("src/client/README.md").split(`\n## ${heading}\n`)[1]?.split("\n## ")[0] ?? "";
  const names = matches(body ?? "", /^ {2}(?:readonly )?(\w+)\??:/gm);
  expect(matches(section, /^\| `(\w+)`/gm).toSorted()).toEqual(names.toSorted());
});
