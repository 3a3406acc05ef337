/** Programs that some tests need, and that `bun run check` installs where it can. */

interface Program {
  readonly path: string | undefined;
  /** For titles: why the tests that need it are skipped. In CI it is empty, and they run and fail instead. */
  readonly skipped: string;
}

/** @param names the first that is found is taken */
export function findProgram(debianPackage: string, ...names: readonly string[]): Program {
  const path = names.map((name) => Bun.which(name)).find((found) => found !== null);
  const isSkipped = path === undefined && process.env.CI !== "true";
  return { path, skipped: isSkipped ? ` (skipped: install ${debianPackage} to run this)` : "" };
}
