/** Waiting with a deadline, and an error that says what was waited for. */

/** Enough for a busy machine, and less than the timeout of a test. */
const DEADLINE_MS = 60_000;

/** @throws an error with the text of `complain()` after the deadline */
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

/** Polls until the condition holds. */
export async function eventually(
  isSo: () => Promise<boolean>,
  what: string,
  deadlineMs = DEADLINE_MS,
): Promise<void> {
  let isOver = false;
  let isChecking = false;
  const look = async () => {
    while (!isOver) {
      isChecking = true;
      const holds = await isSo();
      isChecking = false;
      if (holds) return;
      await Bun.sleep(20);
    }
  };
  const complain = () => `never: ${what}${isChecking ? "; the last check has not finished" : ""}`;
  await withDeadline(look(), complain, deadlineMs).finally(() => (isOver = true));
}
