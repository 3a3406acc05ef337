/** The dialog that shows an image as large as fits, with a download. */

import { find } from "./dom.ts";

/** @param name of the file that Download saves */
export async function showImage({ src, alt }: HTMLImageElement, name: string): Promise<void> {
  const dialog = find("viewer", HTMLDialogElement);
  const image = find("viewed", HTMLImageElement);
  Object.assign(image, { src, alt });
  Object.assign(find("download", HTMLAnchorElement), { href: src, download: name });
  // Its form covers all but the backdrop.
  dialog.onclick = ({ target }) => void (target === dialog && dialog.close());
  await image.decode().catch(() => {}); // first, so that the dialog does not grow under the pointer
  if (!dialog.open) dialog.showModal();
}
