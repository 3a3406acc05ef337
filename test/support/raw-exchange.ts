/** Tables of exchanges over raw TCP: what ann sends, everything she receives, and what a witness in her room sees of it. */

import { expect, test } from "bun:test";
import type { TestServer } from "./server.ts";
import { newRoom } from "./shared-server.ts";
import { openRaw, close, ping, text, describeFrame } from "./raw-websocket.ts";

/** What ann receives for a message of hers; the second line goes to the whole room. */
export const chatLines = (content: string) => [
  `text You wrote: ${content}`,
  `text Client #ann says: ${content}`,
];

/** What ann received, and whether she has joined the room. */
interface Exchange {
  readonly received: readonly string[];
  readonly hasJoined: boolean;
}

/** Runs in a new room with bob, who must receive ann's messages, her leave, and nothing else. */
export async function withWitness(
  server: TestServer,
  ann: (path: string) => Promise<Exchange>,
): Promise<void> {
  const room = newRoom();
  await using bob = await server.join("bob", { room });
  const { received, hasJoined } = await ann(`/ws/ann?room=${room}`);
  await bob.hears(...received.flatMap(broadcastOf), ...(hasJoined ? ["Client #ann left the chat"] : []));
  bob.says("still here");
  await bob.hears("You wrote: still here", "Client #bob says: still here");
  await using eve = await server.join("eve", { room });
  await eve.leaves();
  await bob.hears("Client #eve left the chat");
  await bob.hearsNothing();
}

function broadcastOf(line: string): (string | Uint8Array)[] {
  if (line.startsWith("text Client #")) return [line.slice("text ".length)];
  return line.startsWith("binary ") ? [Uint8Array.fromHex(line.slice("binary ".length))] : [];
}

export interface Row {
  readonly name: string;
  readonly sends: readonly Uint8Array[];
  /** Everything that comes back, as {@link describeFrame} writes it. */
  readonly hears: readonly (string | RegExp)[];
}

/** The server answers, and the connection stays open until ann closes it. */
export function answered(name: string, sends: readonly Uint8Array[], hears: readonly string[]): Row {
  return {
    name,
    sends: [...sends, ping("fence"), close(1000)],
    hears: [...hears, "pong fence", "close 1000 "],
  };
}

/** The server closes with that code, and ignores what is sent afterwards. */
export function closedWith(code: number, name: string, ...sends: readonly Uint8Array[]): Row {
  return {
    name: `${name}: ${code}`,
    sends: [...sends, ping("too late"), text("too late")],
    hears: [new RegExp(`^close ${code} .`)],
  };
}

/** Ann closes the connection. */
export function closedByPeer(name: string, sends: readonly Uint8Array[], answer: string): Row {
  return { name, sends, hears: [answer] };
}

export function testRows(server: () => TestServer, rows: readonly Row[]): void {
  for (const { name, sends, hears } of rows)
    test.concurrent(name, () =>
      withWitness(server(), async (path) => {
        await using ann = openRaw(server(), path);
        expect((await ann.head())?.status).toBe(101);
        ann.sends(...sends);
        const received = (await ann.rest()).map(describeFrame);
        expect(received).toEqual(
          hears.map((line) => (typeof line === "string" ? line : expect.stringMatching(line))),
        );
        return { received, hasJoined: true };
      }),
    );
}
