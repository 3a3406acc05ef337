/** Generates the types of the client library, `/hubbub.d.ts`: `bun run test/support/client-types.ts` writes them. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./docs.ts";

export const CLIENT_TYPES = join(ROOT, "src/client/hubbub.d.ts");

/** The declarations of the client and of the protocol's events, which it uses, in one file without imports. */
export async function generateClientTypes(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "hubbub-types-"));
  const tsc = join(ROOT, "node_modules/typescript/bin/tsc");
  const options = ["--declaration", "--emitDeclarationOnly", "--noEmit", "false", "--rootDir", "src"];
  await Bun.$`${process.execPath} ${tsc} -p src/page ${options} --outDir ${folder}`.cwd(ROOT).quiet();
  const read = (file: string) => Bun.file(join(folder, file)).text();
  const client = (await read("client/client.d.ts")).replace(/^import type .*\n/gm, "");
  const types = client + (await read("protocol/events.d.ts"));
  await rm(folder, { recursive: true });
  return Bun.$`${process.execPath} fmt --stdin-filepath=${CLIENT_TYPES} < ${new Response(types)}`
    .cwd(ROOT)
    .quiet()
    .text();
}

if (import.meta.main) await Bun.write(CLIENT_TYPES, await generateClientTypes());
