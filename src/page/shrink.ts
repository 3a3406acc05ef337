/** Makes an image small enough for a message, in a worker: a photo of 24 megapixels takes half a second. */

/**
 * An image that fits stays as it is, except for JPEG, which may carry the place where it was taken. Others become WebP,
 * or JPEG where the browser cannot write WebP.
 * @returns undefined if the browser cannot read it as an image, or cannot make it small enough
 */
export function shrink(file: Blob, maxBytes: number): Promise<Blob | undefined> {
  const source = `onmessage = async ({ data }) => postMessage(await (${shrinkInWorker})(...data).catch(() => undefined))`;
  const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(address);
  const { promise, resolve } = Promise.withResolvers<Blob | undefined>();
  worker.onmessage = ({ data }) => resolve(data);
  worker.onerror = () => resolve(undefined);
  worker.postMessage([file, maxBytes]);
  return promise.finally(() => {
    worker.terminate();
    URL.revokeObjectURL(address);
  });
}

/** The worker gets the text of this function only, so it uses nothing from outside. */
async function shrinkInWorker(file: Blob, maxBytes: number): Promise<Blob | undefined> {
  const longestSide = 1_600;
  const shortestSide = 64;
  const goodQuality = 0.82;
  const lowQuality = 0.6;
  /** What low quality needs of the bytes of good quality, about. */
  const lowToGood = 0.55;

  const draw = (image: CanvasImageSource, width: number, height: number, background = "") => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    if (!context) throw new Error("no memory for a canvas");
    context.fillStyle = background;
    if (background) context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height);
    return canvas;
  };
  const encode = async (canvas: OffscreenCanvas, quality: number) => {
    const webp = await canvas.convertToBlob({ type: "image/webp", quality });
    if (webp.type === "image/webp") return webp;
    // JPEG has no transparency.
    const opaque = draw(canvas, canvas.width, canvas.height, "#fff");
    return opaque.convertToBlob({ type: "image/jpeg", quality });
  };

  const image = await createImageBitmap(file);
  const { width, height } = image;
  const longest = Math.max(width, height);
  if (file.size <= maxBytes && longest <= longestSide && file.type !== "image/jpeg") return file;
  const scaled = (length: number, side: number) => Math.max(1, Math.round((length * side) / longest));
  let side = Math.min(longestSide, longest);
  const large = draw(image, scaled(width, side), scaled(height, side));
  image.close();
  let encoded = await encode(large, goodQuality);
  let expected = encoded.size * lowToGood;
  while (encoded.size > maxBytes && side >= shortestSide) {
    // The bytes grow with the area, about; a little less, so that it fits.
    if (expected > maxBytes) side *= Math.max(0.4, 0.95 * Math.sqrt(maxBytes / expected));
    encoded = await encode(draw(large, scaled(width, side), scaled(height, side)), lowQuality);
    expected = encoded.size;
  }
  return encoded.size <= maxBytes ? encoded : undefined;
}
