/** A TCP proxy that cuts connections at random, also within a frame. */

import { connect, createServer, type AddressInfo, type Socket } from "node:net";

interface CuttingProxy extends AsyncDisposable {
  readonly origin: string;
  cuts: number;
  /** Messages that the server rejected as unavailable or unconfirmed. */
  refusals: number;
  cutting: boolean;
}

/** Most connections are cut before they have forwarded this many chunks. */
const MAX_CHUNKS = 100;

/** @param upstream the server's port, read for each connection, since a restarted server may have another */
export async function startCuttingProxy(upstream: () => number, random: () => number): Promise<CuttingProxy> {
  const open = new Set<Socket>();
  const server = createServer((client) => {
    const up = connect(upstream(), "127.0.0.1");
    open.add(client);
    const cut = () => {
      if (client.destroyed) return;
      proxy.cuts++;
      client.destroy();
      up.destroy();
    };
    // Often early, and so again right after a reconnect. Not a time, in which a busy machine may not get anywhere.
    let chunksLeft = random() < 0.8 ? random() ** 3 * MAX_CHUNKS : Infinity;
    const forward = (from: Socket, to: Socket, chance: number) =>
      from.on("data", (chunk: Buffer) => {
        if (from === up)
          proxy.refusals += (
            chunk.toString("latin1").match(/"code":"un(available|confirmed)"/g) ?? []
          ).length;
        if (proxy.cutting && (--chunksLeft <= 0 || random() < chance)) {
          from.removeAllListeners("data"); // nothing may follow the gap
          to.write(chunk.subarray(0, random() * chunk.length));
          setTimeout(cut, random() * 2);
        } else if (!to.write(chunk)) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
    // Cuts between a message and its ack, within a frame, and within a replay.
    forward(client, up, 0.004);
    forward(up, client, 0.002);
    for (const [one, other] of [
      [client, up],
      [up, client],
    ] as const) {
      one.on("error", () => {});
      one.on("close", () => other.destroy());
    }
    client.on("close", () => open.delete(client));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const proxy: CuttingProxy = {
    origin: `http://127.0.0.1:${port}`,
    cuts: 0,
    refusals: 0,
    cutting: true,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
  return proxy;
}
