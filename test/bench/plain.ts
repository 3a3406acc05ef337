/**
 * What Hubbub is compared with: the tutorial's server written with Bun.serve alone, which publishes each message as it
 * arrives. It stores nothing, checks nothing and has one room. With the subprotocol hubbub.v1 it sends JSON of the same
 * shape as Hubbub, so that both wires can be compared.
 */

const SUBPROTOCOL = "hubbub.v1";

type Client = { readonly wire: "text" | "json" | "echo"; readonly id: string };

let said = 0;
const streams = new Set<ReadableStreamDefaultController<Uint8Array>>();
const utf8 = new TextEncoder();

const server = Bun.serve<Client>({
  hostname: "127.0.0.1",
  port: 0,
  routes: {
    "/rooms/:room/events": (request: Request, server: Bun.Server<Client>) => {
      server.timeout(request, 0);
      let controller: ReadableStreamDefaultController<Uint8Array>;
      const body = new ReadableStream<Uint8Array>({
        start(started) {
          controller = started;
          streams.add(controller);
          controller.enqueue(utf8.encode("event: welcome\ndata: {}\n\n"));
        },
        cancel: () => void streams.delete(controller),
      });
      return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    },
    "/websocket": (request: Request, server: Bun.Server<Client>) =>
      letIn(server.upgrade(request, { data: { wire: "echo", id: "" } })),
    "/ws/:id": (request: Bun.BunRequest<"/ws/:id">, server: Bun.Server<Client>) => {
      const isJson = request.headers.get("Sec-WebSocket-Protocol") === SUBPROTOCOL;
      const data: Client = { wire: isJson ? "json" : "text", id: request.params.id };
      const headers = isJson ? { headers: { "Sec-WebSocket-Protocol": SUBPROTOCOL } } : {};
      return letIn(server.upgrade(request, { data, ...headers }));
    },
  },
  websocket: {
    publishToSelf: true,
    open(socket) {
      if (socket.data.wire !== "echo") socket.subscribe(socket.data.wire);
    },
    message(socket, message) {
      const { wire, id: from } = socket.data;
      switch (wire) {
        case "echo":
          socket.send(`Message text was: ${message}`);
          break;
        case "text":
          socket.send(`You wrote: ${message}`);
          socket.publish(wire, `Client #${from} says: ${message}`);
          break;
        case "json": {
          const { seq, text } = JSON.parse(`${message}`);
          const time = Date.now();
          const id = `${time}-${++said}`;
          socket.send(JSON.stringify({ type: "ack", seq, id }));
          const data = JSON.stringify({ type: "message", id, time, from, text });
          socket.publish(wire, data);
          const event = utf8.encode(`id: ${id}\ndata: ${data}\n\n`);
          for (const stream of streams) stream.enqueue(event);
          break;
        }
        default:
          wire satisfies never;
      }
    },
    close(socket) {
      if (socket.data.wire === "text") server.publish("text", `Client #${socket.data.id} left the chat`);
    },
  },
});

console.log(server.url.href);

function letIn(isUpgraded: boolean): Response | undefined {
  return isUpgraded ? undefined : new Response(null, { status: 426 });
}
