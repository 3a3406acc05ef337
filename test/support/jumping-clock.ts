/** Preloaded: a clock that is a thousand days ahead, until SIGUSR2 sets it right, and the next one ahead again. */

const now = Date.now;
let isAhead = true;
process.on("SIGUSR2", () => (isAhead = !isAhead));
Date.now = () => now() + (isAhead ? 1000 * 24 * 60 * 60 * 1000 : 0);
