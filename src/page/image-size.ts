/**
 * The type and the size of an image, from its first bytes: its place is reserved before the browser has decoded it,
 * so that what is read does not move.
 */

interface ImageSize {
  /** A MIME type. */
  readonly type: string;
  /** In pixels. */
  readonly width: number;
  readonly height: number;
}

/** Reads PNG, GIF, WebP and JPEG. @returns undefined for anything else */
export function imageSize(bytes: Uint8Array<ArrayBuffer>): ImageSize | undefined {
  if (bytes.length < 30) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const letters = (at: number) => String.fromCharCode(...bytes.subarray(at, at + 4));
  const size = (type: string, width: number, height: number) =>
    width > 0 && height > 0 ? { type, width, height } : undefined;
  // PNG (W3C), 5.2 and 11.2.1: the header comes first.
  if (letters(0) === "\x89PNG") return size("image/png", view.getUint32(16), view.getUint32(20));
  if (letters(0) === "GIF8") return size("image/gif", view.getUint16(6, true), view.getUint16(8, true));
  if (letters(0) === "RIFF" && letters(8) === "WEBP") {
    // RFC 9649, 2.5 to 2.7: lossy, lossless, extended.
    const format = letters(12);
    if (format === "VP8 ")
      return size("image/webp", view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff);
    const bits = view.getUint32(21, true);
    if (format === "VP8L") return size("image/webp", 1 + (bits & 0x3fff), 1 + ((bits >> 14) & 0x3fff));
    if (format === "VP8X")
      return size(
        "image/webp",
        1 + (view.getUint32(24, true) & 0xffffff),
        1 + (view.getUint32(26, true) >>> 8),
      );
  }
  if (view.getUint16(0) !== 0xffd8) return undefined;
  // ITU-T T.81, B.2.2: the size is in the frame header, SOF0 to SOF15 without DHT, JPG and DAC.
  for (let at = 2; at + 9 < bytes.length && view.getUint8(at) === 0xff; at += 2 + view.getUint16(at + 2)) {
    const marker = view.getUint8(at + 1);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker))
      return size("image/jpeg", view.getUint16(at + 7), view.getUint16(at + 5));
  }
  return undefined;
}
