/** The content of a message: text with links and code, an image, or a download. */

import { copyText } from "./clipboard.ts";
import { create, linkButton } from "./dom.ts";
import { imageSize } from "./image-size.ts";
import { showImage } from "./image-viewer.ts";
import type { FindMentions } from "./mentions.ts";
import { formatBytes, words } from "./words.ts";

const EMOJI = /^\p{RGI_Emoji}{1,3}$/v;
const LINK = /https?:\/\/[^\s<>"“”「」]+/gi;
const CLOSING_PUNCTUATION = /[.,:;!?'、。，：；！？）】》』…]/;
/** Lines between fences, or to the end if nothing closes the fence; as CommonMark, without indentation. */
const FENCED = /^(`{3,})([^`\n]*)\n([^]*?)(?:^\1`*[ \t]*(?:\n|(?![^]))|(?![^]))/gm;
/** Between runs of as many backticks, within a line. */
const INLINE_CODE = /(?<!`)(`+)(?!`)([^\n]*?[^`\n])\1(?!`)/g;
/** Of an image; pixels. */
const HIGHEST = 360;
const COPIED_SHOWN_MS = 2_000;
const OPENING_BRACKETS = new Map([
  [")", "("],
  ["]", "["],
  ["}", "{"],
]);

/** A message has either a text or bytes. */
export interface Content {
  readonly text?: string | undefined;
  readonly bytes?: Uint8Array<ArrayBuffer> | undefined;
}

export function contentBubble(
  { text, bytes = new Uint8Array() }: Content,
  findMentions: FindMentions,
): HTMLElement {
  return text === undefined ? attachmentBubble(bytes) : textBubble(text, findMentions);
}

/** Creates text nodes, links, mentions and code only: a message's text is never markup. */
function textBubble(text: string, findMentions: FindMentions): HTMLElement {
  const bubble = create("div", EMOJI.test(text) ? "bubble emoji" : "bubble");
  let end = 0;
  for (const { 0: match, 2: language = "", 3: code = "", index } of text.matchAll(FENCED)) {
    if (code.trim() === "") continue;
    appendLines(bubble, text.slice(end, index), findMentions);
    bubble.append(codeBlock(code.replace(/\n$/, ""), language.trim()));
    end = index + match.length;
  }
  appendLines(bubble, text.slice(end), findMentions);
  if (bubble.textContent === bubble.querySelector(".code")?.textContent) bubble.classList.add("only-code");
  bubble.dir = "auto"; // last: every addition would look for the direction again
  return bubble;
}

function appendLines(parent: HTMLElement, text: string, findMentions: FindMentions): void {
  let end = 0;
  for (const { 0: match, 2: code = "", index } of text.matchAll(INLINE_CODE)) {
    appendLinks(parent, text.slice(end, index), findMentions);
    parent.append(create("code", "", code));
    end = index + match.length;
  }
  appendLinks(parent, text.slice(end), findMentions);
}

function appendLinks(parent: HTMLElement, text: string, findMentions: FindMentions): void {
  let end = 0;
  for (const { 0: match, index } of text.matchAll(LINK)) {
    const href = withoutPunctuation(match);
    if (!URL.canParse(href)) continue;
    const link = create("a", "", href);
    Object.assign(link, { href, target: "_blank", rel: "noopener noreferrer" });
    appendMentions(parent, text.slice(end, index), findMentions);
    parent.append(link);
    end = index + href.length;
  }
  appendMentions(parent, text.slice(end), findMentions);
}

function appendMentions(parent: HTMLElement, text: string, findMentions: FindMentions): void {
  let end = 0;
  for (const { index, length, isOfMe } of findMentions(text)) {
    parent.append(
      text.slice(end, index),
      create("mark", isOfMe ? "me" : "", text.slice(index, index + length)),
    );
    end = index + length;
  }
  parent.append(text.slice(end));
}

function codeBlock(code: string, language: string): HTMLElement {
  const text = create("code", "", code);
  const lines = create("pre", "", text);
  lines.tabIndex = 0; // to scroll it by keyboard
  const button = linkButton(words.copy, async () => {
    const isCopied = await copyText(code, () => getSelection()?.selectAllChildren(text));
    if (!isCopied) return;
    button.textContent = words.copied;
    setTimeout(() => (button.textContent = words.copy), COPIED_SHOWN_MS);
  });
  const block = create("div", "code", create("span", "", language), button, lines);
  block.dir = "ltr";
  return block;
}

/** An image if the browser can show it as one, otherwise a download. */
function attachmentBubble(bytes: Uint8Array<ArrayBuffer>): HTMLElement {
  const size = imageSize(bytes);
  const type = size?.type ?? "application/octet-stream";
  const href = URL.createObjectURL(new Blob([bytes], { type }));
  const image = create("img");
  if (size) {
    // The ratio reserves its place; the style makes it smaller where the screen is.
    const scale = Math.min(1, HIGHEST / size.height);
    Object.assign(image, { width: size.width * scale, height: size.height * scale, src: href });
    return imageBubble(image, type.replace("image/", ""));
  }
  const link = Object.assign(create("a", "", words.download), { href, download: "hubbub.bin" });
  const bubble = create("div", "bubble", `${formatBytes(bytes.byteLength)} · `, link);
  image.onload = () => bubble.replaceWith(imageBubble(image, "bin"));
  image.src = href;
  return bubble;
}

function imageBubble(image: HTMLImageElement, extension: string): HTMLElement {
  const button = create("button", "", image);
  image.alt = words.image;
  button.title = words.enlarge;
  button.onclick = () => showImage(image, `hubbub.${extension}`);
  return create("div", "bubble image", button);
}

/** Closing punctuation ends the sentence, not the link; a bracket belongs to the link only if the link opens it. */
function withoutPunctuation(link: string): string {
  const counts = new Map<string, number>();
  const countOf = (character: string) => counts.get(character) ?? 0;
  for (const character of link) counts.set(character, countOf(character) + 1);
  let end = link.length;
  for (; end > 0; end--) {
    const last = link.charAt(end - 1);
    const opening = OPENING_BRACKETS.get(last);
    const belongs =
      opening === undefined ? !CLOSING_PUNCTUATION.test(last) : countOf(last) <= countOf(opening);
    if (belongs) break;
    counts.set(last, countOf(last) - 1);
  }
  return link.slice(0, end);
}
