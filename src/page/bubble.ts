/** The content of a message: text with links, an image, or a download. */

import { create } from "./dom.ts";
import { formatBytes, words } from "./words.ts";

const EMOJI = /^\p{RGI_Emoji}{1,3}$/v;
const LINK = /https?:\/\/[^\s<>"“”「」]+/gi;
const CLOSING_PUNCTUATION = /[.,:;!?'、。，：；！？）】》』…]/;
const OPENING_BRACKETS = new Map([
  [")", "("],
  ["]", "["],
  ["}", "{"],
]);

/** Creates text nodes and links only: a message's text is never markup. */
export function textBubble(text: string): HTMLElement {
  const bubble = create("div", EMOJI.test(text) ? "bubble emoji" : "bubble");
  bubble.dir = "auto";
  let end = 0;
  for (const { 0: match, index } of text.matchAll(LINK)) {
    const href = withoutPunctuation(match);
    if (!URL.canParse(href)) continue;
    const link = create("a", "", href);
    Object.assign(link, { href, target: "_blank", rel: "noopener noreferrer" });
    bubble.append(text.slice(end, index), link);
    end = index + href.length;
  }
  bubble.append(text.slice(end));
  return bubble;
}

/** A download, or an image if the browser can show it as one. */
export function attachmentBubble(base64: string): HTMLElement {
  const bytes = Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0));
  const href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  const link = Object.assign(create("a", "", words.download), { href, download: "hubbub.bin" });
  const bubble = create("div", "bubble", `${formatBytes(bytes.byteLength)} · `, link);
  const image = Object.assign(create("img"), { src: href, alt: words.image });
  image.onload = () => bubble.replaceChildren(image);
  return bubble;
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
