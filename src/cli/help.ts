/** What `--help` and the README's table of options say, made from the options themselves. */

import { flagName, type Flag, type FlagTable } from "./flags.ts";
import { serverFlags, serverFlagGroups, tokenFlags } from "./command.ts";

/** `--name VALUE`, and its default. */
function describe(key: string, { value, fallback, whenReachable, defaultText }: Flag<unknown>) {
  const both = whenReachable === undefined ? "" : `; ${whenReachable} once other machines can reach it`;
  return [`--${flagName(key)}${value ? ` ${value}` : ""}`, defaultText ?? `${fallback}${both}`] as const;
}

/** The rows of the README's table. */
export function optionsTableRows(): string[] {
  return Object.entries(serverFlags).map(([key, flag]) => {
    const [name, otherwise] = describe(key, flag);
    const isPlain = flag.defaultText === undefined && flag.whenReachable === undefined;
    return `| \`${name}\` | ${isPlain ? `\`${otherwise}\`` : otherwise} | ${flag.help} |`;
  });
}

function list(table: FlagTable): string {
  return Object.entries(table)
    .map(([key, flag]) => {
      const [name, otherwise] = describe(key, flag);
      return `  ${name}  (${otherwise})\n      ${flag.help}\n`;
    })
    .join("");
}

/** What `--help` prints, at most 80 columns wide. */
export function helpText(about: "serve" | "join" | "token" = "serve"): string {
  switch (about) {
    case "serve":
      return serverHelp();
    case "join":
      return JOIN_HELP;
    case "token":
      return tokenHelp();
    default:
      return about satisfies never;
  }
}

const JOIN_HELP = `hubbub join URL: takes part in a room at the terminal, or in a pipe.

  hubbub join 'http://localhost:8000/client?room=tea&id=ann'
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'

URL is the address of the page. Each line of the input is a message, and each
message a line of the output. At the end of the input it waits until all is
acknowledged. ?id= is the name to go by (otherwise the token's, or the user's).

  -h, --help     print this

The token, where one is needed, is ?token= of the URL, or HUBBUB_TOKEN in the
environment. It exits with 0, or with 1 after a sentence about what was not
sent.`;

function tokenHelp(): string {
  const { secretFile, publicUrl, host, port, tlsCert } = serverFlags;
  return `hubbub token CLIENT: prints a link that lets that client in.

  hubbub token ann --secret-file secret --public-url https://chat.example

${list(tokenFlags)}
The server's own, which make the token and the address of the link
${list({ secretFile, publicUrl, host, port, tlsCert })}
  -h, --help     print this`;
}

function serverHelp(): string {
  return `Hubbub: one file to run, and a room full of people and programs can talk.

  hubbub                  a chat at http://localhost:8000/client
  hubbub --host 0.0.0.0   the same, open to everyone on your network
  hubbub join URL         takes part in one at the terminal, or in a pipe:
  tail -f build.log | hubbub join 'http://localhost:8000/client?room=builds'
  hubbub token ann        makes a link for ann, where a secret is set

${Object.entries(serverFlagGroups)
  .map(([title, table]) => `${title}\n${list(table)}`)
  .join("\n")}
Of the command token, beside the secret and the public address
${list(tokenFlags)}
  -h, --help     print this
  -v, --version  print the version

Each option can be set in the environment, too: --max-message-bytes N as
HUBBUB_MAX_MESSAGE_BYTES=N. The port can be PORT, the secret itself
HUBBUB_SECRET, and HUBBUB_TOKEN is the token that join shows. What may be given
again and again is a list there: HUBBUB_ALLOW_ORIGIN="https://a.example, …".

It exits with 0 when it was stopped, with 2 when an option is wrong, and with 1
for anything that trying again may mend: the port in use, the store not there
yet, a full disk; also when stopping failed, or was asked for twice.`;
}
