/**
 * QR codes (ISO/IEC 18004), for links: byte mode, any of the 40 versions, error correction level L, which is enough for
 * a code on a screen. The page and the terminal draw them.
 */

/** The rows of a code, without the quiet zone of four modules around it; true is dark. */
export type QrCode = readonly (readonly boolean[])[];

/** A code under construction: undefined where bits of the codewords go. */
type Grid = (boolean | undefined)[][];

/** Error correction of level L, by version: codewords per block, and blocks. */
const EC_CODEWORDS = [
  7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28, 28, 28, 30, 30, 26, 28, 30,
  30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30,
];
const BLOCKS = [
  1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8, 8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18,
  19, 19, 20, 21, 22, 24, 25,
];
const LEVEL_L = 1;
const BYTE_MODE = 4;
/** They fill the codewords that the text leaves free. */
const PADDING = [0xec, 0x11];

/** Where a mask inverts the module in that column and row. */
const MASKS: readonly ((x: number, y: number) => boolean)[] = [
  (x, y) => (x + y) % 2 === 0,
  (_, y) => y % 2 === 0,
  (x) => x % 3 === 0,
  (x, y) => (x + y) % 3 === 0,
  (x, y) => (Math.floor(x / 3) + Math.floor(y / 2)) % 2 === 0,
  (x, y) => ((x * y) % 2) + ((x * y) % 3) === 0,
  (x, y) => (((x * y) % 2) + ((x * y) % 3)) % 2 === 0,
  (x, y) => (((x + y) % 2) + ((x * y) % 3)) % 2 === 0,
];

/** The smallest code of a text; undefined if it is longer than 2,953 bytes of UTF-8. */
export function encodeQr(text: string): QrCode | undefined {
  const bytes = new TextEncoder().encode(text);
  for (const [index, ecCodewords] of EC_CODEWORDS.entries()) {
    const version = index + 1;
    const grid = functionPatterns(version);
    const codewordCount = Math.floor(grid.flat().filter((module) => module === undefined).length / 8);
    const blockCount = BLOCKS[index] ?? 0;
    const data = dataCodewords(bytes, version, codewordCount - blockCount * ecCodewords);
    if (!data) continue;
    const codewords = interleave(data, blockCount, ecCodewords);
    const codes = MASKS.map((_, mask) => complete(grid, codewords, mask));
    const penalties = codes.map(penaltyOf);
    return codes[penalties.indexOf(Math.min(...penalties))];
  }
  return undefined;
}

/** Mode, length, text and padding; undefined if they do not fit. */
function dataCodewords(bytes: Uint8Array, version: number, count: number): number[] | undefined {
  const lengthBits = version < 10 ? 8 : 16;
  if (Math.ceil((4 + lengthBits) / 8) + bytes.length > count) return undefined;
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0");
  // The mode and the terminator have four bits each, one hexadecimal digit.
  const digits = [
    hex(BYTE_MODE, 1),
    hex(bytes.length, lengthBits / 4),
    ...Array.from(bytes, (byte) => hex(byte, 2)),
    "0",
  ];
  const data = (digits.join("").match(/../g) ?? []).map((pair) => parseInt(pair, 16));
  while (data.length < count) data.push(...PADDING);
  return data.slice(0, count);
}

/** Splits the data into blocks, the shorter ones first, and takes a codeword of each in turn; then their error correction. */
function interleave(data: readonly number[], blockCount: number, ecCodewords: number): number[] {
  const blocks = Array.from({ length: blockCount }, (_, i) => {
    const startOf = (block: number) =>
      block * Math.floor(data.length / blockCount) +
      Math.max(0, block - (blockCount - (data.length % blockCount)));
    return data.slice(startOf(i), startOf(i + 1));
  });
  const corrections = blocks.map((block) => errorCorrection(block, ecCodewords));
  return [blocks, corrections].flatMap((parts) => {
    const longest = Math.max(...parts.map(({ length }) => length));
    return Array.from({ length: longest }, (_, i) => parts.flatMap((part) => part[i] ?? [])).flat();
  });
}

/** The remainder of the data, as a polynomial, divided by the product of (x - 2^i) for i from 0 to `count` - 1. */
function errorCorrection(data: readonly number[], count: number): number[] {
  let generator = [1];
  for (let i = 0, root = 1; i < count; i++, root = multiply(root, 2)) {
    const shifted = [0, ...generator.map((factor) => multiply(factor, root))];
    generator = shifted.map((factor, j) => factor ^ (generator[j] ?? 0));
  }
  let remainder = Array<number>(count).fill(0);
  for (const codeword of data) {
    const [first = 0, ...rest] = remainder;
    const factor = codeword ^ first;
    remainder = [...rest, 0].map((value, i) => value ^ multiply(generator[i + 1] ?? 0, factor));
  }
  return remainder;
}

/** In the field of 256 elements with the polynomial x^8 + x^4 + x^3 + x^2 + 1. */
function multiply(a: number, b: number): number {
  let product = 0;
  for (let bit = 0x80; bit > 0; bit >>= 1) {
    product = (product << 1) ^ (product & 0x80 ? 0x11d : 0);
    if (b & bit) product ^= a;
  }
  return product;
}

