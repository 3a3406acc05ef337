/** Clients of several nodes that share a database, while that fails. */

import { expect } from "bun:test";
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

/** A time in which the database does not answer. */
interface Fault {
  readonly ms: number;
  /** Longer than a message waits. */
  readonly isLong: boolean;
  begin(): unknown;
  end(): unknown;
}

/** Sends before, during and after a fault: no client is disconnected, and no message is lost, duplicated or invented. */
export async function losesNothing(
  one: TestServer,
  other: TestServer,
  { ms, isLong, begin, end }: Fault,
): Promise<void> {
  await using ann = await one.joinJson("ann", { session: "a" });
  await using bob = await other.joinJson("bob", { session: "b" });
  await using eve = await one.join("eve");
  await using zoe = await other.join("zoe");
  for (const node of [one, other]) await sees(node, "ann", "bob", "eve", "zoe");
  expect([await send(ann, 1), await send(bob, 1)]).toEqual(["ack", "ack"]);

  await begin();
  const isOver = Bun.sleep(ms); // the duration is what is tested
  for (const peer of [ann, bob]) peer.says(`${peer.welcome.client} 2`, { seq: 2 });
  for (const node of [one, other]) await node.becomesUnready();
  for (const peer of [ann, bob]) expect(await send(peer, 3)).toBe("unavailable");
  if (isLong) for (const peer of [ann, bob]) expect(await result(peer, 2)).toBe("unconfirmed");
  await isOver;
  await end();

  for (const node of [one, other]) await node.becomesReady();
  // On a busy machine, a short fault may last longer than message 2 waits, and the next failure follows at once.
  for (const peer of [ann, bob])
    for (const seq of [2, 3])
      await eventually(async () => (await send(peer, seq)) === "ack", `message ${seq} is stored`);
  const texts = await one.texts("lobby", "?limit=1000");
  expect(texts.toSorted()).toEqual(["ann 1", "ann 2", "ann 3", "bob 1", "bob 2", "bob 3"]);
  // All have received the same messages in the same order, and no leave.
  for (const peer of [eve, zoe]) {
    peer.says("end");
    await peer.hears(...texts.map((text) => `Client #${text.slice(0, 3)} says: ${text}`));
    await peer.hearsUpTo(`Client #${peer === eve ? "eve" : "zoe"} says: end`);
  }
  for (const node of [one, other]) expect(await membersOf(node)).toEqual(["ann", "bob", "eve", "zoe"]);
}
