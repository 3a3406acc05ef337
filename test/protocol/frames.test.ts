/** RFC 6455, sections 5, 7 and 8, over raw TCP: valid and invalid frames, and their effect on the connection. */

import { expect, test } from "bun:test";
import { maxFrameBytes } from "../../src/protocol/codec.ts";
import {
  closedByPeer,
  closedWith,
  answered,
  chatLines,
  testRows,
  withWitness,
  type Row,
} from "../support/raw-exchange.ts";
import { sharedServer } from "../support/shared-server.ts";
import {
  binary,
  close,
  closing,
  frame,
  continuation,
  ping,
  pong,
  RawClient,
  request,
  text,
  describeFrame,
  notFinal,
} from "../support/raw-websocket.ts";

const server = sharedServer();

/** The server's default. */
const MAX_MESSAGE_BYTES = 65_536;
const MAX_FRAME_BYTES = maxFrameBytes(MAX_MESSAGE_BYTES);
const limit = "x".repeat(MAX_MESSAGE_BYTES);
const frameLimit = "x".repeat(MAX_FRAME_BYTES);

const letters = Buffer.from("語a");
const MALFORMED: Readonly<Record<string, readonly number[]>> = {
  "an overlong slash": [0xc0, 0xaf],
  "an overlong NUL": [0xc0, 0x80],
  "an overlong slash of three bytes": [0xe0, 0x80, 0xaf],
  "an overlong slash of four bytes": [0xf0, 0x80, 0x80, 0xaf],
  "half a surrogate pair": [0xed, 0xa0, 0x80],
  "a surrogate pair": [0xed, 0xa0, 0xbd, 0xed, 0xb2, 0xa9],
  "above U+10FFFF": [0xf4, 0x90, 0x80, 0x80],
  "cut off at the end": [0x61, 0xe8, 0xaa],
  "a continuation byte alone": [0x80],
  "a byte that UTF-8 has not": [0x61, 0xfe],
  "a character without its end": [0x61, 0xc3, 0x28],
};
const controls = { close: [8, closing(1000)], ping: [9, "hi"], pong: [10, "hi"] } as const;

