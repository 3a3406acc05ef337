/** The examples of src/auth/README.md are run as they stand there. */

import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { codeBlock, substitute } from "../support/docs.ts";
import { serveHttp } from "../support/http.ts";
import { serverExecutable } from "../support/server-executable.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

setDefaultTimeout(240_000);

const README = "src/auth/README.md";
const MAX_LINES = 5;
const skipped = Bun.which("openssl") ? "" : " (skipped: openssl is not installed)";

/**
 * Runs the lines of a code block in an empty folder: a server in the background, everything else to its end.
 * @param before lines that the document has above
 */
async function runExample(word: string, before: readonly string[] = []) {
  const block = codeBlock(README, "sh", word).trimEnd().split("\n");
  expect(block.length).toBeLessThanOrEqual(MAX_LINES);
  const lines = [...before, ...block];
  const folder = new TempFolder();
  const shell = (script: string) =>
    Bun.$`sh -c ${`hubbub() { ${serverExecutable()} "$@"; }; ${script}`}`.cwd(folder.path).quiet();
  let server: TestServer | undefined;
  const tokens = new Map<string, string>();
  for (const line of lines) {
    const [, args] = /^hubbub (--.*)$/.exec(line) ?? [];
    if (args === undefined) {
      const output = await shell(line).text();
      const [, client] = /^hubbub token (\w+)/.exec(line) ?? [];
      if (client) tokens.set(client, new URL(output.trim()).searchParams.get("token") ?? "");
    } else {
      const words = await shell(`printf "%s\\n" ${args}`).text();
      server = await startServer({ args: words.trimEnd().split("\n"), cwd: folder.path });
    }
  }
  if (!server) throw new Error("the example starts no server");
  const running = server;
  const statusOf = async (client: string, room = "lobby", token = tokens.get(client)) =>
    (await running.get(`/ws/${client}?room=${room}${token === undefined ? "" : `&token=${token}`}`)).status;
  return {
    server: running,
    folder: folder.path,
    tokens,
    statusOf,
    async [Symbol.asyncDispose]() {
      await running[Symbol.asyncDispose]();
      folder[Symbol.dispose]();
    },
  };
}

/** Everything is in order, but the request is no WebSocket. */
const JOINS = 426;

test.skipIf(skipped !== "")(
  `a workshop: guests, and a teacher whom nobody can impersonate${skipped}`,
  async () => {
    await using example = await runExample("token teacher");
    const { server, statusOf, tokens } = example;
    expect([await statusOf("teacher"), await statusOf("ann"), await statusOf("ann", "other")]).toEqual([
      JOINS,
      JOINS,
      401,
    ]);
    await using teacher = await server.open(`/ws/teacher?token=${tokens.get("teacher")}`);
    await using impostor = await server.open("/ws/teacher");
    impostor.says("hi");
    await teacher.hears("Client #~teacher says: hi");
  },
);

test.skipIf(skipped !== "")(`a team: everyone has a token, and one may only read${skipped}`, async () => {
  await using example = await runExample("token wall");
  const { server, statusOf, tokens } = example;
  expect([await statusOf("ann"), await statusOf("bob"), await statusOf("eve")]).toEqual([JOINS, JOINS, 401]);
  expect(await statusOf("bob", "lobby", tokens.get("ann"))).toBe(403);
  const rooms = ["team-a", "status", "lobby"];
  expect(await Promise.all(rooms.map((room) => statusOf("wall", room)))).toEqual([JOINS, JOINS, 403]);
  await using wall = await server.open(`/ws/wall?room=team-a&token=${tokens.get("wall")}`);
  wall.says("hi");
  await wall.hears("Not sent (read-only): hi");
});

test.skipIf(skipped !== "")(`a site with its own login: it signs, Hubbub verifies${skipped}`, async () => {
  await using example = await runExample("genpkey");
  const { server, statusOf, folder } = example;
  const code = codeBlock(README, "js", "EdDSA");
  expect(code.trimEnd().split("\n").length).toBeLessThanOrEqual(MAX_LINES);
  await Bun.write(join(folder, "sign.mjs"), `const user = "mary";\n${code}console.log(token);`);
  const token = (await Bun.$`${process.execPath} sign.mjs`.cwd(folder).text()).trim();
  expect([await statusOf("mary", "lobby", token), await statusOf("ann", "lobby", token)]).toEqual([
    JOINS,
    403,
  ]);
  expect(await statusOf("mary")).toBe(401);
  await using mary = await server.open(`/ws/mary?token=${token}`, { Origin: "https://www.example" });
  mary.says("hi");
  await mary.hears("You wrote: hi", "Client #mary says: hi");
});

const MAKE_SECRET = "openssl rand -base64 32 > secret";

test.skipIf(skipped !== "")(`a secret, and the link with a token${skipped}`, async () => {
  await using example = await runExample("# http://localhost:8000/client?token=");
  expect([await example.statusOf("ann"), await example.statusOf("bob")]).toEqual([JOINS, 401]);
});

test.skipIf(skipped !== "")(`rights: one who only reads, and one who only posts${skipped}`, async () => {
  await using example = await runExample("token ci", [MAKE_SECRET, "hubbub --secret-file secret"]);
  const { server, statusOf, tokens } = example;
  expect([await statusOf("ann", "team-a"), await statusOf("ann"), await statusOf("ci", "builds")]).toEqual([
    JOINS,
    403,
    403,
  ]);
  const post = (client: string, room: string) =>
    server.get(`/rooms/${room}/messages?token=${tokens.get(client)}`, {
      method: "POST",
      body: '{"text":"hi"}',
    });
  expect((await post("ci", "builds")).status).toBe(201);
  expect((await post("ann", "team-a")).status).toBe(403);
});

test.skipIf(skipped !== "")(`guests${skipped}`, async () => {
  await using example = await runExample("'open-*'", [MAKE_SECRET]);
  const statuses = ["lobby", "open-air", "team"].map((room) => example.statusOf("ann", room));
  expect(await Promise.all(statuses)).toEqual([JOINS, JOINS, 401]);
});

test.skipIf(skipped !== "")(`a new secret locks nobody out${skipped}`, async () => {
  const make = (name: string) => MAKE_SECRET.replace("secret", name);
  const token = "hubbub token ann --secret-file current";
  await using example = await runExample("mv current", [make("current"), make("previous"), token]);
  expect(await example.statusOf("ann")).toBe(JOINS);
});

test("the keys of an identity provider are downloaded", async () => {
  await using provider = serveHttp(() => Response.json({ keys: [] }));
  using folder = new TempFolder();
  const command = substitute(codeBlock(README, "sh", "jwks.json"), {
    "https://login.example/": provider.url.href,
  });
  await Bun.$`sh -c ${command}`.cwd(folder.path).quiet();
  expect(await Bun.file(join(folder.path, "jwks.json")).json()).toEqual({ keys: [] });
});
