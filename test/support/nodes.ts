/** Clients of several nodes that share a database, while that fails. */

import { eventually } from "./deadline.ts";
import type { JsonPeer } from "./peer.ts";
import type { TestServer } from "./server.ts";

/** Longer than the removal of a dead node takes. */
const PATIENCE_MS = 120_000;

export async function membersOf(node: TestServer, room = "lobby"): Promise<string[]> {
  const { members } = JSON.parse((await node.answer(`/rooms/${room}/members`)).body);
  return members.toSorted();
}

export async function sees(node: TestServer, ...members: string[]): Promise<void> {
  let body = "";
  const check = async () => {
    const answer = await node.answer("/rooms/lobby/members");
    body = answer.body;
    // While the database is busy, the answer may be 503.
    return answer.status === 200 && Bun.deepEquals(JSON.parse(body).members.toSorted(), members.toSorted());
  };
  await eventually(check, `${members.join(" and ")} are the members`, PATIENCE_MS).catch((error: unknown) => {
    throw new Error(`the last answer was ${body}`, { cause: error });
  });
}

/** Sends a numbered message. @returns "ack" or the error code */
export async function send(
  peer: JsonPeer,
  seq: number,
  text = `${peer.welcome.client} ${seq}`,
): Promise<unknown> {
  peer.says(text, { seq });
  return result(peer, seq);
}

export async function result(peer: JsonPeer, seq: number): Promise<unknown> {
  for (;;) {
    const { type, code, seq: which } = await peer.next(() => `expected a result of ${seq}`);
    if (which === seq) return type === "ack" ? "ack" : code;
  }
}

/** Joins as soon as that is possible. */
export async function joinEventually(
  node: TestServer,
  id: string,
  query: Record<string, string | number> = {},
): Promise<JsonPeer> {
  const end = performance.now() + PATIENCE_MS;
  for (;;)
    try {
      return await node.joinJson(id, query);
    } catch (error) {
      if (performance.now() > end) throw error;
      await Bun.sleep(20);
    }
}
