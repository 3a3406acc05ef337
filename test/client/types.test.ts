/** The types of the client library, as the server serves them, and the documented ways to use them. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { openPage, skipped as withoutBrowser } from "../support/browser.ts";
import { CLIENT_TYPES, generateClientTypes } from "../support/client-types.ts";
import { codeBlock, ROOT, substitute } from "../support/docs.ts";
import { serveHttp } from "../support/http.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { TempFolder } from "../support/temp-folder.ts";

const README = "src/client/README.md";
const TSC = join(ROOT, "node_modules/typescript/bin/tsc");
/** What such a project has anyway; the documented settings come on top. */
const SETTINGS = {
  target: "es2022",
  module: "esnext",
  moduleResolution: "bundler",
  lib: ["es2022", "dom"],
  types: [],
  strict: true,
};
/** A client id is required, and a state has no text. */
const MISTAKES = `connect({ room: "tea" });
connect({ id: "ann" }).on("state", ({ text }) => text);
`;

test("/hubbub.d.ts is what the client's source declares (run test/support/client-types.ts to update it)", async () => {
  const types = await Bun.file(CLIENT_TYPES).text();
  expect(types).toBe(await generateClientTypes());
  await using server = await startServer();
  expect(await server.answer("/hubbub.d.ts")).toEqual({ status: 200, body: types });
});

/** A folder for a project of a page, and its site: the server's only allowed origin. */
async function startProject() {
  const folder = new TempFolder();
  const site = serveHttp(({ url }) =>
    url.endsWith(".js")
      ? new Response(Bun.file(join(folder.path, "page.js")))
      : new Response("<script type=module src=page.js></script>", {
          headers: { "Content-Type": "text/html" },
        }),
  );
  const server = await startServer({ args: ["--allow-origin", site.url.origin] });
  const run = async (...cmd: string[]) => {
    const process = Bun.spawn(cmd, { cwd: folder.path, stdout: "pipe", stderr: "pipe" });
    const output = (
      await Promise.all([process.stdout, process.stderr].map((pipe) => new Response(pipe).text()))
    ).join("");
    return { output, exitCode: await process.exited };
  };
  return {
    server,
    site,
    /** The documented lines, with the address of this server. */
    here: (code: string) => substitute(code, { "http://localhost:8000": server.origin }),
    write: (name: string, text: string) => folder.write(name, text),
    run,
    tsc: (...options: string[]) => run(process.execPath, TSC, "--pretty", "false", ...options),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]();
      await site.stop(true);
      folder[Symbol.dispose]();
    },
  };
}

const FINE = { output: "", exitCode: 0 };

/** The page of the project connects, and shows what it receives in its console. */
async function worksInBrowser(server: TestServer, site: { readonly url: URL }): Promise<void> {
  if (withoutBrowser) return;
  await using bob = await server.join("bob", { room: "tea" });
  using page = await openPage({ origin: site.url.origin }, "/");
  await page.run("void ((window.lines = []), (console.log = (line) => lines.push(line)))");
  bob.says("hi");
  await page.shows("lines.includes('bob: hi')", true);
}

test("a page in TypeScript with a bundler: the documented lines type-check, and work in a browser if there is one", async () => {
  await using project = await startProject();
  const { server, site, here, write, run, tsc } = project;
  expect(await run("sh", "-c", here(codeBlock(README, "sh", "hubbub.d.ts")))).toEqual(FINE);
  await write("tsconfig.json", JSON.stringify({ compilerOptions: { ...SETTINGS, noEmit: true } }));
  const page = here(codeBlock(README, "ts", "ReceivedMessage"));
  await write("page.ts", page);
  expect(await tsc()).toEqual(FINE);
  await write("page.ts", page + MISTAKES);
  expect((await tsc()).output.match(/error TS\d+/g)).toEqual(["error TS2741", "error TS2339"]);
  await write("page.ts", page);
  const built = await run(process.execPath, "build", "--target=browser", "--outfile=page.js", "page.ts");
  expect(built.exitCode).toBe(0);
  await worksInBrowser(server, site);
}, 240_000);

test("a page in TypeScript without a bundler: the documented lines type-check, and work in a browser if there is one", async () => {
  await using project = await startProject();
  const { server, site, here, write, run, tsc } = project;
  expect(await run("sh", "-c", here(codeBlock(README, "sh", "-o hubbub.d.ts")))).toEqual(FINE);
  const { compilerOptions } = JSON.parse(here(codeBlock(README, "json", "compilerOptions")));
  await write("tsconfig.json", JSON.stringify({ compilerOptions: { ...SETTINGS, ...compilerOptions } }));
  // The example at the top of the document.
  const page = here(codeBlock(README, "js"));
  await write("page.ts", page + MISTAKES);
  expect((await tsc("--noEmit")).output.match(/error TS\d+/g)).toEqual(["error TS2741", "error TS2339"]);
  await write("page.ts", page);
  expect(await tsc()).toEqual(FINE);
  await worksInBrowser(server, site);
}, 240_000);
