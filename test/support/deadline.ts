/** What is awaited has to happen some time. */

/** How long anything may take before it counts as not happening: on a busy machine, and less than a test may take. */
const DEADLINE_MS = 20_000;

/** The promise's value, or after the deadline an error that says what happened instead. */
export async function withDeadline<T>(
  promise: Promise<T>,
  complain: () => string,
  deadlineMs = DEADLINE_MS,
): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(complain())), deadlineMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/** Looks again and again until it is so, for what nobody tells of by itself. */
export async function eventually(
  isSo: () => Promise<boolean>,
  what: string,
  deadlineMs = DEADLINE_MS,
): Promise<void> {
  let isOver = false;
  const look = async () => {
    while (!isOver && !(await isSo())) await Bun.sleep(20);
  };
  await withDeadline(look(), () => `never: ${what}`, deadlineMs).finally(() => (isOver = true));
}
