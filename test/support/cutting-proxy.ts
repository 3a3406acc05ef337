/** A network that fails: a TCP proxy in front of a server that cuts connections at random moments, also within a frame. */

import { connect, createServer, type AddressInfo, type Socket } from "node:net";

export interface CuttingProxy extends AsyncDisposable {
  readonly origin: string;
  cuts: number;
  /** How often the server said that something could not be kept for now. */
  refusals: number;
  cutting: boolean;
}

/** @param upstream the server's port, asked for each connection, so that the server may come back elsewhere */
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
    const forward = (from: Socket, to: Socket, chance: number) =>
      from.on("data", (chunk: Buffer) => {
        if (from === up)
          proxy.refusals += (
            chunk.toString("latin1").match(/"code":"un(available|confirmed)"/g) ?? []
          ).length;
        if (proxy.cutting && random() < chance) {
          from.removeAllListeners("data"); // nothing may come after what is missing
          to.write(chunk.subarray(0, random() * chunk.length));
          setTimeout(cut, random() * 2);
        } else if (!to.write(chunk)) {
          from.pause();
          to.once("drain", () => from.resume());
        }
      });
    // Between sending and the ack, and in the middle of what is sent; in a replay, and in the middle of it.
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
    // At any moment, often soon after it was opened, and so twice in a row.
    if (random() < 0.8) setTimeout(() => proxy.cutting && cut(), random() ** 3 * 400);
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
