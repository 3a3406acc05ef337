/** Preloaded: as fast-redis.ts, for the Postgres store. */

import "./fast-redis.ts";
import { postgresTiming } from "../../src/store/postgres/connection.ts";

Object.assign(postgresTiming, { replyMs: 1000, silenceMs: 300 } satisfies Partial<typeof postgresTiming>);
