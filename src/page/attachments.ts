/** Files in the composer: picked, pasted or dropped, shrunk if they are images, and shown until they are sent. */

import { create, find } from "./dom.ts";
import { shrink } from "./shrink.ts";
import { formatBytes, words } from "./words.ts";

type Bytes = Uint8Array<ArrayBuffer>;

export class Attachments {
  /** As the server's welcome says. */
  maxMessageBytes = 65_536;
  /** No files are taken. */
  isReadOnly = false;

  readonly #list = find("attachments", HTMLUListElement);
  readonly #problem = find("attachment-problem", HTMLElement);
  readonly #input = find("files", HTMLInputElement);
  readonly #onAdd: () => void;
  /** What will be sent, once it is known; undefined if it cannot be. */
  readonly #prepared = new Map<HTMLElement, Promise<Bytes | undefined>>();

  /** @param onAdd is called after files were added or removed */
  constructor(onAdd: () => void) {
    this.#onAdd = onAdd;
    find("attach", HTMLButtonElement).onclick = () => this.#input.click();
    this.#input.onchange = () => {
      this.#add(this.#input.files);
      this.#input.value = ""; // so that the same file can be picked again
    };
    addEventListener("paste", (event) => {
      // Office programs add a picture of the text that was copied.
      if (event.clipboardData?.types.includes("text/plain") || !event.clipboardData?.files.length) return;
      event.preventDefault();
      this.#add(event.clipboardData.files);
    });
    this.#acceptDrops();
  }

  get isEmpty(): boolean {
    return this.#prepared.size === 0;
  }

  /** Takes all files out of the composer as soon as they are ready. @returns what to send, in order */
  async take(): Promise<readonly Bytes[]> {
    const taken = [...this.#prepared];
    const ready: Bytes[] = [];
    this.#prepared.clear();
    for (const [tile, prepared] of taken) {
      const bytes = await prepared;
      if (bytes && tile.isConnected) ready.push(bytes);
      this.#remove(tile);
    }
    return ready;
  }

  hideProblem(): void {
    this.#showProblem("");
  }

  #add(files: Iterable<File> | null): void {
    if (this.isReadOnly) return;
    this.hideProblem();
    for (const file of files ?? []) this.#addFile(file);
    this.#onAdd();
  }

  #addFile(file: File): void {
    const isImage = file.type.startsWith("image/");
    if (!isImage && file.size > this.maxMessageBytes) return this.#showTooLarge(file);
    const remove = create("button", "remove", "×");
    const caption = create("span", "", words.preparing);
    const tile = create("li", "", create("bdi", "", file.name), caption, remove);
    remove.ariaLabel = words.removeFile(file.name);
    remove.type = "button";
    remove.onclick = () => {
      this.hideProblem();
      this.#remove(tile);
      this.#onAdd();
    };
    this.#prepared.set(tile, this.#prepare(file, isImage, tile, caption));
    this.#list.append(tile);
    this.#list.hidden = false;
  }

  async #prepare(
    file: File,
    isImage: boolean,
    tile: HTMLElement,
    caption: HTMLElement,
  ): Promise<Bytes | undefined> {
    try {
      const small = isImage ? await shrink(file, this.maxMessageBytes) : undefined;
      const content = small ?? file;
      if (content.size > this.maxMessageBytes) {
        this.#showTooLarge(file);
        this.#remove(tile);
        return undefined;
      }
      const bytes = new Uint8Array(await content.arrayBuffer());
      caption.textContent = formatBytes(bytes.length);
      if (small) {
        const image = create("img");
        Object.assign(image, { src: URL.createObjectURL(small), alt: "" });
        tile.prepend(image);
      }
      return bytes;
    } catch {
      // A folder, or a file that was deleted.
      this.#showProblem(words.fileUnreadable(file.name));
      this.#remove(tile);
      return undefined;
    }
  }

  #remove(tile: HTMLElement): void {
    for (const { src } of tile.querySelectorAll("img")) URL.revokeObjectURL(src);
    this.#prepared.delete(tile);
    tile.remove();
    this.#list.hidden = this.#list.childElementCount === 0;
  }

  #showTooLarge({ name, size }: File): void {
    this.#showProblem(words.fileTooLarge(name, formatBytes(size), formatBytes(this.maxMessageBytes)));
  }

  #showProblem(sentence: string): void {
    this.#problem.hidden = sentence === "";
    this.#problem.textContent = sentence;
  }

  #acceptDrops(): void {
    const target = find("drop", HTMLElement);
    const hasFiles = ({ dataTransfer }: DragEvent) => dataTransfer?.types.includes("Files") === true;
    addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault(); // or the browser opens the file instead of the page
      target.hidden = this.isReadOnly;
    });
    addEventListener("dragleave", ({ relatedTarget }) => (target.hidden ||= relatedTarget === null));
    addEventListener("drop", (event) => {
      target.hidden = true;
      if (!hasFiles(event)) return;
      event.preventDefault();
      this.#add(event.dataTransfer?.files ?? null);
    });
  }
}
