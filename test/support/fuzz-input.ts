/** Malformed frames, JSON, paths and headers, repeatable by seed. */

import { SUBPROTOCOL } from "../../src/protocol/codec.ts";
import { closing, frame, HANDSHAKE, request } from "./raw-websocket.ts";

export const TARGETS = ["frames", "json", "path", "headers"] as const;

export interface Input {
  readonly target: (typeof TARGETS)[number];
  readonly request: Buffer;
  /** Sent after the response. */
  readonly frames: readonly Buffer[];
}

const IDS = ["mallory", "trudy", "%E8%AA%9E", "a%2Fb", "..", "7"];
const TEXTS = [
  "",
  "hi",
  "\0",
  "語𠮷👩‍👩‍👧‍👦",
  "\ufeff\u2028\u202e",
  "Client #witness-text left the chat",
  "$&%s{}`\\<b>",
];
const CLOSE_CODES = [0, 999, 1000, 1001, 1004, 1005, 1006, 1009, 1011, 1015, 2999, 3000, 4001, 5000, 65_535];
const SCRAPS = "% %zz %00 %FF %C0%AF %E2%80%AE %u0041 %25%2e .. // ? # &= ; a tea 語".split(" ");
const BYTES = [...'\0\x7f\xff\t \r\n\\"*[', "\xe8\xaa\x9e", "\xed\xa0\x80"];
const KEYS = ["", ..."type text data seq skip __proto__ constructor toString then toJSON length".split(" ")];
/** JSON as text, since some of it is malformed. */
const VALUES = [
  ..."null true 0 -1 0.5 1 9007199254740991 9007199254740993 1e308 1e999 -0 -1e-999 NaN undefined".split(" "),
  ...'"1" "" [] {} [[]] {"text":{}} "ping" "message" "\\ud800" "\\udc00\\ud800" "\\u0000" "'.split(" "),
  "1".repeat(400),
  "[".repeat(50_000),
  `${"[".repeat(5_000)}${"]".repeat(5_000)}`,
  `${'{"text":'.repeat(5_000)}1${"}".repeat(5_000)}`,
];
const HEADERS = [
  "",
  ...Object.keys(HANDSHAKE),
  ..."Origin Authorization Sec-WebSocket-Protocol Sec-WebSocket-Extensions X-Forwarded-For".split(" "),
  ..."Content-Length Transfer-Encoding Expect Cookie Forwarded __proto__".split(" "),
];
const HEADER_VALUES = [
  ..."localhost [::1 [::ffff:1.2.3.4]:99999 a@localhost:0 null https://[ http://localhost\\@evil".split(" "),
  ..."Bearer token. ::1,1.2.3.4,fe80::1%25eth0 -1 18446744073709551616 5,5 chunked 100-continue".split(" "),
  "",
  `Bearer ${"a".repeat(9_000)}`,
  `${SUBPROTOCOL}, token.eyJhbGciOiJub25lIn0.e30.`,
  `${SUBPROTOCOL},`.repeat(500),
  "token.a, token.b,,, hubbub.v2",
  "permessage-deflate; client_max_window_bits=99",
  "1".repeat(5_000),
  "x".repeat(20_000),
];

export const SECRET = "known to the fuzzer and to the server alone";
const RIGHT_HEADER = '{"alg":"HS256"}';

export function tokenOf(client: string): string {
  return signed(RIGHT_HEADER, JSON.stringify({ sub: client }));
}

/** A correctly signed token with any claims. */
function signed(header: string, claims: string): string {
  const said = [header, claims].map((part) => Buffer.from(part).toString("base64url")).join(".");
  return `${said}.${new Bun.CryptoHasher("sha256", SECRET).update(said).digest().toString("base64url")}`;
}

export class FuzzInput {
  constructor(private readonly random: () => number) {}

