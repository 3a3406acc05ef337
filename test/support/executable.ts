/** The executable, as `bun run build` makes it. */

import { join } from "node:path";
import { scripts } from "../../package.json";
import { ROOT } from "./docs.ts";
import { TempFolder } from "./temp-folder.ts";

interface BuiltExecutable extends Disposable {
  /** Temporary; nothing else is in it. */
  readonly folder: string;
  readonly executable: string;
}

export async function buildExecutable(): Promise<BuiltExecutable> {
  const folder = new TempFolder();
  const executable = join(folder.path, "hubbub");
  await Bun.$`${{ raw: scripts.build.replace("dist/hubbub", executable) }}`.cwd(ROOT).quiet();
  return { folder: folder.path, executable, [Symbol.dispose]: () => folder[Symbol.dispose]() };
}
