/** Files for tests of the page, as expressions that the browser evaluates. */

/**
 * A promise of a File: noise over a gradient, about as hard to compress as a photograph.
 * @param noise 0 to 127
 */
export function photo(
  width: number,
  height: number,
  { noise = 24, type = "image/jpeg", quality = 0.9 } = {},
): string {
  const extension = type.replace("image/", "");
  return `(async () => {
    const canvas = new OffscreenCanvas(${width}, ${height});
    const context = canvas.getContext("2d");
    const gradient = context.createLinearGradient(0, 0, ${width}, ${height});
    ["#124", "#e83", "#fd6", "#385"].forEach((colour, i) => gradient.addColorStop(i / 3, colour));
    context.fillStyle = gradient;
    context.fillRect(0, 0, ${width}, ${height});
    const tile = new OffscreenCanvas(256, 256);
    const pixels = new ImageData(256, 256);
    let random = 1;
    for (let i = 0; i < pixels.data.length; i++) {
      random = (Math.imul(random, 1103515245) + 12345) >>> 0;
      pixels.data[i] = i % 4 === 3 ? ${noise * 2} : random >>> 24;
    }
    tile.getContext("2d").putImageData(pixels, 0, 0);
    for (let x = 0; x < ${width}; x += 256) for (let y = 0; y < ${height}; y += 256) context.drawImage(tile, x, y);
    const blob = await canvas.convertToBlob({ type: "${type}", quality: ${quality} });
    return new File([blob], "photo.${extension}", { type: blob.type });
  })()`;
}

/** A File with these bytes. */
export function file(name: string, type: string, bytes: readonly number[] | Uint8Array): string {
  return `new File([new Uint8Array(${JSON.stringify([...bytes])})], ${JSON.stringify(name)}, { type: ${JSON.stringify(type)} })`;
}
