/** QR codes: what other programs draw and read. */

import { describe, expect, test } from "bun:test";
import { encodeQr, type QrCode } from "../../src/util/qr.ts";
import { findProgram } from "../support/programs.ts";
import { TempFolder } from "../support/temp-folder.ts";

/** Bytes that a code of each version holds (ISO/IEC 18004, table 7: byte mode, level L). */
const CAPACITIES = [
  17, 32, 53, 78, 106, 134, 154, 192, 230, 271, 321, 367, 425, 458, 520, 586, 644, 718, 792, 858, 929, 1003,
  1091, 1171, 1273, 1367, 1465, 1528, 1628, 1732, 1840, 1952, 2068, 2188, 2303, 2431, 2563, 2699, 2809, 2953,
];

const LINK = "http://192.168.1.7:8000/client?room=tea&token=";

function draw(code: QrCode = []): string {
  return code.map((row) => row.map((isDark) => (isDark ? "#" : ".")).join("")).join("\n");
}

test("a code has the smallest version that holds the text", () => {
  const sizes = CAPACITIES.flatMap((count) => ["x".repeat(count), "x".repeat(count + 1)]).map(
    (text) => encodeQr(text)?.length,
  );
  expect(sizes).toEqual(
    CAPACITIES.flatMap((_, i) => [21 + 4 * i, i + 1 < CAPACITIES.length ? 25 + 4 * i : undefined]),
  );
});

test("a code is the one that qrencode 4.1.1 draws", () => {
  expect(draw(encodeQr("http://192.168.1.0:8000/client?room=tea"))).toBe(
    `
#######..#....#.#..#..#######
#.....#.##.##.###.#...#.....#
#.###.#..###...##.#...#.###.#
#.###.#.##.#.##.###.#.#.###.#
#.###.#...#.#....###..#.###.#
#.....#.#.#...####....#.....#
#######.#.#.#.#.#.#.#.#######
............#.###............
#####.#####.###..#..##.#.#.#.
##.#.#.#.#......#.##..#.#...#
#.##.##.##.##..####....##....
#..##...####..#.#....##.#..#.
#.#..###.#.#.....#.###.#.##..
###.....###.##..####..#.#.#.#
.#..#.#..##..####....##...#..
...##..##.#.##..#.##.#.#...#.
#####.###...#.#..#.###....#..
##.#.....##.....####.##.###.#
#.##..#.#..##..#..#...#..##..
#.##...##..#..#......##.#..#.
#.###.###.##...###..#####.###
........#.#.###.#.###...#####
#######.#....####..##.#.###..
#.....#..#..##..#...#...#...#
#.###.#.#.#.#.#.##..#######..
#.###.#.##.......##.##.#...##
#.###.#.#.###..#.#.##.#.##.#.
#.....#.####..###.#.##.##..#.
#######.#..#...###.......##..`.trim(),
  );
  const crc = (bytes: number) =>
    Bun.hash.crc32(
      draw(encodeQr("http://192.168.1.7:8000/client?id=0&token=".padEnd(bytes, "abcDEF0123_-x."))),
    );
  // Versions 7, 21 and 40.
  expect([crc(144), crc(868), crc(2819)]).toEqual([0xcc318160, 0x810081f3, 0x512b067a]);
});

const { path: zbarimg = "zbarimg", skipped } = findProgram("zbar-tools", "zbarimg");

describe.skipIf(skipped !== "")(`zbarimg reads a code${skipped}`, () => {
  test.each([1, 2, 6, 7, 9, 10, 14, 15, 22, 27, 32, 36, 40])("of version %i", async (version) => {
    using folder = new TempFolder();
    const bytes = CAPACITIES[version - 1] ?? 0;
    for (const length of [bytes, bytes - 3]) {
      const text = LINK.padEnd(length, "abcDEF0123_-x.").slice(0, length);
      const file = folder.write("code.pbm", imageOf(encodeQr(text)));
      const read = await Bun.$`${zbarimg} --quiet --raw ${file}`.quiet();
      expect(`${read.stdout}`).toBe(`${text}\n`);
    }
  });
});

/** A portable bitmap, four pixels a module, with the quiet zone. */
function imageOf(code: QrCode = []): string {
  const [scale, quiet] = [4, 4];
  const size = scale * (code.length + 2 * quiet);
  const margin = "0".repeat(scale * quiet);
  const rows = code.flatMap((row) => {
    const pixels = row.map((isDark) => (isDark ? "1" : "0").repeat(scale)).join("");
    return Array<string>(scale).fill(margin + pixels + margin);
  });
  const empty = Array<string>(scale * quiet).fill("0".repeat(size));
  return `P1\n${size} ${size}\n${[...empty, ...rows, ...empty].join("\n")}\n`;
}
