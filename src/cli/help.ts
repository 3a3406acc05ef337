/** The texts of `--help` and the rows of the options table in README.md, generated from the flags. */

import { flagName, type Flag, type FlagTable } from "./flag-parser.ts";
import {
  exportFlags,
  healthFlags,
  importFlags,
  serverFlags,
  serverFlagGroups,
  tokenFlags,
  type CliCommand,
} from "./parse-command.ts";

/** `--name VALUE` and the default in words. */
function describe(key: string, { value, fallback, whenReachable, defaultText }: Flag<unknown>) {
  const reachable = whenReachable === undefined ? "" : `; ${whenReachable} if other machines can reach it`;
  return [`--${flagName(key)}${value ? ` ${value}` : ""}`, defaultText ?? `${fallback}${reachable}`] as const;
}

/** Rows of a Markdown table: flag, default, description. */
export function optionsTableRows(): string[] {
  return Object.entries(serverFlags).map(([key, flag]) => {
    const [name, fallback] = describe(key, flag);
    const isPlain = flag.defaultText === undefined && flag.whenReachable === undefined;
    return `| \`${name}\` | ${isPlain ? `\`${fallback}\`` : fallback} | ${flag.help} |`;
  });
}

function listFlags(table: FlagTable): string {
  const flags = Object.entries(table).map(([key, flag]) => {
    const [name, fallback] = describe(key, flag);
    return `  ${name}  (${fallback})\n      ${flag.help}\n`;
  });
  return flags.join("");
}

/** What `--help` prints, at most 80 columns wide. */
export function helpText(about: Extract<CliCommand, { kind: "help" }>["about"]): string {
  const { secretFile, publicUrl, host, port, tlsCert } = serverFlags;
  switch (about) {
    case "serve":
      return `Hubbub: a chat server for people and programs, in one file.

  hubbub                  serve a chat at http://localhost:8000/client
  hubbub --host 0.0.0.0   the same, for everyone on your network
  hubbub join URL         join a room from a terminal or a pipe:
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'
  hubbub token ann        print a link for ann, if the server has a secret
  hubbub export FILE      write everything that a store contains to a file
  hubbub import FILE      fill an empty store with what was exported
  hubbub health           check the server on this machine, for a container

${Object.entries(serverFlagGroups)
  .map(([title, table]) => `${title}\n${listFlags(table)}`)
  .join("\n")}
Only for "hubbub token", with the secret and the public address
${listFlags(tokenFlags)}
  -h, --help     print this; also for the other commands
  -v, --version  print the version

Each option can also be set in the environment: --max-message-bytes N as
HUBBUB_MAX_MESSAGE_BYTES=N. PORT sets the port, HUBBUB_SECRET the secret itself
instead of a file, and HUBBUB_TOKEN the token for join. A repeatable option is
a list there: HUBBUB_ALLOW_ORIGIN="https://a.example, https://b.example".

Exit codes: 0 after a shutdown, 2 for an invalid option, 1 for everything that
may pass: the port is in use, the store does not answer, the disk is full, a
shutdown failed or was cut short by a second signal.`;

    case "join":
      return `hubbub join URL: join a room from a terminal or a pipe.

  hubbub join 'http://localhost:8000/client?room=tea&id=ann'
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'

URL is the address of the chat page. Each line of input is sent as a message,
and each message of the room is printed as a line. At the end of the input, join
waits until everything it sent is acknowledged.

?id= is the client id; the default is the token's, or the user name. If the
server requires a token, give it as ?token= or as HUBBUB_TOKEN in the
environment.

  -h, --help     print this

Exits with 0, or with 1 if something was not sent, which it reports.`;

    case "token":
      return `hubbub token CLIENT: print a link that lets a client in.

  hubbub token ann --secret-file secret --public-url https://chat.example

Token
${listFlags(tokenFlags)}
Server: give the same values as to the server itself
${listFlags({ secretFile, publicUrl, host, port, tlsCert })}
  -h, --help     print this`;

    case "export":
      return `hubbub export [FILE]: write what a store contains to a file, or to a pipe.

  hubbub export chat.ndjson --store sqlite:chat.db
  hubbub export --store redis://localhost | zstd > chat.ndjson.zst

Each line of the export is JSON: messages, then sessions. The server may run
meanwhile: what is stored after the start may be missing, nothing before it is.
FILE is complete or unchanged.

${listFlags(exportFlags)}
  -h, --help     print this

Exits with 0; with 2 for an invalid option; with 1 if the export is incomplete.`;

    case "import":
      return `hubbub import [FILE]: fill an empty store with what was exported.

  hubbub import chat.ndjson --store sqlite:chat.db
  zstd -dc chat.ndjson.zst | hubbub import --store redis://localhost

Ids, times and order are unchanged, so that clients resume where they were, and
send nothing twice. The server starts after the import.

${listFlags(importFlags)}
  -h, --help     print this

Exits with 0; with 2 for an invalid option; with 1 if nothing was imported.`;

    case "health":
      return `hubbub health: check whether the server on this machine answers.

For the health check of a container. It asks /healthz, which is answered while
the process works, also while its store is unavailable.

Server: the same as for the server itself; the environment is the same already
${listFlags(healthFlags)}
  -h, --help     print this

Exits with 0; with 2 for an invalid option; with 1 if the server does not answer
within 5 seconds.`;
  }
}
