/** Programs that some tests need, and that `bun run check` installs where it can. */

interface Program {
  readonly path: string | undefined;
  /** For titles: why the tests that need it are skipped. In CI it is empty, and they run and fail instead. */
  readonly skipped: string;
}

const POSTGRES_FOLDER = "/usr/lib/postgresql/";

/** Debian's Python, with a module of a Debian package, which another Python in PATH would not see. */
export function findPython(debianPackage: string, module: string): Program {
  const path = "/usr/bin/python3";
  const hasModule = Bun.which(path) && Bun.spawnSync([path, "-c", `import ${module}`]).success;
  return toProgram(debianPackage, hasModule ? path : undefined);
}

/** @param names the first that is found is taken */
export function findProgram(debianPackage: string, ...names: readonly string[]): Program {
  const path = names.map((name) => Bun.which(name)).find((found) => found !== null);
  return toProgram(debianPackage, path);
}

/** The newest `postgres`, which Debian does not put into PATH. */
export function findPostgres(): Program {
  const paths = [...new Bun.Glob("*/bin/postgres").scanSync({ cwd: POSTGRES_FOLDER, absolute: true })];
  const versionOf = (path: string) => Number.parseInt(path.slice(POSTGRES_FOLDER.length));
  return toProgram("postgresql", paths.sort((a, b) => versionOf(b) - versionOf(a))[0]);
}

function toProgram(debianPackage: string, path: string | undefined): Program {
  const isSkipped = path === undefined && process.env.CI !== "true";
  return { path, skipped: isSkipped ? ` (skipped: install ${debianPackage} to run this)` : "" };
}
