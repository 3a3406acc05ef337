/** Preloaded: the server's clocks show the milliseconds in the file that CLOCK_FILE names, and stand still in between. */

import { readFileSync } from "node:fs";

const nowMs = () => Number(readFileSync(process.env.CLOCK_FILE ?? "", "utf8"));
Date.now = nowMs;
performance.now = nowMs;
