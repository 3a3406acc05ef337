/** The JSON wire: malformed frames are answered with an error code, and have no other effect. */

import { describe, expect, spyOn, test } from "bun:test";
import { jsonCodec, maxFrameBytes } from "../../src/protocol/codec.ts";
import { CLOSE_CODES, ERROR_MESSAGES, type ErrorCode } from "../../src/protocol/codes.ts";
import { startServer } from "../support/server.ts";
import { unpadded } from "../support/docs.ts";

const malformed: [string, ErrorCode, number?][] = [
  ["", "not-json"],
  ["hi", "not-json"],
  ["{", "not-json"],
  ["null", "not-json"],
  ["[]", "not-json"],
  ['"message"', "not-json"],
  ["{}", "unknown-type"],
  ['{"type":"shout","text":"hi"}', "unknown-type"],
  ['{"type":["message"],"text":"hi"}', "unknown-type"],
  ['{"__proto__":{"type":"ping"}}', "unknown-type"],
  ['{"type":"message"}', "no-text"],
  ['{"type":"message","text":7,"seq":3}', "no-text", 3],
  ['{"type":"message","text":null}', "no-text"],
  ['{"type":"message","data":7}', "no-text"],
  ['{"type":"message","data":null,"text":null}', "no-text"],
  ['{"type":"message","text":"hi","data":"aGk=","seq":3}', "no-text", 3],
  // too short, padded wrongly, base64url, whitespace, not ASCII
  ...["a", "====", "aGk==", "-_-_", "aG k=", "aGk=\\n", "語語語語"].map(
    (data): [string, ErrorCode, number] => [`{"type":"message","data":"${data}","seq":5}`, "bad-data", 5],
  ),
  ...["0", "-1", "1.5", '"1"', "null", "9007199254740992", "1e400"].map((seq): [string, ErrorCode] => [
    `{"type":"message","text":"hi","seq":${seq}}`,
    "bad-seq",
  ]),
  [JSON.stringify({ type: "message", text: "x".repeat(65_537), seq: 4 }), "message-too-big", 4],
  [JSON.stringify({ type: "message", data: "A".repeat(87_384), seq: 4 }), "message-too-big", 4],
  [JSON.stringify({ type: "message", data: "!".repeat(200_000) }), "message-too-big"],
  [JSON.stringify({ type: "message", text: "語".repeat(21_846) }), "message-too-big"],
  [`{"type":"message","text":"${"\\u0000".repeat(65_537)}"}`, "message-too-big"],
];

describe("malformed frames", () => {
  for (const [frame, code, seq] of malformed)
    test(`${frame.slice(0, 60)} is ${code}`, async () => {
      await using server = await startServer();
      await using ann = await server.joinJson("ann");
      ann.sends(frame);
      await ann.hears({ type: "error", code, message: ERROR_MESSAGES[code], ...(seq ? { seq } : {}) });
      ann.says("still here");
      await ann.hears({ type: "message", from: "ann", text: "still here" });
    });

  test("a binary message of 64 KiB is accepted, a larger one is an error", async () => {
    await using server = await startServer();
    await using ann = await server.joinJson("ann");
    ann.sends(new Uint8Array(65_537));
    await ann.hears({ type: "error", code: "message-too-big", message: ERROR_MESSAGES["message-too-big"] });
    ann.sends(new Uint8Array(65_536));
    await ann.hears({ type: "message", from: "ann", data: new Uint8Array(65_536).toBase64() });
  });

  test("`data` may hold as many decoded bytes as a text, and may omit its padding", async () => {
    await using server = await startServer();
    await using ann = await server.joinJson("ann");
    const data = new Uint8Array(65_536).toBase64();
    ann.sends({ type: "message", data, seq: 1 });
    await ann.hears({ type: "ack", seq: 1 }, { type: "message", from: "ann", data });
    ann.sends({ type: "message", data: "aGk", text: null });
    await ann.hears({ type: "message", from: "ann", data: "aGk=" });
    ann.sends({ type: "message", data: new Uint8Array(65_537).toBase64(), seq: 2 });
    await ann.hears({
      type: "error",
      code: "message-too-big",
      message: ERROR_MESSAGES["message-too-big"],
      seq: 2,
    });
  });

  test("the longest encoding of the largest text fits into a frame; a longer frame is closed with 1009", async () => {
    await using server = await startServer();
    await using ann = await server.joinJson("ann");
    ann.sends(`{"type":"message","text":"${"\\u0000".repeat(65_536)}","seq":9007199254740991}`);
    await ann.hears(
      { type: "ack", seq: Number.MAX_SAFE_INTEGER },
      { type: "message", from: "ann", text: "\0".repeat(65_536) },
    );
    ann.sends(`"${"x".repeat(maxFrameBytes(65_536))}"`);
    expect((await ann.peer.closes()).code).toBe(1009);
  });
});

test("an id is escaped like any other text", () => {
  expect(jsonCodec.presence({ joined: ['"'], left: [], count: 1 })).toBe(
    '{"type":"presence","joined":["\\""],"left":[],"count":1}',
  );
});

test("the documented errors and close codes are those of the code", () => {
  const readme = unpadded("src/protocol/README.md");
  for (const [code, sentence] of Object.entries(ERROR_MESSAGES))
    expect(readme).toContain(`| \`${code}\` | ${sentence} |`);
  for (const [code, reason] of Object.values(CLOSE_CODES))
    expect(readme).toContain(`| ${code} | ${reason} |`);
});

describe("the structure around the strings of a frame", () => {
  test("is limited before it is parsed, since hundreds of thousands of brackets and keys take long", () => {
    using parseJson = spyOn(JSON, "parse");
    for (const frame of [
      "[".repeat(380_000),
      '{"a":'.repeat(50_000),
      `{${'"a":1,'.repeat(50_000)}"type":"message","text":"hi"}`,
      `["${'","'.repeat(50_000)}"]`,
      " ".repeat(4097),
      `"${'\\\\","'.repeat(3000)}"`,
    ])
      expect(jsonCodec.parse(frame, 65_536)).toEqual({ error: "message-too-big" });
    expect(parseJson).not.toHaveBeenCalled();
  });

  test("does not include their contents", () => {
    const text = '"\\[{,'.repeat(10_000);
    expect<unknown>(
      jsonCodec.parse(JSON.stringify({ type: "message", text, x: text }), 65_536),
    ).toMatchObject({
      content: text,
    });
  });
});
