/** RFC 6455, sections 1.3 and 4, over raw TCP: which handshakes are accepted. */

import { expect, test } from "bun:test";
import { chatLines, withWitness } from "../support/raw-exchange.ts";
import { sharedServer } from "../support/shared-server.ts";
import { ACCEPT, openRaw, close, HANDSHAKE, text, describeFrame } from "../support/raw-websocket.ts";

const server = sharedServer();

interface Handshake {
  readonly name: string;
  readonly changes?: Readonly<Record<string, string | undefined>>;
  readonly firstLine?: (path: string) => string;
  /** Undefined if the connection ends without a response. */
  readonly status: number | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

const key = (value: string | undefined) => ({ "Sec-WebSocket-Key": value });
const isWebSocket = { upgrade: "websocket", connection: "Upgrade", "sec-websocket-accept": ACCEPT };
const asksForUpgrade = { upgrade: "websocket", connection: "Upgrade" };
const names = Object.entries(HANDSHAKE).map(([name, value]) => [name.toLowerCase(), value]);
const none = Object.fromEntries(Object.keys(HANDSHAKE).map((name) => [name, undefined]));

const handshakes: readonly Handshake[] = [
  { name: "4.2.2 is accepted with the key's hash", status: 101, headers: isWebSocket },
  { name: "4.1 in lower case", changes: { ...none, ...Object.fromEntries(names) }, status: 101 },
  { name: "4.1 with Upgrade: WebSocket, in any case", changes: { Upgrade: "WebSocket" }, status: 101 },
  {
    name: "4.1 with Connection: keep-alive, Upgrade",
    changes: { Connection: "keep-alive, Upgrade" },
    status: 101,
  },
  {
    name: "4.2.1 without a key: 426, where the RFC has 400",
    changes: key(undefined),
    status: 426,
  },
  { name: "4.2.1 with an empty key", changes: key(""), status: 426 },
  {
    name: "4.2.1 with a key that is too short",
    changes: key("dGhlIHNhbXBsZQ=="),
    status: 426,
  },
  {
    name: "4.2.1 with a key that is too long",
    changes: key(`${"A".repeat(32)}==`),
    status: 426,
  },
  {
    name: "4.2.1 with a key that is not base64",
    changes: key("!".repeat(24)),
    status: 426,
  },
  { name: "11.3.1 with two keys", changes: { "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==" }, status: 426 },
  { name: "4.2.1 without Upgrade", changes: { Upgrade: undefined }, status: 426, headers: asksForUpgrade },
  { name: "4.2.1 with another Upgrade", changes: { Upgrade: "h2c" }, status: 426, headers: asksForUpgrade },
  {
    name: "4.2.1 with a list of upgrades, which the RFC allows: 426",
    changes: { Upgrade: "h2c, websocket" },
    status: 426,
  },
  {
    name: "4.2.1 without Connection, which the RFC requires: accepted",
    changes: { Connection: undefined },
    status: 101,
  },
  {
    name: "4.2.1 with another Connection: accepted, too",
    changes: { Connection: "keep-alive" },
    status: 101,
  },
  ...["0", "8", "12", "14", "99", "x", "", undefined].map((version) => ({
    name: version === undefined ? "4.4 without a version" : `4.4 with version “${version}”`,
    changes: { "Sec-WebSocket-Version": version },
    status: 426,
    headers: { "sec-websocket-version": "13" },
  })),
  {
    name: "4.1 in HTTP/1.0, which the RFC excludes: accepted",
    firstLine: (path) => `GET ${path} HTTP/1.0`,
    status: 101,
  },
  { name: "4.1 in HTTP/2.0", firstLine: (path) => `GET ${path} HTTP/2.0`, status: 505 },
  {
    name: "4.1 as a POST",
    firstLine: (path) => `POST ${path} HTTP/1.1`,
    status: 405,
    headers: { allow: "GET, HEAD" },
  },
  { name: "4.1 as a HEAD", firstLine: (path) => `HEAD ${path} HTTP/1.1`, status: 426 },
  {
    name: "4.1 as a get in lower case: cut off",
    firstLine: (path) => `get ${path} HTTP/1.1`,
    status: undefined,
  },
  { name: "4.2.1 without Host", changes: { Host: undefined }, status: 400 },
  {
    name: "9.1 with an extension, which is declined",
    changes: { "Sec-WebSocket-Extensions": "permessage-deflate" },
    status: 101,
    headers: isWebSocket,
  },
];

for (const { name, changes, firstLine, status, headers } of handshakes)
  test.concurrent(name, () =>
    withWitness(server(), async (path) => {
      await using ann = openRaw(server(), path, changes, firstLine?.(path));
      const head = await ann.head();
      expect(head?.status).toBe(status);
      expect(Object.fromEntries(head?.headers ?? [])).toMatchObject(headers ?? {});
      for (const unasked of ["sec-websocket-extensions", "sec-websocket-protocol"])
        expect(head?.headers.has(unasked) ?? false).toBe(false);
      if (status !== 101) return { received: [], hasJoined: false };
      ann.sends(text("hi"), close(1000));
      const received = (await ann.rest()).map(describeFrame);
      expect(received).toEqual([...chatLines("hi"), "close 1000 "]);
      return { received, hasJoined: true };
    }),
  );