/** Everything but the codewords. */
function functionPatterns(version: number): Grid {
  const size = 17 + 4 * version;
  const grid: Grid = Array.from({ length: size }, () => Array<undefined>(size).fill(undefined));
  for (let i = 0; i < size; i++) {
    set(grid, 6, i, i % 2 === 0);
    set(grid, i, 6, i % 2 === 0);
  }
  const isFinderDark = (distance: number) => distance !== 2 && distance !== 4;
  square(grid, 3, 3, 4, isFinderDark);
  square(grid, size - 4, 3, 4, isFinderDark);
  square(grid, 3, size - 4, 4, isFinderDark);
  const centers = alignmentCenters(version, size);
  for (const y of centers)
    for (const x of centers)
      // Not over the finder patterns. Between them, it coincides with the timing patterns.
      if (Math.min(x, y) > 6 || (Math.max(x, y) < size - 7 && x !== y))
        square(grid, x, y, 2, (distance) => distance !== 1);
  if (version >= 7)
    for (const [i, bit] of withCheckBits(version, 18, 0x1f25).entries()) {
      const [a, b] = [size - 11 + (i % 3), Math.floor(i / 3)];
      set(grid, a, b, bit);
      set(grid, b, a, bit);
    }
  drawFormat(grid, 0);
  return grid;
}

/** Columns, and rows, of the alignment patterns: 6, and others at even distances from the far edge. */
function alignmentCenters(version: number, size: number): number[] {
  if (version === 1) return [];
  const intervals = Math.floor(version / 7) + 1;
  // Version 32 is the standard's exception.
  const step = version === 32 ? 26 : 2 * Math.ceil((size - 13) / (2 * intervals));
  return [6, ...Array.from({ length: intervals }, (_, i) => size - 7 - i * step)];
}

/** The level and the mask, next to the finder patterns, twice. */
function drawFormat(grid: Grid, mask: number): void {
  const size = grid.length;
  const bits = withCheckBits((LEVEL_L << 3) | mask, 15, 0x537).map(
    (bit, i) => bit !== ((0x5412 >> i) % 2 === 1),
  );
  for (const [i, bit] of bits.entries()) {
    const near = i < 6 ? i : i < 8 ? i + 1 : 14 - i;
    if (i < 8) set(grid, 8, near, bit);
    else set(grid, i === 8 ? 7 : near, 8, bit);
    if (i < 8) set(grid, size - 1 - i, 8, bit);
    else set(grid, 8, size - 15 + i, bit);
  }
  set(grid, 8, size - 8, true);
}

/** A value and the check bits of its BCH code, the least significant first. */
function withCheckBits(value: number, bitCount: number, generator: number): boolean[] {
  const checkBits = 31 - Math.clz32(generator);
  let remainder = value << checkBits;
  for (let bit = bitCount - 1; bit >= checkBits; bit--)
    if ((remainder >> bit) & 1) remainder ^= generator << (bit - checkBits);
  const code = (value << checkBits) | remainder;
  return Array.from({ length: bitCount }, (_, i) => ((code >> i) & 1) === 1);
}

/** Draws concentric squares, which are dark or light by their distance from the center. */
function square(
  grid: Grid,
  x: number,
  y: number,
  radius: number,
  isDark: (distance: number) => boolean,
): void {
  for (let dy = -radius; dy <= radius; dy++)
    for (let dx = -radius; dx <= radius; dx++)
      set(grid, x + dx, y + dy, isDark(Math.max(Math.abs(dx), Math.abs(dy))));
}

/** Sets a module, unless it is outside. */
function set(grid: Grid, x: number, y: number, isDark: boolean): void {
  const row = grid[y];
  if (row && x >= 0 && x < row.length) row[x] = isDark;
}

/** Draws the format, and the codewords under the mask: upwards and downwards in turn, two columns at a time, from the right. */
function complete(patterns: Grid, codewords: readonly number[], mask: number): boolean[][] {
  const grid = patterns.map((row) => [...row]);
  drawFormat(grid, mask);
  const inverts = MASKS[mask] ?? (() => false);
  const size = grid.length;
  let position = 0;
  for (let right = size - 1, isUpward = true; right > 0; right -= 2, isUpward = !isUpward) {
    if (right === 6) right--; // the vertical timing pattern
    for (let i = 0; i < size; i++)
      for (const x of [right, right - 1]) {
        const y = isUpward ? size - 1 - i : i;
        if (patterns[y]?.[x] !== undefined) continue;
        const bit = ((codewords[position >> 3] ?? 0) >> (7 - (position & 7))) & 1;
        position++;
        set(grid, x, y, (bit === 1) !== inverts(x, y));
      }
  }
  return grid.map((row) => row.map((module) => module === true));
}

/** How hard a code is to read: by long runs, squares of one color, what looks like a finder pattern, and imbalance. */
function penaltyOf(code: QrCode): number {
  const draw = (row: readonly boolean[]) => row.map((isDark) => (isDark ? "1" : "0")).join("");
  const rows = code.map(draw);
  const columns = code.map((_, x) => draw(code.map((row) => row[x] === true)));
  let penalty = 0;
  for (const line of [...rows, ...columns]) {
    for (const [run] of line.matchAll(/0{5,}|1{5,}/g)) penalty += run.length - 2;
    penalty += 40 * [...line.matchAll(/(?=10111010000|00001011101)/g)].length;
  }
  for (const [y, row] of rows.entries()) {
    const above = rows[y - 1];
    for (let x = 1; above && x < row.length; x++)
      if (row[x] === row[x - 1] && row[x] === above[x] && row[x] === above[x - 1]) penalty += 3;
  }
  const dark = rows.join("").replaceAll("0", "").length / rows.length ** 2;
  return penalty + 10 * Math.floor(Math.abs(dark - 0.5) * 20);
}
