/** The types of the client library, as the server serves them. */

import { expect, test } from "bun:test";
import { CLIENT_TYPES, generateClientTypes } from "../support/client-types.ts";
import { startServer } from "../support/server.ts";

test("/hubbub.d.ts is what the client's source declares (run test/support/client-types.ts to update it)", async () => {
  const types = await Bun.file(CLIENT_TYPES).text();
  expect(types).toBe(await generateClientTypes());
  await using server = await startServer();
  expect(await server.answer("/hubbub.d.ts")).toEqual({ status: 200, body: types });
});