  next(): Input {
    const target = this.#pick(TARGETS);
    switch (target) {
      case "frames": {
        const client = this.#pick(["mallory", "trudy"]);
        const path = this.#chance(0.3) ? "/websocket" : `/ws/${client}`;
        return { target, request: request(`${path}?token=${tokenOf(client)}`), frames: this.#frames() };
      }
      case "json": {
        const session = this.#pick(["", `&session=s${this.#int(9)}`, "&after=1-1", "&session=t&after=x"]);
        const client = this.#pick(["mallory", "trudy"]);
        const path = `/ws/${client}?token=${tokenOf(client)}&history=${this.#int(100)}${session}`;
        const frames = this.#some(8, () => this.#wrapped(this.#json()));
        return { target, request: request(path, { "Sec-WebSocket-Protocol": SUBPROTOCOL }), frames };
      }
      case "path":
        return { target, request: this.#spoil(this.#address(), 0.1), frames: [] };
      case "headers":
        return { target, request: this.#spoil(this.#headers(), 0.1), frames: [frame(1, "hi")] };
      default:
        return target satisfies never;
    }
  }

  #frames(): Buffer[] {
    if (this.#chance(0.1)) return [this.#bytes(this.#int(400))];
    if (this.#chance(0.05)) return Array<Buffer>(500).fill(frame(this.#pick([1, 2, 9]), this.#pick(TEXTS)));
    const frames = this.#some(6, () => this.#message()).flat();
    return frames.map((each) => this.#spoil(each, 0.04));
  }

  /** Mostly valid: one frame, fragments with a ping in between, or a control frame. */
  #message(): Buffer[] {
    const opcode = this.#chance(0.97) ? this.#pick([1, 1, 1, 2, 9, 10]) : this.#int(16);
    if (this.#chance(0.05)) return [frame(8, this.#closing())];
    if (opcode > 2 || this.#chance(0.6)) return [this.#frame(opcode, true)];
    return [
      this.#frame(opcode, false),
      ...(this.#chance(0.5) ? [this.#frame(9, true)] : []),
      this.#frame(0, false),
      ...(this.#chance(0.9) ? [this.#frame(0, true)] : []),
    ];
  }

  #frame(opcode: number, fin: boolean): Buffer {
    return frame(opcode, opcode > 7 ? this.#pick(TEXTS) : this.#payload(), {
      fin,
      reserved: this.#chance(0.01) ? this.#int(8) : 0,
      isMasked: this.#chance(0.99),
      ...(opcode < 8 && this.#chance(0.1) ? { lengthBytes: 8 } : {}),
      ...(this.#chance(0.01) ? { lengthBytes: 8, length: 1n << BigInt(this.#int(64)) } : {}),
    });
  }

  #closing(): Buffer {
    return this.#chance(0.2)
      ? this.#bytes(this.#int(130))
      : closing(this.#pick(CLOSE_CODES), this.#chance(0.8) ? "bye" : this.#bytes(this.#int(10)));
  }

  #payload(): string | Buffer {
    if (this.#chance(0.05)) return this.#bytes(this.#int(200));
    if (this.#chance(0.02)) return "語".repeat(this.#pick([21_845, 21_846, 131_072]));
    return this.#pick(TEXTS);
  }

  /** One text frame, or two fragments that may split a character. */
  #wrapped(json: string): Buffer {
    const bytes = Buffer.from(json);
    const cut = this.#int(bytes.length + 1);
    if (this.#chance(0.1)) return frame(2, bytes);
    if (this.#chance(0.7)) return frame(1, bytes);
    return Buffer.concat([frame(1, bytes.subarray(0, cut), { fin: false }), frame(0, bytes.subarray(cut))]);
  }

  #json(): string {
    const fields = { type: '"message"', text: JSON.stringify(this.#pick(TEXTS)), seq: `${this.#int(20)}` };
    const written = Object.entries(fields).filter(() => this.#chance(0.9));
    while (this.#chance(0.5)) written.push([this.#pick(KEYS), this.#value()]);
    const json = `{${written.map(([key, value]) => `${JSON.stringify(key)}:${value}`).join()}}`;
    if (this.#chance(0.1)) return this.#value();
    if (this.#chance(0.1)) return '{"type":"ping"}';
    return this.#chance(0.2) ? this.#spoil(Buffer.from(json), 1).toString() : json;
  }

  #value(): string {
    return this.#chance(0.4) ? `{${JSON.stringify(this.#pick(KEYS))}:${this.#value()}}` : this.#pick(VALUES);
  }

  #token(): string {
    if (this.#chance(0.3)) return tokenOf(this.#pick(["mallory", "trudy"]));
    const claims = this.#some(
      5,
      () => `"${this.#pick(["sub", "rooms", "exp", "nbf", "aud"])}":${this.#value()}`,
    );
    const header = this.#chance(0.8) ? RIGHT_HEADER : this.#value();
    return signed(header, this.#chance(0.8) ? `{"sub":"mallory",${claims}}` : this.#value());
  }

  #address(): Buffer {
    const query = this.#some(5, () => {
      const name = this.#pick(["room", "history", "session", "after", "token", "id", "__proto__", ""]);
      if (name === "token") return `token=${this.#token()}`;
      return `${name}=${this.#chance(0.3) ? this.#int(200) : this.#scraps()}`;
    });
    const path = this.#pick(["/ws/", "/websocket/", "/websocket", "/client", "/hubbub.js", "/", ""]);
    const id = this.#chance(0.5) ? this.#pick(IDS) : this.#scraps();
    const changes = this.#chance(0.5) ? { "Sec-WebSocket-Protocol": SUBPROTOCOL } : {};
    return request(`${path}${id}${this.#chance(0.7) ? `?${query.join("&")}` : ""}`, changes);
  }

  #scraps(): string {
    const scraps = this.#some(4, () => this.#pick(this.#chance(0.95) ? SCRAPS : BYTES)).join("");
    return this.#chance(0.05) ? (scraps || "x").repeat(this.#pick([100, 2_000, 20_000])) : scraps;
  }

  #headers(): Buffer {
    const path = this.#pick(["/ws/mallory", "/ws/trudy?room=tea", "/websocket", "/client", "/nope"]);
    const changes = this.#some(4, () => {
      const value = this.#chance(0.7) ? this.#pick(HEADER_VALUES) : this.#scraps();
      return [this.#pick(HEADERS), this.#chance(0.1) ? undefined : value] as const;
    });
    if (this.#chance(0.3)) changes.push(["Authorization", `Bearer ${this.#token()}`]);
    if (this.#chance(0.3)) changes.push(["Sec-WebSocket-Protocol", `${SUBPROTOCOL}, token.${this.#token()}`]);
    const method = this.#chance(0.8)
      ? "GET"
      : this.#pick(["POST", "HEAD", "OPTIONS", "CONNECT", "PRI", "\0"]);
    return request(path, Object.fromEntries(changes), `${method} ${path} HTTP/1.1`);
  }

  /** With this probability, changes, removes, repeats or appends some bytes. */
  #spoil(whole: Buffer, probability: number): Buffer {
    if (!this.#chance(probability)) return whole;
    const at = this.#int(whole.length);
    const [before, after] = [whole.subarray(0, at), whole.subarray(at)];
    const some = this.#int(12);
    const middle = this.#pick([this.#bytes(some), after.subarray(0, some), Buffer.of()]);
    if (this.#chance(0.2)) return before;
    return Buffer.concat([before, middle, this.#chance(0.5) ? after : after.subarray(some)]);
  }

  #bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.#int(256)));
  }

  #some<T>(max: number, make: () => T): T[] {
    return Array.from({ length: 1 + this.#int(max) }, make);
  }

  #pick<const T>(from: readonly T[]): T {
    const picked = from[this.#int(from.length)];
    if (picked === undefined) throw new Error("nothing to pick from");
    return picked;
  }

  #int(below: number): number {
    return Math.floor(this.random() * below);
  }

  #chance(probability: number): boolean {
    return this.random() < probability;
  }
}