const rows: readonly Row[] = [
  closedWith(1002, "5.1 an unmasked frame", text("hi", { isMasked: false })),
  ...[1, 2, 3, 4, 5, 6, 7].map((reserved) =>
    closedWith(1002, `5.2 reserved bits ${reserved.toString(2).padStart(3, "0")}`, text("hi", { reserved })),
  ),
  ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode) =>
    closedWith(1002, `5.2 opcode ${opcode}`, frame(opcode, "hi")),
  ),

  answered(
    "5.2 two bytes for a length that needs none: accepted",
    [text("hi", { lengthBytes: 2 })],
    chatLines("hi"),
  ),
  answered(
    "5.2 eight bytes for a length that needs none: accepted",
    [text("hi", { lengthBytes: 8 })],
    chatLines("hi"),
  ),
  ...[125, 126, 65_535, MAX_MESSAGE_BYTES].map((n) =>
    answered(`5.2 a text of ${n} bytes`, [text("x".repeat(n))], chatLines("x".repeat(n))),
  ),
  closedWith(
    1009,
    "5.2 a length with its top bit set, which is a protocol error",
    text("", { length: 1n << 63n }),
  ),
  closedWith(1009, "5.2 a length of 2^32 + 2", text("hi", { length: (1n << 32n) + 2n })),
  closedWith(
    1009,
    "7.4.1 a frame over the limit, by its length alone",
    text("", { length: BigInt(MAX_FRAME_BYTES + 1) }),
  ),
  closedWith(1009, "7.4.1 a frame of the limit, with a text over its own", text(frameLimit)),
  closedWith(1009, "7.4.1 a text one byte too long", text(`${limit}x`)),
  closedWith(1009, "7.4.1 a text one byte too long, in fragments", text(limit, notFinal), continuation("x")),
  closedWith(
    1009,
    "7.4.1 fragments over the limit, without an end",
    text(frameLimit, notFinal),
    continuation("x", notFinal),
  ),

  answered(
    "5.4 fragments",
    [text("a", notFinal), continuation("b", notFinal), continuation("c")],
    chatLines("abc"),
  ),
  answered(
    "5.4 fragments of nothing",
    [text("", notFinal), continuation("", notFinal), continuation()],
    chatLines(""),
  ),
  answered(
    "5.4 fragments of nothing around something",
    [text("", notFinal), continuation("a", notFinal), continuation()],
    chatLines("a"),
  ),
  answered("5.4 binary fragments", [binary([0xff], notFinal), continuation([0])], ["binary ff00"]),
  answered(
    "5.4 control frames between fragments are answered at once",
    [text("a", notFinal), ping("p"), pong("q"), continuation("b", notFinal), ping(), continuation("c")],
    ["pong p", "pong ", ...chatLines("abc")],
  ),
  closedByPeer("5.4 a close between fragments", [text("a", notFinal), close(1000)], "close 1000 "),
  closedWith(1002, "5.4 a continuation of nothing", continuation("hi")),
  closedWith(1002, "5.4 an unfinished continuation of nothing", continuation("hi", notFinal)),
  {
    ...closedWith(1002, "5.4 a continuation of what is finished", text("hi"), continuation("hi")),
    hears: [...chatLines("hi"), /^close 1002 ./],
  },
  closedWith(1002, "5.4 a text in the middle of a text", text("a", notFinal), text("b")),
  closedWith(
    1002,
    "5.4 an unfinished text in the middle of a text",
    text("a", notFinal),
    text("b", notFinal),
  ),
  closedWith(1002, "5.4 a binary message in the middle of a text", text("a", notFinal), binary("b")),

  ...Object.entries(controls).flatMap(([name, [opcode, payload]]) => [
    closedWith(1002, `5.5 a fragmented ${name}`, frame(opcode, payload, notFinal), continuation()),
    closedWith(
      1002,
      `5.5 a ${name} of 126 bytes`,
      frame(opcode, Buffer.concat([Buffer.from(payload), Buffer.alloc(126)]).subarray(0, 126)),
    ),
    closedWith(
      1002,
      `5.5 a ${name} with its length in two bytes`,
      frame(opcode, payload, { lengthBytes: 2 }),
    ),
    closedWith(1002, `5.5 an unmasked ${name}`, frame(opcode, payload, { isMasked: false })),
    closedWith(1002, `5.5 a ${name} with a reserved bit`, frame(opcode, payload, { reserved: 4 })),
  ]),
  answered(
    "5.5.2 a ping is answered with what it says",
    [ping("語".repeat(41))],
    [`pong ${"語".repeat(41)}`],
  ),
  answered(
    "5.5.2 a ping of 125 bytes, of nothing, and not of text",
    [ping("x".repeat(125)), ping(), ping([0x80])],
    [`pong ${"x".repeat(125)}`, "pong ", "pong \ufffd"],
  ),
  answered("5.5.3 an unsolicited pong", [pong("hi"), pong()], []),

  closedByPeer("5.5.1 a close without a code", [frame(8)], "close"),
  closedWith(1002, "5.5.1 a close with half a code", frame(8, [3])),
  closedByPeer("5.5.1 a close of 125 bytes", [close(1000, "x".repeat(123))], `close 1000 ${"x".repeat(123)}`),
  closedByPeer("5.5.1 data after a close", [close(1000), text("late")], "close 1000 "),
  closedByPeer("5.5.1 garbage after a close", [close(1000), Buffer.alloc(9, 255)], "close 1000 "),
  closedByPeer("5.5.1 a close after a close", [close(1000), close(1001)], "close 1000 "),
  ...[0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535].map((code) =>
    closedWith(1002, `7.4 a close with ${code}`, close(code, "bye")),
  ),
  ...[1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999].map(
    (code) => closedByPeer(`7.4 a close with ${code} is echoed`, [close(code, "bye")], `close ${code} bye`),
  ),

  answered(
    "8.1 a character in fragments",
    [...letters].map((byte, i) => (i ? continuation : text)([byte], { fin: i === 3 })),
    chatLines("語a"),
  ),
  ...Object.entries(MALFORMED).flatMap(([what, bytes]) => [
    closedWith(1007, `8.1 ${what}`, text(bytes)),
    closedWith(
      1007,
      `8.1 ${what}, in fragments`,
      ...bytes.map((byte, i) => (i ? continuation : text)([byte], notFinal)),
      continuation(),
    ),
    closedWith(1007, `8.1 ${what}, as the reason of a close`, close(1000, Uint8Array.from(bytes))),
    answered(`5.6 ${what}, in a binary message`, [binary(bytes)], [`binary ${Buffer.from(bytes).toHex()}`]),
  ]),
  answered("8.1 malformed text is noticed at the end of its message", [text([0xff], notFinal)], []),
  answered("5.6 nothing, as text and as binary", [text(), binary()], [...chatLines(""), "binary "]),
];

testRows(server, rows);

test("every byte in a packet by itself, from the handshake to the close", () =>
  withWitness(server(), async (path) => {
    await using other = await server().open("/websocket");
    await using ann = new RawClient(server().port);
    const all = [
      request(path),
      text("語", notFinal),
      ping("p"),
      continuation("x".repeat(126)),
      close(1000, "bye"),
    ];
    for (const byte of Buffer.concat(all)) {
      ann.sends(Uint8Array.of(byte));
      await other.hearsNothing(); // its pong shows that the server has read the byte
    }
    expect((await ann.head())?.status).toBe(101);
    const received = (await ann.rest()).map(describeFrame);
    expect(received).toEqual(["pong p", ...chatLines(`語${"x".repeat(126)}`), "close 1000 bye"]);
    return { received, hasJoined: true };
  }));
